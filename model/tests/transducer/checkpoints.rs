//! The originals' checkpoints become models; what is none is refused.

use candle_core::{DType, Device, Tensor};
use serde_json::{Value, json};
use std::collections::HashMap;
use std::path::Path;
use waxwing_model::Model;
use waxwing_model::convert::{Options, convert_file};
use waxwing_model::encode::{Encoder, Mode};

use crate::support::{
    Directory, F32_TOLERANCE, Golden, deviation, expect, flat, golden, inputs, kind, numbers, small,
};

fn refusal(name: &str, path: &Path, options: &Options) -> String {
    let directory = Directory::new(&format!("refused-{name}"));
    let error = convert_file(kind(name), path, options, &directory.0).unwrap_err();
    assert!(!directory.0.join("config.json").exists());
    error.to_string()
}

/// The two forms that users have, plain and as Lightning leaves it with a transposed tensor, give one model, which runs.
#[test]
fn checkpoints_become_models_that_give_the_originals_output() {
    let golden_data = Golden::load();
    for file in ["rnnt.pt", "lightning.pt"] {
        let directory = Directory::new(file);
        convert_file(kind("rnnt"), &golden(file), &small(), &directory.0).unwrap();
        let module = waxwing_model::module::load(&directory.0).unwrap();
        let source = golden_data.tensor("0.source");
        let frames = source.dim(1).unwrap() as i64 - 4;
        let out = module
            .run(&inputs(&[
                ("features", source),
                ("lengths", numbers(&[frames, frames - 4])),
            ]))
            .unwrap();
        let deviation = deviation(&out["output"], &golden_data.tensor("0.f32.transcribe"), file);
        assert!(deviation <= F32_TOLERANCE, "{deviation} {file}");
        let again = convert_file(kind("rnnt"), &golden(file), &small(), &directory.0).unwrap_err();
        expect(&again.to_string(), &["config.json", "choose a new directory"]);
    }
}

#[test]
fn an_emformer_alone_is_converted_with_its_settings() {
    let directory = Directory::new("emformer");
    let mut options = Options::default();
    let text = refusal("emformer", &golden("emformer.pt"), &options);
    expect(&text, &["missing field `num_heads`", "--set num_heads=8"]);
    let set = json!({"num_heads": 2, "segment_length": 4, "left_context_length": 6, "right_context_length": 1,
        "activation": "gelu", "tanh_on_mem": true});
    options.set = set.as_object().unwrap().clone();
    convert_file(kind("emformer"), &golden("emformer.pt"), &options, &directory.0).unwrap();
    let encoder = Encoder::load(&directory.0).unwrap();
    assert_eq!(
        (encoder.geometry().num_features, encoder.geometry().segment_frames),
        (20, 4)
    );
    let features = Tensor::zeros((1, 9, 20), DType::F32, &Device::Cpu).unwrap();
    let encoded = encoder.encode(&features, &[8], Mode::Whole).unwrap();
    assert_eq!(encoded.output.dims(), [1, 8, 20]);
}

/// Whatever the architecture, by its sizes alone.
#[test]
fn a_checkpoint_is_converted_as_it_is() {
    let directory = Directory::new("as-is");
    let text = refusal("as-is", &golden("emformer.pt"), &Options::default());
    expect(&text, &["architecture: missing"]);
    let set = json!({"architecture": "emformer", "input_dim": 20, "num_heads": 2, "ffn_dim": 18, "num_layers": 2,
        "segment_length": 4, "right_context_length": 1});
    let options = Options {
        set: set.as_object().unwrap().clone(),
        ..Options::default()
    };
    convert_file(kind("as-is"), &golden("emformer.pt"), &options, &directory.0).unwrap();
    assert_eq!(
        Encoder::load(&directory.0).unwrap().geometry().lookahead_frames,
        1
    );
    let mut wrong = options;
    wrong.set.insert("ffn_dim".into(), json!(17));
    let text = refusal("as-is", &golden("emformer.pt"), &wrong);
    expect(
        &text,
        &["emformer_layers.0.pos_ff.1.weight: expected shape [17, 20], found [18, 20]"],
    );
}

#[test]
fn what_is_no_checkpoint_of_the_kind_is_named() {
    for (name, file, parts) in [
        ("rnnt", "legacy.pt", &["before 1.6", "torch.save(torch.load("][..]),
        (
            "rnnt",
            "whole_module.pt",
            &["whole object (torch.nn.modules.linear.Linear)", "state_dict()"],
        ),
        ("rnnt", "script.pt", &["TorchScript", "torch.jit.load"]),
        (
            "rnnt",
            "emformer.pt",
            &["expected a checkpoint of `rnnt`", "this looks like `emformer`"],
        ),
        ("emformer", "rnnt.pt", &["this looks like `rnnt`"]),
        ("rnnt", "rnnt.json", &["found neither"]),
    ] {
        expect(&refusal(name, &golden(file), &small()), parts);
    }
}

#[test]
fn all_problems_of_a_checkpoint_are_in_one_message() {
    let golden_data = Golden::load();
    let mut tensors: HashMap<String, Tensor> = golden_data
        .tensors
        .iter()
        .filter_map(|(name, tensor)| Some((name.strip_prefix("0.weights.")?.to_owned(), tensor.clone())))
        .collect();
    let directory = Directory::new("damaged");
    std::fs::create_dir_all(&directory.0).unwrap();
    let path = directory.0.join("damaged.safetensors");
    let zeros = |shape: &[usize], dtype| Tensor::zeros(shape, dtype, &Device::Cpu).unwrap();
    tensors.remove("predictor.linear.bias");
    tensors.insert("joiner.extra".into(), zeros(&[3], DType::F32));
    tensors.insert("predictor.linear.weight".into(), zeros(&[3, 4], DType::F32));
    tensors.insert("transcriber.layer_norm.bias".into(), zeros(&[12], DType::I64));
    tensors.insert(
        "joiner.linear.bias".into(),
        Tensor::new(&[f32::NAN; 11], &Device::Cpu).unwrap(),
    );
    candle_core::safetensors::save(&tensors, &path).unwrap();
    expect(
        &refusal("rnnt", &path, &small()),
        &[
            "damaged.safetensors, 5 problems",
            "predictor.linear.bias: missing, expected shape [12]",
            "joiner.extra: not a tensor of this architecture",
            "predictor.linear.weight: expected shape [12, 9], found [3, 4]",
            "transcriber.layer_norm.bias: expected type F16, BF16, F32 or F64, found I64",
            "joiner.linear.bias: expected finite values, found 11",
        ],
    );
}

/// A file that was cut off or changed is refused or, where a change only touches what is not read, gives the same tensors.
#[test]
fn damaged_zip_files_are_refused() {
    let directory = Directory::new("cut");
    std::fs::create_dir_all(&directory.0).unwrap();
    let path = directory.0.join("cut.pt");
    let bytes = std::fs::read(golden("rnnt.pt")).unwrap();
    let whole = waxwing_model::convert::checkpoint::read(&golden("rnnt.pt")).unwrap();
    for length in (0..bytes.len()).step_by(701) {
        std::fs::write(&path, &bytes[..length]).unwrap();
        assert!(
            waxwing_model::convert::checkpoint::read(&path).is_err(),
            "{length}"
        );
    }
    let mut refused = 0;
    for at in (0..bytes.len()).step_by(97) {
        let mut changed = bytes.clone();
        changed[at] ^= 0x41;
        std::fs::write(&path, &changed).unwrap();
        match waxwing_model::convert::checkpoint::read(&path) {
            Err(_) => refused += 1,
            Ok(tensors) => {
                for (name, tensor) in &tensors {
                    let values =
                        |tensor: &Tensor| flat(tensor).iter().map(|v| v.to_bits()).collect::<Vec<_>>();
                    assert_eq!(
                        whole.get(name).map(values),
                        Some(values(tensor)),
                        "byte {at}, {name}"
                    );
                }
            }
        }
    }
    assert!(refused > 100, "only {refused} changes were refused");
}

/// With global stats and a SentencePiece model the directory can be served; its features equal the bundle's, window by window.
#[test]
fn a_served_rnnt_takes_the_bundles_windows() {
    let directory = Directory::new("bundle");
    let options = Options {
        normalisation: Some(golden("global_stats.json")),
        tokens: Some(golden("tokens.model")),
        ..small()
    };
    // The small model has 8 features, the stats are for 80.
    let text = refusal("rnnt", &golden("rnnt.pt"), &options);
    expect(&text, &["`mean` has 80 values, expected 8"]);

    let stats: Value =
        serde_json::from_str(&std::fs::read_to_string(golden("global_stats.json")).unwrap()).unwrap();
    std::fs::create_dir_all(&directory.0).unwrap();
    let short = directory.0.join("stats.json");
    let first = |name: &str| stats[name].as_array().unwrap()[..8].to_vec();
    std::fs::write(
        &short,
        json!({"mean": first("mean"), "invstddev": first("invstddev")}).to_string(),
    )
    .unwrap();
    let options = Options {
        normalisation: Some(short),
        ..options
    };
    let models = directory.0.join("model");
    convert_file(kind("rnnt"), &golden("rnnt.pt"), &options, &models).unwrap();
    let model = Model::load(&models).unwrap();
    assert_eq!((model.tokens().len(), model.tokens().blank()), (11, 10));
    assert_eq!(
        (model.geometry().num_features, model.geometry().segment_frames),
        (40, 4)
    );
    assert_eq!(model.latency().segment.as_millis(), 160);
    assert_eq!(model.latency().right_context.as_millis(), 40);
    assert!((model.output_frame_seconds() - 0.04).abs() < 1e-12);
    assert!(model.transducer().is_some());
    let error =
        std::fs::write(models.join("tokens.txt"), "a\n<blank>\n").map(|()| Model::load(&models).unwrap_err());
    expect(
        &error.unwrap().to_string(),
        &["tokens.txt: expected 11 tokens, the last one <blank>, found 2"],
    );
}

#[test]
fn the_windows_features_equal_torchaudios() {
    use waxwing_frontend::features::{Cmvn, FeatureConfig, MelWindowsConfig};
    let golden_data = Golden::load();
    let stats: Value =
        serde_json::from_str(&std::fs::read_to_string(golden("global_stats.json")).unwrap()).unwrap();
    let vector = |name: &str| {
        let values = stats[name].as_array().unwrap().iter();
        values.map(|value| value.as_f64().unwrap() as f32).collect()
    };
    let config = FeatureConfig::MelWindows(MelWindowsConfig {
        cmvn: Some(Cmvn {
            mean: vector("mean"),
            inv_stddev: vector("invstddev"),
        }),
        ..MelWindowsConfig::default()
    });
    let audio: Vec<f32> = flat(&golden_data.tensor("features.audio"))
        .iter()
        .map(|v| (*v / 32768.0) as f32)
        .collect();
    let expected = flat(&golden_data.tensor("features.windows"));
    let unclear = flat(&golden_data.tensor("features.unclear"));
    let mut reference: Option<Vec<f32>> = None;
    for chunk in [audio.len(), 1, 777, 3200] {
        let mut extractor = config.extractor(16_000).unwrap();
        let mut features = Vec::new();
        for samples in audio.chunks(chunk) {
            let (before, needed) = (features.len(), extractor.samples_needed_for(1));
            extractor.push(samples, &mut features);
            assert_eq!(
                features.len() > before,
                samples.len() as u64 >= needed,
                "chunks of {chunk}"
            );
        }
        assert_eq!(features.len(), expected.len());
        assert_eq!(
            extractor.frames_emitted() as usize * extractor.num_features(),
            features.len()
        );
        let reference = reference.get_or_insert_with(|| features.clone());
        assert_eq!(reference, &features, "chunks of {chunk}");
    }
    let mut greatest = 0f64;
    for ((found, expected), unclear) in reference.unwrap().iter().zip(&expected).zip(&unclear) {
        if *unclear == 0.0 {
            greatest = greatest.max((f64::from(*found) - expected).abs());
        }
    }
    println!("RNN-T features: greatest deviation {greatest:.2e}");
    assert!(greatest <= 1e-3, "{greatest}");
}
