//! Who may start a stream: a pure data structure. Time comes in as an argument, nothing waits, nothing is queued: a
//! stream gets its place at once or is refused at once.
//!
//! Every model has a cost, the share of one worker that a live stream of it takes. Warm-up measures it. Live streams
//! are admitted while their costs stay within the budget, a fixed part of all worker time; when segments become late
//! or the workers too busy with speech, the budget is lowered at once, and it recovers slowly. Files do not take
//! part in the budget, since their segments wait for live ones; they have a bound of their own.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use super::queue::Class;
use crate::wire::code::ErrorCode;

/// Part of all worker time that live streams may take: the rest absorbs what comes at once.
pub const BUDGET_SHARE: f64 = 0.7;
/// Share of worker time for live rows above which the budget is lowered.
const BUSY_LIMIT: f64 = 0.85;
/// How far back lateness and load are looked at, and how long a lowered budget is left to show its effect.
const WINDOW: Duration = Duration::from_secs(5);
/// What is left of the budget when it is lowered, and what comes back in each quiet window.
const LOWERED_TO: f64 = 0.85;
const RAISED_BY: f64 = 0.05;
/// The budget never falls below this part: one late second must not empty a server.
const SMALLEST_FACTOR: f64 = 0.2;

/// Why there is no place, and when to ask again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// [`ErrorCode::ServerFull`] or [`ErrorCode::Draining`].
    pub code: ErrorCode,
    /// When a place may be free.
    pub retry_after: Duration,
}

/// Fixed sizes of an [`Admission`].
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct AdmissionLimits {
    /// Workers.
    pub workers: usize,
    /// Live streams at most, whatever they cost.
    pub live: usize,
    /// Files at most.
    pub files: usize,
}

/// See the [module](self).
#[derive(Debug, Clone)]
pub struct Admission {
    limits: AdmissionLimits,
    /// What is left of the budget, 1 when all is well.
    factor: f64,
    /// Costs of the live streams.
    spent: f64,
    live: usize,
    files: usize,
    draining: bool,
    /// Observed live batches: when, lateness in seconds (negative when early), seconds of work.
    observed: VecDeque<(Instant, Option<f64>, f64)>,
    changed: Option<Instant>,
}

impl Admission {
    /// Starts with everything free.
    pub fn new(limits: AdmissionLimits) -> Self {
        Self {
            limits,
            factor: 1.0,
            spent: 0.0,
            live: 0,
            files: 0,
            draining: false,
            observed: VecDeque::new(),
            changed: None,
        }
    }

    /// Takes a place for a stream that costs `cost` workers, or says why there is none. The first live stream is
    /// always admitted: a machine that is too slow for one is late, not useless.
    ///
    /// # Errors
    /// [`Refusal`] when full or draining.
    pub fn admit(&mut self, now: Instant, class: Class, cost: f64) -> Result<(), Refusal> {
        if self.draining {
            return Err(Refusal {
                code: ErrorCode::Draining,
                retry_after: Duration::from_secs(10),
            });
        }
        self.judge(now);
        let full = match class {
            Class::Live => self.live >= self.live_capacity(cost),
            Class::File => self.files >= self.limits.files,
        };
        if full {
            return Err(Refusal {
                code: ErrorCode::ServerFull,
                retry_after: self.retry_after(),
            });
        }
        match class {
            Class::Live => {
                self.live += 1;
                self.spent += cost;
            }
            Class::File => self.files += 1,
        }
        Ok(())
    }

    /// Gives a place back.
    pub fn release(&mut self, class: Class, cost: f64) {
        match class {
            Class::Live => {
                debug_assert!(self.live > 0, "a live place was given back twice");
                self.live = self.live.saturating_sub(1);
                self.spent = if self.live == 0 { 0.0 } else { self.spent - cost };
            }
            Class::File => {
                debug_assert!(self.files > 0, "a file's place was given back twice");
                self.files = self.files.saturating_sub(1);
            }
        }
    }

    /// Refuses everything from now on.
    pub fn drain(&mut self) {
        self.draining = true;
    }

    /// Takes note of a batch with live rows: how late its latest row was and how long the live rows took.
    pub fn observe(&mut self, now: Instant, lateness_seconds: f64, work_seconds: f64) {
        self.observed
            .push_back((now, Some(lateness_seconds), work_seconds));
        self.judge(now);
    }

    /// Takes note of work for live streams that is never late for anybody, such as a judgement.
    pub fn observe_work(&mut self, now: Instant, work_seconds: f64) {
        self.observed.push_back((now, None, work_seconds));
        self.judge(now);
    }

    /// Live streams of this cost that there is room for in all, taken ones included.
    pub fn live_capacity(&self, cost: f64) -> usize {
        let budget = self.limits.workers as f64 * BUDGET_SHARE * self.factor;
        // What fits exactly is not lost to rounding.
        let further = ((budget - self.spent) / cost.max(1e-9) + 1e-6).max(0.0) as usize;
        (self.live + further).max(1).min(self.limits.live)
    }

    /// Live streams now.
    pub fn live(&self) -> usize {
        self.live
    }

    /// Files now.
    pub fn files(&self) -> usize {
        self.files
    }

    /// Whether everything is refused.
    pub fn is_draining(&self) -> bool {
        self.draining
    }

    /// A guess at when a place may be free: longer while the budget is lowered.
    pub fn retry_after(&self) -> Duration {
        if self.factor < 1.0 {
            WINDOW
        } else {
            Duration::from_secs(2)
        }
    }

    /// Lowers the budget when the last window was late or too busy, raises it when a whole window was fine.
    fn judge(&mut self, now: Instant) {
        while self
            .observed
            .front()
            .is_some_and(|(at, ..)| now.duration_since(*at) > WINDOW)
        {
            self.observed.pop_front();
        }
        if self.changed.is_some_and(|at| now.duration_since(at) < WINDOW) {
            return;
        }
        let busy: f64 = self.observed.iter().map(|(_, _, work)| work).sum::<f64>()
            / (WINDOW.as_secs_f64() * self.limits.workers as f64);
        let batches = self.observed.iter().filter_map(|(_, lateness, _)| *lateness);
        let (mut seen, mut late) = (0, 0);
        for lateness in batches {
            seen += 1;
            late += usize::from(lateness > 0.0);
        }
        // The 95th percentile is above 0 when more than one in twenty is late; a few rows judge nothing.
        let too_late = seen >= 20 && late * 20 > seen;
        if too_late || busy > BUSY_LIMIT {
            self.factor = (self.factor * LOWERED_TO).max(SMALLEST_FACTOR);
            self.changed = Some(now);
        } else if self.factor < 1.0 {
            self.factor = (self.factor + RAISED_BY).min(1.0);
            self.changed = Some(now);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use proptest::prelude::*;

    use super::{Admission, AdmissionLimits};
    use crate::engine::queue::Class;
    use crate::wire::code::ErrorCode;

    const LIMITS: AdmissionLimits = AdmissionLimits {
        workers: 2,
        live: 100,
        files: 2,
    };

    #[test]
    fn live_streams_fill_the_budget_and_no_more() {
        let mut admission = Admission::new(LIMITS);
        let now = Instant::now();
        let admitted = (0..50)
            .filter(|_| admission.admit(now, Class::Live, 0.1).is_ok())
            .count();
        assert_eq!(admitted, 14);
        let refusal = admission.admit(now, Class::Live, 0.1).expect_err("full");
        assert_eq!(refusal.code, ErrorCode::ServerFull);
        admission.release(Class::Live, 0.1);
        assert!(admission.admit(now, Class::Live, 0.1).is_ok());
    }

    #[test]
    fn files_have_a_bound_of_their_own() {
        let mut admission = Admission::new(LIMITS);
        let now = Instant::now();
        assert!(admission.admit(now, Class::File, 0.1).is_ok());
        assert!(admission.admit(now, Class::File, 0.1).is_ok());
        assert!(admission.admit(now, Class::File, 0.1).is_err());
        assert!(admission.admit(now, Class::Live, 0.1).is_ok());
    }

    #[test]
    fn lateness_lowers_the_capacity_at_once_and_it_recovers_slowly() {
        let mut admission = Admission::new(LIMITS);
        let start = Instant::now();
        assert_eq!(admission.live_capacity(0.1), 14);
        for _ in 0..30 {
            admission.observe(start, 0.1, 0.0);
        }
        let lowered = admission.live_capacity(0.1);
        assert!(lowered < 14, "{lowered}");
        let mut windows = 0;
        while admission.live_capacity(0.1) < 14 {
            windows += 1;
            admission.observe(start + Duration::from_secs(6 * windows), -0.1, 0.0);
        }
        assert!(windows >= 2, "{windows}");
    }

    #[test]
    fn speech_that_fills_the_workers_lowers_the_capacity() {
        let mut admission = Admission::new(LIMITS);
        admission.observe(Instant::now(), -0.1, 9.0);
        assert!(admission.live_capacity(0.1) < 14);
    }

    #[test]
    fn a_draining_engine_refuses_with_its_own_code() {
        let mut admission = Admission::new(LIMITS);
        admission.drain();
        let refusal = admission
            .admit(Instant::now(), Class::Live, 0.1)
            .expect_err("draining");
        assert_eq!(refusal.code, ErrorCode::Draining);
    }

    proptest! {
        #[test]
        fn places_taken_are_places_admitted_less_released(
            actions in prop::collection::vec((any::<bool>(), any::<bool>()), 0..200),
        ) {
            let mut admission = Admission::new(AdmissionLimits { workers: 2, live: 5, files: 2 });
            let now = Instant::now();
            let (mut live, mut files) = (0, 0);
            for (is_file, leaves) in actions {
                let (class, count) = if is_file { (Class::File, &mut files) } else { (Class::Live, &mut live) };
                if leaves && *count > 0 {
                    admission.release(class, 0.01);
                    *count -= 1;
                } else if admission.admit(now, class, 0.01).is_ok() {
                    *count += 1;
                }
                prop_assert_eq!((admission.live(), admission.files()), (live, files));
                prop_assert!(live <= 5 && files <= 2);
            }
        }
    }
}
