//! The batching engine: admission, the queue of ready segments, workers, supervision.
//!
//! A protocol adapter opens a [`Stream`], sends it [`Input`]s and reads [`Event`]s. Everything between (front end,
//! encoder, decoder) happens on the engine's worker threads, batched with other streams.
//!
//! A stream is parked until the audio in its inbox completes a segment (or a flush or stop waits there), then it stands
//! in the [queue] once, until a worker takes its core, computes one step of it together with whoever else is
//! urgent, and hands it back. Nothing polls: an idle engine uses no CPU.

mod admission;
mod core;
mod counters;
mod dispatch;
mod event;
mod inbox;
mod memory;
mod model;
mod options;
mod outbox;
mod processor;
pub mod queue;
mod slots;
mod stream;
mod supervisor;
#[cfg(test)]
pub(crate) mod tests;
mod timeline;
mod warm_up;
mod whole;
mod worker;

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

use tokio::sync::Notify;
use tracing::info;

use crate::wire::code::ErrorCode;

pub use self::admission::{Admission, AdmissionLimits, BUDGET_SHARE, Refusal, WorkDone};
pub use self::counters::{BUCKETS_MS, Counters, Histogram, HistogramSnapshot};
pub use self::event::{Alternative, Event, Input, Utterance, Word};
pub use self::memory::{SessionBytes, microphone};
pub use self::model::{StepFailed, StepModel};
pub use self::options::{AudioFormat, EngineOptions, StreamRequest};
pub use self::queue::Class;
pub use self::slots::SlotCounts;
pub use self::stream::{Closed, Stream};
pub use self::timeline::Timeline;

use self::core::Core;
use self::queue::ReadyQueue;
use self::slots::SlotPool;
use self::stream::StreamShared;
use self::supervisor::{Health, Supervisor};
use self::warm_up::Warmth;

/// Whether the engine takes streams.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EngineState {
    /// It does.
    Ready,
    /// It gives the open streams their last words and takes no more.
    Draining,
    /// A worker is being rebuilt after a failed step; or the engine hung, and the process has to be restarted.
    Failed,
}

/// The engine at one moment, for `/ready`.
#[derive(Debug, Clone, PartialEq)]
pub struct EngineStatus {
    /// Whether it takes streams.
    pub state: EngineState,
    /// Live streams that it takes in all, at the present budget.
    pub slots: usize,
    /// Live streams that it would take now.
    pub free: usize,
    /// Files being transcribed.
    pub files: usize,
    /// When to ask again, if there is no place.
    pub retry_after: Duration,
    /// Time since the last step ended; `None` before the first.
    pub last_step_age: Option<Duration>,
    /// Segments that wait for a worker, and utterances.
    pub queued: usize,
}

/// Why a stream could not be opened.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum OpenError {
    /// No place; ask again later.
    #[error("{}", .0.code)]
    Refused(Refusal),
    /// The model is not loaded.
    #[error("unknown model `{0}`")]
    UnknownModel(String),
    /// The model hears whole utterances and nothing else.
    #[error("{0}")]
    CannotStream(String),
    /// Rate, channels or encoding cannot be served.
    #[error(transparent)]
    Audio(#[from] waxwing_frontend::FrontendError),
}

/// Models, workers, and the streams that they serve. Dropping it ends the workers.
#[derive(Debug)]
pub struct Engine {
    shared: Arc<Shared>,
    supervisor: Supervisor,
}

/// What workers, streams and the engine itself share.
#[derive(Debug)]
pub(crate) struct Shared {
    options: EngineOptions,
    models: Vec<(Arc<dyn StepModel>, Warmth)>,
    queue: Mutex<Queue>,
    work: Condvar,
    whole_work: Condvar,
    pool: Arc<SlotPool>,
    counters: Arc<Counters>,
    streams: Mutex<HashMap<String, Weak<StreamShared>>>,
    left: Notify,
    failed: Notify,
    watched: supervisor::Watched,
    epoch: Instant,
    /// Milliseconds since `epoch` at the end of the last step, plus one; 0 before the first.
    last_step: AtomicU64,
    /// The most bytes that a session held after a step.
    bytes_seen: AtomicU64,
}

#[derive(Debug, Default)]
struct Queue {
    ready: ReadyQueue<Arc<StreamShared>>,
    /// Workers that step a batch or prepare it.
    stepping: usize,
    /// Of models that cannot stream; for the thread that computes nothing else.
    whole: whole::Waiting,
    shutdown: bool,
}

impl Engine {
    /// Allocates the slots, measures what a step costs, starts the workers. Blocks for the warm-up.
    ///
    /// # Errors
    /// When there is no model, or one fails its warm-up, or a thread cannot be started.
    pub fn start(models: Vec<Arc<dyn StepModel>>, options: EngineOptions) -> anyhow::Result<Arc<Self>> {
        anyhow::ensure!(!models.is_empty(), "no model to serve");
        anyhow::ensure!(options.workers > 0, "at least one worker is needed");
        let counters = Arc::new(Counters::default());
        let mut warmed = Vec::new();
        for model in models {
            let warmth = warm_up::measure(&model, &options).map_err(|error| {
                anyhow::anyhow!("model `{}`: the warm-up step failed: {error}", model.id())
            })?;
            info!(model = model.id(), ?warmth, "warm");
            warmed.push((model, warmth));
        }
        let admission = |live| {
            Admission::new(AdmissionLimits {
                workers: options.workers,
                live,
                files: options.file_slots,
            })
        };
        let ceiling = options.slots.unwrap_or(1024);
        let pool: Vec<_> = warmed
            .iter()
            .map(|(model, warmth)| {
                let live = match model.cannot_stream() {
                    None => admission(ceiling).live_capacity(Instant::now(), warmth.cost),
                    Some(_) => 0,
                };
                (Arc::clone(model), warmth.cost, live + options.file_slots)
            })
            .collect();
        let pool = SlotPool::new(&pool, admission(ceiling), Arc::clone(&counters));
        let shared = Arc::new(Shared {
            // The last one is the thread for whole utterances.
            watched: supervisor::Watched::new(options.workers + 1),
            options,
            models: warmed,
            queue: Mutex::default(),
            work: Condvar::new(),
            whole_work: Condvar::new(),
            pool,
            counters,
            streams: Mutex::default(),
            left: Notify::new(),
            failed: Notify::new(),
            epoch: Instant::now(),
            last_step: AtomicU64::new(0),
            bytes_seen: AtomicU64::new(0),
        });
        let supervisor = Supervisor::start(&shared)?;
        Ok(Arc::new(Self { shared, supervisor }))
    }

    /// Opens a stream at once or refuses it at once.
    ///
    /// # Errors
    /// [`OpenError`].
    pub fn open(&self, request: &StreamRequest) -> Result<Stream, OpenError> {
        let model_index = match &request.model {
            None => 0,
            Some(id) => self
                .shared
                .models
                .iter()
                .position(|(model, _)| model.id() == id)
                .ok_or_else(|| OpenError::UnknownModel(id.clone()))?,
        };
        if let (Class::Live, Some(reason)) = (request.class, self.shared.model(model_index).cannot_stream()) {
            return Err(OpenError::CannotStream(
                self.refusal_to_stream(model_index, reason),
            ));
        }
        if self.shared.watched.state() != Health::Sound {
            let retry_after = self.shared.watched.retry_after();
            return Err(OpenError::Refused(Refusal {
                code: ErrorCode::EngineFailed,
                retry_after,
            }));
        }
        let slot = self
            .shared
            .pool
            .take(Instant::now(), model_index, request.class)
            .map_err(|refusal| {
                counters::count(&self.shared.counters.streams_refused);
                OpenError::Refused(refusal)
            })?;
        let model = Arc::clone(self.shared.model(model_index));
        let core = Box::new(Core::new(
            model,
            slot,
            Arc::clone(&self.shared.counters),
            request,
            self.shared.options.whole_limit,
        )?);
        let units_per_second = core.unit_bytes() as f64 * f64::from(request.input_rate_hz);
        let bound = core.bytes_bound(&self.shared.options, request);
        let id = session_id();
        let stream = Arc::new(StreamShared::new(
            id.clone(),
            model_index,
            request.class,
            core,
            bound.most,
        ));
        self.shared.streams_lock().insert(id, Arc::downgrade(&stream));
        counters::count(&self.shared.counters.streams_opened);
        // Between admission and registration the engine may have begun to drain: such a stream is told, too.
        if self
            .shared
            .pool
            .with_admission(|admission| admission.is_draining())
        {
            worker::stop(&self.shared, &stream);
        }
        if self.shared.watched.state() == Health::Hung {
            stream.fail(&self.shared, ErrorCode::EngineFailed, supervisor::GONE);
        }
        Ok(Stream {
            shared: stream,
            engine: Arc::clone(&self.shared),
            units_per_second,
            request: request.clone(),
        })
    }

    /// Why a model cannot stream and what its user can do instead.
    fn refusal_to_stream(&self, model: usize, reason: &str) -> String {
        let streaming: Vec<&str> = self
            .models()
            .filter(|model| model.cannot_stream().is_none())
            .map(|model| model.id())
            .collect();
        let instead = match streaming.as_slice() {
            [] => String::new(),
            ids => format!(", or name a model that streams: {}", ids.join(", ")),
        };
        format!(
            "`{}` cannot stream: {reason}; send the recording by POST /v1/audio/transcriptions, at most {} s of it{instead}",
            self.shared.model(model).id(),
            self.shared.options.whole_limit.as_secs()
        )
    }

    /// Longest audio that a model that cannot stream takes at once.
    pub fn whole_limit(&self) -> Duration {
        self.shared.options.whole_limit
    }

    /// The models served, the default one first.
    pub fn models(&self) -> impl Iterator<Item = &Arc<dyn StepModel>> {
        self.shared.models.iter().map(|(model, _)| model)
    }

    /// The engine now.
    pub fn status(&self) -> EngineStatus {
        let counts = self.shared.pool.counts();
        let (draining, mut retry_after) = self
            .shared
            .pool
            .with_admission(|admission| (admission.is_draining(), admission.retry_after()));
        let state = if self.shared.watched.state() != Health::Sound {
            retry_after = self.shared.watched.retry_after();
            EngineState::Failed
        } else if draining {
            EngineState::Draining
        } else {
            EngineState::Ready
        };
        let last = self.shared.last_step.load(Relaxed);
        let age = Duration::from_millis((self.shared.now_ms() + 1).saturating_sub(last));
        let takes = state == EngineState::Ready;
        EngineStatus {
            state,
            slots: counts.live_capacity,
            free: if takes {
                counts.live_capacity.saturating_sub(counts.live)
            } else {
                0
            },
            files: counts.files,
            retry_after,
            last_step_age: (last > 0).then_some(age),
            queued: self.shared.queue_lock().ready.len(),
        }
    }

    /// Counts since the start.
    pub fn counters(&self) -> &Counters {
        &self.shared.counters
    }

    /// The most bytes that a live session of a model may hold (I8), at a rate of s16le mono audio.
    ///
    /// # Errors
    /// For a rate that cannot be served.
    pub fn session_bytes(
        &self,
        model: &dyn StepModel,
        rate_hz: u32,
    ) -> Result<SessionBytes, waxwing_frontend::FrontendError> {
        let request = microphone(&self.shared.options, rate_hz);
        SessionBytes::of(model, &self.shared.options, &request)
    }

    /// The most bytes that any session was seen to hold after a step.
    pub fn session_bytes_seen(&self) -> u64 {
        self.shared.bytes_seen.load(Relaxed)
    }

    /// Takes no more streams and asks every open one to finish: each gets its last finals and `Done`.
    pub fn drain(&self) {
        self.shared.pool.with_admission(Admission::drain);
        for stream in self.shared.open_streams() {
            worker::stop(&self.shared, &stream);
        }
    }

    /// Completes when no stream is open any more.
    pub async fn drained(&self) {
        loop {
            let left = self.shared.left.notified();
            tokio::pin!(left);
            left.as_mut().enable();
            if self.shared.streams_lock().is_empty() {
                return;
            }
            left.await;
        }
    }

    /// Completes when the engine has failed for good: the process should exit with an error.
    pub async fn failed(&self) {
        loop {
            let failed = self.shared.failed.notified();
            tokio::pin!(failed);
            failed.as_mut().enable();
            if self.shared.watched.has_failed() {
                return;
            }
            failed.await;
        }
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        self.shared.queue_lock().shutdown = true;
        self.shared.work.notify_all();
        self.shared.whole_work.notify_all();
        self.supervisor.shut_down(&self.shared);
        for stream in self.shared.open_streams() {
            stream.fail(&self.shared, ErrorCode::Draining, ErrorCode::Draining.text());
        }
    }
}

impl Shared {
    fn model(&self, index: usize) -> &Arc<dyn StepModel> {
        // Indices come from `position` over the same list, which never changes.
        &self.models[index].0
    }

    /// The streams that are open now. Collected, so that no lock is held while they are told something.
    fn open_streams(&self) -> Vec<Arc<StreamShared>> {
        self.streams_lock().values().filter_map(Weak::upgrade).collect()
    }

    fn forget(&self, id: &str) {
        self.streams_lock().remove(id);
        self.left.notify_waiters();
    }

    fn now_ms(&self) -> u64 {
        self.epoch.elapsed().as_millis() as u64
    }

    fn queue_lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn streams_lock(&self) -> MutexGuard<'_, HashMap<String, Weak<StreamShared>>> {
        self.streams.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// 64 random bits as hexadecimal: unique, and nothing that can be guessed from another session's.
fn session_id() -> String {
    let random = getrandom::u64().unwrap_or_else(|_| {
        // Without a source of randomness a counter still tells sessions apart.
        static NEXT: AtomicU64 = AtomicU64::new(1);
        NEXT.fetch_add(1, Relaxed)
    });
    format!("{random:016x}")
}
