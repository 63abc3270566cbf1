//! What the engine counts: the promises and the load, for `/metrics`.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

/// Upper bounds of the histograms' buckets, in milliseconds; the last bucket has none.
pub const BUCKETS_MS: [u64; 12] = [1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000];

/// Durations in fixed buckets.
#[derive(Debug, Default)]
pub struct Histogram {
    buckets: [AtomicU64; BUCKETS_MS.len() + 1],
    micros: AtomicU64,
}

/// A [`Histogram`] at one moment.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct HistogramSnapshot {
    /// Observations by bucket, not cumulative; one more than [`BUCKETS_MS`].
    pub buckets: Vec<u64>,
    /// Sum of all observations.
    pub sum: Duration,
}

impl Histogram {
    /// Adds an observation.
    pub fn observe(&self, value: Duration) {
        let millis = value.as_millis() as u64;
        let bucket = BUCKETS_MS.partition_point(|bound| *bound < millis.max(1));
        if let Some(bucket) = self.buckets.get(bucket) {
            bucket.fetch_add(1, Relaxed);
        }
        self.micros.fetch_add(value.as_micros() as u64, Relaxed);
    }

    /// The state of now.
    pub fn snapshot(&self) -> HistogramSnapshot {
        HistogramSnapshot {
            buckets: self.buckets.iter().map(|bucket| bucket.load(Relaxed)).collect(),
            sum: Duration::from_micros(self.micros.load(Relaxed)),
        }
    }

    /// An upper bound of the 99th percentile, `None` below 100 observations.
    pub fn p99(&self) -> Option<Duration> {
        let counts: Vec<u64> = self.buckets.iter().map(|bucket| bucket.load(Relaxed)).collect();
        let total: u64 = counts.iter().sum();
        if total < 100 {
            return None;
        }
        let mut seen = 0;
        counts.iter().zip(BUCKETS_MS).find_map(|(count, bound)| {
            seen += count;
            (seen * 100 >= total * 99).then_some(Duration::from_millis(bound))
        })
    }
}

macro_rules! counters {
    ($($(#[$doc:meta])* $name:ident),* $(,)?) => {
        /// Monotone counts since the start.
        #[derive(Debug, Default)]
        pub struct Counters {
            $($(#[$doc])* pub $name: AtomicU64,)*
            /// Duration of steps.
            pub step_time: Histogram,
            /// Duration of judgements.
            pub judgement_time: Histogram,
            /// From when a live segment can be stepped to when its words are there. It can when it is complete and its session's work
            /// before it, a judgement for instance, is over.
            pub response_time: Histogram,
        }

        impl Counters {
            /// Names and values of all counts.
            pub fn values(&self) -> Vec<(&'static str, u64)> {
                vec![$((stringify!($name), self.$name.load(Relaxed)),)*]
            }
        }
    };
}

counters! {
    /// Whole utterances encoded, of models that cannot stream.
    whole_utterances,
    /// Streams opened.
    streams_opened,
    /// Streams that ended with `done`.
    streams_done,
    /// Streams that ended with an error.
    streams_failed,
    /// Streams whose client left before the end.
    streams_abandoned,
    /// Requests refused for want of a slot.
    streams_refused,
    /// Batched steps.
    steps,
    /// Rows of all steps.
    rows,
    /// Finals sent.
    finals,
    /// Partials made.
    partials,
    /// Partials replaced by newer ones before the client read them.
    partials_coalesced,
    /// Samples that front ends took, at input rates, without inserted silence (promise I9).
    samples_decoded,
    /// Live segments whose words came more than 100 ms after they could be stepped.
    late_answers,
    /// Rows with a non-finite value.
    non_finite_rows,
    /// Steps that erred or panicked.
    steps_failed,
    /// Workers rebuilt.
    workers_rebuilt,
    /// Promise I5 broken: a final's id or time went back. Always 0.
    promise_finals_broken,
    /// Promise I6 broken: an event after the end. Always 0.
    promise_end_broken,
    /// Promise I7 broken: free and used slots do not add up. Always 0.
    promise_slots_broken,
    /// Promise I8 broken: a live session held more bytes than the published bound. Always 0.
    promise_bytes_broken,
    /// Promise I9 broken: samples lost between arrival and the end of a stream. Always 0.
    promise_samples_broken,
}

/// Adds one.
pub(super) fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Relaxed);
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::Histogram;

    #[test]
    fn observations_fall_into_the_bucket_that_bounds_them() {
        let histogram = Histogram::default();
        for millis in [0, 1, 2, 3, 6000] {
            histogram.observe(Duration::from_millis(millis));
        }
        let buckets = histogram.snapshot().buckets;
        assert_eq!((buckets[0], buckets[1], buckets[2], buckets[12]), (2, 1, 1, 1));
    }

    #[test]
    fn the_99th_percentile_needs_a_hundred_observations() {
        let histogram = Histogram::default();
        for _ in 0..99 {
            histogram.observe(Duration::from_millis(3));
        }
        assert_eq!(histogram.p99(), None);
        histogram.observe(Duration::from_millis(400));
        assert_eq!(histogram.p99(), Some(Duration::from_millis(5)));
    }
}
