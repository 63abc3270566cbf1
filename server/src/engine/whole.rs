//! Models that cannot stream: their files are encoded as a whole, on one thread of their own.
//!
//! Such a forward takes long, on a worker it would hold up speech by seconds, and it cannot be cut into turns. So workers never see
//! these models: one thread takes their files one after another, and on Linux it has the lowest priority, so that the system gives it
//! what the workers leave. It computes on itself alone: what Candle would spread over the cores stays inside a pool of this one thread.
//!
//! How much can wait is bounded: there are as many files as there are places for files, each with the features of at most
//! [`whole_limit`](super::EngineOptions::whole_limit) of audio, and one forward. A file whose client has left is thrown away when its
//! turn comes; a forward that has begun runs to its end.

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use tracing::{error, warn};

use super::Shared;
use super::core::Next;
use super::counters::count;
use super::queue::{Ready, Work};
use super::stream::StreamShared;
use super::worker::{Held, fail, fail_by_panic, hand_back, panic_text, prepare};
use crate::wire::code::ErrorCode;

/// Streams of models that cannot stream, in the order in which they became ready.
pub(super) type Waiting = VecDeque<Arc<StreamShared>>;

/// A forward may take this many times its audio, on top of the option `hang_after`, before it counts as hung: the thread gets only what
/// speech leaves it.
const HANG_TIMES_AUDIO: f64 = 10.0;

/// Works until the engine shuts down.
pub(super) fn run(shared: &Arc<Shared>) {
    lower_priority();
    // Without such a pool everything works as well, on more threads.
    let pool = rayon::ThreadPoolBuilder::new()
        .num_threads(1)
        .use_current_thread()
        .build();
    if let Err(cause) = &pool {
        warn!(%cause, "whole utterances are computed on several threads");
    }
    while let Some(stream) = next(shared) {
        let began = Instant::now();
        let ready = Ready {
            wanted: began,
            deadline: began,
            work: Work::Step,
            model: stream.model,
            class: stream.class,
            item: stream,
        };
        let share = |is_shared| {
            shared
                .pool
                .with_admission(|admission| admission.share_processor(is_shared))
        };
        share(true);
        match prepare(shared, ready) {
            Some((held, Next::Step)) => encode(shared, held),
            Some((held, next)) => hand_back(shared, held, next),
            None => {}
        }
        share(false);
    }
}

/// Waits for a stream; `None` when the engine shuts down.
fn next(shared: &Shared) -> Option<Arc<StreamShared>> {
    let mut queue = shared.queue_lock();
    loop {
        if queue.shutdown || shared.watched.has_failed() {
            return None;
        }
        if let Some(stream) = queue.whole.pop_front() {
            return Some(stream);
        }
        queue = shared
            .whole_work
            .wait(queue)
            .unwrap_or_else(PoisonError::into_inner);
    }
}

/// Encodes and decodes one utterance, and deals with every way it can go wrong. An encoder keeps nothing between two utterances, so there
/// is nothing to rebuild after a failure.
fn encode(shared: &Arc<Shared>, mut held: Held) {
    let model = Arc::clone(shared.model(held.stream.model));
    let audio = Duration::from_secs_f64(HANG_TIMES_AUDIO * held.core.audio_seconds());
    let limit = shared.options.hang_after + audio;
    let watch = shared.watch_for(shared.options.workers, &[&held.stream], limit);
    let outcome = catch_unwind(AssertUnwindSafe(|| {
        model.encode_whole(held.core.whole_features())
    }));
    count(&shared.counters.whole_utterances);
    if !watch.end() {
        // The watchdog has failed this stream already.
        return;
    }
    let log_probs = match outcome {
        Ok(Ok(log_probs)) => log_probs,
        Ok(Err(failed)) => return fail_step(shared, held, &failed.to_string()),
        Err(panic) => {
            let cause = format!("panic: {}", panic_text(panic.as_ref()));
            return fail_step(shared, held, &cause);
        }
    };
    if !held.core.take_log_probs(log_probs) {
        count(&shared.counters.non_finite_rows);
        warn!(
            session = held.stream.id,
            "the encoder's output is not finite; the file has no transcript"
        );
        let message = "the model could not make sense of this audio";
        return fail(shared, held, ErrorCode::NonFinite, message);
    }
    let Held { core, events, .. } = &mut held;
    match catch_unwind(AssertUnwindSafe(|| core.stepped_whole(events))) {
        Ok(()) => hand_back(shared, held, Next::Finished),
        Err(panic) => fail_by_panic(shared, held, panic.as_ref()),
    }
}

fn fail_step(shared: &Shared, held: Held, cause: &str) {
    error!(cause, "encoding a whole utterance failed");
    count(&shared.counters.steps_failed);
    fail(
        shared,
        held,
        ErrorCode::EngineFailed,
        "the recognition engine failed; try again",
    );
}

/// On Linux a priority belongs to a thread; elsewhere it would be the whole server's.
fn lower_priority() {
    #[cfg(target_os = "linux")]
    if let Err(cause) = thread_priority::set_current_thread_priority(thread_priority::ThreadPriority::Min) {
        warn!(?cause, "whole utterances are computed at the priority of speech");
    }
}
