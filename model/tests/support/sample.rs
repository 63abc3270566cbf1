//! What a model hears and says of the page's sample, step by step as it is served.

use std::fs::File;
use std::path::Path;

use waxwing_frontend::container::{AudioFile, DecodeLimits};
use waxwing_frontend::pcm::ChannelSelection;
use waxwing_frontend::{Frontend, FrontendConfig};
use waxwing_model::Model;
use waxwing_model::encoder::StepRow;

/// Of each step what the model gives, `(frames, output_dim) f32`, and the features of these frames; two seconds of silence behind it.
pub(crate) fn heard(model: &Model) -> Vec<(Vec<f32>, Vec<f32>)> {
    let clip = Path::new(env!("CARGO_MANIFEST_DIR")).join("../web/sample.flac");
    let limits = DecodeLimits::default();
    let mut audio = AudioFile::open(File::open(clip).unwrap(), limits, ChannelSelection::Mix).unwrap();
    let mut samples = Vec::new();
    while audio.next_block(&mut samples).unwrap() {}
    samples.extend(vec![0.0; 2 * audio.rate_hz() as usize]);
    let mut frontend = Frontend::new(FrontendConfig {
        input_rate_hz: audio.rate_hz(),
        model_rate_hz: model.sample_rate_hz(),
        features: model.features().clone(),
    })
    .unwrap();
    let mut features = Vec::new();
    frontend.push(&samples, &mut features);
    let (mut state, mut steps, mut rest) = (model.new_state(), Vec::new(), features.as_slice());
    loop {
        let geometry = model.geometry();
        let needed = geometry.frames_needed(state.steps) * geometry.num_features;
        let Some((now, later)) = rest.split_at_checked(needed) else {
            return steps;
        };
        rest = later;
        let mut output = Vec::new();
        model
            .step(&mut [StepRow {
                state: &mut state,
                features: now,
                output: &mut output,
            }])
            .unwrap();
        let values = geometry.segment_frames * geometry.num_features;
        steps.push((output, features[steps.len() * values..][..values].to_vec()));
    }
}
