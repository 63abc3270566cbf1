//! Sessions that hear features, in batches and alone.

use waxwing_model::encoder::{StateCache, StepRow, StreamingEncoder};

use crate::support::Random;

/// A session and the features that it will hear.
pub(crate) struct Session<'a> {
    pub(crate) state: StateCache,
    pub(crate) output: Vec<f32>,
    /// All outputs so far.
    pub(crate) heard: Vec<f32>,
    /// What it has not heard yet.
    pub(crate) features: &'a [f32],
}

impl<'a> Session<'a> {
    pub(crate) fn new(encoder: &dyn StreamingEncoder, features: &'a [f32]) -> Self {
        Self {
            state: encoder.new_state(),
            output: Vec::new(),
            heard: Vec::new(),
            features,
        }
    }
}

/// Steps the sessions as one batch.
pub(crate) fn step(encoder: &dyn StreamingEncoder, sessions: &mut [&mut Session<'_>]) {
    let width = encoder.geometry().num_features;
    let mut rows: Vec<StepRow<'_>> = sessions
        .iter_mut()
        .map(|session| {
            let needed = encoder.geometry().frames_needed(session.state.steps) * width;
            let (features, rest) = session.features.split_at(needed);
            session.features = rest;
            StepRow {
                state: &mut session.state,
                features,
                output: &mut session.output,
            }
        })
        .collect();
    encoder.step(&mut rows).unwrap();
    drop(rows);
    for session in sessions {
        session.heard.extend_from_slice(&session.output);
    }
}

/// What a session that is alone in every step hears in `num_steps` steps.
pub(crate) fn alone(encoder: &dyn StreamingEncoder, features: &[f32], num_steps: usize) -> Vec<f32> {
    let mut session = Session::new(encoder, features);
    for _ in 0..num_steps {
        step(encoder, &mut [&mut session]);
    }
    session.heard
}

/// Feature values for `num_steps` steps.
pub(crate) fn features_for(
    encoder: &dyn StreamingEncoder,
    num_steps: usize,
    random: &mut Random,
) -> Vec<f32> {
    let geometry = encoder.geometry();
    random.values((num_steps * geometry.segment_frames + geometry.lookahead_frames) * geometry.num_features)
}
