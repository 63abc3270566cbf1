//! What waits for a worker, and what a worker takes next.

use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use super::queue::{BatchLimits, Class, Ready, Work};
use super::stream::StreamShared;
use super::{Queue, Shared};

impl Shared {
    /// Puts a stream whose next segment ends at `segment_end` seconds of its audio into the queue. A judgement is due with the segment that waits behind it: its listener
    /// has the first pass's words meanwhile, so the segments of others that are due earlier go first.
    pub(super) fn enqueue(&self, stream: &Arc<StreamShared>, work: Work, segment_end: f64) {
        let now = Instant::now();
        let (model, _) = &self.models[stream.model];
        if model.cannot_stream().is_some() {
            self.queue_lock().whole.push_back(Arc::clone(stream));
            self.whole_work.notify_one();
            return;
        }
        let geometry = model.geometry();
        let segment = model.output_frame_seconds() * geometry.output_frames() as f64;
        let (wanted, patience) = match stream.class {
            // A client that is ahead of its own clock waits for those who are not.
            Class::Live => (
                now.max(stream.started + Duration::from_secs_f64(segment_end)),
                Duration::from_secs_f64(segment),
            ),
            // Fixed when it arrives: the longer it has waited, the earlier it comes among later ones.
            Class::File => (now, self.options.file_patience),
        };
        let ready = Ready {
            wanted,
            deadline: wanted + patience,
            model: stream.model,
            class: stream.class,
            work,
            item: Arc::clone(stream),
        };
        self.push_ready(ready);
    }

    /// Puts something into the queue, for whoever is free.
    pub(super) fn push_ready(&self, ready: Ready<Arc<StreamShared>>) {
        self.queue_lock().ready.push(ready);
        self.work.notify_one();
    }

    /// Waits for work; `None` when the engine shuts down.
    pub(super) fn next_batch(&self) -> Option<Batch<'_>> {
        let mut queue = self.queue_lock();
        loop {
            if queue.shutdown || self.watched.has_failed() {
                return None;
            }
            let may_step = queue.stepping < self.options.steps_at_once;
            let ready = queue.ready.pop_batch(may_step, |model| self.batch_limits(model));
            if !ready.is_empty() {
                return Some(self.batch(&mut queue, ready));
            }
            queue = self.work.wait(queue).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// What is due before `deadline` and no judgement, without waiting for any.
    pub(super) fn work_before(&self, deadline: Instant) -> Option<Batch<'_>> {
        let mut queue = self.queue_lock();
        if queue.shutdown || self.watched.has_failed() {
            return None;
        }
        let may_step = queue.stepping < self.options.steps_at_once;
        let ready = queue
            .ready
            .pop_before(deadline, may_step, |model| self.batch_limits(model));
        (!ready.is_empty()).then(|| self.batch(&mut queue, ready))
    }

    fn batch(&self, queue: &mut Queue, ready: Vec<Ready<Arc<StreamShared>>>) -> Batch<'_> {
        let steps = ready.first().is_some_and(|first| first.work == Work::Step);
        let turn = steps.then(|| {
            queue.stepping += 1;
            Turn(self)
        });
        Batch { ready, turn }
    }

    fn batch_limits(&self, model: usize) -> BatchLimits {
        let (_, warmth) = &self.models[model];
        BatchLimits {
            rows: warmth.batch_limit,
            file_rows: warmth.rows_within(self.options.file_turn),
        }
    }
}

/// What a worker has taken from the queue.
pub(super) struct Batch<'a> {
    pub(super) ready: Vec<Ready<Arc<StreamShared>>>,
    /// Of steps: to be given back as soon as they are done.
    pub(super) turn: Option<Turn<'a>>,
}

/// The right to step, of which there may be fewer than workers. Given back by being dropped.
pub(super) struct Turn<'a>(&'a Shared);

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        self.0.queue_lock().stepping -= 1;
        self.0.work.notify_one();
    }
}
