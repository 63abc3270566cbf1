//! Models of random weights, served: eight sessions that start at different times and push sound in different pieces, in
//! mixed batches, each equal to the whole utterance in the reference executor.

use candle_core::{DType, Device, Tensor};
use serde_json::{Value, json};
use waxwing_frontend::{Frontend, FrontendConfig};
use waxwing_model::architecture::expected_tensors;
use waxwing_model::encode::{Encoder, Mode};
use waxwing_model::encoder::{StateCache, StepRow};
use waxwing_model::{Config, Model};

use crate::support::{Random, deviation, exact, random_tensors, widen};

const CLASSES: usize = 7;
const TOLERANCE: f64 = 1e-4;

/// Every architecture of these rooms, in a form that is served.
fn models() -> Vec<Value> {
    let fbank = |mels: usize, stack: usize, stride: usize| {
        json!({"type": "kaldi_fbank", "num_mel_bins": mels, "window_type": "hamming",
            "lfr": {"stack": stack, "stride": stride}})
    };
    let cell = |cell: &str, bidirectional: bool| {
        json!({"architecture": "fsmn", "features": fbank(8, 1, 1), "encoder": {
            "memory_size": 3, "input_size": 8, "hidden_size": 9, "n_layers": 2, "cell": cell, "d_ff": 10,
            "bidirectional": bidirectional, "segment_length": 5}})
    };
    vec![
        cell("sfsmn", false),
        cell("vfsmn", true),
        cell("csfsmn", true),
        cell("cvfsmn", false),
        json!({"architecture": "funasr-fsmn", "features": fbank(8, 5, 1), "encoder": {
            "input_dim": 40, "input_affine_dim": 12, "fsmn_layers": 3, "linear_dim": 14, "proj_dim": 10, "lorder": 10,
            "rorder": 2, "rstride": 1, "output_affine_dim": 9, "segment_length": 4}}),
        json!({"architecture": "deep-fsmn", "features": fbank(8, 3, 3), "encoder": {
            "input_dim": 24, "layers": [
                {"hidden_dim": 16, "memory_dim": 10, "left_order": 4, "right_order": 2},
                {"hidden_dim": 16, "memory_dim": 10, "left_order": 6, "right_order": 3, "left_stride": 2, "skip_from": 1}],
            "output_layers": [12], "segment_length": 3}}),
        json!({"architecture": "deep-fsmn", "features": fbank(8, 7, 4), "encoder": {
            "input_dim": 56, "stem": {"frames": 7, "convolutions": [
                {"taps": 3, "stride": 1, "dim": 12}, {"taps": 3, "stride": 2, "dim": 10}]},
            "layers": [
                {"hidden_dim": 16, "memory_dim": 10, "left_order": 4, "right_order": 2, "skip_from": 0, "memory_on": "hidden"},
                {"hidden_dim": 14, "memory_dim": 10, "left_order": 5, "right_order": 0, "skip_from": 1}],
            "input_norm": true, "projection_bias": true, "activation": "gelu", "segment_length": 2}}),
        json!({"architecture": "sanm", "features": fbank(8, 7, 6), "encoder": {
            "input_size": 56, "output_size": 16, "attention_heads": 4, "linear_units": 20, "num_blocks": 2, "tp_blocks": 1,
            "chunk": {"size": [2, 3, 1], "look_back": 2}}}),
    ]
}

/// The same weights in both executors.
fn load(mut config: Value) -> (Model, Encoder) {
    config["format"] = json!(1);
    config["id"] = json!("random");
    config["ctc"] = json!({"blank": 0});
    let config = config.to_string();
    let parsed = Config::from_json(&config).unwrap();
    let tensors = random_tensors(&expected_tensors(&parsed, Some(CLASSES)), 5);
    let bytes = safetensors::serialize(&tensors, None).unwrap();
    let tokens: String = (0..CLASSES)
        .map(|class| match class {
            0 => "<blank>\n".to_owned(),
            1 => "▁\n".to_owned(),
            _ => format!("{}\n", char::from(b'a' + class as u8)),
        })
        .collect();
    (
        Model::from_parts(&config, &tokens, &bytes, &Device::Cpu).unwrap(),
        Encoder::from_parts(&config, &bytes).unwrap(),
    )
}

struct Session {
    audio: Vec<f32>,
    position: usize,
    piece: usize,
    frontend: Frontend,
    features: Vec<f32>,
    state: StateCache,
    output: Vec<f32>,
    heard: Vec<f32>,
}

impl Session {
    fn new(model: &Model, index: usize) -> Self {
        let config = FrontendConfig {
            input_rate_hz: model.sample_rate_hz(),
            model_rate_hz: model.sample_rate_hz(),
            features: model.features().clone(),
        };
        let seconds = 0.9 + 0.1 * index as f32;
        Self {
            audio: Random::new(index as u64 + 1).values((16_000.0 * seconds) as usize),
            position: 0,
            piece: [160, 333, 1_000, 4_096, 97, 800, 2_500, 640][index],
            frontend: Frontend::new(config).unwrap(),
            features: Vec::new(),
            state: model.new_state(),
            output: Vec::new(),
            heard: Vec::new(),
        }
    }

    fn push(&mut self) {
        let end = (self.position + self.piece).min(self.audio.len());
        self.frontend
            .push(&self.audio[self.position..end], &mut self.features);
        self.position = end;
    }
}

/// Steps every session that has enough features, as one batch; says whether any had.
fn step(model: &Model, sessions: &mut [Session]) -> bool {
    let width = model.geometry().num_features;
    let needed = |session: &Session| model.geometry().frames_needed(session.state.steps) * width;
    let ready: Vec<Vec<f32>> = sessions
        .iter_mut()
        .map(|session| {
            let count = needed(session);
            let enough = session.features.len() >= count;
            session.features.drain(..if enough { count } else { 0 }).collect()
        })
        .collect();
    let mut rows: Vec<StepRow<'_>> = sessions
        .iter_mut()
        .zip(&ready)
        .filter(|(_, features)| !features.is_empty())
        .map(|(session, features)| StepRow {
            state: &mut session.state,
            features,
            output: &mut session.output,
        })
        .collect();
    let any = !rows.is_empty();
    model.step(&mut rows).unwrap();
    drop(rows);
    for (session, features) in sessions.iter_mut().zip(&ready) {
        if !features.is_empty() {
            session.heard.extend_from_slice(&session.output);
        }
    }
    any
}

#[test]
fn eight_sessions_of_different_ages_equal_their_whole_utterances() {
    for config in models() {
        let (model, encoder) = load(config.clone());
        let geometry = model.geometry().clone();
        let mut sessions: Vec<Session> = (0..8).map(|index| Session::new(&model, index)).collect();
        let mut round = 0;
        loop {
            for (index, session) in sessions.iter_mut().enumerate() {
                if round >= 3 * index {
                    session.push();
                }
            }
            let stepped = step(&model, &mut sessions);
            let heard_all = sessions
                .iter()
                .all(|session| session.position == session.audio.len());
            if heard_all && !stepped {
                break;
            }
            round += 1;
        }
        for session in &sessions {
            let mut features = Vec::new();
            let mut extractor = model.features().extractor(model.sample_rate_hz()).unwrap();
            extractor.push(&session.audio, &mut features);
            let width = geometry.num_features;
            let steps = (features.len() / width - geometry.lookahead_frames) / geometry.segment_frames;
            let frames = steps * geometry.segment_frames;
            features.truncate((frames + geometry.lookahead_frames) * width);
            let features = Tensor::from_vec(
                features,
                (1, frames + geometry.lookahead_frames, width),
                &Device::Cpu,
            );
            let encoded = encoder
                .encode(&features.unwrap(), &[frames], Mode::Whole)
                .unwrap();
            let expected = exact(&encoded.log_probs.unwrap());
            assert_eq!(session.state.steps, steps as u64, "{config}");
            assert!(steps > 3, "{config}");
            let found = deviation(&widen(&session.heard), &expected);
            assert!(found <= TOLERANCE, "{config}: {found:e}");
        }
    }
}

/// `encode --streaming` and `encode` give the same for items of unequal lengths.
#[test]
fn both_modes_of_encode_agree_on_ragged_batches() {
    for config in models() {
        let (_, encoder) = load(config.clone());
        let geometry = encoder.geometry().clone();
        let (batch, frames) = (3, 14 * geometry.subsampling);
        let count = batch * (frames + geometry.lookahead_frames) * geometry.num_features;
        let shape = (batch, frames + geometry.lookahead_frames, geometry.num_features);
        let features = Tensor::from_vec(Random::new(3).values(count), shape, &Device::Cpu).unwrap();
        let lengths = [frames, frames - 3, 5];
        let whole = encoder.encode(&features, &lengths, Mode::Whole).unwrap();
        let streamed = encoder.encode(&features, &lengths, Mode::Streaming).unwrap();
        assert_eq!(whole.lengths, streamed.lengths);
        for (item, &length) in whole.lengths.iter().enumerate() {
            let rows = |output: &Tensor| {
                let item = output.to_dtype(DType::F64).unwrap().get(item).unwrap();
                exact(&item.narrow(0, 0, length).unwrap())
            };
            let found = deviation(&rows(&streamed.output), &rows(&whole.output));
            assert!(found <= TOLERANCE, "{config}, item {item}: {found:e}");
        }
    }
}
