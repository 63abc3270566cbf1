//! The Emformer RNN-T against torchaudio, and its checkpoints. The data is made by `tests/golden/rnnt.py`.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "helpers of tests fail and report as tests do"
)]

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use candle_core::{DType, Device, Tensor};
use serde_json::{Value, json};
use waxwing_model::architecture::{expected_tensors, module, streaming_encoder};
use waxwing_model::config::EncoderConfig;
use waxwing_model::convert::{KINDS, Kind, Options, convert_file};
use waxwing_model::encode::{Encoder, Mode};
use waxwing_model::encoder::StepRow;
use waxwing_model::loader::Weights;
use waxwing_model::transducer::{Networks, RnntConfig, Search};
use waxwing_model::{Config, Model, ModelError};

const F32_TOLERANCE: f64 = 1e-4;
const F64_TOLERANCE: f64 = 1e-10;

fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../tests/golden/rnnt")
        .join(name)
}

struct Golden {
    table: Value,
    tensors: HashMap<String, Tensor>,
}

impl Golden {
    fn load() -> Self {
        let table = serde_json::from_str(&std::fs::read_to_string(golden("rnnt.json")).unwrap()).unwrap();
        let tensors = candle_core::safetensors::load(golden("rnnt.safetensors"), &Device::Cpu).unwrap();
        Self { table, tensors }
    }

    fn variants(&self) -> impl Iterator<Item = (usize, &Value)> {
        let variants = self.table["variants"].as_array().unwrap();
        assert_eq!(variants.len(), 4);
        variants.iter().enumerate()
    }

    fn config(&self, variant: &Value, beam: usize) -> Config {
        let mut encoder = self.table["sizes"].clone();
        for (name, value) in variant.as_object().unwrap() {
            if !["ragged", "searches"].contains(&name.as_str()) {
                encoder[name] = value.clone();
            }
        }
        encoder["search"] = json!({"beam_width": beam});
        let config =
            json!({"format": 1, "id": "golden", "architecture": "emformer-rnnt", "encoder": encoder});
        Config::from_json(&config.to_string()).unwrap()
    }

    fn weights(&self, index: usize, config: &Config, dtype: DType) -> Weights {
        let prefix = format!("{index}.weights.");
        let tensors: HashMap<String, Tensor> = self
            .tensors
            .iter()
            .filter_map(|(name, tensor)| {
                Some((
                    name.strip_prefix(&prefix)?.to_owned(),
                    tensor.to_dtype(dtype).unwrap(),
                ))
            })
            .collect();
        let bytes = safetensors::serialize(&tensors, None).unwrap();
        Weights::from_safetensors(&bytes, &expected_tensors(config, None)).unwrap()
    }

    fn tensor(&self, name: &str) -> Tensor {
        self.tensors.get(name).unwrap_or_else(|| panic!("{name}")).clone()
    }
}

fn sizes(config: &Config) -> &RnntConfig {
    match &config.encoder {
        EncoderConfig::EmformerRnnt(sizes) => sizes,
        other => panic!("{other:?}"),
    }
}

fn flat(tensor: &Tensor) -> Vec<f64> {
    tensor
        .to_dtype(DType::F64)
        .unwrap()
        .flatten_all()
        .unwrap()
        .to_vec1()
        .unwrap()
}

fn deviation(actual: &Tensor, expected: &Tensor, what: &str) -> f64 {
    assert_eq!(
        (actual.dtype(), actual.dims()),
        (expected.dtype(), expected.dims()),
        "{what}"
    );
    let pairs = flat(actual).into_iter().zip(flat(expected));
    // `f64::max` would pass over a NaN.
    pairs
        .map(|(actual, expected)| (actual - expected).abs())
        .fold(0.0, |most, d| if d <= most { most } else { d })
}

fn numbers(values: &[i64]) -> Tensor {
    Tensor::new(values, &Device::Cpu).unwrap()
}

fn inputs(tensors: &[(&str, Tensor)]) -> BTreeMap<String, Tensor> {
    tensors
        .iter()
        .map(|(name, tensor)| ((*name).to_owned(), tensor.clone()))
        .collect()
}

/// Every network with its states through what `run` runs.
fn check_networks(dtype: DType, kind: &str, tolerance: f64) {
    let golden = Golden::load();
    let (mut greatest, mut compared) = (0f64, 0);
    for (index, variant) in golden.variants() {
        let config = golden.config(variant, 3);
        let sizes = sizes(&config);
        let module = module(&config, &golden.weights(index, &config, dtype)).unwrap();
        let mut check = |name: &str, actual: &Tensor| {
            let what = format!("variant {index}, {kind} {name}");
            let deviation = deviation(actual, &golden.tensor(&format!("{index}.{kind}.{name}")), &what);
            assert!(deviation <= tolerance, "{deviation} {what}");
            greatest = greatest.max(deviation);
            compared += 1;
        };
        let source = golden.tensor(&format!("{index}.source"));
        let frames = (source.dim(1).unwrap() - sizes.right_context_length) as i64;
        let ragged = variant["ragged"].as_i64().unwrap();
        let out = module
            .run(&inputs(&[
                ("features", source.clone()),
                ("lengths", numbers(&[frames, frames - ragged])),
            ]))
            .unwrap();
        check("transcribe", &out["output"]);
        check("transcribe.lengths", &out["lengths"]);
        let encoded = out["output"].clone();

        let window = sizes.segment_length + sizes.right_context_length;
        let (mut states, mut pieces) = (BTreeMap::new(), Vec::new());
        let last = frames as usize - sizes.segment_length;
        for begin in (0..=last).step_by(sizes.segment_length) {
            states.insert("window".into(), source.narrow(1, begin, window).unwrap());
            states.insert("lengths".into(), numbers(&[window as i64; 2]));
            states = module.run(&states).unwrap();
            pieces.push(states.remove("output").unwrap());
        }
        check("stream", &Tensor::cat(&pieces, 1).unwrap());
        for (name, tensor) in &states {
            if name.starts_with("state.") {
                check(&format!("stream.{name}"), tensor);
            }
        }
        let expected = golden.tensors.keys();
        let expected = expected
            .filter(|name| name.starts_with(&format!("{index}.{kind}.stream.state")))
            .count();
        assert_eq!(
            states.keys().filter(|name| name.starts_with("state.")).count(),
            expected
        );

        let tokens = golden.tensor(&format!("{index}.tokens"));
        let first = module
            .run(&inputs(&[("tokens", tokens.narrow(1, 0, 3).unwrap())]))
            .unwrap();
        let mut second = first.clone();
        second.insert("tokens".into(), tokens.narrow(1, 3, 2).unwrap());
        let second = module.run(&second).unwrap();
        let predicted = Tensor::cat(&[&first["output"], &second["output"]], 1).unwrap();
        check("predict", &predicted);
        for (name, tensor) in second.iter().filter(|(name, _)| name.starts_with("state.")) {
            check(&format!("predict.{name}"), tensor);
        }
        let out = module
            .run(&inputs(&[("source", encoded), ("target", predicted)]))
            .unwrap();
        check("join", &out["logits"]);
    }
    assert!(compared > 45, "only {compared} tensors were compared");
    println!("RNN-T networks, {kind}: {compared} tensors, greatest deviation {greatest:.2e}");
}

#[test]
fn the_networks_equal_torchaudio_in_f32() {
    check_networks(DType::F32, "f32", F32_TOLERANCE);
}

#[test]
fn the_networks_equal_torchaudio_in_f64() {
    check_networks(DType::F64, "f64", F64_TOLERANCE);
}

fn expected_hypotheses(value: &Value) -> Vec<(Vec<i64>, f64)> {
    let hypotheses = value.as_array().unwrap().iter();
    hypotheses
        .map(|hypothesis| {
            let tokens = hypothesis["tokens"].as_array().unwrap();
            (
                tokens.iter().map(|token| token.as_i64().unwrap()).collect(),
                hypothesis["score"].as_f64().unwrap(),
            )
        })
        .collect()
}

fn found_hypotheses(search: &Search) -> Vec<(Vec<i64>, f64)> {
    let hypotheses = search.hypotheses().iter();
    hypotheses
        .map(|hypothesis| {
            let tokens = hypothesis
                .emissions()
                .iter()
                .map(|emission| i64::from(emission.token));
            (tokens.collect(), f64::from(hypothesis.score()))
        })
        .collect()
}

fn assert_same(found: &[(Vec<i64>, f64)], expected: &[(Vec<i64>, f64)], what: &str) -> f64 {
    let tokens = |list: &[(Vec<i64>, f64)]| list.iter().map(|(tokens, _)| tokens.clone()).collect::<Vec<_>>();
    assert_eq!(tokens(found), tokens(expected), "{what}");
    let mut greatest = 0f64;
    for ((_, found), (_, expected)) in found.iter().zip(expected) {
        let deviation = (found - expected).abs();
        assert!(deviation <= 1e-3, "{what}: score {found}, expected {expected}");
        greatest = greatest.max(deviation);
    }
    greatest
}

/// Token lists and their order, whole and after every window; the served transcriber gives the windows' frames.
#[test]
fn the_search_equals_torchaudio_with_hypotheses_carried_from_window_to_window() {
    let golden = Golden::load();
    let mut greatest = 0f64;
    let mut compared = 0;
    for (index, variant) in golden.variants() {
        let searches = &variant["searches"];
        let config = golden.config(variant, 3);
        let weights = golden.weights(index, &config, DType::F32);
        let source = golden.tensor(&format!("{index}.source")).narrow(0, 0, 1).unwrap();

        // The search goes over the right context as well, as RNNTBeamSearch.forward passes all frames on.
        let module = module(&config, &weights).unwrap();
        let out = module
            .run(&inputs(&[("features", source.clone()), ("beam", numbers(&[3]))]))
            .unwrap();
        let rows: Vec<Vec<i64>> = out["tokens"].to_vec2().unwrap();
        let scores = flat(&out["scores"]);
        let found: Vec<(Vec<i64>, f64)> = rows
            .into_iter()
            .zip(scores)
            .map(|(row, score)| (row.into_iter().filter(|&token| token >= 0).collect(), score))
            .collect();
        greatest = greatest.max(assert_same(
            &found,
            &expected_hypotheses(&searches["whole"]),
            &format!("{index} whole"),
        ));

        let mut cool = sizes(&config).clone();
        cool.search.beam_width = 5;
        cool.search.temperature = 1.7;
        cool.search.step_max_tokens = 2;
        let encoded = module
            .run(&inputs(&[
                ("features", source.clone()),
                (
                    "lengths",
                    numbers(&[(source.dim(1).unwrap() - cool.right_context_length) as i64]),
                ),
            ]))
            .unwrap();
        let frames: Vec<Vec<f32>> = encoded["output"].squeeze(0).unwrap().to_vec2().unwrap();
        let mut search = Search::new(Arc::new(Networks::new(&cool, &weights).unwrap()));
        frames.iter().for_each(|frame| search.accept(frame));
        let expected = expected_hypotheses(&searches["cool"]);
        greatest = greatest.max(assert_same(
            &found_hypotheses(&search),
            &expected,
            &format!("{index} cool"),
        ));

        let encoder = streaming_encoder(&config, &weights, &Device::Cpu).unwrap();
        let mut search = Search::new(Arc::new(Networks::new(sizes(&config), &weights).unwrap()));
        let values: Vec<f32> = source.flatten_all().unwrap().to_vec1().unwrap();
        let (mut state, mut output, mut rest) = (encoder.new_state(), Vec::new(), values.as_slice());
        for (window, expected) in searches["streamed"].as_array().unwrap().iter().enumerate() {
            let needed = encoder.geometry().frames_needed(state.steps) * encoder.geometry().num_features;
            let (features, others) = rest.split_at(needed);
            rest = others;
            let row = StepRow {
                state: &mut state,
                features,
                output: &mut output,
            };
            encoder.step(&mut [row]).unwrap();
            for frame in output.chunks_exact(search.frame_len()) {
                search.accept(frame);
            }
            let what = format!("{index}, window {window}");
            greatest = greatest.max(assert_same(
                &found_hypotheses(&search),
                &expected_hypotheses(expected),
                &what,
            ));
            compared += 1;
        }
    }
    assert!(compared >= 24, "only {compared} windows were compared");
    println!(
        "RNN-T search: {compared} windows and 8 whole utterances, token lists equal, scores within {greatest:.2e}"
    );
}

/// What is certain can be forgotten at any time: later hypotheses are the same but for it.
#[test]
fn forgetting_certain_tokens_changes_nothing_later() {
    let golden = Golden::load();
    let (index, variant) = golden.variants().nth(3).unwrap();
    let config = golden.config(variant, 3);
    let weights = golden.weights(index, &config, DType::F32);
    let networks = Arc::new(Networks::new(sizes(&config), &weights).unwrap());
    let frames: Vec<Vec<f32>> = golden
        .tensor(&format!("{index}.f32.stream"))
        .get(0)
        .unwrap()
        .to_vec2()
        .unwrap();
    let (mut whole, mut short) = (Search::new(Arc::clone(&networks)), Search::new(networks));
    let mut forgotten: Vec<i64> = Vec::new();
    for frame in &frames {
        whole.accept(frame);
        short.accept(frame);
        let count = short.num_certain();
        forgotten.extend(found_hypotheses(&short)[0].0.iter().take(count));
        short.forget(count);
        let found: Vec<(Vec<i64>, f64)> = found_hypotheses(&short)
            .into_iter()
            .map(|(tokens, score)| ([forgotten.clone(), tokens].concat(), score))
            .collect();
        assert_eq!(found, found_hypotheses(&whole));
    }
    assert!(forgotten.len() > 5, "{forgotten:?}");
}

#[test]
fn the_served_transcriber_equals_torchaudio_and_encode() {
    let golden = Golden::load();
    let mut greatest = 0f64;
    for (index, variant) in golden.variants() {
        let config = golden.config(variant, 3);
        let weights = golden.weights(index, &config, DType::F32);
        let expected = golden.tensor(&format!("{index}.f32.stream"));
        let encoder = Encoder::new(&config, &weights).unwrap();
        let source = golden.tensor(&format!("{index}.source"));
        let frames = expected.dim(1).unwrap() * 4;
        let source = source
            .narrow(1, 0, frames + sizes(&config).right_context_length)
            .unwrap();
        for mode in [Mode::Whole, Mode::Streaming] {
            let encoded = encoder.encode(&source, &[frames, frames], mode).unwrap();
            assert_eq!(encoded.lengths, [frames / 4; 2]);
            let what = format!("variant {index}, {mode:?}");
            let deviation = deviation(&encoded.output, &expected, &what);
            assert!(deviation <= F32_TOLERANCE, "{deviation} {what}");
            greatest = greatest.max(deviation);
        }
    }
    println!("RNN-T transcriber, served and whole: greatest deviation {greatest:.2e}");
}

fn kind(name: &str) -> &'static Kind {
    KINDS.iter().find(|kind| kind.name == name).unwrap()
}

struct Directory(PathBuf);

impl Directory {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("waxwing-{name}-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&path);
        Self(path)
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn small() -> Options {
    let set = json!({"transformer_num_heads": 2, "transformer_left_context_length": 6, "search": {"beam_width": 3}});
    Options {
        set: set.as_object().unwrap().clone(),
        id: Some("small".into()),
        ..Options::default()
    }
}

fn refusal(name: &str, path: &Path, options: &Options) -> String {
    let directory = Directory::new(&format!("refused-{name}"));
    let error = convert_file(kind(name), path, options, &directory.0).unwrap_err();
    assert!(!directory.0.join("config.json").exists());
    error.to_string()
}

fn expect(text: &str, parts: &[&str]) {
    for part in parts {
        assert!(text.contains(part), "`{part}` is not in: {text}");
    }
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

#[test]
fn wrong_inputs_are_named() {
    let golden = Golden::load();
    let (index, variant) = golden.variants().next().unwrap();
    let config = golden.config(variant, 3);
    let module = module(&config, &golden.weights(index, &config, DType::F32)).unwrap();
    let source = golden.tensor("0.source");
    for (tensors, parts) in [
        (
            inputs(&[("features", source.clone())]),
            &["lengths: expected a tensor of that name, found features"][..],
        ),
        (
            inputs(&[("tokens", numbers(&[11]).unsqueeze(0).unwrap())]),
            &["tokens: expected classes below 11, found 11"],
        ),
        (
            inputs(&[
                ("features", source.narrow(2, 0, 7).unwrap()),
                ("lengths", numbers(&[4, 4])),
            ]),
            &["features: expected frames of 8 values, found 7"],
        ),
        (
            inputs(&[("features", source.clone()), ("lengths", numbers(&[1000, 4]))]),
            &["lengths: expected at most 24, found 250"],
        ),
        (
            inputs(&[("features", source), ("beam", numbers(&[11]))]),
            &["beam: expected 1 to 10, found 11"],
        ),
    ] {
        let error = module.run(&tensors).unwrap_err();
        assert!(matches!(error, ModelError::Input { .. }), "{error}");
        expect(&error.to_string(), parts);
    }
}

/// One stream: its audio, where it is in it, and what it has said.
struct Stream {
    audio: Vec<f32>,
    at: usize,
    chunk: usize,
    extractor: Box<dyn waxwing_frontend::features::FeatureExtractor>,
    features: Vec<f32>,
    state: waxwing_model::encoder::StateCache,
    output: Vec<f32>,
    frames: Vec<f32>,
    transcriber: waxwing_model::transcript::Transcriber,
    finals: Vec<waxwing_model::transcript::Utterance>,
    most_bytes: usize,
}

impl Stream {
    fn new(model: &Model, audio: Vec<f32>, chunk: usize, max_utterance_ms: u32) -> Self {
        let options = waxwing_model::transcript::TranscriberOptions {
            endpointing: waxwing_model::transcript::Endpointing {
                silence_ms: 0,
                max_utterance_ms,
            },
            ..Default::default()
        };
        Self {
            audio,
            at: 0,
            chunk,
            extractor: model.features().extractor(16_000).unwrap(),
            features: Vec::new(),
            state: model.new_state(),
            output: Vec::new(),
            frames: Vec::new(),
            transcriber: model.transcriber(options),
            finals: Vec::new(),
            most_bytes: model.max_transcriber_bytes(&Default::default()),
        }
    }

    fn needed(&self, model: &Model) -> usize {
        model.geometry().frames_needed(self.state.steps) * model.geometry().num_features
    }

    /// Hears the next chunk; whether a step can be made.
    fn hear(&mut self, model: &Model) -> bool {
        let end = (self.at + self.chunk).min(self.audio.len());
        self.extractor.push(&self.audio[self.at..end], &mut self.features);
        self.at = end;
        self.features.len() >= self.needed(model)
    }

    fn is_done(&self, model: &Model) -> bool {
        self.at == self.audio.len() && self.features.len() < self.needed(model)
    }

    /// Checks what must hold of every partial, and takes the finals.
    fn decode(&mut self) {
        self.frames.extend_from_slice(&self.output);
        self.transcriber.accept(&self.output, &mut self.finals);
        assert!(self.transcriber.state_bytes() <= self.most_bytes);
        if let Some(partial) = self.transcriber.partial() {
            assert!(
                partial.words.iter().all(|word| word.start < word.end),
                "{partial:?}"
            );
            assert!(
                partial.words.windows(2).all(|pair| pair[0].end <= pair[1].start),
                "{partial:?}"
            );
        }
    }
}

fn steps(model: &Model, streams: &mut [&mut Stream]) {
    let needed: Vec<usize> = streams.iter().map(|stream| stream.needed(model)).collect();
    let mut rows: Vec<StepRow<'_>> = streams
        .iter_mut()
        .zip(&needed)
        .map(|(stream, needed)| StepRow {
            state: &mut stream.state,
            features: &stream.features[..*needed],
            output: &mut stream.output,
        })
        .collect();
    model.step(&mut rows).unwrap();
    drop(rows);
    for (stream, needed) in streams.iter_mut().zip(needed) {
        stream.features.drain(..needed);
        stream.decode();
    }
}

/// Audio to words, live: eight sessions that start at different times with different chunks, in one batch, say what each says
/// alone, and their frames are those of the original's way to stream, window by window.
#[test]
fn eight_live_sessions_equal_their_own_offline_runs() {
    let golden_data = Golden::load();
    let directory = Directory::new("live");
    std::fs::create_dir_all(&directory.0).unwrap();
    let stats = directory.0.join("stats.json");
    std::fs::write(
        &stats,
        json!({"mean": vec![9.0; 8], "invstddev": vec![0.4; 8]}).to_string(),
    )
    .unwrap();
    let options = Options {
        normalisation: Some(stats),
        tokens: Some(golden("tokens.model")),
        ..small()
    };
    let path = directory.0.join("model");
    convert_file(kind("rnnt"), &golden("rnnt.pt"), &options, &path).unwrap();
    let model = Model::load(&path).unwrap();
    let tone: Vec<f32> = flat(&golden_data.tensor("features.audio"))
        .iter()
        .map(|v| (*v / 32768.0) as f32)
        .collect();
    let audio = |session: usize| -> Vec<f32> {
        let tone = tone
            .iter()
            .cycle()
            .skip(session * 1_117)
            .take(36_000 + session * 2_001);
        tone.enumerate()
            .map(|(at, value)| value * (1.0 + (at as f32 * 3e-4).sin()))
            .collect()
    };
    let alone: Vec<Stream> = (0..8)
        .map(|session| {
            let mut stream = Stream::new(&model, audio(session), 100_000, 1_000);
            while !stream.is_done(&model) {
                stream.hear(&model);
                steps(&model, &mut [&mut stream]);
            }
            stream.finals.extend(stream.transcriber.finish());
            stream
        })
        .collect();
    let mut live: Vec<Stream> = (0..8)
        .map(|session| Stream::new(&model, audio(session), 160 + 731 * session, 1_000))
        .collect();
    for round in 0.. {
        if live.iter().all(|stream| stream.is_done(&model)) {
            break;
        }
        let mut ready: Vec<&mut Stream> = Vec::new();
        for (session, stream) in live.iter_mut().enumerate() {
            if round >= 13 * session && stream.hear(&model) {
                ready.push(stream);
            }
        }
        if !ready.is_empty() {
            steps(&model, &mut ready);
        }
    }
    let module = waxwing_model::module::load(&path).unwrap();
    let (mut words, mut cuts, mut greatest) = (0, 0, 0f64);
    for (session, (alone, live)) in alone.iter().zip(&mut live).enumerate() {
        live.finals.extend(live.transcriber.finish());
        assert_eq!(live.frames.len(), alone.frames.len());
        let pairs = live.frames.iter().zip(&alone.frames);
        let worst = pairs
            .map(|(live, alone)| (live - alone).abs())
            .fold(0.0, f32::max);
        assert!(worst <= 1e-4, "session {session}: {worst}");
        let text = |stream: &Stream| {
            stream
                .finals
                .iter()
                .map(|u| (u.start, u.text()))
                .collect::<Vec<_>>()
        };
        assert_eq!(text(live), text(alone), "session {session}");
        for pair in live.finals.windows(2) {
            assert!(pair[0].end <= pair[1].start && pair[0].utterance + 1 == pair[1].utterance);
        }
        cuts += live.finals.len().saturating_sub(1);
        words += live
            .finals
            .iter()
            .map(|utterance| utterance.words.len())
            .sum::<usize>();

        // torchaudio's way: each window's mel frames through the streaming transcriber.
        let mut values = Vec::new();
        model
            .features()
            .extractor(16_000)
            .unwrap()
            .push(&audio(session), &mut values);
        let mut inputs = BTreeMap::new();
        let mut expected: Vec<f64> = Vec::new();
        for window in values.chunks_exact(20 * 8) {
            let window = Tensor::from_slice(window, (1, 20, 8), &Device::Cpu).unwrap();
            inputs.insert("window".into(), window);
            inputs.insert("lengths".into(), numbers(&[20]));
            inputs = module.run(&inputs).unwrap();
            expected.extend(flat(&inputs.remove("output").unwrap()));
        }
        assert_eq!(live.frames.len(), expected.len());
        for (live, expected) in live.frames.iter().zip(expected) {
            greatest = greatest.max((f64::from(*live) - expected).abs());
        }
    }
    assert!(greatest <= F32_TOLERANCE, "{greatest}");
    assert!(
        words > 15 && cuts > 0,
        "only {words} words, {cuts} utterances were cut"
    );
    println!(
        "RNN-T live: 8 sessions, {words} words, {cuts} cuts, frames within {greatest:.2e} of the original's windows"
    );
}
