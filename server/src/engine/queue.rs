//! The one queue of what workers can do, earliest deadline first. A pure data structure: time comes in, nothing waits.

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
    /// The words of a segment that was stepped can be found, by themselves.
    Words,
    /// An utterance can be judged, by itself.
    Judgement,
}

/// A segment that can be stepped, one whose words can be found, or an utterance that can be judged.
#[derive(Debug)]
pub struct Ready<T> {
    /// From when on its result is waited for: it was complete then, or by its client's clock will be.
    pub wanted: Instant,
    /// When its result is due.
    pub deadline: Instant,
    /// What of the three.
    pub work: Work,
    /// Index of the model; rows of one batch share it.
    pub model: usize,
    /// Live or file.
    pub class: Class,
    /// With what.
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

/// When something is due, and how many came before it.
type Key = (Instant, u64);

/// What can be done, by deadline; equal deadlines leave in the order they came.
#[derive(Debug)]
pub struct ReadyQueue<T> {
    steps: BTreeMap<Key, Ready<T>>,
    /// Words and judgements, which are nobody's neighbours.
    alone: BTreeMap<Key, Ready<T>>,
    sequence: u64,
}

impl<T> Default for ReadyQueue<T> {
    fn default() -> Self {
        Self {
            steps: BTreeMap::new(),
            alone: BTreeMap::new(),
            sequence: 0,
        }
    }
}

impl<T> ReadyQueue<T> {
    /// Adds what can be done.
    pub fn push(&mut self, ready: Ready<T>) {
        let entries = match ready.work {
            Work::Step => &mut self.steps,
            Work::Words | Work::Judgement => &mut self.alone,
        };
        entries.insert((ready.deadline, self.sequence), ready);
        self.sequence += 1;
    }

    /// How much waits.
    pub fn len(&self) -> usize {
        self.steps.len() + self.alone.len()
    }

    /// Whether nothing waits.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Takes what is due first: words or a judgement alone, or, where steps may be taken, a segment and those next in line of the same
    /// model, within its limits.
    pub fn pop_batch(&mut self, may_step: bool, limits: impl FnOnce(usize) -> BatchLimits) -> Vec<Ready<T>> {
        let alone = self.alone.first_key_value().map(|(key, _)| *key);
        self.pop_first(may_step, alone, None, limits)
    }

    /// Takes what is due first but for judgements, if that is before `deadline`: what a judgement that is due then lets go first.
    pub fn pop_before(
        &mut self,
        deadline: Instant,
        may_step: bool,
        limits: impl FnOnce(usize) -> BatchLimits,
    ) -> Vec<Ready<T>> {
        let end = (deadline, 0);
        let mut alone = self.alone.range(..end);
        let words = alone.find(|(_, ready)| ready.work == Work::Words);
        let words = words.map(|(key, _)| *key);
        self.pop_first(may_step, words, Some(end), limits)
    }

    fn pop_first(
        &mut self,
        may_step: bool,
        alone: Option<Key>,
        end: Option<Key>,
        limits: impl FnOnce(usize) -> BatchLimits,
    ) -> Vec<Ready<T>> {
        let step = self
            .steps
            .first_key_value()
            .map(|(key, ready)| (*key, ready.model));
        let step = step.filter(|(key, _)| may_step && end.is_none_or(|end| *key < end));
        match (step, alone) {
            (Some((key, model)), alone) if alone.is_none_or(|alone| key < alone) => {
                self.pop_steps(model, limits(model))
            }
            (_, Some(key)) => self.alone.remove(&key).into_iter().collect(),
            (_, None) => Vec::new(),
        }
    }

    fn pop_steps(&mut self, model: usize, limits: BatchLimits) -> Vec<Ready<T>> {
        let mut files = 0;
        let keys: Vec<_> = self
            .steps
            .iter()
            .filter(|(_, ready)| ready.model == model)
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
        keys.iter().filter_map(|key| self.steps.remove(key)).collect()
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use proptest::prelude::*;

    use super::{BatchLimits, Class, Ready, ReadyQueue, Work};

    const WORKS: [Work; 3] = [Work::Step, Work::Words, Work::Judgement];

    fn fill(start: Instant, deadlines: &[(u64, usize, bool, usize)]) -> ReadyQueue<usize> {
        let mut queue = ReadyQueue::default();
        for (item, &(at, model, file, work)) in deadlines.iter().enumerate() {
            let class = if file { Class::File } else { Class::Live };
            queue.push(Ready {
                wanted: start,
                deadline: start + Duration::from_millis(at),
                work: WORKS[work],
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
            &[(5, 0, false, 0), (5, 0, false, 0), (1, 0, false, 0)],
        );
        let order: Vec<_> = queue
            .pop_batch(true, |_| BatchLimits {
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
            deadlines in prop::collection::vec((0_u64..50, 0_usize..3, any::<bool>(), 0..WORKS.len()), 0..60),
            rows in 1_usize..9, file_rows in 1_usize..4,
        ) {
            let mut queue = fill(Instant::now(), &deadlines);
            let (mut seen, mut may_step) = (0, false);
            while !queue.is_empty() {
                let steps = queue.steps.len();
                may_step = !may_step;
                let may_step = may_step || queue.alone.is_empty();
                let waiting = queue.alone.values().chain(queue.steps.values().filter(|_| may_step));
                let earliest = waiting.map(|ready| ready.deadline).min();
                let batch = queue.pop_batch(may_step, |_| BatchLimits { rows, file_rows });
                prop_assert!(!batch.is_empty() && batch.len() <= rows);
                prop_assert!(may_step || queue.steps.len() == steps);
                prop_assert_eq!(batch.first().map(|ready| ready.deadline), earliest);
                prop_assert!(batch.windows(2).all(|pair| pair[0].deadline <= pair[1].deadline));
                prop_assert!(batch.iter().all(|ready| ready.model == batch[0].model));
                // Words and judgements are nobody's neighbours.
                prop_assert!(batch.len() == 1 || batch.iter().all(|ready| ready.work == Work::Step));
                prop_assert!(batch.iter().filter(|ready| ready.class == Class::File).count() <= file_rows);
                // Nothing live of this model that is due earlier was passed over.
                let last = batch[batch.len() - 1].deadline;
                let passed_over = queue.steps.values().any(|left| {
                    left.model == batch[0].model && left.class == Class::Live && left.deadline < last
                });
                prop_assert!(batch.len() == rows || batch[0].work != Work::Step || !passed_over);
                seen += batch.len();
            }
            prop_assert_eq!(seen, deadlines.len());
        }

        #[test]
        fn a_judgement_lets_those_go_first_that_are_due_before_it(
            deadlines in prop::collection::vec((0_u64..50, 0_usize..3, any::<bool>(), 0..WORKS.len()), 0..60),
            rows in 1_usize..9, file_rows in 1_usize..4, due in 0_u64..60,
        ) {
            let start = Instant::now();
            let mut queue = fill(start, &deadlines);
            let due = start + Duration::from_millis(due);
            loop {
                let waiting = queue.alone.values().chain(queue.steps.values());
                let first = waiting.filter(|ready| ready.work != Work::Judgement).map(|ready| ready.deadline).min();
                let batch = queue.pop_before(due, true, |_| BatchLimits { rows, file_rows });
                prop_assert_eq!(batch.first().map(|ready| ready.deadline), first.filter(|first| *first < due));
                prop_assert!(batch.len() <= rows);
                prop_assert!(batch.iter().all(|ready| ready.work != Work::Judgement && ready.model == batch[0].model));
                prop_assert!(batch.len() == 1 || batch.iter().all(|ready| ready.work == Work::Step));
                if batch.is_empty() {
                    break;
                }
            }
            let judgements = deadlines.iter().filter(|(.., work)| WORKS[*work] == Work::Judgement).count();
            prop_assert_eq!(queue.alone.values().filter(|ready| ready.work == Work::Judgement).count(), judgements);
        }
    }
}
