//! Writes a model directory of every streamable system at a usual size, with random weights: what `waxwing bench --model` measures.
//!
//! `cargo run --release --workspace --example system_models -- DIRECTORY [NAME…]`, then `waxwing bench --model DIRECTORY/NAME`. Speed does not depend on the
//! weights' values.

#![allow(clippy::print_stdout, reason = "it prints results")]

use std::collections::HashMap;
use std::error::Error;
use std::path::Path;

use candle_core::{Device, Tensor};
use serde_json::{Value, json};
use waxwing_model::architecture::expected_tensors;
use waxwing_model::{Config, Model};

/// Classes of a head: word pieces.
const CLASSES: usize = 1_024;

/// `stack` frames of `mels` filters side by side, one of `stride` kept.
fn features(mels: usize, stack: usize, stride: usize) -> Value {
    json!({"type": "kaldi_fbank", "num_mel_bins": mels, "lfr": {"stack": stack, "stride": stride}})
}

/// Name, architecture, `encoder`, `features`.
fn systems() -> Vec<(&'static str, &'static str, Value, Value)> {
    let mel = || features(80, 1, 1);
    let fsmn = |cell: &str| json!({"memory_size": 20, "input_size": 80, "hidden_size": 400, "n_layers": 6, "cell": cell, "d_ff": 512, "segment_length": 16});
    let recurrent = |cell: &str| json!({"cell": cell, "input_size": 80, "hidden_size": 512, "num_layers": 4, "segment_length": 16});
    let skim = |memory: &str| {
        json!({"input_size": 80, "hidden_size": 256, "output_size": 256, "num_blocks": 4, "segment_size": 50, "bidirectional": false,
            "mem_type": memory, "norm_type": "cLN", "step_length": 16})
    };
    let deep = |index: usize| {
        let mut layer = json!({"hidden_dim": 2048, "memory_dim": 512, "left_order": 20, "left_stride": 2, "right_order": 1, "right_stride": 2});
        if index > 0 {
            layer["skip_from"] = json!(index);
        }
        layer
    };
    vec![
        // torchaudio's emformer_rnnt_base without its reduction of time, which stacking frames stands for.
        (
            "emformer-base",
            "emformer",
            json!({"input_dim": 512, "num_heads": 8, "ffn_dim": 2048, "num_layers": 20, "segment_length": 4, "left_context_length": 30,
                "right_context_length": 1, "activation": "gelu", "tanh_on_mem": true}),
            features(128, 4, 4),
        ),
        (
            "emformer-rnnt-base",
            "emformer-rnnt",
            json!({"input_dim": 80, "encoding_dim": 1024, "num_symbols": 4097, "segment_length": 16, "right_context_length": 4,
                "time_reduction_input_dim": 128, "time_reduction_stride": 4, "transformer_num_heads": 8, "transformer_ffn_dim": 2048,
                "transformer_num_layers": 20, "transformer_left_context_length": 30, "transformer_activation": "gelu",
                "transformer_tanh_on_mem": true, "symbol_embedding_dim": 512, "num_lstm_layers": 3, "lstm_layer_norm": true,
                "lstm_layer_norm_epsilon": 1e-3}),
            json!({"type": "mel_windows"}),
        ),
        ("fsmn-sfsmn", "fsmn", fsmn("sfsmn"), mel()),
        ("fsmn-vfsmn", "fsmn", fsmn("vfsmn"), mel()),
        ("fsmn-csfsmn", "fsmn", fsmn("csfsmn"), mel()),
        ("fsmn-cvfsmn", "fsmn", fsmn("cvfsmn"), mel()),
        // FSMN-VAD, and the keyword spotters of FunASR.
        (
            "funasr-vad",
            "funasr-fsmn",
            json!({"input_dim": 400, "input_affine_dim": 140, "fsmn_layers": 4, "linear_dim": 250, "proj_dim": 128, "lorder": 20,
                "output_affine_dim": 140, "segment_length": 16}),
            features(80, 5, 1),
        ),
        (
            "funasr-kws",
            "funasr-fsmn",
            json!({"input_dim": 400, "input_affine_dim": 140, "fsmn_layers": 4, "linear_dim": 250, "proj_dim": 128, "lorder": 10, "rorder": 2,
                "rstride": 1, "output_affine_dim": 140, "segment_length": 6}),
            features(80, 5, 3),
        ),
        // The paper's DFSMN(8) in sizes, with a short look-ahead.
        (
            "deep-fsmn",
            "deep-fsmn",
            json!({"input_dim": 240, "layers": (0..8).map(deep).collect::<Vec<_>>(), "output_layers": [2048], "segment_length": 8}),
            features(80, 3, 3),
        ),
        // SANMEncoderChunkOpt of Paraformer's streaming models.
        (
            "sanm-chunk",
            "sanm",
            json!({"input_size": 560, "output_size": 512, "attention_heads": 4, "linear_units": 2048, "num_blocks": 50, "tp_norm": false,
                "kernel_size": 11, "norm_epsilon": 1e-12, "chunk": {"size": [5, 10, 5], "look_back": 4}}),
            features(80, 7, 6),
        ),
        ("rnn", "recurrent", recurrent("rnn"), mel()),
        ("lstm", "recurrent", recurrent("lstm"), mel()),
        ("gru", "recurrent", recurrent("gru"), mel()),
        ("ligru", "recurrent", recurrent("ligru"), mel()),
        ("quasirnn", "recurrent", recurrent("quasirnn"), mel()),
        ("skim-hc", "skim", skim("hc"), mel()),
        ("skim-h", "skim", skim("h"), mel()),
        ("skim-c", "skim", skim("c"), mel()),
        ("skim-id", "skim", skim("id"), mel()),
    ]
}

/// Small values around 0, around 1 where a norm multiplies by them.
fn weights(config: &Config) -> Result<HashMap<String, Tensor>, Box<dyn Error>> {
    let mut random = 0x9E37_79B9_7F4A_7C15_u64;
    let mut value = || {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        (random >> 40) as f32 / (1 << 23) as f32 - 1.0
    };
    let mut tensors = HashMap::new();
    for (name, shape) in expected_tensors(config, config.ctc.as_ref().map(|_| CLASSES)) {
        let is_scale = name.ends_with("running_var")
            || name.ends_with("gamma")
            || (shape.len() == 1 && name.ends_with("weight"));
        let inputs: usize = shape.iter().skip(1).product();
        let (offset, scale) = match shape.len() {
            1 => (f32::from(u8::from(is_scale)), 0.1),
            _ => (0.0, 1.0 / (inputs as f32).sqrt()),
        };
        let values: Vec<f32> = (0..shape.iter().product())
            .map(|_| offset + scale * value())
            .collect();
        tensors.insert(name, Tensor::from_vec(values, shape, &Device::Cpu)?);
    }
    Ok(tensors)
}

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let usage = "usage: system_models DIRECTORY [NAME…]";
    let folder = arguments.next().ok_or(usage)?;
    let wanted: Vec<String> = arguments.collect();
    for (name, architecture, encoder, features) in systems() {
        if !wanted.is_empty() && !wanted.iter().any(|wanted| wanted == name) {
            continue;
        }
        let is_transducer = architecture == "emformer-rnnt";
        let mut json = json!({"format": 1, "id": name, "architecture": architecture, "encoder": encoder, "features": features});
        let pieces: String = (1..if is_transducer { 4_097 } else { CLASSES })
            .map(|piece| format!("▁t{piece}\n"))
            .collect();
        let tokens = if is_transducer {
            format!("{pieces}<blank>\n")
        } else {
            json["ctc"] = json!({"blank": 0});
            format!("<blank>\n{pieces}")
        };
        let config = Config::from_json(&json.to_string())?;
        let bytes = safetensors::serialize(&weights(&config)?, None)?;
        let directory = Path::new(&folder).join(name);
        std::fs::create_dir_all(&directory)?;
        std::fs::write(
            directory.join("config.json"),
            serde_json::to_string_pretty(&json)?,
        )?;
        std::fs::write(directory.join("tokens.txt"), tokens)?;
        std::fs::write(directory.join("model.safetensors"), bytes)?;
        let model = Model::load(&directory)?;
        let state = model.new_state().host_bytes();
        println!(
            "{name}: {:.1} M weights, {state} bytes of state a session, segment {} ms, look-ahead {} ms",
            weights_of(&config) as f64 / 1e6,
            model.latency().segment.as_millis(),
            model.latency().right_context.as_millis(),
        );
    }
    Ok(())
}

fn weights_of(config: &Config) -> usize {
    let expected = expected_tensors(config, config.ctc.as_ref().map(|_| CLASSES));
    expected
        .iter()
        .map(|(_, shape)| shape.iter().product::<usize>())
        .sum()
}
