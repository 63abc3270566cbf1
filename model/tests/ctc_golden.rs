//! The beam search against other decoders on the same log-probs; `tests/golden/ctc.py` says which and how.

#![expect(clippy::expect_used, reason = "a helper of tests may fail as a test does")]

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use candle_core::{Device, Tensor};
use serde_json::Value;
use waxwing_model::ctc::{BeamHypothesis, NoScorer, Pruning, n_best};
use waxwing_model::tokens::Tokens;

fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../tests/golden")
        .join(name)
}

/// Each case: its name, what the others found, and its log-probs with their number of classes.
fn cases() -> Vec<(String, Value, Vec<f32>, usize)> {
    let load = |name| candle_core::safetensors::load(golden(name), &Device::Cpu).expect("committed");
    let mut tensors: HashMap<String, Tensor> = load("ctc.safetensors");
    tensors.extend(
        load("ctc_voice.safetensors")
            .into_values()
            .map(|voice| ("voice".to_owned(), voice)),
    );
    let text = std::fs::read_to_string(golden("ctc.json")).expect("committed");
    let Value::Object(table) = serde_json::from_str(&text).expect("JSON") else {
        unreachable!("a table of cases");
    };
    assert_eq!(table.len(), 37);
    table
        .into_iter()
        .map(|(name, results)| {
            let log_probs = &tensors[&name];
            let classes = log_probs.dims()[1];
            let values = log_probs
                .flatten_all()
                .and_then(|flat| flat.to_vec1())
                .expect("f32");
            (name, results, values, classes)
        })
        .collect()
}

fn search(log_probs: &[f32], classes: usize, pruning: Pruning, count: usize) -> Vec<BeamHypothesis> {
    let names: Vec<String> = (1..classes).map(|class| format!("t{class}")).collect();
    let tokens = Tokens::parse(&format!("<blank>\n{}", names.join("\n"))).expect("well-formed");
    n_best(Arc::new(tokens), log_probs, pruning, NoScorer, count)
}

fn ids(hypothesis: &BeamHypothesis) -> Vec<u64> {
    hypothesis
        .tokens
        .iter()
        .map(|token| u64::from(token.id))
        .collect()
}

fn numbers(value: &Value) -> Vec<u64> {
    let list = value.as_array().expect("a list");
    list.iter()
        .map(|number| number.as_u64().expect("a number"))
        .collect()
}

/// csr-pytorch's textbook search: every prefix of its beam and its score in `f64`.
#[test]
fn equals_the_textbook_search() {
    for (name, results, log_probs, classes) in cases() {
        let found = search(&log_probs, classes, Pruning::width_only(5), 5);
        let expected = results["textbook"].as_array().expect("n best");
        assert_eq!(found.len(), expected.len(), "{name}");
        for (found, expected) in found.iter().zip(expected) {
            assert_eq!(ids(found), numbers(&expected[0]), "{name}");
            let score = expected[1].as_f64().expect("a score");
            assert!(
                (found.score - score).abs() < 1e-9 * score.abs().max(1.0),
                "{name}: {} for {score}",
                found.score
            );
        }
    }
}

/// ctcdecode with 40 classes a frame: the prefixes and their scores as `f32` can tell them apart. The frame in which it
/// saw each token lies in our run of the token, or beside it where the beam heard the token twice.
#[test]
fn equals_ctcdecode() {
    let (mut in_run, mut near, mut tokens) = (0, 0, 0);
    for (name, results, log_probs, classes) in cases() {
        let pruning = Pruning {
            max_tokens: 40,
            ..Pruning::width_only(10)
        };
        let found = search(&log_probs, classes, pruning, 10);
        let expected = results["ctcdecode"].as_array().expect("n best");
        assert_eq!(found.len(), expected.len(), "{name}");
        for expected in expected {
            let score = expected[1].as_f64().expect("a score");
            let same = found.iter().find(|found| ids(found) == numbers(&expected[0]));
            let Some(same) = same else {
                // Rounding decides which of two equals is the last of the beam.
                let last = found[found.len() - 1].score;
                assert!(
                    (last - score).abs() < 1e-3,
                    "{name}: {expected} is missing, the last has {last}"
                );
                continue;
            };
            assert!(
                (same.score - score).abs() < 2e-3,
                "{name}: {} for {score}",
                same.score
            );
        }
        assert_eq!(ids(&found[0]), numbers(&expected[0][0]), "{name}");
        if name == "voice" {
            for (token, frame) in found[0].tokens.iter().zip(numbers(&expected[0][2])) {
                tokens += 1;
                in_run += usize::from((token.start..token.end).contains(&frame));
                near += usize::from((token.start.saturating_sub(2)..token.end + 2).contains(&frame));
            }
        }
    }
    assert!(tokens > 30 && near == tokens, "{near} of {tokens}");
    assert!(20 * in_run >= 19 * tokens, "{in_run} of {tokens}");
}

/// flashlight-text through torchaudio: where nothing is pruned, the sum over all paths. On the voice both beams are finite, and
/// what they leave out differs: theirs holds prefixes twice.
#[test]
fn equals_flashlight_without_pruning() {
    let mut compared = 0;
    for (name, results, log_probs, classes) in cases() {
        let Some(expected) = results["flashlight"].as_array() else {
            continue;
        };
        let width = if name == "voice" { 1000 } else { 100_000 };
        let found = search(&log_probs, classes, Pruning::width_only(width), 3);
        assert_eq!(ids(&found[0]), numbers(&expected[0][0]), "{name}");
        for (found, expected) in found.iter().zip(expected) {
            let score = expected[1].as_f64().expect("a score");
            let tolerance = if name == "voice" { 0.2 } else { 1e-4 };
            assert!(
                (found.score - score).abs() < tolerance,
                "{name}: {} for {score}",
                found.score
            );
            compared += 1;
        }
    }
    assert!(compared >= 20, "{compared}");
}

/// fast-ctc-decode above its threshold.
#[test]
fn equals_fast_ctc_decode() {
    for (name, results, log_probs, classes) in cases() {
        let expected = &results["fast_ctc_decode"];
        let threshold = expected["threshold"].as_f64().expect("a threshold") as f32;
        for width in [5, 20] {
            let pruning = Pruning {
                min_token_log_prob: threshold.ln(),
                ..Pruning::width_only(width)
            };
            let found = search(&log_probs, classes, pruning, 1);
            assert_eq!(
                ids(&found[0]),
                numbers(&expected[width.to_string()]),
                "{name}, beam of {width}"
            );
        }
    }
}
