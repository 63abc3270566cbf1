//! What is said about a model directory that cannot be used, and `encode` over files.

use std::collections::HashMap;
use std::path::Path;

use crate::support::{Random, executors, flat, max_difference, random_tensors, serialise};
use candle_core::{DType, Device, Tensor};
use waxwing_model::encode::{Encoder, Mode, encode_file};
use waxwing_model::{Config, Model, ModelError};

fn golden() -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/golden/whisper_emformer")
}

struct Parts {
    config: String,
    tokens: String,
    tensors: HashMap<String, Tensor>,
}

impl Parts {
    fn new() -> Self {
        let read = |name: &str| std::fs::read_to_string(golden().join(name)).unwrap();
        let tensors =
            candle_core::safetensors::load(golden().join("model.safetensors"), &Device::Cpu).unwrap();
        Self {
            config: read("config.json"),
            tokens: read("tokens.txt"),
            tensors,
        }
    }

    fn load(&self) -> Result<Model, ModelError> {
        Model::from_parts(
            &self.config,
            &self.tokens,
            &serialise(&self.tensors),
            &Device::Cpu,
        )
    }

    fn problems(&self) -> String {
        self.load().unwrap_err().to_string()
    }
}

fn expect(text: &str, parts: &[&str]) {
    for part in parts {
        assert!(text.contains(part), "`{part}` is not in: {text}");
    }
}

#[test]
fn all_problems_of_the_weights_are_in_one_message() {
    let mut parts = Parts::new();
    parts.load().unwrap();
    let zeros = |shape: &[usize], dtype| Tensor::zeros(shape, dtype, &Device::Cpu).unwrap();
    let set = |parts: &mut Parts, name: &str, tensor| parts.tensors.insert(name.to_owned(), tensor);
    parts.tensors.remove("layer_norm.bias");
    set(
        &mut parts,
        "emformer_layers.7.pos_ff.0.weight",
        zeros(&[12], DType::F32),
    );
    set(&mut parts, "stem.conv1.weight", zeros(&[12, 6, 5], DType::F32));
    set(&mut parts, "head.bias", zeros(&[7], DType::U8));
    let nan = Tensor::new(&[f32::NAN; 12], &Device::Cpu).unwrap();
    set(&mut parts, "stem.conv2.bias", nan);
    expect(
        &parts.problems(),
        &[
            "5 problems",
            "layer_norm.bias: missing, expected shape [12]",
            "emformer_layers.7.pos_ff.0.weight: not a tensor of this architecture",
            "stem.conv1.weight: expected shape [12, 6, 3], found [12, 6, 5]",
            "head.bias: expected type F16, BF16, F32 or F64, found U8",
            "stem.conv2.bias: expected finite values, found 12",
        ],
    );
}

#[test]
fn problems_of_different_files_are_in_one_message() {
    let mut parts = Parts::new();
    parts.tokens.push_str("f\n");
    parts.config = parts
        .config
        .replace("\"blank\": 0", "\"blank\": 3")
        .replace("\"num_mels\": 6", "\"num_mels\": 5");
    expect(
        &parts.problems(),
        &[
            "head.weight: expected shape [8, 12], found [7, 12]",
            "ctc.blank: expected 0",
            "encoder.input_dim: expected 5 (the size of a feature frame), found 6",
        ],
    );
    let mut parts = Parts::new();
    parts.config = parts
        .config
        .replace("\"num_heads\": 3", "\"num_heads\": 5")
        .replace("\"format\": 1", "\"format\": 2");
    parts.tokens.clear();
    expect(
        &parts.problems(),
        &[
            "num_heads: expected a divisor of dim (12), found 5",
            "format: expected 1, found 2",
            "tokens.txt: no tokens",
        ],
    );
}

#[test]
fn what_suits_the_model_goes_over_the_defaults() {
    let mut parts = Parts::new();
    parts.config = parts
        .config
        .replacen('{', r#"{"search": {"language_model_weight": 0.25},"#, 1);
    let decoding = parts.load().unwrap().default_decoding();
    let plain = Parts::new().load().unwrap().default_decoding();
    assert_eq!(decoding.language_model_weight, 0.25);
    assert_eq!(
        (decoding.word_bonus, decoding.beam_width),
        (plain.word_bonus, plain.beam_width)
    );
    parts.config = parts.config.replace("0.25", "0.25, \"word_bonus\": 11");
    expect(
        &parts.problems(),
        &["config.json: search.word_bonus: expected -10 to 10, found 11"],
    );
}

#[test]
fn unknown_fields_are_refused() {
    let mut parts = Parts::new();
    parts.config = parts.config.replace("\"tanh_on_mem\"", "\"tanh_on_memory\"");
    expect(
        &parts.problems(),
        &["config.json: architecture and encoder: unknown field `tanh_on_memory`"],
    );
}

#[test]
fn every_truncation_of_the_weights_is_refused() {
    let parts = Parts::new();
    let bytes = serialise(&parts.tensors);
    for length in [0, 1, 7, 8, 100, bytes.len() / 2, bytes.len() - 1] {
        let error =
            Model::from_parts(&parts.config, &parts.tokens, &bytes[..length], &Device::Cpu).unwrap_err();
        expect(
            &error.to_string(),
            &[
                "model.safetensors: not a whole safetensors file",
                &format!("({length} bytes)"),
            ],
        );
    }
}

#[test]
fn every_missing_file_is_named() {
    let directory = std::env::temp_dir().join(format!("waxwing-empty-{}", std::process::id()));
    std::fs::create_dir_all(&directory).unwrap();
    let error = Model::load(&directory).unwrap_err();
    std::fs::remove_dir(&directory).unwrap();
    expect(
        &error.to_string(),
        &["config.json", "tokens.txt", "model.safetensors", "3 problems"],
    );
}

/// A plain Emformer needs neither features nor tokens to be run on files; unequal lengths stream as each would alone.
#[test]
fn encode_runs_a_plain_emformer_in_both_modes() {
    let directory = std::env::temp_dir().join(format!("waxwing-encode-{}", std::process::id()));
    std::fs::create_dir_all(&directory).unwrap();
    let json = r#"{"format": 1, "id": "plain", "architecture": "emformer", "encoder": {"input_dim": 8, "num_heads": 2,
        "ffn_dim": 16, "num_layers": 2, "segment_length": 4, "left_context_length": 6, "right_context_length": 3,
        "max_memory_size": 2}}"#;
    let config = Config::from_json(json).unwrap();
    std::fs::write(directory.join("config.json"), json).unwrap();
    std::fs::write(
        directory.join("model.safetensors"),
        serialise(&random_tensors(&config, None, 31)),
    )
    .unwrap();
    let values = Random::new(32).values(2 * 15 * 8);
    let features = Tensor::from_vec(values, (2, 15, 8), &Device::Cpu).unwrap();
    let lengths = Tensor::new(&[12i64, 8], &Device::Cpu).unwrap();
    let input = directory.join("features.safetensors");
    candle_core::safetensors::save(
        &HashMap::from([("features", features.clone()), ("lengths", lengths)]),
        &input,
    )
    .unwrap();
    let run = |mode| {
        let output = directory.join("output.safetensors");
        encode_file(&directory, &input, mode, &output).unwrap();
        let tensors = candle_core::safetensors::load(&output, &Device::Cpu).unwrap();
        assert_eq!(tensors["lengths"].to_vec1::<i64>().unwrap(), [12, 8]);
        assert_eq!(tensors["output"].dims(), [2, 12, 8]);
        tensors["output"].clone()
    };
    let (whole, streamed) = (run(Mode::Whole), run(Mode::Streaming));
    let first = |tensor: &Tensor| flat(&tensor.get(0).unwrap());
    assert!(max_difference(&first(&whole), &first(&streamed)) <= 1e-4);

    let (encoder, whole) = executors(&config, 31);
    let second = features
        .narrow(0, 1, 1)
        .unwrap()
        .narrow(1, 0, 8 + encoder.geometry().lookahead_frames)
        .unwrap();
    let expected = whole.reference.forward(&second, &[8]).unwrap();
    let streamed = streamed.get(1).unwrap();
    assert!(max_difference(&flat(&streamed.narrow(0, 0, 8).unwrap()), &flat(&expected)) <= 1e-4);
    assert!(
        flat(&streamed.narrow(0, 8, 4).unwrap())
            .iter()
            .all(|value| *value == 0.0)
    );

    let encoder = Encoder::load(&directory).unwrap();
    let error = encoder.encode(&features, &[13, 1], Mode::Whole).unwrap_err();
    expect(
        &error.to_string(),
        &["lengths: expected 1 to 12 frames, the look-ahead not counted, found 13"],
    );
    let error = encoder
        .encode(&features.narrow(2, 0, 7).unwrap(), &[1, 1], Mode::Streaming)
        .unwrap_err();
    expect(
        &error.to_string(),
        &["features: expected frames of 8 values, found 7"],
    );
    std::fs::remove_dir_all(&directory).unwrap();
}
