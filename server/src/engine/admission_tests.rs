//! Admission under load that the tests make up.

use std::time::{Duration, Instant};

use proptest::prelude::*;

use super::{Admission, AdmissionLimits, SLICE, WINDOW, WorkDone};
use crate::engine::queue::Class;
use crate::wire::code::ErrorCode;

const LIMITS: AdmissionLimits = AdmissionLimits {
    workers: 2,
    live: 100,
    files: 2,
};
/// Of every stream here: 14 of them fill the budget of two workers.
const COST: f64 = 0.1;

/// An engine that computes and answers, a quarter of a second at a time.
struct Busy {
    admission: Admission,
    now: Instant,
    processor: Duration,
    stretch: f64,
}

impl Busy {
    fn with(streams: usize) -> Self {
        let (mut admission, now) = (Admission::new(LIMITS), Instant::now());
        for _ in 0..streams {
            admission.admit(now, Class::Live, COST).unwrap();
        }
        Self {
            admission,
            now,
            processor: Duration::ZERO,
            stretch: 1.0,
        }
    }

    /// Lets windows pass in which workers do that much for live streams a second, for files, and the process takes that much.
    fn pass(&mut self, windows: u32, live: f64, files: f64, processor: f64) {
        let slice = SLICE.as_secs_f64();
        for _ in 0..windows * (WINDOW.as_millis() / SLICE.as_millis()) as u32 {
            self.now += SLICE;
            self.processor += SLICE.mul_f64(processor);
            let done = WorkDone {
                live_seconds: live * slice,
                file_seconds: files * slice,
                answered: 10,
                late: 0,
                on_processor: (self.stretch * slice, slice),
            };
            self.admission.observe(self.now, done, Some(self.processor));
        }
    }

    fn answer(&mut self, answered: u32, late: u32) {
        let done = WorkDone {
            answered,
            late,
            ..WorkDone::default()
        };
        self.admission.observe(self.now, done, None);
    }

    fn capacity(&self) -> usize {
        self.admission.live_capacity(self.now, COST)
    }
}

#[test]
fn live_streams_fill_the_budget_and_no_more() {
    let mut admission = Admission::new(LIMITS);
    let now = Instant::now();
    let admitted = (0..50)
        .filter(|_| admission.admit(now, Class::Live, COST).is_ok())
        .count();
    assert_eq!(admitted, 14);
    let refusal = admission.admit(now, Class::Live, COST).expect_err("full");
    assert_eq!(refusal.code, ErrorCode::ServerFull);
    // Who comes when another one leaves finds the place.
    admission.release(now, Class::Live, COST);
    assert!(admission.admit(now, Class::Live, COST).is_ok());
}

#[test]
fn files_have_a_bound_of_their_own() {
    let mut admission = Admission::new(LIMITS);
    let now = Instant::now();
    assert!(admission.admit(now, Class::File, COST).is_ok());
    assert!(admission.admit(now, Class::File, COST).is_ok());
    assert!(admission.admit(now, Class::File, COST).is_err());
    assert!(admission.admit(now, Class::Live, COST).is_ok());
}

#[test]
fn streams_that_take_more_than_their_costs_leave_room_for_fewer() {
    let mut busy = Busy::with(7);
    busy.pass(1, 0.6, 0.0, 0.6);
    assert_eq!(busy.capacity(), 14, "they take less than they cost");
    busy.pass(1, 1.05, 0.0, 1.05);
    assert_eq!(busy.capacity(), 7 + 3);
}

#[test]
fn what_sockets_take_counts_and_what_files_take_does_not() {
    let mut busy = Busy::with(7);
    busy.pass(2, 0.7, 1.2, 2.1);
    assert_eq!(busy.capacity(), 7 + 5, "0.2 of two processors beside the workers");
}

#[test]
fn a_neighbour_on_the_same_cores_leaves_room_for_fewer() {
    let mut busy = Busy::with(7);
    busy.stretch = 1.5;
    busy.pass(2, 0.7, 0.0, 0.8);
    assert_eq!(
        busy.capacity(),
        7 + 2,
        "0.8 processors, in one and a half times their time"
    );
}

#[test]
fn lateness_of_those_who_have_left_leaves_room_for_as_many_but_a_few() {
    let mut busy = Busy::with(12);
    busy.pass(1, 1.2, 0.0, 1.2);
    busy.answer(1, 1);
    for _ in 0..10 {
        busy.admission.release(busy.now, Class::Live, COST);
    }
    busy.answer(40, 10);
    assert_eq!(busy.capacity(), 10);
}

#[test]
fn those_who_have_just_come_count_before_they_are_measured() {
    let mut busy = Busy::with(7);
    // Each takes half as much again as it costs.
    busy.pass(1, 1.05, 0.0, 1.05);
    let more = (0..10)
        .filter(|_| busy.admission.admit(busy.now, Class::Live, COST).is_ok())
        .count();
    assert_eq!(more, 3);
    busy.pass(1, 1.5, 0.0, 1.5);
    assert_eq!(busy.capacity(), 10, "measured, they fill more than the budget");
}

#[test]
fn a_place_is_free_at_once_when_its_stream_leaves() {
    let mut busy = Busy::with(14);
    busy.pass(2, 1.4, 0.0, 1.4);
    assert_eq!(busy.capacity(), 14);
    busy.admission.release(busy.now, Class::Live, COST);
    assert!(busy.admission.admit(busy.now, Class::Live, COST).is_ok());
}

#[test]
fn a_long_look_away_is_no_load() {
    let mut busy = Busy::with(1);
    busy.pass(1, 0.1, 0.0, 0.1);
    busy.now += Duration::from_secs(3_600);
    busy.processor += Duration::from_secs(360);
    busy.admission
        .observe(busy.now, WorkDone::default(), Some(busy.processor));
    assert_eq!(busy.capacity(), 14);
}

#[test]
fn lateness_leaves_no_room_at_once_and_it_comes_back_slowly() {
    let mut busy = Busy::with(10);
    busy.answer(300, 6);
    assert_eq!(busy.capacity(), 14, "one in fifty is borne");
    busy.answer(1, 1);
    assert_eq!(
        busy.capacity(),
        10,
        "less than what is taken: nobody is put out, nobody is let in"
    );
    let mut windows = 0;
    while busy.capacity() < 14 {
        windows += 1;
        busy.now += WINDOW;
        busy.answer(100, 0);
    }
    assert!(windows > 5, "{windows}");
}

#[test]
fn a_few_late_answers_judge_nothing() {
    let mut busy = Busy::with(5);
    busy.answer(20, 4);
    assert_eq!(busy.capacity(), 14);
    busy.answer(1, 1);
    assert_eq!(busy.capacity(), 5);
    // Nor do they tell that all is well again.
    busy.now += WINDOW;
    busy.answer(20, 4);
    assert_eq!(busy.capacity(), 5);
    for _ in 0..3 {
        busy.now += WINDOW;
        busy.answer(20, 0);
    }
    assert_eq!(busy.capacity(), 6);
}

#[test]
fn who_computes_beside_workers_and_sockets_is_no_socket() {
    let mut busy = Busy::with(7);
    busy.pass(1, 0.7, 0.0, 0.7);
    busy.admission.share_processor(true);
    busy.pass(3, 0.7, 0.0, 1.7);
    busy.admission.share_processor(false);
    busy.pass(1, 0.7, 0.0, 0.7);
    assert_eq!(busy.capacity(), 14);
}

#[test]
fn a_draining_engine_refuses_with_its_own_code() {
    let mut admission = Admission::new(LIMITS);
    admission.drain();
    let refusal = admission
        .admit(Instant::now(), Class::Live, COST)
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
                admission.release(now, class, 0.01);
                *count -= 1;
            } else if admission.admit(now, class, 0.01).is_ok() {
                *count += 1;
            }
            prop_assert_eq!((admission.live(), admission.files()), (live, files));
            prop_assert!(live <= 5 && files <= 2);
        }
    }
}
