//! An Emformer in whole numbers or in bf16: near the one in `f32`, and as independent of its neighbours.

use candle_core::Device;
use proptest::prelude::*;
use waxwing_model::architecture::{expected_tensors, streaming_encoder_in};
use waxwing_model::config::Config;
use waxwing_model::encoder::StreamingEncoder;
use waxwing_model::loader::Weights;
use waxwing_model::precision::Precision;

use crate::promises::configs;
use crate::support::{Random, Session, alone, executors, features_for, random_tensors, serialise, step};

fn encoder_in(config: &Config, seed: u64, precision: Precision) -> Box<dyn StreamingEncoder> {
    let classes = config.ctc.as_ref().map(|_| 9);
    let bytes = serialise(&random_tensors(config, classes, seed));
    let weights = Weights::from_safetensors(&bytes, &expected_tensors(config, classes)).unwrap();
    streaming_encoder_in(config, &weights, &Device::Cpu, precision).unwrap()
}

fn any_but_f32() -> impl Strategy<Value = Precision> {
    prop::sample::select(vec![Precision::Int8, Precision::W8A8, Precision::Bf16])
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]

    #[test]
    fn neighbours_do_not_change_a_bit(config in configs(), seed: u32, precision in any_but_f32()) {
        const STEPS: usize = 4;
        let encoder = encoder_in(&config, u64::from(seed), precision);
        let mut random = Random::new(u64::from(seed));
        let features: Vec<Vec<f32>> =
            (0..7).map(|_| features_for(encoder.as_ref(), STEPS, &mut random)).collect();
        // One session hears nothing but NaN.
        let poison = vec![f32::NAN; features[0].len()];
        let mut sessions: Vec<Session<'_>> =
            features.iter().map(|features| Session::new(encoder.as_ref(), features)).collect();
        sessions.push(Session::new(encoder.as_ref(), &poison));
        // The later half begins two steps later than the other.
        for round in 0..STEPS + 2 {
            let mut batch: Vec<&mut Session<'_>> = sessions
                .iter_mut()
                .enumerate()
                .filter(|(index, _)| if *index < 4 { round < STEPS } else { round >= 2 })
                .map(|(_, session)| session)
                .collect();
            step(encoder.as_ref(), &mut batch);
        }
        for (session, features) in sessions.iter().zip(&features) {
            prop_assert_eq!(&session.heard, &alone(encoder.as_ref(), features, STEPS));
        }
        prop_assert!(sessions[features.len()].heard.iter().all(|value| value.is_nan()));
    }

    #[test]
    fn outputs_are_near_those_in_f32(config in configs(), seed: u32, precision in any_but_f32()) {
        let whole = encoder_in(&config, u64::from(seed), precision);
        let (float, _) = executors(&config, u64::from(seed));
        let features = features_for(float.as_ref(), 4, &mut Random::new(u64::from(seed)));
        let (found, expected) = (alone(whole.as_ref(), &features, 4), alone(float.as_ref(), &features, 4));
        let squares = |values: &mut dyn Iterator<Item = f32>| values.map(|value| f64::from(value).powi(2)).sum::<f64>();
        let off = squares(&mut found.iter().zip(&expected).map(|(found, expected)| found - expected));
        let size = squares(&mut expected.iter().copied());
        // Eight bits, of whole numbers or in bf16, are good for about 1 % of a layer's output; these have up to three.
        prop_assert!(off.sqrt() <= 0.1 * size.sqrt(), "{} of {}", off.sqrt(), size.sqrt());
        prop_assert!(found != expected, "nothing was rounded");
    }
}
