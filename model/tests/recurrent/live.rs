//! Sessions of different ages and chunkings in mixed batches: each must equal its own offline run.

use candle_core::{Device, Tensor};
use serde_json::{Value, json};
use waxwing_model::architecture;
use waxwing_model::encoder::{StateCache, StepRow};

use crate::support::{F32_TOLERANCE, Random, config, random_weights, values};

/// One session: what it will hear, what has arrived of it, and what came out.
struct Session {
    state: StateCache,
    features: Vec<f32>,
    arrived: usize,
    taken: usize,
    begins: usize,
    output: Vec<f32>,
    heard: Vec<f32>,
}

/// Eight sessions that begin at different rounds and whose features arrive in chunks of 1 to 12 frames are stepped in
/// whatever batch is ready, in changing order. One of them holds a state that was poisoned and reset, and between the
/// rounds another encoder's user hears only NaN.
fn serve(architecture: &str, encoder: &Value, seed: u64) {
    let config = config(architecture, encoder);
    let weights = random_weights(&config, None, seed);
    let live = architecture::streaming_encoder(&config, &weights, &Device::Cpu).unwrap();
    let offline = architecture::offline_encoder(&config.encoder, &weights).unwrap();
    let geometry = live.geometry().clone();
    let (width, segment) = (geometry.num_features, geometry.segment_frames);
    assert_eq!(geometry.lookahead_frames, 0);
    let mut random = Random::new(seed);
    let mut sessions: Vec<Session> = (0..8)
        .map(|index| {
            let frames = segment * (5 + random.below(6));
            let mut state = live.new_state();
            if index == 3 {
                state.values.fill(f32::NAN);
                state.steps = 77;
                live.reset(&mut state);
            }
            Session {
                state,
                features: random.values(frames * width),
                arrived: 0,
                taken: 0,
                begins: index * 2,
                output: Vec::new(),
                heard: Vec::new(),
            }
        })
        .collect();
    let mut poisoned = (live.new_state(), Vec::new());
    let nan = vec![f32::NAN; segment * width];
    let mut largest = 0;
    for round in 0.. {
        for session in sessions.iter_mut().filter(|session| session.begins <= round) {
            let chunk = (1 + random.below(12)) * width;
            session.arrived = (session.arrived + chunk).min(session.features.len());
        }
        if round > 0 {
            sessions.rotate_left(round % 3);
        }
        let needed = segment * width;
        let mut rows: Vec<StepRow<'_>> = Vec::new();
        for session in &mut sessions {
            if session.arrived >= session.taken + needed {
                rows.push(StepRow {
                    state: &mut session.state,
                    features: &session.features[session.taken..][..needed],
                    output: &mut session.output,
                });
                session.taken += needed;
            } else {
                session.output.clear();
            }
        }
        largest = largest.max(rows.len());
        rows.push(StepRow {
            state: &mut poisoned.0,
            features: &nan,
            output: &mut poisoned.1,
        });
        live.step(&mut rows).unwrap();
        for session in &mut sessions {
            session.heard.extend_from_slice(&session.output);
        }
        if sessions
            .iter()
            .all(|session| session.taken == session.features.len())
        {
            break;
        }
    }
    assert!(largest >= 4, "{largest}");
    for (index, session) in sessions.iter().enumerate() {
        let frames = session.features.len() / width;
        let features = Tensor::from_vec(session.features.clone(), (1, frames, width), &Device::Cpu).unwrap();
        let (whole, _) = offline.forward(&features, &[frames]).unwrap();
        let most = values(&whole)
            .iter()
            .zip(&session.heard)
            .map(|(whole, heard)| (whole - f64::from(*heard)).abs())
            .fold(0.0, |most: f64, value| if value <= most { most } else { value });
        assert_eq!(session.heard.len(), frames * geometry.output_dim);
        assert!(
            most <= F32_TOLERANCE,
            "{architecture} {encoder}, session {index}: {most:e}"
        );
    }
}

#[test]
fn recurrent_encoders() {
    for (seed, encoder) in [
        json!({"cell": "rnn", "num_layers": 2, "nonlinearity": "tanh", "segment_length": 3}),
        json!({"cell": "rnn", "bias": false, "segment_length": 1}),
        json!({"cell": "lstm", "num_layers": 3, "segment_length": 4}),
        json!({"cell": "lstm", "bias": false, "segment_length": 1}),
        json!({"cell": "gru", "num_layers": 2, "segment_length": 5}),
        json!({"cell": "ligru", "num_layers": 2, "segment_length": 4}),
        json!({"cell": "ligru", "normalization": "layernorm", "nonlinearity": "tanh", "segment_length": 2}),
        json!({"cell": "ligru", "normalization": "layernorm", "nonlinearity": "sin", "segment_length": 3}),
        json!({"cell": "ligru", "nonlinearity": "leaky_relu", "segment_length": 3}),
        json!({"cell": "quasirnn", "num_layers": 2, "segment_length": 4}),
        json!({"cell": "quasirnn", "output_gate": false, "zoneout": 0.3, "segment_length": 6}),
    ]
    .into_iter()
    .enumerate()
    {
        let mut encoder = encoder;
        encoder["input_size"] = json!(6);
        encoder["hidden_size"] = json!(11);
        serve("recurrent", &encoder, seed as u64 + 1);
    }
}

#[test]
fn skim_with_borders_of_its_own_in_every_row() {
    for (seed, (mem_type, num_blocks, step_length)) in [
        ("hc", 3, 4),
        ("h", 2, 1),
        ("c", 3, 9),
        ("id", 2, 3),
        ("hc", 1, 2),
        ("hc", 2, 6),
    ]
    .into_iter()
    .enumerate()
    {
        let encoder = json!({"input_size": 5, "hidden_size": 7, "output_size": 4, "segment_size": 6, "num_blocks": num_blocks,
            "bidirectional": false, "norm_type": "cLN", "mem_type": mem_type, "step_length": step_length});
        serve("skim", &encoder, seed as u64 + 20);
    }
}
