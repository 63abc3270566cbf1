//! FunASR's networks with a memory: FSMN-VAD, FSMN keyword spotters, SenseVoice, and other SAN-M encoders. Beside such a checkpoint lie
//! `config.yaml` (`--original-config`) and `am.mvn` (`--normalisation`), from which features and settings are taken.

use serde_json::{Map, Value, json};
use waxwing_frontend::features::Cmvn;

use super::{
    Converted, Kind, Options, Tensors, count_layers, dimension, invalid, sentencepiece, without_prefix, yaml,
};
use crate::error::ModelError;
use crate::loader;
use crate::vad::VadConfig;

pub(super) const VAD: Kind = Kind {
    name: "fsmn-vad",
    about: "FSMN-VAD of FunASR: model.pt, with --normalisation am.mvn and --original-config config.yaml",
    settings: "--original-config config.yaml tells them, else --set lstride=1",
    recognises: is_fsmn,
    convert: vad,
};

pub(super) const KEYWORDS: Kind = Kind {
    name: "fsmn-ctc",
    about: "FSMN of FunASR that ends in CTC classes, as its keyword spotters do",
    settings: "--original-config config.yaml tells them, else --set lstride=1 --set rstride=1",
    recognises: is_fsmn,
    convert: keywords,
};

pub(super) const SENSE_VOICE: Kind = Kind {
    name: "sense-voice",
    about: "SenseVoiceSmall of FunASR, an encoder of whole utterances with a CTC head",
    settings: "--original-config config.yaml tells them, else --set attention_heads=4; for a language or written-out numbers \
               --set queries=[3,1,2,14]",
    recognises: |tensors| is_sanm(tensors) && tensors.keys().any(|name| name.ends_with("tp_norm.weight")),
    convert: sense_voice,
};

pub(super) const SANM: Kind = Kind {
    name: "sanm",
    about: "SANMEncoder or SANMEncoderChunkOpt of FunASR, the encoder alone",
    settings: "--set attention_heads=4, and to stream --set 'chunk={\"size\":[5,10,5],\"look_back\":4}'",
    recognises: |tensors| is_sanm(tensors) && !tensors.keys().any(|name| name.ends_with("tp_norm.weight")),
    convert: sanm,
};

fn is_fsmn(tensors: &Tensors) -> bool {
    tensors
        .keys()
        .any(|name| name.ends_with("fsmn.0.fsmn_block.conv_left.weight"))
}

fn is_sanm(tensors: &Tensors) -> bool {
    tensors
        .keys()
        .any(|name| name.ends_with("encoders0.0.self_attn.fsmn_block.weight"))
}

fn vad(tensors: Tensors, options: &Options) -> Result<Converted, ModelError> {
    if options.normalisation.is_none() {
        return Err(invalid(
            "normalisation: missing; give the am.mvn that lies beside the checkpoint by --normalisation"
                .into(),
        ));
    }
    let original = Original::read(options)?;
    let (derived, tensors) = fsmn(tensors, &original)?;
    let mut converted = Converted::new("funasr-fsmn", derived, tensors, options);
    original.add_features(&mut converted, "input_dim", 1, options)?;
    converted.config.insert("vad".into(), original.decision()?);
    Ok(converted)
}

fn keywords(tensors: Tensors, options: &Options) -> Result<Converted, ModelError> {
    let original = Original::read(options)?;
    let (mut derived, mut tensors) = fsmn(tensors, &original)?;
    // The classes' layer becomes the head, which ends in log-probs.
    derived.remove("output_dim");
    derived.remove("use_softmax");
    for part in ["weight", "bias"] {
        if let Some(tensor) = tensors.remove(&format!("out_linear2.linear.{part}")) {
            tensors.insert(format!("head.{part}"), tensor);
        }
    }
    let mut converted = Converted::new("funasr-fsmn", derived, tensors, options);
    original.add_features(&mut converted, "input_dim", 3, options)?;
    Ok(converted)
}

/// The sizes of FunASR's FSMN, and its tensors without the prefix that whole models have.
fn fsmn(tensors: Tensors, original: &Original) -> Result<(Map<String, Value>, Tensors), ModelError> {
    let tensors = without_prefix(without_prefix(tensors, "module."), "encoder.");
    let size = |name: &str, at: usize| dimension(&tensors, name, at);
    let right = "fsmn.0.fsmn_block.conv_right.weight";
    let rorder = if tensors.contains_key(right) {
        size(right, 2)?
    } else {
        0
    };
    let mut derived = Map::new();
    for (name, value) in [
        ("input_dim", size("in_linear1.linear.weight", 1)?),
        ("input_affine_dim", size("in_linear1.linear.weight", 0)?),
        ("fsmn_layers", count_layers(&tensors, "fsmn")),
        ("linear_dim", size("in_linear2.linear.weight", 0)?),
        ("proj_dim", size("fsmn.0.linear.linear.weight", 0)?),
        ("lorder", size("fsmn.0.fsmn_block.conv_left.weight", 2)?),
        ("rorder", rorder),
        ("rstride", usize::from(rorder > 0)),
        ("output_affine_dim", size("out_linear1.linear.weight", 0)?),
        ("output_dim", size("out_linear2.linear.weight", 0)?),
    ] {
        derived.insert(name.into(), json!(value));
    }
    original.copy(
        "encoder_conf",
        &["lstride", "rstride", "use_softmax"],
        &mut derived,
    );
    Ok((derived, tensors))
}

fn sense_voice(tensors: Tensors, options: &Options) -> Result<Converted, ModelError> {
    let original = Original::read(options)?;
    let tensors: Tensors = without_prefix(tensors, "module.")
        .into_iter()
        .map(|(name, tensor)| {
            let name = match name.strip_prefix("ctc.ctc_lo.") {
                Some(part) => format!("head.{part}"),
                None => name.strip_prefix("encoder.").unwrap_or(&name).to_owned(),
            };
            (name, tensor)
        })
        .collect();
    let mut derived = sanm_sizes(&tensors, &original)?;
    derived.insert("tp_blocks".into(), json!(count_layers(&tensors, "tp_encoders")));
    // An encoder alone has neither.
    if tensors.contains_key("embed.weight") || tensors.contains_key("head.weight") {
        derived.insert(
            "embed_rows".into(),
            json!(dimension(&tensors, "embed.weight", 0)?),
        );
        // A language to be found out, events, feelings, and text as it is spoken.
        derived.insert("queries".into(), json!([0, 1, 2, 15]));
    }
    let mut converted = Converted::new("sanm", derived, tensors, options);
    original.add_features(&mut converted, "input_size", 6, options)?;
    if let Some(path) = &options.tokens {
        let bytes = loader::read_bytes(path)?;
        converted.tokens = Some(match std::str::from_utf8(&bytes) {
            Ok(text) if text.lines().any(|line| line == "<blank>") => text.to_owned(),
            _ => sentencepiece::tokens_with_first_blank(&bytes).map_err(invalid)?,
        });
    }
    Ok(converted)
}

fn sanm(tensors: Tensors, options: &Options) -> Result<Converted, ModelError> {
    let original = Original::read(options)?;
    let tensors = without_prefix(without_prefix(tensors, "module."), "encoder.");
    let mut derived = sanm_sizes(&tensors, &original)?;
    derived.insert("tp_norm".into(), json!(false));
    derived.insert("norm_epsilon".into(), json!(1e-12));
    let mut converted = Converted::new("sanm", derived, tensors, options);
    original.add_features(&mut converted, "input_size", 6, options)?;
    Ok(converted)
}

fn sanm_sizes(tensors: &Tensors, original: &Original) -> Result<Map<String, Value>, ModelError> {
    let size = |name: &str, at: usize| dimension(tensors, name, at);
    let attention = "encoders0.0.self_attn";
    let mut derived = Map::new();
    for (name, value) in [
        ("input_size", size("encoders0.0.norm1.weight", 0)?),
        ("output_size", size(&format!("{attention}.linear_out.weight"), 0)?),
        ("linear_units", size("encoders0.0.feed_forward.w_1.weight", 0)?),
        ("num_blocks", 1 + count_layers(tensors, "encoders")),
        ("kernel_size", size(&format!("{attention}.fsmn_block.weight"), 2)?),
    ] {
        derived.insert(name.into(), json!(value));
    }
    original.copy("encoder_conf", &["attention_heads", "sanm_shfit"], &mut derived);
    Ok(derived)
}

/// FunASR's `config.yaml`; empty where none was given.
struct Original(Map<String, Value>);

impl Original {
    fn read(options: &Options) -> Result<Self, ModelError> {
        let Some(path) = &options.original_config else {
            return Ok(Self(Map::new()));
        };
        let found = yaml::parse(&loader::read_text(path)?);
        found
            .map(Self)
            .map_err(|problem| invalid(format!("{}: {problem}", path.display())))
    }

    fn get(&self, section: &str, name: &str) -> Option<&Value> {
        self.0.get(section)?.get(name).filter(|value| !value.is_null())
    }

    fn copy(&self, section: &str, names: &[&str], to: &mut Map<String, Value>) {
        for name in names {
            if let Some(value) = self.get(section, name) {
                to.insert((*name).to_owned(), value.clone());
            }
        }
    }

    /// Its `model_conf` as the settings of the decision. What would change the decision and is not built is refused.
    fn decision(&self) -> Result<Value, ModelError> {
        for (name, expected) in [
            ("do_start_point_detection", json!(true)),
            ("do_end_point_detection", json!(true)),
            ("snr_mode", json!(0)),
            ("snr_thres", json!(-100.0)),
            ("decibel_thres", json!(-100.0)),
        ] {
            if let Some(found) = self.get("model_conf", name)
                && found.as_f64().unwrap_or(1.0) != expected.as_f64().unwrap_or(1.0)
                && found != &expected
            {
                return Err(invalid(format!(
                    "model_conf.{name}: expected {expected}, which all published models have, found {found}"
                )));
            }
        }
        let known = serde_json::to_value(VadConfig::default()).unwrap_or_default();
        let names: Vec<&str> = known
            .as_object()
            .map_or_else(Vec::new, |known| known.keys().map(String::as_str).collect());
        let mut decision = Map::new();
        self.copy("model_conf", &names, &mut decision);
        if let Some(mode) = decision.get("detect_mode").and_then(Value::as_u64) {
            let mode = if mode == 0 { "single" } else { "multiple" };
            decision.insert("detect_mode".into(), json!(mode));
        }
        Ok(Value::Object(decision))
    }

    /// Its features, where the normalisation is given: filters in frames of 25 ms, stacked, one of `stride` kept.
    fn add_features(
        &self,
        converted: &mut Converted,
        width: &str,
        stride: usize,
        options: &Options,
    ) -> Result<(), ModelError> {
        let Some(path) = &options.normalisation else {
            return Ok(());
        };
        let setting = |name: &str, default: Value| {
            let found = self.get("frontend_conf", name);
            found.cloned().unwrap_or(default)
        };
        let cmvn = Cmvn::from_kaldi_text(&loader::read_text(path)?)
            .map_err(|error| invalid(format!("{}: {error}", path.display())))?;
        let inputs = converted
            .config
            .get("encoder")
            .and_then(|encoder| encoder.get(width));
        let inputs = inputs.and_then(Value::as_u64).unwrap_or(0);
        let num_mels = setting("n_mels", json!(80));
        let stacked = num_mels
            .as_u64()
            .filter(|&mels| mels > 0 && inputs.is_multiple_of(mels));
        let Some(stack) = stacked.map(|mels| inputs / mels).filter(|&stack| stack > 0) else {
            return Err(invalid(format!(
                "encoder.{width}: expected a multiple of n_mels ({num_mels}), found {inputs}"
            )));
        };
        if cmvn.mean.len() as u64 != inputs {
            return Err(invalid(format!(
                "{}: expected {inputs} values, the encoder's {width}, found {}",
                path.display(),
                cmvn.mean.len()
            )));
        }
        let features = json!({
            "type": "kaldi_fbank", "num_mel_bins": num_mels, "window_type": setting("window", json!("hamming")),
            "frame_length_ms": setting("frame_length", json!(25)), "frame_shift_ms": setting("frame_shift", json!(10)),
            "lfr": {"stack": setting("lfr_m", json!(stack)), "stride": setting("lfr_n", json!(stride))}, "cmvn": cmvn,
        });
        converted.config.insert("features".into(), features);
        let rate = setting("fs", json!(16_000));
        converted.config.insert("sample_rate".into(), rate);
        Ok(())
    }
}
