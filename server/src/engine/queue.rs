//! The one queue of ready segments, earliest deadline first. A pure data structure: time comes in, nothing waits.

use std::collections::BTreeMap;
use std::time::Instant;

/// Whom a stream serves, and so how long its segments may wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Class {
    /// Somebody is speaking: a segment is due one segment after its audio.
    Live,
    /// A file: its segments are due later, and come earlier the longer they have waited.
    File,
}

/// What is to be done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Work {
    /// A segment can be stepped, with others in one batch.
    Step,
    /// An utterance can be judged, by itself.
    Judgement,
}

/// A segment that can be stepped, or an utterance that can be judged.
#[derive(Debug)]
pub struct Ready<T> {
    /// From when on its result is waited for: it was complete then, or by its client's clock will be.
    pub wanted: Instant,
    /// When its result is due.
    pub deadline: Instant,
    /// Step or judgement.
    pub work: Work,
    /// Index of the model; rows of one batch share it.
    pub model: usize,
    /// Live or file.
    pub class: Class,
    /// What is to be stepped.
    pub item: T,
}

/// Rows of one batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BatchLimits {
    /// At most.
    pub rows: usize,
    /// From files at most, so that a turn of files is over before it can make speech late.
    pub file_rows: usize,
}

/// Segments by deadline; equal deadlines leave in the order they came.
#[derive(Debug)]
pub struct ReadyQueue<T> {
    entries: BTreeMap<(Instant, u64), Ready<T>>,
    sequence: u64,
}

impl<T> Default for ReadyQueue<T> {
    fn default() -> Self {
        Self {
            entries: BTreeMap::new(),
            sequence: 0,
        }
    }
}

impl<T> ReadyQueue<T> {
    /// Adds a segment.
    pub fn push(&mut self, ready: Ready<T>) {
        self.entries.insert((ready.deadline, self.sequence), ready);
        self.sequence += 1;
    }

    /// Segments waiting.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether nothing waits.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Takes what is due first: a judgement alone, or a segment and those next in line of the same model, within its limits.
    pub fn pop_batch(&mut self, limits: impl FnOnce(usize) -> BatchLimits) -> Vec<Ready<T>> {
        let Some(first) = self.entries.values().next() else {
            return Vec::new();
        };
        if first.work == Work::Judgement {
            return self
                .entries
                .pop_first()
                .map(|(_, first)| first)
                .into_iter()
                .collect();
        }
        let model = first.model;
        self.pop_steps(model, limits(model))
    }

    /// Takes the segment that is due first, if that is before `deadline`, and those next in line of the same model, within its limits: what a judgement that is due then
    /// lets go first.
    pub fn pop_steps_before(
        &mut self,
        deadline: Instant,
        limits: impl FnOnce(usize) -> BatchLimits,
    ) -> Vec<Ready<T>> {
        let earlier = self.entries.range(..(deadline, 0)).map(|(_, ready)| ready);
        let mut steps = earlier.filter(|ready| ready.work == Work::Step);
        match steps.next().map(|first| first.model) {
            Some(model) => self.pop_steps(model, limits(model)),
            None => Vec::new(),
        }
    }

    fn pop_steps(&mut self, model: usize, limits: BatchLimits) -> Vec<Ready<T>> {
        let mut files = 0;
        let keys: Vec<_> = self
            .entries
            .iter()
            .filter(|(_, ready)| ready.model == model && ready.work == Work::Step)
            .filter(|(_, ready)| match ready.class {
                Class::Live => true,
                Class::File => {
                    files += 1;
                    files <= limits.file_rows.max(1)
                }
            })
            .take(limits.rows.max(1))
            .map(|(key, _)| *key)
            .collect();
        keys.iter().filter_map(|key| self.entries.remove(key)).collect()
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use proptest::prelude::*;

    use super::{BatchLimits, Class, Ready, ReadyQueue, Work};

    fn fill(start: Instant, deadlines: &[(u64, usize, bool, bool)]) -> ReadyQueue<usize> {
        let mut queue = ReadyQueue::default();
        for (item, &(at, model, file, judgement)) in deadlines.iter().enumerate() {
            let class = if file { Class::File } else { Class::Live };
            queue.push(Ready {
                wanted: start,
                deadline: start + Duration::from_millis(at),
                work: if judgement { Work::Judgement } else { Work::Step },
                model,
                class,
                item,
            });
        }
        queue
    }

    #[test]
    fn equal_deadlines_leave_in_the_order_they_came() {
        let mut queue = fill(
            Instant::now(),
            &[(5, 0, false, false), (5, 0, false, false), (1, 0, false, false)],
        );
        let order: Vec<_> = queue
            .pop_batch(|_| BatchLimits {
                rows: 8,
                file_rows: 8,
            })
            .into_iter()
            .map(|ready| ready.item)
            .collect();
        assert_eq!(order, [2, 0, 1]);
    }

    proptest! {
        #[test]
        fn a_batch_is_the_earliest_rows_of_one_model_within_its_limits(
            deadlines in prop::collection::vec((0_u64..50, 0_usize..3, any::<bool>(), any::<bool>()), 0..60),
            rows in 1_usize..9, file_rows in 1_usize..4,
        ) {
            let mut queue = fill(Instant::now(), &deadlines);
            let mut seen = 0;
            while !queue.is_empty() {
                let earliest = queue.entries.values().next().map(|ready| ready.deadline);
                let batch = queue.pop_batch(|_| BatchLimits { rows, file_rows });
                prop_assert!(!batch.is_empty() && batch.len() <= rows);
                prop_assert_eq!(batch.first().map(|ready| ready.deadline), earliest);
                prop_assert!(batch.windows(2).all(|pair| pair[0].deadline <= pair[1].deadline));
                prop_assert!(batch.iter().all(|ready| ready.model == batch[0].model));
                // A judgement is nobody's neighbour.
                prop_assert!(batch.len() == 1 || batch.iter().all(|ready| ready.work == Work::Step));
                prop_assert!(batch.iter().filter(|ready| ready.class == Class::File).count() <= file_rows);
                // Nothing live of this model that is due earlier was passed over.
                let last = batch[batch.len() - 1].deadline;
                let passed_over = queue.entries.values().any(|left| {
                    (left.model, left.work) == (batch[0].model, Work::Step) && left.class == Class::Live && left.deadline < last
                });
                prop_assert!(batch.len() == rows || !passed_over);
                seen += batch.len();
            }
            prop_assert_eq!(seen, deadlines.len());
        }

        #[test]
        fn a_judgement_lets_those_segments_go_first_that_are_due_before_it(
            deadlines in prop::collection::vec((0_u64..50, 0_usize..3, any::<bool>(), any::<bool>()), 0..60),
            rows in 1_usize..9, file_rows in 1_usize..4, due in 0_u64..60,
        ) {
            let start = Instant::now();
            let mut queue = fill(start, &deadlines);
            let due = start + Duration::from_millis(due);
            loop {
                let first = queue.entries.values().find(|ready| ready.work == Work::Step).map(|ready| ready.deadline);
                let batch = queue.pop_steps_before(due, |_| BatchLimits { rows, file_rows });
                prop_assert_eq!(batch.first().map(|ready| ready.deadline), first.filter(|first| *first < due));
                prop_assert!(batch.len() <= rows);
                prop_assert!(batch.iter().all(|ready| ready.work == Work::Step && ready.model == batch[0].model));
                if batch.is_empty() {
                    break;
                }
            }
            let judgements = deadlines.iter().filter(|(.., judgement)| *judgement).count();
            prop_assert_eq!(queue.entries.values().filter(|ready| ready.work == Work::Judgement).count(), judgements);
        }
    }
}
