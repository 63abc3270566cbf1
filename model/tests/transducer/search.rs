//! The beam search, in one call and with hypotheses carried on.

use candle_core::{DType, Device};
use serde_json::Value;
use std::sync::Arc;
use waxwing_model::architecture::{module, streaming_encoder};
use waxwing_model::encoder::StepRow;
use waxwing_model::transducer::{Networks, Search};

use crate::support::{Golden, flat, inputs, numbers, sizes};

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
