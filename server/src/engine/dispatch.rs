//! What waits for a worker, and what a worker takes next.

use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use super::Shared;
use super::queue::{BatchLimits, Class, Ready, Work};
use super::stream::StreamShared;

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
        self.queue_lock().ready.push(ready);
        self.work.notify_one();
    }

    /// Waits for work; `None` when the engine shuts down.
    pub(super) fn next_batch(&self) -> Option<Vec<Ready<Arc<StreamShared>>>> {
        let mut queue = self.queue_lock();
        loop {
            if queue.shutdown || self.watched.has_failed() {
                return None;
            }
            let batch = queue.ready.pop_batch(|model| self.batch_limits(model));
            if !batch.is_empty() {
                return Some(batch);
            }
            queue = self.work.wait(queue).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Segments that are due before `deadline`, without waiting for any; empty where there is none.
    pub(super) fn steps_before(&self, deadline: Instant) -> Vec<Ready<Arc<StreamShared>>> {
        let mut queue = self.queue_lock();
        if queue.shutdown || self.watched.has_failed() {
            return Vec::new();
        }
        queue
            .ready
            .pop_steps_before(deadline, |model| self.batch_limits(model))
    }

    fn batch_limits(&self, model: usize) -> BatchLimits {
        let (_, warmth) = &self.models[model];
        BatchLimits {
            rows: warmth.batch_limit,
            file_rows: warmth.rows_within(self.options.file_turn),
        }
    }
}
