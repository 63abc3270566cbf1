//! A worker: takes the most urgent rows, computes them as one batch, posts what they say, hands the cores back.

use std::any::Any;
use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use tracing::{error, warn};
use waxwing_model::encoder::StepRow;
use waxwing_model::pauses;

use super::admission::{LATE_AFTER, WorkDone};
use super::core::{Core, Next};
use super::counters::count;
use super::dispatch::{Batch, Turn};
use super::model::StepModel;
use super::queue::{Class, Ready, Work};
use super::stream::{Place, StreamShared};
use super::{Event, Input, Shared, processor, supervisor};
use crate::wire::code::ErrorCode;

/// A stream whose core a worker holds.
pub(super) struct Held {
    pub(super) stream: Arc<StreamShared>,
    pub(super) core: Box<Core>,
    wanted: Instant,
    deadline: Instant,
    pub(super) events: Vec<Event>,
    consumed: usize,
}

/// A client that is further ahead of its own clock than this sends a recording.
const FAR_AHEAD: Duration = Duration::from_secs(2);

impl Held {
    /// Whether somebody is speaking: a file has time, and so has a client that is far ahead of its own clock.
    fn is_spoken(&self) -> bool {
        self.stream.class == Class::Live && self.wanted <= Instant::now() + FAR_AHEAD
    }
}

/// Why a worker's loop ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Exit {
    /// The engine is gone.
    Shutdown,
    /// Its scratch memory is not to be trusted any more.
    Rebuild,
}

/// Works until the engine shuts down or a step fails.
pub(super) fn run(shared: &Arc<Shared>, index: usize) -> Exit {
    while let Some(batch) = shared.next_batch() {
        if work_on(shared, index, batch) == Verdict::Broken {
            return Exit::Rebuild;
        }
    }
    Exit::Shutdown
}

/// Finds words, does a judgement, or steps a batch.
fn work_on(shared: &Arc<Shared>, index: usize, batch: Batch<'_>) -> Verdict {
    let (started, on_processor) = (Instant::now(), processor::thread_time());
    let Batch { ready, turn } = batch;
    let (mut rows, mut finished) = (Vec::with_capacity(ready.len()), Vec::new());
    for ready in ready {
        let work = ready.work;
        match prepare(shared, ready) {
            Some((held, Next::Step)) => rows.push(held),
            // Both are queued alone.
            Some((held, Next::Judge)) if work == Work::Judgement => return judge(shared, index, held),
            Some((held, next)) if work == Work::Words => {
                words_found(shared, started, held, next);
                return Verdict::Sound;
            }
            Some((held, next)) => finished.push((held, next)),
            None => {}
        }
    }
    for (held, next) in finished {
        hand_back(shared, held, next);
    }
    if rows.is_empty() {
        return Verdict::Sound;
    }
    let begun = Begun {
        at: started,
        on_processor,
        turn,
    };
    step(shared, index, begun, rows)
}

/// Takes a stream's core and brings it to its next step, or as far as its inputs go.
pub(super) fn prepare(shared: &Shared, ready: Ready<Arc<StreamShared>>) -> Option<(Held, Next)> {
    let stream = ready.item;
    let mut core = {
        let mut inner = stream.lock();
        let core = inner.core.take()?;
        if inner.is_nobodys() {
            drop(inner);
            drop(core);
            return None;
        }
        inner.place = Place::Running;
        core
    };
    let mut events = Vec::new();
    let advanced = catch_unwind(AssertUnwindSafe(|| {
        core.advance(|units| stream.lock().pop(units), &mut events)
    }));
    stream.drained();
    let mut held = Held {
        stream,
        core,
        wanted: ready.wanted,
        deadline: ready.deadline,
        events,
        consumed: 0,
    };
    match advanced {
        Ok(next) => {
            if !held.events.is_empty() && next == Next::Step {
                held.stream.post(shared, held.events.drain(..));
            }
            Some((held, next))
        }
        Err(panic) => {
            fail_by_panic(shared, held, panic.as_ref());
            None
        }
    }
}

/// A panic in one session's own stages ends that session; its neighbours never hear of it.
pub(super) fn fail_by_panic(shared: &Shared, held: Held, panic: &(dyn Any + Send)) {
    let (session, cause) = (&held.stream.id, panic_text(panic));
    error!(session, cause, "a stage panicked; the session ends");
    fail(shared, held, ErrorCode::Internal, ErrorCode::Internal.text());
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Verdict {
    Sound,
    Broken,
}

/// Gives back a stream whose words a worker has found for another one that stepped it.
fn words_found(shared: &Arc<Shared>, began: Instant, held: Held, next: Next) {
    let (wanted, spoken) = (held.wanted, held.is_spoken());
    hand_back(shared, held, next);
    let mut done = WorkDone::of_one(began.elapsed(), spoken);
    if spoken {
        answered(shared, wanted, &mut done);
    }
    note(shared, done);
}

/// A batch of steps whose rows have their features.
struct Begun<'a> {
    at: Instant,
    /// This thread's time on the processor then.
    on_processor: Option<Duration>,
    turn: Option<Turn<'a>>,
}

/// Steps a batch, which was begun with its rows' features, and deals with every way it can go wrong.
fn step(
    shared: &Arc<Shared>,
    index: usize,
    Begun {
        at: began,
        on_processor,
        turn,
    }: Begun<'_>,
    mut held: Vec<Held>,
) -> Verdict {
    let (num_rows, num_spoken) = (held.len(), held.iter().filter(|row| row.is_spoken()).count());
    let model_index = held.first().map_or(0, |first| first.stream.model);
    let model = shared.model(model_index);
    let watch = shared.watch(index, &held.iter().map(|row| &row.stream).collect::<Vec<_>>());
    let started = Instant::now();
    let outcome = catch_unwind(AssertUnwindSafe(|| {
        let mut rows: Vec<StepRow<'_>> = Vec::with_capacity(held.len());
        for row in &mut held {
            row.consumed = row.core.features_needed();
            rows.push(row.core.row());
        }
        model.step(&mut rows)
    }));
    let took = started.elapsed();
    drop(turn);
    let survived = watch.end();
    if !survived {
        // The watchdog has failed these streams already; what came so late is nobody's.
        shared.watched.broke();
        return Verdict::Broken;
    }
    let cause = match outcome {
        Ok(Ok(())) => None,
        Ok(Err(failed)) => Some(failed.to_string()),
        Err(panic) => Some(format!("panic: {}", panic_text(panic.as_ref()))),
    };
    if let Some(cause) = cause {
        error!(
            rows = held.len(),
            cause, "step failed; its sessions end and the worker is rebuilt"
        );
        count(&shared.counters.steps_failed);
        shared.watched.broke();
        for row in held {
            fail(
                shared,
                row,
                ErrorCode::EngineFailed,
                "the recognition engine failed; connect again",
            );
        }
        return Verdict::Broken;
    }
    count(&shared.counters.steps);
    shared.counters.rows.fetch_add(num_rows as u64, Relaxed);
    shared.counters.step_time.observe(took);
    let mut done = WorkDone::default();
    let non_finite = held.iter().filter(|row| !row.core.is_finite()).count();
    // One session may be to blame for itself, if the model still steps zeros as it should; two are not.
    let broken = non_finite > 1 || (non_finite == 1 && !proves_sound(shared, index, model.as_ref()));
    if broken {
        error!(non_finite, "rows of a step are not finite: the worker is rebuilt");
        shared.watched.broke();
    }
    let elsewhere = held.split_off(num_rows.min(shared.options.words_at_once));
    // Given away first, so that others begin while this worker finds the words of its own.
    for row in elsewhere {
        if let Some(row) = stepped(shared, row) {
            hand_back(shared, row, Next::Words);
        }
    }
    for row in held {
        let Some(mut row) = stepped(shared, row) else {
            continue;
        };
        let (stream, wanted, spoken) = (Arc::clone(&row.stream), row.wanted, row.is_spoken());
        let Held { core, events, .. } = &mut row;
        let advanced = catch_unwind(AssertUnwindSafe(|| {
            // What is left in the inbox decides what comes next: more steps, an answer, or waiting.
            core.advance(|units| stream.lock().pop(units), events)
        }));
        stream.drained();
        match advanced {
            Ok(next) => hand_back(shared, row, next),
            Err(panic) => fail_by_panic(shared, row, panic.as_ref()),
        }
        if spoken {
            answered(shared, wanted, &mut done);
        }
    }
    let seconds = began.elapsed().as_secs_f64();
    done.live_seconds = seconds * num_spoken as f64 / num_rows as f64;
    done.file_seconds = seconds - done.live_seconds;
    if let Some((before, after)) = on_processor.zip(processor::thread_time()) {
        done.on_processor = (seconds, after.saturating_sub(before).as_secs_f64());
    }
    note(shared, done);
    if broken { Verdict::Broken } else { Verdict::Sound }
}

/// A row whose step has just been done, which only takes note of it; none if its output is no numbers, which ends its session.
fn stepped(shared: &Shared, mut row: Held) -> Option<Held> {
    if row.core.is_finite() {
        row.core.stepped(row.consumed);
        return Some(row);
    }
    count(&shared.counters.non_finite_rows);
    warn!(
        session = row.stream.id,
        "the encoder's output is not finite; the session ends"
    );
    fail(
        shared,
        row,
        ErrorCode::NonFinite,
        "the model could not make sense of this audio; connect again",
    );
    None
}

/// Judges one stream's utterance, in whose pauses the segments go first that are due before it.
fn judge(shared: &Arc<Shared>, index: usize, mut held: Held) -> Verdict {
    let watch = shared.watch_for(index, &[&held.stream], shared.judgement_limit());
    let started = Instant::now();
    let stream = Arc::clone(&held.stream);
    let between = Rc::new(Cell::new(Between::default()));
    let steps_first = {
        let (shared, deadline, between) = (Arc::clone(shared), held.deadline, Rc::clone(&between));
        move || between.set(between.get().step(&shared, index, deadline))
    };
    let Held { core, events, .. } = &mut held;
    let outcome = catch_unwind(AssertUnwindSafe(|| {
        pauses::working(steps_first, || core.judge(events));
        core.advance(|units| stream.lock().pop(units), events)
    }));
    let took = started.elapsed().saturating_sub(between.get().took);
    stream.drained();
    if !watch.end() {
        // The watchdog has failed this stream already; what came so late is nobody's.
        shared.watched.broke();
        return Verdict::Broken;
    }
    shared.counters.judgement_time.observe(took);
    note(shared, WorkDone::of_one(took, held.is_spoken()));
    match outcome {
        Ok(next) => hand_back(shared, held, next),
        Err(panic) => fail_by_panic(shared, held, panic.as_ref()),
    }
    between.get().verdict
}

/// What was stepped in the pauses of a judgement.
#[derive(Debug, Clone, Copy)]
struct Between {
    took: Duration,
    verdict: Verdict,
}

impl Default for Between {
    fn default() -> Self {
        Self {
            took: Duration::ZERO,
            verdict: Verdict::Sound,
        }
    }
}

impl Between {
    /// Steps what is due before `deadline`. Once a step has failed the worker only ends its judgement.
    fn step(mut self, shared: &Arc<Shared>, index: usize, deadline: Instant) -> Self {
        if self.verdict == Verdict::Broken {
            return self;
        }
        let Some(suspended) = shared.suspend_watch(index) else {
            return self;
        };
        let started = Instant::now();
        while self.verdict == Verdict::Sound
            && let Some(batch) = shared.work_before(deadline)
        {
            self.verdict = work_on(shared, index, batch);
        }
        self.took += started.elapsed();
        shared.resume_watch(index, suspended);
        self
    }
}

/// A probe step under the eyes of the watchdog.
fn proves_sound(shared: &Shared, index: usize, model: &dyn StepModel) -> bool {
    let watch = shared.watch(index, &[]);
    let sound = supervisor::probe(model);
    watch.end() && sound
}

/// Counts a segment whose words have just been posted.
fn answered(shared: &Shared, wanted: Instant, done: &mut WorkDone) {
    let waited = wanted.elapsed();
    shared.counters.response_time.observe(waited);
    done.answered += 1;
    if waited > LATE_AFTER {
        done.late += 1;
        count(&shared.counters.late_answers);
    }
}

/// Tells admission what was done.
pub(super) fn note(shared: &Shared, done: WorkDone) {
    shared.pool.with_admission(|admission| {
        // Read under the lock, so that readings come in their order.
        let used = shared.options.counts_sockets.then(processor::time).flatten();
        admission.observe(Instant::now(), done, used);
    });
}

/// Gives the core back to its stream, or to the pool when the stream is over, and queues what is ready again.
pub(super) fn hand_back(shared: &Arc<Shared>, held: Held, next: Next) {
    if let Next::Refused(code, message) = &next {
        return fail(shared, held, *code, message);
    }
    let Held {
        stream,
        core,
        wanted,
        deadline,
        events,
        ..
    } = held;
    let finished = next == Next::Finished;
    if finished {
        let (received, nobodys) = {
            let inner = stream.lock();
            (inner.units_received(), inner.is_nobodys())
        };
        let whole = nobodys || received == core.units_taken();
        debug_assert!(whole, "I9: {received} units in, {} taken", core.units_taken());
        if !whole {
            count(&shared.counters.promise_samples_broken);
        }
        count(&shared.counters.streams_done);
        // The slot is free before the client reads `done`: who reconnects at once finds it.
        drop(core);
        stream.post(shared, events);
        return;
    }
    stream.post(shared, events);
    let end = core.next_segment_end();
    let core_bytes = core.bytes_held();
    let mut inner = stream.lock();
    check_bytes(shared, &stream, core_bytes + inner.heap_bytes());
    if inner.is_nobodys() {
        drop(inner);
        drop(core);
        return;
    }
    inner.next_segment_end = end;
    inner.core = Some(core);
    if next == Next::Words {
        inner.place = Place::Queued;
        drop(inner);
        return shared.push_ready(Ready {
            wanted,
            deadline,
            work: Work::Words,
            model: stream.model,
            class: stream.class,
            item: stream,
        });
    }
    let work = if next == Next::Judge {
        Work::Judgement
    } else {
        Work::Step
    };
    let ready = match next {
        Next::Step | Next::Judge => true,
        Next::Park { units } => {
            inner.needed_units = units;
            inner.is_ready()
        }
        Next::Words | Next::Finished | Next::Refused(..) => false,
    };
    inner.place = if ready { Place::Queued } else { Place::Parked };
    drop(inner);
    if ready {
        shared.enqueue(&stream, work, end);
    }
}

/// I8: what is held is within the bound. A file's blocks are as its container made them, and are not counted.
fn check_bytes(shared: &Shared, stream: &StreamShared, held: usize) {
    if stream.class != Class::Live {
        return;
    }
    let held = held + size_of::<StreamShared>();
    shared.bytes_seen.fetch_max(held as u64, Relaxed);
    let bound = stream.bytes_bound.load(Relaxed);
    let within = held <= bound;
    debug_assert!(within, "I8: {held} bytes held, {bound} allowed");
    if !within {
        count(&shared.counters.promise_bytes_broken);
    }
}

pub(super) fn fail(shared: &Shared, held: Held, code: ErrorCode, message: &str) {
    let Held {
        stream, core, events, ..
    } = held;
    drop(core);
    stream.post(shared, events);
    stream.fail(shared, code, message);
}

pub(super) fn panic_text(panic: &(dyn Any + Send)) -> &str {
    panic
        .downcast_ref::<&str>()
        .copied()
        .or_else(|| panic.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("no message")
}

/// What a stream is told when the engine drains: as if its client had said `stop`.
pub(super) fn stop(shared: &Shared, stream: &Arc<StreamShared>) {
    // Already stopped or ended: nothing to do.
    let _ = stream.push(shared, Input::Stop);
}
