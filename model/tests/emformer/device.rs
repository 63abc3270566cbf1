//! The executor for devices, run on the CPU: it equals the one that is served there, states included, whoever had a session's slot before.

use candle_core::Device;
use proptest::prelude::*;
use waxwing_model::architecture::expected_tensors;
use waxwing_model::encoder::emformer::DeviceEmformer;
use waxwing_model::encoder::{ArenaSlots, StateCache, StepRow, StreamingEncoder};
use waxwing_model::loader::Weights;
use waxwing_model::{Config, ModelError};

use super::promises::{TOLERANCE, configs, small};
use super::support::{
    Random, Session, alone, executors, features_for, max_difference, random_tensors, serialise, sizes, step,
};

/// The served executor and the one for devices, of one random model without a head.
fn both(config: &Config, seed: u64) -> (Box<dyn StreamingEncoder>, DeviceEmformer) {
    let config = Config {
        ctc: None,
        ..config.clone()
    };
    let bytes = serialise(&random_tensors(&config, None, seed));
    let weights = Weights::from_safetensors(&bytes, &expected_tensors(&config, None)).unwrap();
    let device = DeviceEmformer::new(sizes(&config), &weights, &Device::Cpu).unwrap();
    (executors(&config, seed).0, device)
}

/// Fills slots with NaN by sessions that hear nothing else, until all their rings are full of it, and gives them back.
fn poison(device: &DeviceEmformer, slots: usize) {
    const STEPS: usize = 12;
    let features = vec![f32::NAN; features_for(device, STEPS, &mut Random::new(0)).len()];
    let mut sessions: Vec<Session<'_>> = (0..slots).map(|_| Session::new(device, &features)).collect();
    for _ in 0..STEPS {
        step(device, &mut sessions.iter_mut().collect::<Vec<_>>());
    }
    assert!(
        sessions
            .iter()
            .all(|session| session.heard.iter().all(|value| value.is_nan()))
    );
}

fn shuffle<T>(batch: &mut [T], random: &mut Random) {
    for index in (1..batch.len()).rev() {
        batch.swap(index, random.below(index + 1));
    }
}

fn in_use(device: &DeviceEmformer) -> usize {
    device.slots().in_use
}

fn step_one(
    encoder: &dyn StreamingEncoder,
    state: &mut StateCache,
    features: &[f32],
    output: &mut Vec<f32>,
) -> Result<(), ModelError> {
    let needed = encoder.geometry().frames_needed(state.steps) * encoder.geometry().num_features;
    encoder.step(&mut [StepRow {
        state,
        features: &features[..needed],
        output,
    }])
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    /// Sessions of any age, each stepped now by one executor and now by the other, hear what the served one alone hears. A state goes to
    /// the device by itself, and is asked back.
    #[test]
    fn sessions_move_between_executors(config in configs(), seed: u32) {
        const SESSIONS: usize = 7;
        const STEPS: u64 = 6;
        let (served, device) = both(&config, u64::from(seed));
        prop_assert_eq!(device.geometry(), served.geometry());
        poison(&device, SESSIONS);

        let mut random = Random::new(u64::from(seed));
        let features: Vec<Vec<f32>> =
            (0..SESSIONS).map(|_| features_for(served.as_ref(), STEPS as usize, &mut random)).collect();
        let mut alone: Vec<Session<'_>> =
            features.iter().map(|features| Session::new(served.as_ref(), features)).collect();
        let mut moved: Vec<Session<'_>> =
            features.iter().map(|features| Session::new(served.as_ref(), features)).collect();
        // Rows that no step has written must not be read.
        for session in &mut moved {
            session.state.values.fill(f32::NAN);
        }
        for _ in 0..60 {
            let mut batch: Vec<&mut Session<'_>> = moved
                .iter_mut()
                .filter(|session| session.state.steps < STEPS && random.below(2) == 0)
                .collect();
            if random.below(3) > 0 {
                step(&device, &mut batch);
                prop_assert!(batch.iter().all(|session| session.state.host_bytes() == 0));
            } else {
                for session in &mut batch {
                    session.state = device.to_host(&session.state).unwrap();
                }
                step(served.as_ref(), &mut batch);
            }
        }
        for (moved, alone) in moved.iter().zip(&mut alone) {
            for _ in 0..moved.state.steps {
                step(served.as_ref(), &mut [alone]);
            }
            prop_assert_eq!(moved.state.steps, alone.state.steps);
            prop_assert!(max_difference(&moved.heard, &alone.heard) <= TOLERANCE);
            // What was never written may be anything where a state has only been in host memory; from the device it comes as zeros.
            let was_there = moved.state.device_bytes() > 0;
            let mut values = device.to_host(&moved.state).unwrap().values;
            prop_assert!(!was_there || values.iter().all(|value| !value.is_nan()));
            values.iter_mut().filter(|value| value.is_nan()).for_each(|value| *value = 0.0);
            prop_assert!(max_difference(&values, &alone.state.values) <= TOLERANCE);
        }
    }

    /// Sessions come and go, in batches of any order, among them some that hear NaN: whoever has a slot next hears what it hears alone.
    #[test]
    fn slots_are_taken_over(config in configs(), seed: u32) {
        const SESSIONS: usize = 40;
        const AT_ONCE: usize = 6;
        const STEPS: u64 = 5;
        let (served, device) = both(&config, u64::from(seed));
        let mut random = Random::new(u64::from(seed));
        let features: Vec<Vec<f32>> = (0..SESSIONS)
            .map(|session| {
                let mut features = features_for(served.as_ref(), STEPS as usize, &mut random);
                if session % 3 == 0 {
                    features.fill(f32::NAN);
                }
                features
            })
            .collect();
        let mut coming = features.iter();
        let mut open: Vec<(&Vec<f32>, Session<'_>)> = Vec::new();
        let mut ended = 0;
        while ended < SESSIONS {
            while open.len() < AT_ONCE {
                let Some(features) = coming.next() else { break };
                open.push((features, Session::new(&device, features)));
            }
            let mut batch: Vec<&mut Session<'_>> =
                open.iter_mut().map(|(_, session)| session).filter(|_| random.below(2) == 0).collect();
            shuffle(&mut batch, &mut random);
            step(&device, &mut batch);
            let begun = open.iter().filter(|(_, session)| session.state.steps > 0).count();
            prop_assert_eq!(in_use(&device), begun);
            // Some leave before their end.
            let mut leaving = Vec::new();
            for index in (0..open.len()).rev() {
                let steps = open[index].1.state.steps;
                if steps == STEPS || (steps > 0 && random.below(6) == 0) {
                    leaving.push(open.swap_remove(index));
                }
            }
            ended += leaving.len();
            for (features, session) in leaving.iter().filter(|(features, _)| !features[0].is_nan()) {
                let expected = alone(served.as_ref(), features, session.state.steps as usize);
                prop_assert!(max_difference(&session.heard, &expected) <= TOLERANCE);
            }
        }
        drop(open);
        prop_assert_eq!(in_use(&device), 0);
        prop_assert!(device.slots().made >= AT_ONCE && device.slots().made < 2 * 64, "{:?}", device.slots());
    }

    #[test]
    fn a_reset_state_equals_a_fresh_one_and_keeps_its_slot(config in configs(), seed: u32) {
        let (served, device) = both(&config, u64::from(seed));
        let features = features_for(&device, 4, &mut Random::new(u64::from(seed)));
        let expected = alone(served.as_ref(), &features, 4);
        let nan = vec![f32::NAN; features.len()];
        let mut poisoned = Session::new(&device, &nan);
        for _ in 0..4 {
            step(&device, &mut [&mut poisoned]);
        }
        let mut session = Session { state: poisoned.state, ..Session::new(&device, &features) };
        device.reset(&mut session.state);
        prop_assert_eq!((session.state.steps, in_use(&device)), (0, 1));
        for _ in 0..4 {
            step(&device, &mut [&mut session]);
        }
        prop_assert!(max_difference(&session.heard, &expected) <= TOLERANCE);
        prop_assert_eq!(in_use(&device), 1);

        // So does one that came from host memory.
        let mut session = Session::new(served.as_ref(), &features);
        session.state.values.fill(f32::NAN);
        session.state.steps = 3;
        device.reset(&mut session.state);
        prop_assert_eq!(&session.state, &device.new_state());
        for _ in 0..4 {
            step(&device, &mut [&mut session]);
        }
        prop_assert!(max_difference(&session.heard, &expected) <= TOLERANCE);
    }
}

/// More sessions than a batch, and than an arena begins with: it grows between the steps of those that it holds.
#[test]
fn many_sessions_of_different_ages_share_an_arena_that_grows() {
    const SESSIONS: usize = 700;
    const STEPS: usize = 4;
    let (served, device) = both(&small(), 11);
    let mut random = Random::new(12);
    let features: Vec<Vec<f32>> = (0..SESSIONS)
        .map(|_| features_for(&device, STEPS, &mut random))
        .collect();
    let mut sessions: Vec<Session<'_>> = features
        .iter()
        .map(|features| Session::new(&device, features))
        .collect();
    // 70 more begin in every round.
    for round in 1..SESSIONS / 70 + STEPS {
        let mut batch: Vec<&mut Session<'_>> = sessions
            .iter_mut()
            .take(70 * round)
            .filter(|session| session.state.steps < STEPS as u64)
            .collect();
        shuffle(&mut batch, &mut random);
        step(&device, &mut batch);
        assert_eq!(in_use(&device), SESSIONS.min(70 * round));
    }
    for (session, features) in sessions.iter().zip(&features) {
        assert!(max_difference(&session.heard, &alone(served.as_ref(), features, STEPS)) <= TOLERANCE);
    }
    let mut fresh: Vec<Session<'_>> = features
        .iter()
        .map(|features| Session::new(&device, features))
        .collect();
    step(&device, &mut fresh.iter_mut().collect::<Vec<_>>());
    assert_eq!(in_use(&device), 2 * SESSIONS);
    drop(sessions);
    assert_eq!(in_use(&device), SESSIONS);
    drop(fresh);
    let ArenaSlots { in_use, made } = device.slots();
    assert_eq!(in_use, 0);
    assert!(
        (2 * SESSIONS..2 * SESSIONS * 5 / 4 + 64).contains(&made),
        "{made}"
    );
}

#[test]
fn threads_share_one_arena() {
    const STEPS: usize = 8;
    let (served, device) = both(&small(), 13);
    std::thread::scope(|scope| {
        for thread in 0..4 {
            let (served, device) = (served.as_ref(), &device);
            scope.spawn(move || {
                let mut random = Random::new(thread);
                let features: Vec<Vec<f32>> = (0..50)
                    .map(|_| features_for(device, STEPS, &mut random))
                    .collect();
                let mut sessions: Vec<Session<'_>> = features
                    .iter()
                    .map(|features| Session::new(device, features))
                    .collect();
                for round in 1..5 + STEPS {
                    let mut batch: Vec<&mut Session<'_>> = sessions
                        .iter_mut()
                        .take(10 * round)
                        .filter(|session| session.state.steps < STEPS as u64)
                        .collect();
                    step(device, &mut batch);
                }
                for (session, features) in sessions.iter().zip(&features) {
                    let expected = alone(served, features, STEPS);
                    assert!(max_difference(&session.heard, &expected) <= TOLERANCE);
                }
            });
        }
    });
    assert_eq!(in_use(&device), 0);
}

#[test]
fn a_copy_in_host_memory_goes_on_elsewhere() {
    let (served, device) = both(&small(), 14);
    let (_, elsewhere) = both(&small(), 14);
    let features = features_for(&device, 6, &mut Random::new(15));
    let mut session = Session::new(&device, &features);
    assert_eq!(device.to_host(&session.state).unwrap(), served.new_state());
    for _ in 0..3 {
        step(&device, &mut [&mut session]);
    }
    let copy = device.to_host(&session.state).unwrap();
    assert_eq!(
        (copy.steps, copy.values.len()),
        (3, served.new_state().values.len())
    );
    assert_eq!((copy.device_bytes(), session.state.host_bytes()), (0, 0));
    assert_eq!(copy.host_bytes(), session.state.device_bytes());
    assert_eq!(device.to_host(&copy).unwrap(), copy);

    // What lies on one device is nothing to another, nor to the CPU.
    let mut output = Vec::new();
    let needed = served.geometry().frames_needed(3) * served.geometry().num_features;
    for other in [served.as_ref(), &elsewhere] {
        let error = step_one(other, &mut session.state, &features[..needed], &mut output).unwrap_err();
        assert!(
            matches!(
                error,
                ModelError::StateSize {
                    row: 0,
                    actual: 0,
                    ..
                }
            ),
            "{error}"
        );
    }
    assert!(matches!(
        elsewhere.to_host(&session.state),
        Err(ModelError::StateSize { .. })
    ));

    let mut copied = Session {
        state: copy,
        ..Session::new(&device, session.features)
    };
    let mut heard = session.heard.len();
    for _ in 0..3 {
        step(&device, &mut [&mut session]);
        step(&elsewhere, &mut [&mut copied]);
    }
    heard = session.heard.len() - heard;
    assert!(max_difference(&copied.heard, &session.heard[session.heard.len() - heard..]) <= TOLERANCE);
    assert!(max_difference(&session.heard, &alone(served.as_ref(), &features, 6)) <= TOLERANCE);
    assert_eq!((in_use(&device), in_use(&elsewhere)), (1, 1));
}

/// The warm-up of a server lets states look old.
#[test]
fn a_state_may_be_aged_before_its_first_step() {
    let (_, device) = both(&small(), 16);
    let features = features_for(&device, 1, &mut Random::new(17));
    let (mut state, mut output) = (device.new_state(), Vec::new());
    state.steps = 1_000;
    step_one(&device, &mut state, &features, &mut output).unwrap();
    assert_eq!(state.steps, 1_001);
    assert!(output.iter().all(|value| value.is_finite()));
}

#[test]
fn a_refused_batch_takes_no_slot() {
    let (_, device) = both(&small(), 18);
    let features = features_for(&device, 1, &mut Random::new(19));
    let (mut state, mut output) = (device.new_state(), Vec::new());
    let error = device
        .step(&mut [StepRow {
            state: &mut state,
            features: &features[1..],
            output: &mut output,
        }])
        .unwrap_err();
    assert!(
        matches!(error, ModelError::FeatureCount { row: 0, .. }),
        "{error}"
    );
    assert_eq!(
        (state, device.slots()),
        (device.new_state(), ArenaSlots { in_use: 0, made: 0 })
    );
}
