//! Slots: the right to a place in the engine, with the state cache that is lent to it at its first step. Both are given
//! back by the slot being dropped, so exactly once, wherever the stream ends.

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
    in_use: usize,
    total: usize,
    /// State caches that nobody holds, reset when lent.
    spare: Vec<StateCache>,
    lent: usize,
    /// State caches made so far: as many as were ever in use at once, so that clients that are silent cost none.
    made: usize,
    /// Bytes of one in host memory.
    state_bytes: usize,
}

impl Served {
    /// I7: no place and no state was lost or doubled.
    fn adds_up(&self) -> bool {
        self.in_use <= self.total && self.lent <= self.in_use && self.spare.len() + self.lent == self.made
    }
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
    /// `None` until the first step.
    state: Option<StateCache>,
    state_bytes: usize,
}

impl SlotPool {
    /// `models` with their costs and places.
    pub(super) fn new(
        models: &[(Arc<dyn StepModel>, f64, usize)],
        admission: Admission,
        counters: Arc<Counters>,
    ) -> Arc<Self> {
        let served = models
            .iter()
            .map(|(model, cost, total)| {
                let first = model.new_state();
                Served {
                    model: Arc::clone(model),
                    cost: *cost,
                    in_use: 0,
                    total: *total,
                    state_bytes: first.host_bytes(),
                    spare: vec![first],
                    lent: 0,
                    made: 1,
                }
            })
            .collect();
        Arc::new(Self {
            inner: Mutex::new(Inner { admission, served }),
            counters,
        })
    }

    /// A slot of a model, or a refusal at once.
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
        if served.in_use >= served.total {
            admission.release(now, class, served.cost);
            return Err(full(admission));
        }
        served.in_use += 1;
        Ok(Slot {
            pool: Arc::clone(self),
            model,
            class,
            cost: served.cost,
            state: None,
            state_bytes: served.state_bytes,
        })
    }

    /// A state as new, for a slot of that model. The lock is not held while it is made or reset.
    fn lend(&self, model: usize) -> StateCache {
        let mut inner = self.lock();
        let Some(served) = inner.served.get_mut(model) else {
            // No slot has such a number: `take` looked it up.
            return StateCache::new(0);
        };
        served.lent += 1;
        let used = served.spare.pop();
        served.made += usize::from(used.is_none());
        let model = Arc::clone(&served.model);
        drop(inner);
        match used {
            Some(mut state) => {
                model.reset(&mut state);
                state
            }
            None => model.new_state(),
        }
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
            live_capacity: streaming.next().map_or(0, |served| {
                inner.admission.live_capacity(Instant::now(), served.cost)
            }),
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
    /// Steps since the slot was taken.
    pub(super) fn steps(&self) -> u64 {
        self.state.as_ref().map_or(0, |state| state.steps)
    }

    /// The slot's state, lent now if it is the first time.
    pub(super) fn state_mut(&mut self) -> &mut StateCache {
        let (pool, model) = (&self.pool, self.model);
        self.state.get_or_insert_with(|| pool.lend(model))
    }

    /// Bytes of host memory of the state that it holds now.
    pub(super) fn held_bytes(&self) -> usize {
        self.state.as_ref().map_or(0, StateCache::host_bytes)
    }

    /// The same from its first step on.
    pub(super) fn state_bytes(&self) -> usize {
        self.state_bytes
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        let mut inner = self.pool.lock();
        inner.admission.release(Instant::now(), self.class, self.cost);
        let Some(served) = inner.served.get_mut(self.model) else {
            return;
        };
        served.in_use = served.in_use.saturating_sub(1);
        let state = self.state.take();
        served.lent -= usize::from(state.is_some());
        // What lies on a device is given back at once: others may want the room.
        match state {
            Some(state) if state.device_bytes() == 0 => served.spare.push(state),
            Some(_) => served.made = served.made.saturating_sub(1),
            None => {}
        }
        let adds_up = served.adds_up();
        drop(inner);
        debug_assert!(adds_up, "I7: slots were lost");
        if !adds_up {
            count(&self.pool.counters.promise_slots_broken);
        }
    }
}
