//! A step at work allocates nothing: counted, not believed. Alone in its file, because the counter is global.

#[path = "support/counting.rs"]
mod counting;

use std::path::Path;

use candle_core::Device;
use waxwing_model::Model;
use waxwing_model::encoder::{StateCache, StepRow};
use waxwing_model::precision::Precision;

use self::counting::allocations;

/// Steps a session so often before the others join it.
const AGES: usize = 3;

#[test]
fn a_step_of_a_shipped_model_allocates_nothing_once_it_is_warm() {
    for (name, precision) in [
        ("en-emformer", Precision::F32),
        ("en-emformer", Precision::Int8),
        ("en-emformer", Precision::W8A8),
        ("en-emformer", Precision::Bf16),
        ("en-fsmn", Precision::F32),
    ] {
        let directory = Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("pretrained")
            .join(name);
        let model = Model::load_in(&directory, &Device::Cpu, precision).expect("shipped models load");
        let geometry = model.geometry();
        let features: Vec<f32> = (0..geometry.frames_needed(0) * geometry.num_features)
            .map(|index| (index as f32 * 0.01).sin())
            .collect();
        let mut sessions: Vec<(StateCache, Vec<f32>)> =
            (0..AGES + 1).map(|_| (model.new_state(), Vec::new())).collect();
        let mut counted = Vec::new();
        // Sessions join one after the other; from then on all are stepped, of mixed ages.
        for round in 0..2 * AGES {
            let mut rows: Vec<StepRow<'_>> = sessions
                .iter_mut()
                .take(round + 1)
                .map(|(state, output)| StepRow {
                    features: &features[..geometry.frames_needed(state.steps) * geometry.num_features],
                    state,
                    output,
                })
                .collect();
            let before = allocations();
            model
                .step(&mut rows)
                .expect("the rows are as the model asks for them");
            counted.push(allocations() - before);
        }
        assert!(counted[0] > 0, "{name}: the first step makes its buffers");
        assert_eq!(
            counted[AGES + 1..],
            [0; AGES - 1],
            "{name} in {precision}: {counted:?}"
        );
    }
}
