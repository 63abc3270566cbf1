//! The executor for devices, run on the CPU: it equals the one that is served there, states included.

use candle_core::Device;
use proptest::prelude::*;
use waxwing_model::architecture::expected_tensors;
use waxwing_model::encoder::StreamingEncoder;
use waxwing_model::encoder::emformer::DeviceEmformer;
use waxwing_model::loader::Weights;

use super::promises::{TOLERANCE, configs};
use super::support::{
    Random, Session, executors, features_for, max_difference, random_tensors, serialise, sizes, step,
};

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    /// Sessions of any age, each stepped now by one executor and now by the other, hear what the served one alone hears.
    #[test]
    fn sessions_move_between_executors(config in configs(), seed: u32) {
        const SESSIONS: usize = 7;
        const STEPS: u64 = 6;
        let config = waxwing_model::Config { ctc: None, ..config };
        let (served, _) = executors(&config, u64::from(seed));
        let bytes = serialise(&random_tensors(&config, None, u64::from(seed)));
        let weights = Weights::from_safetensors(&bytes, &expected_tensors(&config, None)).unwrap();
        let device = DeviceEmformer::new(sizes(&config), &weights, &Device::Cpu).unwrap();
        prop_assert_eq!(device.geometry(), served.geometry());

        let mut random = Random::new(u64::from(seed));
        let features: Vec<Vec<f32>> =
            (0..SESSIONS).map(|_| features_for(served.as_ref(), STEPS as usize, &mut random)).collect();
        let mut alone: Vec<Session<'_>> =
            features.iter().map(|features| Session::new(served.as_ref(), features)).collect();
        let mut moved: Vec<Session<'_>> =
            features.iter().map(|features| Session::new(&device, features)).collect();
        // Rows that no step has written must not be read.
        for session in &mut moved {
            session.state.values.fill(f32::NAN);
        }
        for _ in 0..60 {
            let mut batch: Vec<&mut Session<'_>> = moved
                .iter_mut()
                .filter(|session| session.state.steps < STEPS && random.below(2) == 0)
                .collect();
            let executor: &dyn StreamingEncoder = if random.below(3) > 0 { &device } else { served.as_ref() };
            step(executor, &mut batch);
        }
        for (moved, alone) in moved.iter().zip(&mut alone) {
            for _ in 0..moved.state.steps {
                step(served.as_ref(), &mut [alone]);
            }
            prop_assert_eq!(moved.state.steps, alone.state.steps);
            prop_assert!(max_difference(&moved.heard, &alone.heard) <= TOLERANCE);
            let written = |values: &[f32]| -> Vec<f32> { values.iter().map(|value| if value.is_nan() { 0.0 } else { *value }).collect() };
            prop_assert!(max_difference(&written(&moved.state.values), &alone.state.values) <= TOLERANCE);
        }
    }
}
