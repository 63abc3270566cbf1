//! Keeps the workers alive, and notices when one is stuck.

use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, Weak};
use std::thread::{Builder, JoinHandle};
use std::time::{Duration, Instant};

use tracing::{error, warn};

use super::Shared;
use super::counters::count;
use super::stream::StreamShared;
use super::worker::{self, Exit};
use crate::wire::code::ErrorCode;

/// A step may take this many times the 99th percentile before it counts as hung, if that is longer than the option.
const HANG_FACTOR: u32 = 20;

/// The engine's threads.
#[derive(Debug)]
pub(super) struct Supervisor {
    workers: Vec<JoinHandle<()>>,
    watchdog: Option<JoinHandle<()>>,
}

/// A step in progress.
#[derive(Debug)]
struct Running {
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
        }
    }

    /// Whether the engine has failed for good.
    pub(super) fn has_failed(&self) -> bool {
        self.failed.load(Relaxed)
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
        let limit = self
            .counters
            .step_time
            .p99()
            .map_or(self.options.hang_after, |p99| {
                self.options.hang_after.max(HANG_FACTOR * p99)
            });
        let running = Running {
            due: Instant::now() + limit,
            streams: streams.iter().map(|s| Arc::downgrade(s)).collect(),
        };
        let mut steps = self.watched.lock();
        if let Some(place) = steps.running.get_mut(worker) {
            *place = Some(running);
        }
        if std::mem::take(&mut steps.asleep) {
            self.watched.changed.notify_all();
        }
        Watch { shared: self, worker }
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
                loop {
                    let life = Arc::clone(&shared);
                    let spawned = Builder::new()
                        .name(format!("step-{index}"))
                        .spawn(move || worker::run(&life, index));
                    match spawned.map(JoinHandle::join) {
                        Ok(Ok(Exit::Shutdown)) => break,
                        Ok(Ok(Exit::Rebuild) | Err(_)) => {
                            count(&shared.counters.workers_rebuilt);
                            warn!(worker = index, "worker rebuilt");
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

/// Sleeps until a step is due; one that is still running then has hung, and with it the engine.
fn watch_over(shared: &Arc<Shared>) {
    let watched = &shared.watched;
    let mut steps = watched.lock();
    loop {
        if steps.shutdown {
            return;
        }
        let due = steps.running.iter().flatten().map(|step| step.due).min();
        let now = Instant::now();
        steps = match due {
            None => {
                steps.asleep = true;
                watched
                    .changed
                    .wait(steps)
                    .unwrap_or_else(PoisonError::into_inner)
            }
            Some(due) if due > now => {
                let wait: Duration = due - now;
                watched
                    .changed
                    .wait_timeout(steps, wait)
                    .unwrap_or_else(PoisonError::into_inner)
                    .0
            }
            Some(_) => {
                let hung: usize = steps
                    .running
                    .iter_mut()
                    .filter_map(|step| step.take_if(|step| step.due <= now))
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
    }
}

/// Fails the engine for good: every session gets a retryable error.
fn give_up(shared: &Shared) {
    shared.watched.failed.store(true, Relaxed);
    let streams: Vec<_> = shared.streams_lock().values().filter_map(Weak::upgrade).collect();
    for stream in streams {
        stream.fail(
            shared,
            ErrorCode::EngineFailed,
            "the recognition engine stopped; connect again",
        );
    }
    shared.failed.notify_waiters();
    shared.work.notify_all();
}
