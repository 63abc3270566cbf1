//! Every streamable system, tiny and with random weights, served by the engine to eight sessions that start at different times and
//! come in different pieces: what is computed for each equals its own offline run, and so do its words.

use std::collections::HashMap;

use candle_core::{Device, Tensor};
use serde_json::{Value, json};
use waxwing_frontend::{Frontend, FrontendConfig};
use waxwing_model::architecture::expected_tensors;
use waxwing_model::encode::{Encoder, Mode};
use waxwing_model::transcript::Transcriber;
use waxwing_model::{Config, Model};

use super::promises::block_on;
use super::*;

const SESSIONS: usize = 8;
/// Values of a feature frame.
const WIDTH: usize = 8;
const TOLERANCE: f32 = 1e-4;

fn config(architecture: &str, encoder: Value) -> Value {
    let mut config = json!({
        "format": 1, "id": architecture, "architecture": architecture, "encoder": encoder, "ctc": {"blank": 0},
        "features": {"type": "kaldi_fbank", "num_mel_bins": WIDTH,
            "cmvn": {"mean": vec![8.0; WIDTH], "inv_stddev": vec![0.2; WIDTH]}},
    });
    if architecture == "emformer-rnnt" {
        // Its joiner scores the classes.
        config["ctc"] = Value::Null;
    }
    if architecture == "whisper-emformer" {
        config["features"] = json!({"type": "streaming_log_mel"});
    }
    config
}

fn classes(config: &Config) -> &'static str {
    match config.ctc {
        Some(_) => "<blank>\n▁a\nb\n▁c\nd\n",
        None => "▁a\nb\n▁c\nd\n<blank>\n",
    }
}

/// Of a size that keeps values near 1; a head that is sure of itself.
fn weights(config: &Config) -> HashMap<String, Tensor> {
    let mut random = 0x9E37_79B9_7F4A_7C15_u64;
    let mut value = || {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        (random >> 40) as f32 / (1 << 23) as f32 - 1.0
    };
    let expected = expected_tensors(config, Some(classes(config).lines().count()));
    let tensors = expected.into_iter().map(|(name, shape)| {
        let is_norm = name.ends_with("running_var")
            || name.ends_with("gamma")
            || (shape.len() == 1 && name.ends_with("weight"));
        let inputs: usize = shape.iter().skip(1).product();
        let gain = match name.as_str() {
            "head.weight" | "joiner.linear.weight" => 8.0,
            // States must not grow from frame to frame where nothing bounds them.
            _ if name.contains("_hh") || name.ends_with("u.weight") => 0.5,
            _ => 1.5,
        };
        let (offset, scale) = match shape.len() {
            1 => (f32::from(u8::from(is_norm)), 0.2),
            _ => (0.0, gain / (inputs as f32).sqrt()),
        };
        let values: Vec<f32> = (0..shape.iter().product())
            .map(|_| offset + scale * value())
            .collect();
        (name, Tensor::from_vec(values, shape, &Device::Cpu).unwrap())
    });
    tensors.collect()
}

/// What was computed for one use of a slot.
struct Heard {
    /// Where the state's values lie: a slot's do not move.
    slot: usize,
    output: Vec<f32>,
}

/// A model that keeps what it computes.
struct Recorder {
    model: Model,
    heard: Mutex<Vec<Heard>>,
}

impl StepModel for Recorder {
    fn id(&self) -> &str {
        self.model.id()
    }
    fn geometry(&self) -> &Geometry {
        self.model.geometry()
    }
    fn features(&self) -> FeatureConfig {
        self.model.features().clone()
    }
    fn sample_rate_hz(&self) -> u32 {
        self.model.sample_rate_hz()
    }
    fn tokens(&self) -> &Arc<Tokens> {
        self.model.tokens()
    }
    fn output_frame_seconds(&self) -> f64 {
        self.model.output_frame_seconds()
    }
    fn transcriber(&self, options: TranscriberOptions) -> Transcriber {
        self.model.transcriber(options)
    }
    fn max_transcriber_bytes(&self, decoding: &Decoding) -> usize {
        self.model.max_transcriber_bytes(decoding)
    }
    fn new_state(&self) -> StateCache {
        self.model.new_state()
    }
    fn reset(&self, state: &mut StateCache) {
        self.model.reset(state);
    }

    fn step(&self, rows: &mut [StepRow<'_>]) -> Result<(), StepFailed> {
        let begins: Vec<bool> = rows.iter().map(|row| row.state.steps == 0).collect();
        StepModel::step(&self.model, rows)?;
        let mut heard = self.heard.lock().unwrap();
        for (row, begins) in rows.iter().zip(begins) {
            let slot = row.state.values.as_ptr() as usize;
            let output = row.output.clone();
            match heard.iter_mut().rev().find(|heard| heard.slot == slot) {
                Some(heard) if !begins => heard.output.extend(output),
                _ => heard.push(Heard { slot, output }),
            }
        }
        Ok(())
    }
}

/// What the reference executor computes of the whole audio and of silence behind it.
fn offline(encoder: &Encoder, model: &Model, audio: &[u8]) -> Vec<f32> {
    let samples: Vec<f32> = audio
        .chunks_exact(2)
        .map(|bytes| f32::from(i16::from_le_bytes([bytes[0], bytes[1]])) / 32_768.0)
        .collect();
    let mut frontend = Frontend::new(FrontendConfig {
        input_rate_hz: 16_000,
        model_rate_hz: model.sample_rate_hz(),
        features: model.features().clone(),
    })
    .unwrap();
    let mut features = Vec::new();
    frontend.push(&samples, &mut features);
    frontend.push_silence(32_000, &mut features);
    let geometry = encoder.geometry();
    let frames = features.len() / geometry.num_features;
    let segment = geometry.segment_frames;
    let length = (frames - geometry.lookahead_frames) / segment * segment;
    features.truncate((length + geometry.lookahead_frames) * geometry.num_features);
    let shape = (1, length + geometry.lookahead_frames, geometry.num_features);
    let features = Tensor::from_vec(features, shape, &Device::Cpu).unwrap();
    let encoded = encoder.encode(&features, &[length], Mode::Whole).unwrap();
    let output = encoded.log_probs.unwrap_or(encoded.output);
    output.flatten_all().unwrap().to_vec1().unwrap()
}

/// Whether `heard` is the beginning of `whole`, and holds all of the audio's `frames`.
fn is_beginning(heard: &[f32], whole: &[f32], values: usize) -> bool {
    let pairs = heard.iter().zip(whole);
    (values..=whole.len()).contains(&heard.len())
        && pairs
            .clone()
            .all(|(heard, whole)| (heard - whole).abs() <= TOLERANCE * whole.abs().max(1.0))
}

async fn heard_apart(engine: &Engine, audio: &[Vec<u8>]) -> Vec<Vec<Utterance>> {
    let mut streams: Vec<Option<Stream>> = audio.iter().map(|_| None).collect();
    let mut sent = vec![0; audio.len()];
    let mut round = 0;
    while sent.iter().zip(audio).any(|(sent, audio)| *sent < audio.len()) {
        for (index, audio) in audio.iter().enumerate() {
            // One begins every other round; pieces of odd numbers of bytes, too.
            if round < 2 * index {
                continue;
            }
            let stream = streams[index].get_or_insert_with(|| engine.open(&request()).unwrap());
            let piece = [640, 3_201, 1_777, 9_000, 5_333, 320, 12_345, 2_500][(index + round) % 8];
            let end = (sent[index] + piece).min(audio.len());
            if sent[index] < end {
                send(stream, &audio[sent[index]..end]);
                sent[index] = end;
                if end == audio.len() {
                    stop(stream);
                }
            }
        }
        round += 1;
        tokio::task::yield_now().await;
    }
    let mut heard = Vec::new();
    for stream in streams {
        heard.push(finals(&rest(&stream.unwrap()).await));
    }
    heard
}

fn strip(utterances: &[Utterance]) -> Vec<(String, Vec<(f64, f64)>)> {
    let times = |heard: &Utterance| heard.words.iter().map(|word| (word.start, word.end)).collect();
    utterances
        .iter()
        .map(|heard| (heard.text.clone(), times(heard)))
        .collect()
}

fn check(architecture: &str, encoder: Value) {
    let json = config(architecture, encoder).to_string();
    let parsed = Config::from_json(&json).unwrap();
    let bytes = safetensors::serialize(&weights(&parsed), None).unwrap();
    let device = waxwing_model::device::Device::Cpu;
    let model = Model::from_parts(&json, classes(&parsed), &bytes, &device).unwrap();
    let reference = Encoder::from_parts(&json, &bytes).unwrap();
    let recorder = Arc::new(Recorder {
        model,
        heard: Mutex::default(),
    });
    let engine = Engine::start(
        vec![Arc::clone(&recorder) as Arc<dyn StepModel>],
        batching(SESSIONS, 2),
    )
    .unwrap();
    let audio: Vec<Vec<u8>> = (0..SESSIONS as u64)
        .map(|index| speech(40 + index, 1.5 + 0.21 * index as f64))
        .collect();
    // Warm-up's steps are no session's.
    recorder.heard.lock().unwrap().clear();
    let together = block_on(heard_apart(&engine, &audio));
    block_on(all_free(&engine));
    let heard = std::mem::take(&mut *recorder.heard.lock().unwrap());
    assert_eq!(heard.len(), SESSIONS, "{json}");

    let per_second = recorder.geometry().output_dim as f64 / recorder.output_frame_seconds();
    for (index, audio) in audio.iter().enumerate() {
        let whole = offline(&reference, &recorder.model, audio);
        let values = (audio.len() as f64 / 32_000.0 * per_second) as usize;
        let equal = heard
            .iter()
            .filter(|heard| is_beginning(&heard.output, &whole, values))
            .count();
        assert_eq!(equal, 1, "session {index} of {json}");
        let alone = block_on(alone(&engine, audio));
        assert_eq!(
            strip(&together[index]),
            strip(&alone),
            "session {index} of {json}"
        );
    }
    let words: usize = together.iter().flatten().map(|heard| heard.words.len()).sum();
    assert!(words > 0, "no words of {json}");
}

#[test]
fn emformers() {
    check(
        "emformer",
        json!({"input_dim": WIDTH, "num_heads": 2, "ffn_dim": 12, "num_layers": 2, "segment_length": 4, "left_context_length": 6,
            "right_context_length": 2, "max_memory_size": 2, "activation": "silu", "tanh_on_mem": true}),
    );
    check(
        "whisper-emformer",
        json!({"input_dim": 80, "dim": 16, "num_heads": 2, "ffn_dim": 24, "num_layers": 2, "segment_length": 4, "left_context_length": 8,
            "right_context_length": 2, "activation": "gelu", "output_norm": "final", "position_period": 50}),
    );
}

#[test]
fn an_rnn_transducer() {
    check(
        "emformer-rnnt",
        json!({"input_dim": WIDTH, "encoding_dim": 10, "num_symbols": 5, "segment_length": 8, "right_context_length": 4,
            "time_reduction_input_dim": 3, "time_reduction_stride": 4, "transformer_num_heads": 2, "transformer_ffn_dim": 16,
            "transformer_num_layers": 2, "transformer_left_context_length": 6, "symbol_embedding_dim": 6, "num_lstm_layers": 2,
            "lstm_layer_norm": true, "search": {"beam_width": 3, "step_max_tokens": 2}}),
    );
}

#[test]
fn fsmn_stacks_of_every_cell() {
    for (cell, table, bidirectional) in [
        ("sfsmn", "n_plus_2", false),
        ("vfsmn", "n_plus_2", false),
        ("csfsmn", "n_plus_2", false),
        ("cvfsmn", "n_plus_2", false),
        ("cvfsmn", "n_plus_1", false),
        ("vfsmn", "n_plus_2", true),
        ("csfsmn", "n_plus_2", true),
    ] {
        check(
            "fsmn",
            json!({"memory_size": 3, "input_size": WIDTH, "hidden_size": 12, "n_layers": 2, "cell": cell, "table": table, "d_ff": 10,
                "bidirectional": bidirectional, "segment_length": 6}),
        );
    }
}

#[test]
fn fsmn_of_funasr_and_of_the_papers() {
    for (lorder, lstride, rorder, rstride) in [(5, 1, 0, 0), (3, 2, 2, 1)] {
        check(
            "funasr-fsmn",
            json!({"input_dim": WIDTH, "input_affine_dim": 10, "fsmn_layers": 2, "linear_dim": 12, "proj_dim": 9, "lorder": lorder,
                "lstride": lstride, "rorder": rorder, "rstride": rstride, "output_affine_dim": 10, "segment_length": 7}),
        );
    }
    let layer = |left: usize, right: usize| json!({"hidden_dim": 14, "memory_dim": WIDTH, "left_order": left, "right_order": right});
    let skipping = |left: usize, right: usize, from: usize| {
        let mut layer = layer(left, right);
        layer["left_stride"] = json!(2);
        layer["skip_from"] = json!(from);
        layer
    };
    for (layers, projection_bias) in [
        (json!([layer(4, 2), layer(4, 0)]), true),
        (
            json!([skipping(3, 1, 0), skipping(3, 1, 1), skipping(3, 0, 2)]),
            false,
        ),
        (json!([layer(2, 1), layer(2, 1), skipping(4, 2, 1)]), false),
    ] {
        check(
            "deep-fsmn",
            json!({"input_dim": WIDTH, "layers": layers, "projection_bias": projection_bias, "output_layers": [10], "segment_length": 5}),
        );
    }
}

#[test]
fn san_m_in_chunks() {
    for (size, look_back) in [([2, 4, 2], 2), ([5, 3, 1], 1)] {
        check(
            "sanm",
            json!({"input_size": WIDTH, "output_size": 12, "attention_heads": 2, "linear_units": 16, "num_blocks": 2, "tp_norm": false,
                "kernel_size": 5, "chunk": {"size": size, "look_back": look_back}}),
        );
    }
}

#[test]
fn every_recurrent_cell() {
    for cell in ["rnn", "lstm", "gru", "ligru", "quasirnn"] {
        check(
            "recurrent",
            json!({"cell": cell, "input_size": WIDTH, "hidden_size": 12, "num_layers": 2, "segment_length": 5}),
        );
    }
    check(
        "recurrent",
        json!({"cell": "ligru", "input_size": WIDTH, "hidden_size": 12, "num_layers": 2, "segment_length": 3, "nonlinearity": "tanh",
            "normalization": "layernorm"}),
    );
}

#[test]
fn skim_with_every_memory() {
    for memory in ["hc", "h", "c", "id"] {
        check(
            "skim",
            json!({"input_size": WIDTH, "hidden_size": 10, "output_size": 12, "num_blocks": 3, "segment_size": 9, "bidirectional": false,
                "mem_type": memory, "norm_type": "cLN", "step_length": 4}),
        );
    }
}
