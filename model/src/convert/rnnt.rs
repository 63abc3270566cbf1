//! `torchaudio.models.RNNT` with an Emformer transcriber: its state_dict, whose names are kept, such as the one of
//! `emformer_rnnt_base_librispeech.pt`; with it the bundle's global stats and SentencePiece model.

use serde_json::{Map, Value, json};
use waxwing_frontend::features::{Cmvn, FeatureConfig, MelWindowsConfig};

use super::{
    Converted, Kind, Options, Tensors, count_layers, dimension, invalid, sentencepiece, without_prefix,
};
use crate::error::ModelError;
use crate::loader;

pub(super) const KIND: Kind = Kind {
    name: "rnnt",
    about: "torchaudio.models.RNNT, an Emformer RNN-T",
    settings: "those of emformer_rnnt_base unless set, such as --set segment_length=16 --set right_context_length=4 \
               --set transformer_num_heads=8 --set transformer_left_context_length=30",
    recognises: |tensors| {
        tensors
            .keys()
            .any(|name| name.ends_with("transcriber.input_linear.weight"))
    },
    convert,
};

/// What the shapes do not tell: `emformer_rnnt_base`.
fn base() -> Map<String, Value> {
    let base = json!({
        "segment_length": 16, "right_context_length": 4, "transformer_num_heads": 8,
        "transformer_left_context_length": 30, "transformer_max_memory_size": 0, "transformer_activation": "gelu",
        "transformer_tanh_on_mem": true, "lstm_layer_norm_epsilon": 1e-3,
    });
    match base {
        Value::Object(fields) => fields,
        _ => Map::new(),
    }
}

fn convert(tensors: Tensors, options: &Options) -> Result<Converted, ModelError> {
    // Lightning's checkpoints of the training recipe hold the model as `model`.
    let tensors = without_prefix(without_prefix(tensors, "module."), "model.");
    let size = |name: &str, at: usize| dimension(&tensors, name, at);
    let layers = "transcriber.transformer.emformer_layers";
    let reduced = size("transcriber.input_linear.weight", 0)?;
    let width = size(&format!("{layers}.0.attention.emb_to_query.weight"), 1)?;
    let mut derived = base();
    for (name, value) in [
        ("input_dim", size("transcriber.input_linear.weight", 1)?),
        ("encoding_dim", size("transcriber.output_linear.weight", 0)?),
        ("num_symbols", size("joiner.linear.weight", 0)?),
        ("time_reduction_input_dim", reduced),
        ("time_reduction_stride", width / reduced.max(1)),
        (
            "transformer_ffn_dim",
            size(&format!("{layers}.0.pos_ff.1.weight"), 0)?,
        ),
        ("transformer_num_layers", count_layers(&tensors, layers)),
        ("symbol_embedding_dim", size("predictor.embedding.weight", 1)?),
        ("num_lstm_layers", count_layers(&tensors, "predictor.lstm_layers")),
    ] {
        derived.insert(name.into(), json!(value));
    }
    let is_normed = tensors.contains_key("predictor.lstm_layers.0.g_norm.weight");
    derived.insert("lstm_layer_norm".into(), json!(is_normed));
    let mut converted = Converted::new("emformer-rnnt", derived, tensors, options);
    if let Some(path) = &options.normalisation {
        let features = features(&loader::read_text(path)?, &converted.config).map_err(invalid)?;
        converted.config.insert("features".into(), json!(features));
        converted.config.insert("sample_rate".into(), json!(16_000));
    }
    if let Some(path) = &options.tokens {
        let bytes = loader::read_bytes(path)?;
        converted.tokens = Some(match std::str::from_utf8(&bytes) {
            Ok(text) if text.lines().any(|line| line == "<blank>") => text.to_owned(),
            _ => sentencepiece::tokens_with_last_blank(&bytes).map_err(invalid)?,
        });
    }
    Ok(converted)
}

/// The bundle's features, with its global stats `{"mean": […], "invstddev": […]}`.
fn features(global_stats: &str, config: &Map<String, Value>) -> Result<FeatureConfig, String> {
    #[derive(serde::Deserialize)]
    struct GlobalStats {
        mean: Vec<f32>,
        invstddev: Vec<f32>,
    }
    let stats: GlobalStats = serde_json::from_str(global_stats)
        .map_err(|error| format!("global stats: expected JSON with `mean` and `invstddev`: {error}"))?;
    let size = |name: &str| {
        let value = config.get("encoder").and_then(|encoder| encoder.get(name));
        value
            .and_then(Value::as_u64)
            .and_then(|value| usize::try_from(value).ok())
            .unwrap_or(0)
    };
    Ok(FeatureConfig::MelWindows(MelWindowsConfig {
        num_mels: size("input_dim"),
        segment_frames: size("segment_length"),
        right_context_frames: size("right_context_length"),
        group_frames: size("time_reduction_stride"),
        cmvn: Some(Cmvn {
            mean: stats.mean,
            inv_stddev: stats.invstddev,
        }),
        ..MelWindowsConfig::default()
    }))
}
