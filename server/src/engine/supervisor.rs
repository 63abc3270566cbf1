//! Keeps the workers alive, and notices when one is stuck.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, Weak};
use std::thread::{Builder, JoinHandle};
use std::time::{Duration, Instant};

use tracing::{error, warn};
use waxwing_model::encoder::StepRow;

use super::Shared;
use super::counters::count;
use super::model::StepModel;
use super::stream::StreamShared;
use super::whole;
use super::worker::{self, Exit};
use crate::wire::code::ErrorCode;

/// A step may take this many times the 99th percentile before it counts as hung, if that is longer than the option.
const HANG_FACTOR: u32 = 20;

/// A judgement may take this many times as long as a step.
const JUDGEMENT_HANGS: u32 = 3;

/// While a step runs the watchdog looks this often within the hang limit, so that it notices how long the process itself stood still.
const LOOKS: u32 = 8;

/// What a session is told when the engine cannot go on.
pub(super) const GONE: &str = "the recognition engine stopped; connect again";
/// A rebuilt worker that fails this many probe steps cannot be rebuilt.
const PROBES: usize = 3;

/// What the supervisor knows of the workers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Health {
    /// All step.
    Sound,
    /// One is being rebuilt.
    Rebuilding,
    /// One hangs, or cannot be rebuilt: for good.
    Hung,
}

/// The engine's threads.
#[derive(Debug)]
pub(super) struct Supervisor {
    workers: Vec<JoinHandle<()>>,
    watchdog: Option<JoinHandle<()>>,
}

/// A step in progress.
#[derive(Debug)]
struct Running {
    began: Instant,
    due: Instant,
    streams: Vec<Weak<StreamShared>>,
}

/// What the watchdog watches: the running step of each worker. It sleeps until the earliest is due, and without a
/// time while none runs.
#[derive(Debug)]
pub(super) struct Watched {
    steps: Mutex<Steps>,
    changed: Condvar,
    failed: AtomicBool,
    /// Workers that have broken and not yet passed their probe.
    rebuilding: AtomicUsize,
}

#[derive(Debug)]
struct Steps {
    running: Vec<Option<Running>>,
    /// The watchdog sleeps without a time: the next step must wake it.
    asleep: bool,
    shutdown: bool,
}

impl Watched {
    pub(super) fn new(workers: usize) -> Self {
        Self {
            steps: Mutex::new(Steps {
                running: (0..workers).map(|_| None).collect(),
                asleep: false,
                shutdown: false,
            }),
            changed: Condvar::new(),
            failed: AtomicBool::new(false),
            rebuilding: AtomicUsize::new(0),
        }
    }

    /// Whether the engine has failed for good.
    pub(super) fn has_failed(&self) -> bool {
        self.failed.load(Relaxed)
    }

    /// How the workers are.
    pub(super) fn state(&self) -> Health {
        if self.has_failed() {
            Health::Hung
        } else if self.rebuilding.load(Relaxed) > 0 {
            Health::Rebuilding
        } else {
            Health::Sound
        }
    }

    /// When a refused client may ask again.
    pub(super) fn retry_after(&self) -> Duration {
        match self.state() {
            Health::Sound => Duration::ZERO,
            Health::Rebuilding => Duration::from_secs(1),
            Health::Hung => Duration::from_secs(10),
        }
    }

    /// A worker broke: before any client hears of it, so that who asks then finds the readiness gone.
    pub(super) fn broke(&self) {
        self.rebuilding.fetch_add(1, Relaxed);
    }

    fn begin(&self, worker: usize, running: Running) {
        let mut steps = self.lock();
        if let Some(place) = steps.running.get_mut(worker) {
            *place = Some(running);
        }
        if std::mem::take(&mut steps.asleep) {
            self.changed.notify_all();
        }
    }

    fn lock(&self) -> MutexGuard<'_, Steps> {
        self.steps.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Ends the watch over one step.
#[derive(Debug)]
pub(super) struct Watch<'a> {
    shared: &'a Shared,
    worker: usize,
}

impl Watch<'_> {
    /// The step is over; `false` if it had been given up as hung.
    pub(super) fn end(self) -> bool {
        let mut steps = self.shared.watched.lock();
        let survived = steps
            .running
            .get_mut(self.worker)
            .and_then(Option::take)
            .is_some();
        drop(steps);
        self.shared.last_step.store(self.shared.now_ms() + 1, Relaxed);
        survived
    }
}

impl Shared {
    /// Begins the watch over a step of these streams.
    pub(super) fn watch(&self, worker: usize, streams: &[&Arc<StreamShared>]) -> Watch<'_> {
        self.watch_for(worker, streams, self.step_limit())
    }

    /// How long a judgement may take: it costs what the longest utterance costs, not what a step does.
    pub(super) fn judgement_limit(&self) -> Duration {
        JUDGEMENT_HANGS * self.step_limit()
    }

    /// How long a step may take.
    fn step_limit(&self) -> Duration {
        self.counters
            .step_time
            .p99()
            .map_or(self.options.hang_after, |p99| {
                self.options.hang_after.max(HANG_FACTOR * p99)
            })
    }

    /// As [`watch`](Self::watch), over work that may take so long.
    pub(super) fn watch_for(
        &self,
        worker: usize,
        streams: &[&Arc<StreamShared>],
        limit: Duration,
    ) -> Watch<'_> {
        let began = Instant::now();
        let running = Running {
            began,
            due: began + limit,
            streams: streams.iter().map(|s| Arc::downgrade(s)).collect(),
        };
        self.watched.begin(worker, running);
        Watch { shared: self, worker }
    }
}

/// The watch over a worker's work while it does something else in between.
#[derive(Debug)]
pub(super) struct Suspended {
    running: Running,
    since: Instant,
}

impl Shared {
    /// Lays a worker's work aside for something more urgent, which is watched by itself; `None` for work that was given up as hung.
    pub(super) fn suspend_watch(&self, worker: usize) -> Option<Suspended> {
        let running = self.watched.lock().running.get_mut(worker)?.take()?;
        let since = Instant::now();
        Some(Suspended { running, since })
    }

    /// Goes on with what was laid aside: the time between counts for nobody.
    pub(super) fn resume_watch(&self, worker: usize, suspended: Suspended) {
        let Suspended { mut running, since } = suspended;
        let aside = since.elapsed();
        running.began += aside;
        running.due += aside;
        self.watched.begin(worker, running);
    }
}

impl Supervisor {
    /// Starts the workers and the watchdog.
    pub(super) fn start(shared: &Arc<Shared>) -> std::io::Result<Self> {
        let mut workers = Vec::new();
        for index in 0..shared.options.workers {
            let shared = Arc::clone(shared);
            workers.push(Builder::new().name(format!("worker-{index}")).spawn(move || {
                // Each life of a worker is a thread of its own, so that thread-local scratch is never used again
                // after a step that failed in the middle.
                let mut rebuilt = false;
                loop {
                    let life = Arc::clone(&shared);
                    let spawned = Builder::new().name(format!("step-{index}")).spawn(move || {
                        if rebuilt && !prove(&life, index) {
                            give_up(&life);
                            return Exit::Shutdown;
                        }
                        worker::run(&life, index)
                    });
                    match spawned.map(JoinHandle::join) {
                        Ok(Ok(Exit::Shutdown)) => break,
                        Ok(Ok(Exit::Rebuild)) => {
                            count(&shared.counters.workers_rebuilt);
                            warn!(worker = index, "worker rebuilt");
                            rebuilt = true;
                        }
                        // Whatever a worker runs is caught there; a panic that still ends it is a bug of the worker
                        // itself, and the streams in its hands are lost to it.
                        Ok(Err(_)) => {
                            error!(worker = index, "a worker thread panicked");
                            give_up(&shared);
                            break;
                        }
                        Err(cause) => {
                            error!(worker = index, %cause, "a worker thread cannot be started");
                            give_up(&shared);
                            break;
                        }
                    }
                }
            })?);
        }
        if shared
            .models
            .iter()
            .any(|(model, _)| model.cannot_stream().is_some())
        {
            let shared = Arc::clone(shared);
            workers.push(Builder::new().name("whole".into()).spawn(move || {
                if catch_unwind(AssertUnwindSafe(|| whole::run(&shared))).is_err() {
                    // As of a worker: whatever can fail is caught inside.
                    error!("the thread for whole utterances panicked");
                    give_up(&shared);
                }
            })?);
        }
        let watching = Arc::clone(shared);
        let watchdog = Builder::new()
            .name("watchdog".into())
            .spawn(move || watch_over(&watching))?;
        Ok(Self {
            workers,
            watchdog: Some(watchdog),
        })
    }

    /// Ends all threads; a hung worker is left behind.
    pub(super) fn shut_down(&mut self, shared: &Shared) {
        {
            let mut steps = shared.watched.lock();
            steps.shutdown = true;
            shared.watched.changed.notify_all();
        }
        if shared.watched.has_failed() {
            return;
        }
        for thread in self.workers.drain(..).chain(self.watchdog.take()) {
            // A panic there has been logged by the panic hook; there is nothing left to save.
            let _ = thread.join();
        }
    }
}

/// A rebuilt worker steps every model before it takes streams again.
fn prove(shared: &Shared, index: usize) -> bool {
    let watch = shared.watch(index, &[]);
    let sound = (0..PROBES).any(|_| shared.models.iter().all(|(model, _)| probe(model.as_ref())));
    let survived = watch.end();
    if sound {
        shared.watched.rebuilding.fetch_sub(1, Relaxed);
    }
    sound && survived
}

/// Steps a fresh row of zeros; `true` when its output is as it should be.
pub(super) fn probe(model: &dyn StepModel) -> bool {
    if model.cannot_stream().is_some() {
        // No worker ever steps it.
        return true;
    }
    let stepped = catch_unwind(AssertUnwindSafe(|| {
        let geometry = model.geometry();
        let features = vec![0.0; geometry.frames_needed(0) * geometry.num_features];
        let (mut state, mut output) = (model.new_state(), Vec::new());
        let mut rows = [StepRow {
            state: &mut state,
            features: &features,
            output: &mut output,
        }];
        let stepped = model.step(&mut rows).is_ok();
        stepped
            && !output
                .iter()
                .any(|value| value.is_nan() || *value == f32::INFINITY)
    }));
    stepped.unwrap_or(false)
}

/// Sleeps until a step is due; one that is still running then has hung, and with it the engine.
///
/// A process that is stopped, a frozen container and a suspended machine must not count as a hang when they go on. The watchdog stands still
/// with its workers, so what it sleeps beyond what it asked for counts for nobody.
fn watch_over(shared: &Arc<Shared>) {
    let watched = &shared.watched;
    let mut steps = watched.lock();
    let mut looked = Instant::now();
    loop {
        if steps.shutdown {
            return;
        }
        let due = steps.running.iter().flatten().map(|step| step.due).min();
        let asked;
        (steps, asked) = match due {
            None => {
                steps.asleep = true;
                let woken = watched.changed.wait(steps);
                (woken.unwrap_or_else(PoisonError::into_inner), Duration::ZERO)
            }
            Some(due) if due > looked => {
                let wait = (due - looked).min(shared.options.hang_after / LOOKS);
                let woken = watched.changed.wait_timeout(steps, wait);
                (woken.unwrap_or_else(PoisonError::into_inner).0, wait)
            }
            Some(_) => {
                let hung: usize = steps
                    .running
                    .iter_mut()
                    .filter_map(|step| step.take_if(|step| step.due <= looked))
                    .map(|step| step.streams.len())
                    .sum();
                drop(steps);
                error!(
                    sessions = hung,
                    "a step hangs: all sessions end, the process must be restarted"
                );
                give_up(shared);
                return;
            }
        };
        let now = Instant::now();
        let overslept = now.duration_since(looked).saturating_sub(asked);
        for step in steps.running.iter_mut().flatten() {
            step.due = due_after(step.began, step.due, overslept, now);
        }
        looked = now;
    }
}

/// When a step is due that was due at `due`, now that the watchdog has overslept by that much: as much later, but by no more than
/// the step's age, since it may have begun when the process had gone on.
fn due_after(began: Instant, due: Instant, overslept: Duration, now: Instant) -> Instant {
    due + overslept.min(now.saturating_duration_since(began))
}

/// Fails the engine for good: every session gets a retryable error.
fn give_up(shared: &Shared) {
    shared.watched.failed.store(true, Relaxed);
    for stream in shared.open_streams() {
        stream.fail(shared, ErrorCode::EngineFailed, GONE);
    }
    shared.failed.notify_waiters();
    shared.work.notify_all();
    shared.whole_work.notify_all();
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: Duration = Duration::from_secs(2);
    const HOUR: Duration = Duration::from_secs(3_600);

    #[test]
    fn a_stop_of_the_process_counts_for_no_step_that_it_met() {
        let began = Instant::now();
        let woke = began + HOUR + LIMIT / 4;
        assert_eq!(due_after(began, began + LIMIT, HOUR, woke), began + LIMIT + HOUR);
    }

    #[test]
    fn a_step_that_began_behind_the_stop_gains_no_more_than_its_age() {
        let began = Instant::now();
        let age = Duration::from_millis(3);
        assert_eq!(
            due_after(began, began + LIMIT, HOUR, began + age),
            began + LIMIT + age
        );
    }

    #[test]
    fn who_sleeps_as_asked_moves_nothing() {
        let began = Instant::now();
        let due = began + LIMIT;
        assert_eq!(due_after(began, due, Duration::ZERO, began + LIMIT / 2), due);
    }

    /// However often and long the process stands still, a hung step is found when it has run for its limit.
    #[test]
    fn a_hung_step_is_found_after_its_limit_whatever_stops_come_between() {
        for stops in [[0, 0, 0], [0, 3_600, 0], [5, 1, 86_400]] {
            let began = Instant::now();
            let (mut now, mut due, mut awake) = (began, began + LIMIT, Duration::ZERO);
            let mut stops = stops.into_iter().cycle().map(Duration::from_secs);
            while due > now {
                let asked = (due - now).min(LIMIT / LOOKS);
                let overslept = stops.next().unwrap();
                now += asked + overslept;
                awake += asked;
                due = due_after(began, due, overslept, now);
            }
            assert_eq!(awake, LIMIT);
        }
    }
}
