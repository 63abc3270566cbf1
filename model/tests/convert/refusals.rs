//! What is wrong with a checkpoint, or with what a model is run on, is said: what was expected, what was found.

use candle_core::{DType, Tensor};
use serde_json::Value;
use waxwing_model::ModelError;
use waxwing_model::convert::{KINDS, Tensors};
use waxwing_model::encode::{Encoder, Mode};
use waxwing_model::module;

use crate::support::{Case, Scratch, convert};

/// Of training, and left out by all kinds.
fn is_weight(name: &str) -> bool {
    !["num_batches_tracked", "h_init", "drop_masks", "drop_mask_te"]
        .iter()
        .any(|last| name.ends_with(last))
}

/// Its name in the architecture: wrappers are taken off, heads have a name of their own.
fn is_named(text: &str, name: &str) -> bool {
    let last_two: Vec<&str> = name.rsplit('.').take(2).collect();
    text.contains(name)
        || text.contains(name.strip_prefix("encoder.").unwrap_or(name))
        || text.contains(&format!("head.{}", last_two[0]))
}

fn refusal(case: &Case, tensors: &Tensors, scratch: &Scratch) -> String {
    match convert(case.kind(), tensors, &case.options(), scratch) {
        Err(ModelError::Checkpoint { problems, .. }) => problems.join("; "),
        other => panic!("{}: {other:?}", case.name()),
    }
}

#[test]
fn a_missing_a_further_and_a_damaged_tensor_is_named_for_every_kind() {
    let scratch = Scratch::new("tensors");
    for case in Case::all() {
        let whole = case.weights();
        let names: Vec<String> = whole.keys().filter(|name| is_weight(name)).cloned().collect();
        for name in &names {
            let mut tensors = whole.clone();
            tensors.remove(name);
            // Which parameters there are tells some cells apart, so that others may be asked for.
            let text = refusal(&case, &tensors, &scratch);
            assert!(
                ["missing", "expected", "not a tensor of"]
                    .iter()
                    .any(|part| text.contains(part)),
                "{}, {name}: {text}",
                case.name()
            );

            let mut tensors = whole.clone();
            tensors.insert(format!("{name}.surplus"), whole[name].clone());
            let text = refusal(&case, &tensors, &scratch);
            assert!(text.contains(".surplus"), "{}, {name}: {text}", case.name());

            let mut tensors = whole.clone();
            let mut values: Vec<f32> = whole[name].flatten_all().unwrap().to_vec1().unwrap();
            values[0] = f32::NAN;
            let damaged = Tensor::from_vec(values, whole[name].shape(), whole[name].device()).unwrap();
            tensors.insert(name.clone(), damaged);
            let text = refusal(&case, &tensors, &scratch);
            assert!(
                text.contains("expected finite values") && is_named(&text, name),
                "{}, {name}: {text}",
                case.name()
            );

            let mut tensors = whole.clone();
            let flat = whole[name].flatten_all().unwrap();
            tensors.insert(name.clone(), Tensor::cat(&[&flat, &flat], 0).unwrap());
            let text = refusal(&case, &tensors, &scratch);
            assert!(text.contains("expected"), "{}, {name}: {text}", case.name());
        }
        let mut tensors = whole.clone();
        tensors.insert(names[0].clone(), whole[&names[0]].to_dtype(DType::I64).unwrap());
        let text = refusal(&case, &tensors, &scratch);
        assert!(is_named(&text, &names[0]), "{}: {text}", case.name());
    }
}

#[test]
fn a_checkpoint_of_another_kind_is_recognised() {
    let scratch = Scratch::new("kinds");
    for case in Case::all() {
        let tensors = case.weights();
        for other in KINDS
            .iter()
            .filter(|other| !["as-is", case.kind().name].contains(&other.name))
        {
            // FunASR's FSMN is one network with two uses.
            if other.name.starts_with("fsmn-") && case.kind().name.starts_with("fsmn-") {
                continue;
            }
            let error = convert(other, &tensors, &case.options(), &scratch)
                .unwrap_err()
                .to_string();
            let expected = format!("expected a checkpoint of `{}`", other.name);
            let found = format!(
                "this looks like `{}",
                case.kind().name.split("-ctc").next().unwrap()
            );
            assert!(
                error.contains(&expected) && error.contains(&found),
                "{}: {error}",
                case.name()
            );
        }
    }
}

#[test]
fn lengths_that_no_utterance_has_and_other_shapes_are_refused() {
    let scratch = Scratch::new("lengths");
    for case in Case::all() {
        let directory = case.convert(&scratch);
        if case.row["encoded"].is_null() {
            continue;
        }
        let encoder = Encoder::load(&directory).unwrap();
        let features = case.tensor("features");
        let lengths: Vec<usize> = serde_json::from_value(case.row["encoded"]["lengths"].clone()).unwrap();
        let frames = lengths[0];
        for mode in [Mode::Whole, Mode::Streaming] {
            let refused = |features: &Tensor, lengths: &[usize], parts: &[&str]| {
                let error = encoder.encode(features, lengths, mode).unwrap_err();
                assert!(
                    matches!(error, ModelError::Input { .. }),
                    "{}: {error}",
                    case.name()
                );
                let text = error.to_string();
                assert!(
                    parts.iter().all(|part| text.contains(part)),
                    "{}: {text}",
                    case.name()
                );
            };
            let with = |length: usize| [&[length], &lengths[1..]].concat();
            refused(
                features,
                &with(0),
                &["lengths", &format!("1 to {frames} frames"), "found 0"],
            );
            refused(
                features,
                &with(frames + 1),
                &["lengths", &format!("found {}", frames + 1)],
            );
            refused(
                features,
                &[&lengths[..], &[1]].concat(),
                &["lengths", &format!("{} values", lengths.len())],
            );
            refused(
                &features.narrow(2, 1, features.dim(2).unwrap() - 1).unwrap(),
                &lengths,
                &["features", "frames of"],
            );
            refused(
                &features.flatten_to(1).unwrap(),
                &lengths,
                &["features", "3 dimensions"],
            );
        }
    }
}

#[test]
fn modules_name_inputs_that_are_missing_or_do_not_fit() {
    let scratch = Scratch::new("inputs");
    for case in Case::all().iter().filter(|case| case.row["runs"] != 0) {
        let module = module::load(&case.convert(&scratch)).unwrap();
        let inputs = case.below("0.inputs");
        for (name, value) in &inputs {
            let mut fewer = inputs.clone();
            fewer.remove(name);
            let is_optional = ["hidden", "cell", "pad_mask"].contains(&name.as_str());
            match module.run(&fewer) {
                Err(ModelError::Input { .. }) => {}
                Ok(_) => assert!(is_optional, "{}, {name}", case.name()),
                Err(other) => panic!("{}, {name}: {other}", case.name()),
            }
            if name != "lengths" {
                let mut other = inputs.clone();
                let axis = value.rank() - 1;
                let wider = Tensor::cat(&[value, value], axis).unwrap();
                other.insert(name.clone(), wider);
                let error = module.run(&other).unwrap_err();
                assert!(
                    matches!(error, ModelError::Input { .. }),
                    "{}, {name}: {error}",
                    case.name()
                );
            }
        }
        if let Some(lengths) = inputs.get("lengths") {
            for (change, part) in [
                (-100.0, "at least 1 frame"),
                (0.0, "at least 1 frame"),
                (100.0, "found"),
            ] {
                let mut other = inputs.clone();
                other.insert(
                    "lengths".into(),
                    (lengths.to_dtype(DType::F32).unwrap() * change).unwrap(),
                );
                let error = module.run(&other).unwrap_err().to_string();
                assert!(
                    error.contains("lengths") && error.contains(part),
                    "{}: {error}",
                    case.name()
                );
            }
        }
    }
}

/// A model in both directions, and one that sees whole utterances, say why they cannot stream.
#[test]
fn the_reason_is_told_why_a_model_cannot_stream() {
    let scratch = Scratch::new("stream");
    let mut reasons = Vec::new();
    for case in Case::all()
        .iter()
        .filter(|case| case.row["streams"] == Value::Bool(false) && !case.row["encoded"].is_null())
    {
        let encoder = Encoder::load(&case.convert(&scratch)).unwrap();
        let lengths: Vec<usize> = serde_json::from_value(case.row["encoded"]["lengths"].clone()).unwrap();
        let error = encoder
            .encode(case.tensor("features"), &lengths, Mode::Streaming)
            .unwrap_err();
        reasons.push(error.to_string());
    }
    for part in [
        "bidirectional",
        "sees the whole utterance",
        "gLN",
        "segments overlap",
    ] {
        assert!(
            reasons.iter().any(|reason| reason.contains(part)),
            "{part}: {reasons:#?}"
        );
    }
}
