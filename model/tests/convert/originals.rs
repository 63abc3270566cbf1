//! Every kind's checkpoint runs to its original's results: `encode`, `encode --streaming` where it is causal, `run`.

use std::collections::BTreeSet;

use candle_core::{DType, Tensor};
use serde_json::Value;
use waxwing_model::convert::Options;
use waxwing_model::encode::{Encoder, Mode};
use waxwing_model::vad::{SpeechEvent, VadModel};
use waxwing_model::{Config, ModelError, module};

use crate::support::{Case, Scratch, convert, folder, kind};

const TOLERANCE: f64 = 1e-5;

fn values(tensor: &Tensor) -> Vec<f64> {
    let tensor = tensor.to_dtype(DType::F64).unwrap();
    tensor.flatten_all().unwrap().to_vec1().unwrap()
}

/// Relative to values above 1, which a network with lags for weights can give.
fn assert_equal(found: &Tensor, expected: &Tensor, what: &str) {
    assert_eq!(found.dims(), expected.dims(), "{what}");
    let pairs = values(found).into_iter().zip(values(expected));
    let most = pairs
        .map(|(found, expected)| (found - expected).abs() / expected.abs().max(1.0))
        // `f64::max` would pass over a NaN.
        .fold(0.0, |most, d| if d <= most { most } else { d });
    assert!(most <= TOLERANCE, "{what}: {most:e}");
}

#[test]
fn every_checkpoint_runs_to_its_originals_results() {
    let scratch = Scratch::new("run");
    let mut kinds = BTreeSet::new();
    for case in Case::all() {
        let module = module::load(&case.convert(&scratch)).unwrap();
        for run in 0..case.row["runs"].as_u64().unwrap() {
            let found = module.run(&case.below(&format!("{run}.inputs"))).unwrap();
            for (name, expected) in case.below(&format!("{run}.outputs")) {
                let mut found = found[&name].clone();
                if name == "output" && found.rank() == 3 {
                    // With relative lengths the original's output ends with the longest item.
                    found = found.narrow(1, 0, expected.dim(1).unwrap()).unwrap();
                }
                assert_equal(&found, &expected, &format!("{}, {run}, {name}", case.name()));
                kinds.insert(case.kind().name);
            }
        }
    }
    let expected = [
        "attentional-rnn-decoder",
        "fsmn",
        "fsmn-ctc",
        "fsmn-vad",
        "recurrent",
        "recurrent-cells",
        "sense-voice",
        "skim",
    ];
    assert_eq!(kinds.into_iter().collect::<Vec<_>>(), expected);
}

#[test]
fn every_encoder_encodes_whole_and_streams_where_it_is_causal() {
    let scratch = Scratch::new("encode");
    let (mut streamed, mut refused) = (BTreeSet::new(), 0);
    for case in Case::all().iter().filter(|case| !case.row["encoded"].is_null()) {
        let encoder = Encoder::load(&case.convert(&scratch)).unwrap();
        let lengths: Vec<usize> = serde_json::from_value(case.row["encoded"]["lengths"].clone()).unwrap();
        let encode = |mode| encoder.encode(case.tensor("features"), &lengths, mode);
        let mut results = vec![encode(Mode::Whole).unwrap()];
        match encode(Mode::Streaming) {
            Ok(result) => {
                assert_eq!(case.row["streams"], true, "{}", case.name());
                streamed.insert(case.kind().name);
                results.push(result);
            }
            Err(error) => {
                assert_eq!(case.row["streams"], false, "{}: {error}", case.name());
                assert!(matches!(error, ModelError::CannotStream { .. }), "{error}");
                let text = error.to_string();
                assert!(
                    text.contains("Run it on whole utterances") || text.contains("POST"),
                    "{text}"
                );
                refused += 1;
            }
        }
        for result in results {
            let found = result.into_tensors().unwrap();
            for output in case.row["encoded"]["outputs"].as_array().unwrap() {
                let output = output.as_str().unwrap();
                for (item, expected) in case.below(&format!("encoded.{output}")) {
                    let item: usize = item.parse().unwrap();
                    let own = found[output].get(item).unwrap();
                    let own = own.narrow(0, 0, expected.dim(0).unwrap()).unwrap();
                    assert_equal(&own, &expected, &format!("{}, {output} of {item}", case.name()));
                }
            }
        }
    }
    let expected = ["fsmn", "fsmn-ctc", "fsmn-vad", "recurrent", "sanm", "skim"];
    assert_eq!(streamed.into_iter().collect::<Vec<_>>(), expected);
    // SenseVoice, two in both directions, SkiM twice.
    assert!(refused >= 4, "{refused}");
}

#[test]
fn a_voice_activity_model_has_its_files_settings() {
    let scratch = Scratch::new("vad");
    let case = Case::first("fsmn-vad");
    let model = VadModel::load(&case.convert(&scratch)).unwrap();
    assert_eq!(model.config().max_end_silence_time, 700);
    assert_eq!(model.features().num_features() % 80, 0);
    let mut events = Vec::new();
    let mut stream = model.stream(8_000, None).unwrap();
    stream.push(&[0.1; 8_000], &mut events).unwrap();
    stream.finish(&mut events).unwrap();
    assert!(!stream.is_speaking());

    // `run` hears sound, too, and decides on the network's probabilities.
    let module = module::load(&scratch.0.join(case.name())).unwrap();
    let run = |inputs: &[(&str, Tensor)]| {
        let inputs = inputs
            .iter()
            .map(|(name, tensor)| ((*name).to_owned(), tensor.clone()));
        module.run(&inputs.collect())
    };
    let device = candle_core::Device::Cpu;
    let samples = Tensor::full(0.1f32, 8_000, &device).unwrap();
    let rate = Tensor::new(&[8_000i64], &device).unwrap();
    let found = run(&[("samples", samples.clone()), ("sample_rate", rate)]).unwrap();
    let expected: Vec<i64> = events
        .iter()
        .map(|event| match event {
            SpeechEvent::Start(time) | SpeechEvent::End(time) => *time as i64,
        })
        .collect();
    let segments = found["segments"].flatten_all().unwrap();
    assert_eq!(segments.to_vec1::<i64>().unwrap(), expected);
    let input = case.tensor("features").narrow(0, 0, 1).unwrap();
    assert!(run(&[("input", input)]).unwrap().contains_key("segments"));
    let error = run(&[("samples", samples.reshape((2, 4_000)).unwrap())])
        .unwrap_err()
        .to_string();
    assert!(error.contains("samples: expected 1 dimension"), "{error}");

    let changed = |from: &str, to: &str| {
        let original = std::fs::read_to_string(case.options().original_config.unwrap()).unwrap();
        let file = scratch.0.join("config.yaml");
        std::fs::write(&file, original.replace(from, to)).unwrap();
        let options = Options {
            original_config: Some(file),
            ..case.options()
        };
        convert(case.kind(), &case.weights(), &options, &scratch)
            .unwrap_err()
            .to_string()
    };
    for (from, to, expected) in [
        (
            "decibel_thres: -100.0",
            "decibel_thres: -40.0",
            "model_conf.decibel_thres: expected -100.0",
        ),
        ("n_mels: 80", "n_mels: 77", "expected a multiple of n_mels (77)"),
        ("frontend_conf:", "frontend_conf", "expected `name: value`"),
        ("window: hamming", "window: round", "unknown variant `round`"),
        ("max_end_silence_time: 700", "max_end_silence_time: soon", "vad"),
    ] {
        let error = changed(from, to);
        assert!(error.contains(expected), "{to}: {error}");
    }
    let options = Options {
        normalisation: None,
        ..case.options()
    };
    let error = convert(case.kind(), &case.weights(), &options, &scratch)
        .unwrap_err()
        .to_string();
    assert!(error.contains("normalisation: missing"), "{error}");
    let short = scratch.0.join("short.mvn");
    std::fs::write(
        &short,
        "<AddShift> 2 2\n<LearnRateCoef> 0 [ 1 2 ]\n<Rescale> 2 2\n<LearnRateCoef> 0 [ 1 1 ]\n",
    )
    .unwrap();
    let options = Options {
        normalisation: Some(short),
        ..case.options()
    };
    let error = convert(case.kind(), &case.weights(), &options, &scratch)
        .unwrap_err()
        .to_string();
    assert!(error.contains("the encoder's input_dim, found 2"), "{error}");
}

/// The rows of a cvFSMN's table tell today's layout from that of the documented commit.
#[test]
fn the_tables_layout_is_told_by_its_rows() {
    let scratch = Scratch::new("table");
    let tables = || {
        Case::all()
            .into_iter()
            .filter(|case| case.kind().name == "fsmn" && case.weights().contains_key("fsmn_layers.0._bias1"))
    };
    let compact = |case: &Case| case.weights().contains_key("fsmn_layers.0.embeddings_table");
    let layout = |config: &Config| {
        let encoder = serde_json::to_value(config).unwrap()["encoder"].clone();
        (encoder["memory_size"].clone(), encoder["table"].clone())
    };
    let (mut older, mut today) = (0, 0);
    for case in tables().filter(compact) {
        let weights = case.weights();
        let rows = weights["fsmn_layers.0.embeddings_table"].dim(0).unwrap();
        let mut options = case.options();
        let given = options.set.remove("memory_size");
        match given {
            Some(memory) => {
                // Without ones at its end it could be either.
                let error = convert(case.kind(), &weights, &options, &scratch)
                    .unwrap_err()
                    .to_string();
                let both = format!(
                    "--set memory_size={} today, and was that of {}",
                    rows - 2,
                    rows - 1
                );
                assert!(error.contains(&both), "{error}");
                options.set.insert("memory_size".into(), memory.clone());
                let config = convert(case.kind(), &weights, &options, &scratch).unwrap();
                assert_eq!(layout(&config), (memory, Value::from("n_plus_1")));
                options.set.insert("memory_size".into(), (rows - 2).into());
                let config = convert(case.kind(), &weights, &options, &scratch).unwrap();
                assert_eq!(layout(&config), (Value::from(rows - 2), Value::from("n_plus_2")));
                options.set.insert("memory_size".into(), 50.into());
                let error = convert(case.kind(), &weights, &options, &scratch)
                    .unwrap_err()
                    .to_string();
                assert!(
                    error.contains(&format!(
                        "expected 52 rows for --set memory_size=50 (51 up to commit 172dd9e), found {rows}"
                    )),
                    "{error}"
                );
                older += 1;
            }
            None => {
                let config = convert(case.kind(), &weights, &options, &scratch).unwrap();
                assert_eq!(layout(&config), (Value::from(rows - 2), Value::from("n_plus_2")));
                today += 1;
            }
        }
    }
    assert!(older > 0 && today > 0);
    // Cells whose lags are their weights have no table.
    let scalar = tables().find(|case| !compact(case)).unwrap();
    let error = convert(scalar.kind(), &scalar.weights(), &Options::default(), &scratch)
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("missing field `memory_size`") && error.contains("--set memory_size=20"),
        "{error}"
    );
}

/// With tokens, the last layer of a stack becomes a CTC head: its log-probs are those of the original's outputs.
#[test]
fn a_stack_with_tokens_ends_in_a_head() {
    let scratch = Scratch::new("head");
    let case = Case::first("fsmn");
    let classes = case.weights()["linear2.weight"].dim(0).unwrap();
    let tokens: String = (0..classes)
        .map(|class| {
            if class == 0 {
                "<blank>\n".into()
            } else {
                format!("▁t{class}\n")
            }
        })
        .collect();
    let file = scratch.0.join("tokens.txt");
    std::fs::write(&file, tokens).unwrap();
    let options = Options {
        tokens: Some(file),
        ..case.options()
    };
    let config = convert(case.kind(), &case.weights(), &options, &scratch).unwrap();
    assert!(config.ctc.is_some());
    let found = module::load(&scratch.0.join("model"))
        .unwrap()
        .run(&case.below("0.inputs"))
        .unwrap();
    let expected = candle_nn::ops::log_softmax(&case.below("0.outputs")["output"], 2).unwrap();
    assert_equal(&found["log_probs"], &expected, "log-probs");
}

#[test]
fn sense_voice_takes_its_settings_from_its_files() {
    let scratch = Scratch::new("sense-voice");
    let case = Case::first("sense-voice");
    let file = scratch.0.join("config.yaml");
    std::fs::write(
        &file,
        "encoder_conf:\n    attention_heads: 2\n    sanm_shfit: 0\n",
    )
    .unwrap();
    let options = Options {
        original_config: Some(file),
        ..Options::default()
    };
    let config = convert(case.kind(), &case.weights(), &options, &scratch).unwrap();
    let encoder = serde_json::to_value(&config).unwrap()["encoder"].clone();
    assert_eq!(
        (&encoder["attention_heads"], &encoder["queries"]),
        (&Value::from(2), &serde_json::json!([0, 1, 2, 15]))
    );
    // A SentencePiece model whose first piece, the unknown, stands where the blank is.
    let pieces = folder().join("../rnnt/tokens.model");
    let options = Options {
        tokens: Some(pieces),
        ..options
    };
    let converted = convert(case.kind(), &case.weights(), &options, &scratch);
    assert!(converted.is_ok(), "{converted:?}");
    let tokens = std::fs::read_to_string(scratch.0.join("model/tokens.txt")).unwrap();
    assert!(tokens.starts_with("<blank>\n"), "{tokens}");
    // Without its queries' table and its head it is still an encoder.
    let mut bare = case.weights();
    bare.retain(|name, _| name.starts_with("encoder."));
    let config = convert(kind("sense-voice"), &bare, &case.options(), &scratch).unwrap();
    assert!(config.ctc.is_none());
}
