//! Slots: the right to a place in the engine, with the state cache that goes with it. Given back by being dropped,
//! so exactly once, wherever the stream ends.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use waxwing_model::encoder::StateCache;

use super::admission::{Admission, Refusal};
use super::counters::{Counters, count};
use super::model::StepModel;
use super::queue::Class;

/// One model's share of the pool.
#[derive(Debug)]
struct Served {
    model: Arc<dyn StepModel>,
    /// Part of one worker that a live stream takes.
    cost: f64,
    /// State caches that nobody holds, reset when handed out.
    free: Vec<StateCache>,
    in_use: usize,
    total: usize,
}

/// All slots of an engine.
#[derive(Debug)]
pub(super) struct SlotPool {
    inner: Mutex<Inner>,
    counters: Arc<Counters>,
}

#[derive(Debug)]
struct Inner {
    admission: Admission,
    served: Vec<Served>,
}

/// What the pool looks like from outside.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SlotCounts {
    /// Live streams that the engine takes in all, at the present budget.
    pub live_capacity: usize,
    /// Live streams now.
    pub live: usize,
    /// Files now.
    pub files: usize,
}

/// A place in the engine.
#[derive(Debug)]
pub(super) struct Slot {
    pool: Arc<SlotPool>,
    model: usize,
    class: Class,
    cost: f64,
    /// Taken only by `drop`.
    state: Option<StateCache>,
    /// Stands in where there is none, so that no access can fail.
    empty: StateCache,
}

impl SlotPool {
    /// `models` with their costs; `total` state caches are allocated for each, now.
    pub(super) fn new(
        models: &[(Arc<dyn StepModel>, f64, usize)],
        admission: Admission,
        counters: Arc<Counters>,
    ) -> Arc<Self> {
        let served = models
            .iter()
            .map(|(model, cost, total)| Served {
                model: Arc::clone(model),
                cost: *cost,
                free: (0..*total).map(|_| model.new_state()).collect(),
                in_use: 0,
                total: *total,
            })
            .collect();
        Arc::new(Self {
            inner: Mutex::new(Inner { admission, served }),
            counters,
        })
    }

    /// A slot of a model with a fresh state, or a refusal at once.
    pub(super) fn take(self: &Arc<Self>, now: Instant, model: usize, class: Class) -> Result<Slot, Refusal> {
        let mut inner = self.lock();
        let Inner { admission, served } = &mut *inner;
        let full = |admission: &Admission| Refusal {
            code: crate::wire::code::ErrorCode::ServerFull,
            retry_after: admission.retry_after(),
        };
        let Some(served) = served.get_mut(model) else {
            return Err(full(admission));
        };
        admission.admit(now, class, served.cost)?;
        let Some(mut state) = served.free.pop() else {
            admission.release(class, served.cost);
            return Err(full(admission));
        };
        served.in_use += 1;
        let (cost, reset) = (served.cost, Arc::clone(&served.model));
        drop(inner);
        reset.reset(&mut state);
        Ok(Slot {
            pool: Arc::clone(self),
            model,
            class,
            cost,
            state: Some(state),
            empty: StateCache {
                values: Box::default(),
                steps: 0,
            },
        })
    }

    pub(super) fn with_admission<R>(&self, change: impl FnOnce(&mut Admission) -> R) -> R {
        change(&mut self.lock().admission)
    }

    /// Counts for a stream of the first model that streams.
    pub(super) fn counts(&self) -> SlotCounts {
        let inner = self.lock();
        let mut streaming = inner
            .served
            .iter()
            .filter(|served| served.model.cannot_stream().is_none());
        SlotCounts {
            live_capacity: streaming
                .next()
                .map_or(0, |served| inner.admission.live_capacity(served.cost)),
            live: inner.admission.live(),
            files: inner.admission.files(),
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Inner> {
        // A panic while the lock is held would be in our own arithmetic; the counts are checked below either way.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Slot {
    pub(super) fn state(&self) -> &StateCache {
        self.state.as_ref().unwrap_or(&self.empty)
    }

    pub(super) fn state_mut(&mut self) -> &mut StateCache {
        self.state.as_mut().unwrap_or(&mut self.empty)
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        let mut inner = self.pool.lock();
        inner.admission.release(self.class, self.cost);
        let Some(served) = inner.served.get_mut(self.model) else {
            return;
        };
        served.in_use = served.in_use.saturating_sub(1);
        served.free.extend(self.state.take());
        // I7: free + used = slots.
        let adds_up = served.free.len() + served.in_use == served.total;
        drop(inner);
        debug_assert!(adds_up, "I7: slots were lost");
        if !adds_up {
            count(&self.pool.counters.promise_slots_broken);
        }
    }
}
