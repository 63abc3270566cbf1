//! Who may start a stream: a pure data structure. Time comes in as an argument, nothing waits, nothing is queued: a
//! stream gets its place at once or is refused at once.
//!
//! Every model has a cost, the share of one worker that a live stream of it takes. Warm-up measures it. Live streams
//! are admitted while their costs stay within the budget, a fixed part of all worker time. What the estimate does not know
//! (sockets, a resampler of another rate, a neighbour on the same cores) is seen while the server runs: what live streams
//! are measured to take counts where it is more. When segments are answered late all the same, the budget shrinks at
//! once to less than what is taken, and it recovers slowly. Files do not take part in the budget, since their segments
//! wait for live ones; they have a bound of their own.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use super::queue::Class;
use crate::wire::code::ErrorCode;

/// Part of all worker time that live streams may take: the rest absorbs what comes at once.
pub const BUDGET_SHARE: f64 = 0.7;
/// A live segment that is answered so long after it could be stepped is late: clients see it as a miss.
pub(super) const LATE_AFTER: Duration = Duration::from_millis(100);
/// More late segments than one in so many lower the budget, if they are no few: two may be the machine's hiccup.
const ONE_LATE_IN: u32 = 50;
const FEW: u32 = 5;
/// How far back answers and load are looked at, and how long a lowered budget is left to show its effect.
const WINDOW: Duration = Duration::from_secs(5);
/// What is seen is added up in slices of this length.
const SLICE: Duration = Duration::from_millis(250);
/// The part of what is taken that a lowered budget allows, and the part of the whole budget that comes back in each quiet window.
const LOWERED_TO: f64 = 0.85;
const RAISED_BY: f64 = 0.05;
/// Work is thought to take at most so many times as long as it does undisturbed.
const MOST_STRETCH: f64 = 3.0;
/// The budget never falls below this part: one late second must not empty a server.
const SMALLEST_PART: f64 = 0.2;

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

/// What a worker has just done.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct WorkDone {
    /// Seconds by the clock that it took for live streams.
    pub live_seconds: f64,
    /// The same for files.
    pub file_seconds: f64,
    /// Live segments that were answered.
    pub answered: u32,
    /// Those of them that were answered later than [`LATE_AFTER`].
    pub late: u32,
    /// Seconds by the clock of which it is known how long the processor took for them, and those on the processor: with somebody else
    /// on the same cores the clock's are more.
    pub on_processor: (f64, f64),
}

impl WorkDone {
    /// Work of that long for one stream, of somebody who speaks or of a file.
    pub(super) fn of_one(took: Duration, spoken: bool) -> Self {
        let seconds = took.as_secs_f64();
        Self {
            live_seconds: if spoken { seconds } else { 0.0 },
            file_seconds: if spoken { 0.0 } else { seconds },
            ..Self::default()
        }
    }
}

/// What was seen in a stretch of time.
#[derive(Debug, Clone, Copy)]
struct Slice {
    began: Instant,
    done: WorkDone,
    /// Seconds of processor time that the whole process used, as far as it is known.
    processor_seconds: f64,
    /// Costs of the live streams that came, less those of the ones that left.
    cost_change: f64,
    /// The most that was taken.
    taken: f64,
}

/// See the [module](self).
#[derive(Debug, Clone)]
pub struct Admission {
    limits: AdmissionLimits,
    /// Workers that live streams may fill now.
    budget: f64,
    /// Costs of the live streams.
    spent: f64,
    live: usize,
    files: usize,
    draining: bool,
    /// The last [`WINDOW`], oldest first.
    seen: VecDeque<Slice>,
    /// When the processor was last looked at, and the process's time on it until then.
    processor: Option<(Instant, Duration)>,
    /// Somebody computes whose time on it is neither live streams' nor told.
    is_shared: bool,
    /// When the budget was last changed.
    changed: Option<Instant>,
}

impl Admission {
    /// Starts with everything free.
    pub fn new(limits: AdmissionLimits) -> Self {
        Self {
            limits,
            budget: limits.workers as f64 * BUDGET_SHARE,
            spent: 0.0,
            live: 0,
            files: 0,
            draining: false,
            seen: VecDeque::new(),
            processor: None,
            is_shared: false,
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
            Class::Live => self.live >= self.live_capacity(now, cost),
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
                self.slice(now).cost_change += cost;
            }
            Class::File => self.files += 1,
        }
        Ok(())
    }

    /// Gives a place back.
    pub fn release(&mut self, now: Instant, class: Class, cost: f64) {
        match class {
            Class::Live => {
                debug_assert!(self.live > 0, "a live place was given back twice");
                self.live = self.live.saturating_sub(1);
                self.spent = if self.live == 0 { 0.0 } else { self.spent - cost };
                self.slice(now).cost_change -= cost;
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

    /// Takes note of what a worker has done. `processor` is the time on the processor of the whole process since it began, where it can
    /// be had: what is beyond the workers' own is the sockets'.
    pub fn observe(&mut self, now: Instant, done: WorkDone, processor: Option<Duration>) {
        let processor = processor.filter(|_| !self.is_shared);
        let used = processor.map_or(0.0, |total| self.processor_since_last(now, total));
        let slice = self.slice(now);
        slice.done.live_seconds += done.live_seconds;
        slice.done.file_seconds += done.file_seconds;
        slice.done.answered += done.answered;
        slice.done.late += done.late;
        slice.done.on_processor.0 += done.on_processor.0;
        slice.done.on_processor.1 += done.on_processor.1;
        slice.processor_seconds += used;
        let taken = self.taken(now);
        let slice = self.slice(now);
        slice.taken = slice.taken.max(taken);
        self.judge(now);
    }

    /// Somebody begins or ends to compute beside the workers and the sockets: until it is over the process's time on the processor tells
    /// nothing of sockets.
    pub fn share_processor(&mut self, is_shared: bool) {
        self.is_shared = is_shared;
        self.processor = None;
    }

    /// Live streams of this cost that there is room for in all, taken ones included.
    pub fn live_capacity(&self, now: Instant, cost: f64) -> usize {
        // What fits exactly is not lost to rounding.
        let further = ((self.budget - self.taken(now)) / cost.max(1e-9) + 1e-6).max(0.0) as usize;
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
        if self.budget < self.whole_budget() {
            WINDOW
        } else {
            Duration::from_secs(2)
        }
    }

    fn whole_budget(&self) -> f64 {
        self.limits.workers as f64 * BUDGET_SHARE
    }

    /// Workers that the live streams fill: by their costs, or by what is measured where that is more. Who came or left within the
    /// window is measured for a part of it only, and counts by cost for the rest.
    fn taken(&self, now: Instant) -> f64 {
        let window = WINDOW.as_secs_f64();
        let (mut by_clock, mut by_processor, mut not_yet) = (0.0, 0.0, 0.0);
        let (mut clock, mut processor) = (0.0, 0.0);
        for slice in &self.seen {
            let age = now.saturating_duration_since(slice.began).as_secs_f64();
            if age >= window {
                continue;
            }
            by_clock += slice.done.live_seconds;
            by_processor += slice.processor_seconds - slice.done.file_seconds;
            not_yet += slice.cost_change * (1.0 - age / window);
            clock += slice.done.on_processor.0;
            processor += slice.done.on_processor.1;
        }
        // Somebody else on the same cores stretches all work, the sockets' too, by what is seen of steps.
        let stretch: f64 = if processor > 0.0 { clock / processor } else { 1.0 };
        let stretched = stretch.clamp(1.0, MOST_STRETCH) * (by_processor / window + not_yet);
        self.spent.max(by_clock / window + not_yet).max(stretched)
    }

    /// Seconds on the processor since the last look, at most those of one window at their mean rate.
    fn processor_since_last(&mut self, now: Instant, total: Duration) -> f64 {
        let Some((at, before)) = self.processor.replace((now, total)) else {
            return 0.0;
        };
        let elapsed = now.saturating_duration_since(at).as_secs_f64();
        let used = total.saturating_sub(before).as_secs_f64();
        used * (WINDOW.as_secs_f64() / elapsed.max(1e-9)).min(1.0)
    }

    /// The slice of now; those that are out of the window are forgotten.
    fn slice(&mut self, now: Instant) -> &mut Slice {
        let age = |slice: &Slice| now.saturating_duration_since(slice.began);
        while self.seen.front().is_some_and(|slice| age(slice) >= WINDOW) {
            self.seen.pop_front();
        }
        if self.seen.back().is_none_or(|slice| age(slice) >= SLICE) {
            self.seen.push_back(Slice {
                began: now,
                done: WorkDone::default(),
                processor_seconds: 0.0,
                cost_change: 0.0,
                taken: 0.0,
            });
        }
        let last = self.seen.len() - 1;
        &mut self.seen[last]
    }

    /// Lowers the budget when too many answers of the window were late, raises it when a whole window was fine.
    fn judge(&mut self, now: Instant) {
        if self.changed.is_some_and(|at| now.duration_since(at) < WINDOW) {
            return;
        }
        let within = self
            .seen
            .iter()
            .filter(|slice| now.saturating_duration_since(slice.began) < WINDOW);
        // The most that was taken, not what is now: those who made answers late may just have left.
        let (answered, late, most) = within.fold((0, 0, 0.0_f64), |(answered, late, most), slice| {
            let WorkDone {
                answered: more,
                late: later,
                ..
            } = slice.done;
            (answered + more, late + later, most.max(slice.taken))
        });
        let (whole, is_late) = (self.whole_budget(), late * ONE_LATE_IN > answered);
        if is_late && late >= FEW {
            let lowered = LOWERED_TO * self.budget.min(most);
            self.budget = lowered.max(SMALLEST_PART * whole);
        } else if !is_late && self.budget < whole {
            self.budget = (self.budget + RAISED_BY * whole).min(whole);
        } else {
            return;
        }
        self.changed = Some(now);
    }
}

#[cfg(test)]
#[path = "admission_tests.rs"]
mod tests;
