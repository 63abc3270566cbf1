//! The text decoder against OpenAI's, and its promises. The data is made by `tests/golden/text_decoder.py`.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    reason = "helpers of tests fail and report as tests do"
)]

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use candle_core::{Device, Tensor};
use proptest::prelude::*;
use serde_json::Value;
use waxwing_model::loader::Weights;
use waxwing_model::precision::Precision;
use waxwing_model::text_decoder::{
    Memory, SPECIAL_NAMES, TextDecoder, TextDecoderConfig, TextVocabulary, expected_tensors,
};

#[path = "support/random.rs"]
mod random;

use random::Random;

const TOLERANCE: f64 = 1e-5;

fn vocabulary(classes: usize) -> Arc<TextVocabulary> {
    let texts = (0..classes - 3).map(|id| format!("▁{id}"));
    let names: Vec<String> = texts.chain(SPECIAL_NAMES.map(String::from)).collect();
    Arc::new(TextVocabulary::parse(&names.join("\n")).unwrap())
}

fn build(
    config: &TextDecoderConfig,
    dim: usize,
    classes: usize,
    bytes: &[u8],
    precision: Precision,
) -> TextDecoder {
    let weights = Weights::from_safetensors(bytes, &expected_tensors(dim, classes, config)).unwrap();
    TextDecoder::new(config, dim, vocabulary(classes), &weights, precision).unwrap()
}

/// A decoder with random weights, whose end is about as probable as it is in speech.
fn random_decoder(
    config: &TextDecoderConfig,
    dim: usize,
    classes: usize,
    seed: u64,
    precision: Precision,
) -> TextDecoder {
    let mut random = Random::new(seed);
    let tensors: HashMap<String, Tensor> = expected_tensors(dim, classes, config)
        .into_iter()
        .map(|(name, shape)| {
            let is_norm = name.ends_with("weight") && shape.len() == 1;
            let scale = match shape.as_slice() {
                [_] => 0.3,
                _ if name.ends_with("embedding.weight") || name.ends_with("positions") => {
                    2.0 / (dim as f32).sqrt()
                }
                [_, inputs] => 1.4 / (*inputs as f32).sqrt(),
                other => panic!("{other:?}"),
            };
            let values = random.values(shape.iter().product()).into_iter();
            let values: Vec<f32> = values
                .map(|value| value * scale + f32::from(u8::from(is_norm)))
                .collect();
            (name, Tensor::from_vec(values, shape, &Device::Cpu).unwrap())
        })
        .collect();
    build(
        config,
        dim,
        classes,
        &safetensors::serialize(&tensors, None).unwrap(),
        precision,
    )
}

const SIZES: TextDecoderConfig = TextDecoderConfig {
    num_layers: 2,
    num_heads: 3,
    ffn_dim: 40,
    max_tokens: 14,
};

const DIM: usize = 24;

const CLASSES: usize = 30;

fn decoder(seed: u64) -> TextDecoder {
    random_decoder(&SIZES, DIM, CLASSES, seed, Precision::F32)
}

fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../tests/golden")
        .join(name)
}

fn flat(tensor: &Tensor) -> Vec<f32> {
    tensor.flatten_all().unwrap().to_vec1().unwrap()
}

fn ids(value: &Value) -> Vec<u32> {
    serde_json::from_value(value.clone()).unwrap()
}

/// The largest difference, relative to what is beyond 1. A NaN anywhere is one that no tolerance allows.
fn difference(found: &[f32], expected: &[f32]) -> f64 {
    assert_eq!(found.len(), expected.len());
    let differences = found
        .iter()
        .zip(expected)
        .map(|(found, expected)| f64::from((found - expected).abs() / expected.abs().max(1.0)));
    differences.fold(
        0.0,
        |most, difference| if difference <= most { most } else { difference },
    )
}

#[test]
fn equals_openais_decoder_teacher_forced_and_step_by_step() {
    let table: Value =
        serde_json::from_str(&std::fs::read_to_string(golden("text_decoder.json")).unwrap()).unwrap();
    let tensors = candle_core::safetensors::load(golden("text_decoder.safetensors"), &Device::Cpu).unwrap();
    let cases = table.as_array().unwrap();
    assert_eq!(cases.len(), 3);
    let mut most_log_prob = 0.0f64;
    let mut most_score = 0.0f64;
    for (index, case) in cases.iter().enumerate() {
        let config: TextDecoderConfig = serde_json::from_value(case["config"].clone()).unwrap();
        let (dim, classes) = (
            case["dim"].as_u64().unwrap() as usize,
            case["classes"].as_u64().unwrap() as usize,
        );
        let prefix = format!("{index}.weights.");
        let weights: HashMap<&str, Tensor> = tensors
            .iter()
            .filter_map(|(name, tensor)| Some((name.strip_prefix(&prefix)?, tensor.clone())))
            .collect();
        let bytes = safetensors::serialize(&weights, None).unwrap();
        let decoder = build(&config, dim, classes, &bytes, Precision::F32);
        let memory = decoder.memory(&flat(&tensors[&format!("{index}.encoded")]));

        let texts: Vec<Vec<u32>> = case["texts"].as_array().unwrap().iter().map(ids).collect();
        let texts: Vec<&[u32]> = texts.iter().map(Vec::as_slice).collect();
        let scores: Vec<f64> = serde_json::from_value(case["scores"].clone()).unwrap();
        let found = decoder.score(&memory, &texts);
        assert_eq!(found.len(), scores.len());
        for ((found, expected), text) in found.iter().zip(&scores).zip(&texts) {
            // Per step, as their scores are sums.
            let off = (found - expected).abs() / (text.len() + 1) as f64;
            most_score = most_score.max(off);
            assert!(off < TOLERANCE, "{index} {text:?}: {found} {expected}");
        }
        for text in [2, 5] {
            let expected = flat(&tensors[&format!("{index}.log_probs.{text}")]);
            let off = difference(&decoder.log_probs(&memory, texts[text]), &expected);
            most_log_prob = most_log_prob.max(off);
            assert!(off < TOLERANCE, "{index} {text}: {off}");
        }

        let greedy = ids(&case["greedy"]);
        let greedy_score = case["greedy_score"].as_f64().unwrap();
        let [(tokens, score)] = decoder.search(&memory, 1, usize::MAX).try_into().unwrap();
        assert_eq!(tokens, greedy);
        assert!(
            (score - greedy_score).abs() < TOLERANCE * (greedy.len() + 1) as f64,
            "{score} {greedy_score}"
        );
        // The original's single-token steps over its cache.
        let off = difference(
            &decoder.log_probs(&memory, &greedy),
            &flat(&tensors[&format!("{index}.greedy")]),
        );
        most_log_prob = most_log_prob.max(off);
        assert!(off < TOLERANCE, "{index} greedy: {off}");
    }
    println!("largest difference of a log-prob {most_log_prob:.1e}, of a score per token {most_score:.1e}");
}

/// Random frames, and texts of random lengths of which some begin alike and some are equal.
fn utterance(seed: u64) -> (Vec<f32>, Vec<Vec<u32>>) {
    let mut random = Random::new(seed + 1000);
    let frames = 1 + random.below(40);
    let encoded = random.values(frames * DIM);
    let mut texts: Vec<Vec<u32>> = Vec::new();
    for _ in 0..1 + random.below(20) {
        let mut text = if texts.is_empty() || random.below(3) == 0 {
            Vec::new()
        } else {
            let earlier = &texts[random.below(texts.len())];
            earlier[..random.below(earlier.len() + 1)].to_vec()
        };
        let more = random.below(SIZES.max_text_tokens() + 1 - text.len());
        text.extend((0..more).map(|_| random.below(CLASSES - 3) as u32));
        texts.push(text);
    }
    (encoded, texts)
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(48) })]

    #[test]
    fn a_score_does_not_depend_on_the_company(seed in 0u64..10_000) {
        let decoder = decoder(seed);
        let (encoded, texts) = utterance(seed);
        let memory = decoder.memory(&encoded);
        let texts: Vec<&[u32]> = texts.iter().map(Vec::as_slice).collect();
        let together = decoder.score(&memory, &texts);
        for (text, together) in texts.iter().zip(together) {
            prop_assert!(together < 0.0 && together.is_finite());
            prop_assert_eq!(&decoder.score(&memory, &[text]), &[together]);
            // Equal to the sum of what the whole rows say.
            let rows = decoder.log_probs(&memory, text);
            let following = text.iter().copied().chain([decoder.vocabulary().end()]);
            let total: f64 = rows.chunks(CLASSES).zip(following).map(|(row, token)| f64::from(row[token as usize])).sum();
            prop_assert!((total - together).abs() < 1e-9);
            for row in rows.chunks(CLASSES) {
                let all: f64 = row.iter().map(|&log_prob| f64::from(log_prob).exp()).sum();
                prop_assert!((all - 1.0).abs() < 1e-5);
            }
        }
    }

    #[test]
    fn what_a_search_finds_is_scored_alike_and_no_width_finds_less_than_one(seed in 0u64..10_000, most in 0usize..12) {
        let decoder = decoder(seed);
        let memory = decoder.memory(&utterance(seed).0);
        let greedy = decoder.search(&memory, 1, most);
        prop_assert_eq!(greedy.len(), 1);
        for width in [1, 2, 4, 9] {
            let found = decoder.search(&memory, width, most);
            prop_assert_eq!(&decoder.search(&memory, width, most), &found);
            prop_assert!((1..=width).contains(&found.len()));
            prop_assert!(found[0].1 >= greedy[0].1);
            prop_assert!(found.is_sorted_by(|left, right| left.1 >= right.1));
            let texts: Vec<&[u32]> = found.iter().map(|(text, _)| text.as_slice()).collect();
            for (scored, (text, score)) in decoder.score(&memory, &texts).into_iter().zip(&found) {
                prop_assert!((scored - score).abs() < 1e-4, "{} {}", scored, score);
                prop_assert!(text.len() <= most && text.iter().all(|&id| id < decoder.vocabulary().start()));
            }
        }
    }

    #[test]
    fn a_margin_finds_more_and_nothing_better(seed in 0u64..10_000, most in 0usize..8) {
        let decoder = decoder(seed);
        let memory = decoder.memory(&utterance(seed).0);
        let found = decoder.search(&memory, 4, most);
        prop_assert_eq!(&decoder.search_within(&memory, 4, most, f64::NAN), &found);
        let within = decoder.search_within(&memory, 4, most, 3.0);
        let all = decoder.search_within(&memory, 4, most, f64::INFINITY);
        prop_assert!(all.len() == 4 || most == 0);
        prop_assert!(found.len() <= within.len() && within.len() <= all.len());
        for more in [&within, &all] {
            prop_assert_eq!(&more[0], &found[0]);
            prop_assert!(more.is_sorted_by(|left, right| left.1 >= right.1));
            let texts: std::collections::HashSet<_> = more.iter().map(|(text, _)| text).collect();
            prop_assert_eq!(texts.len(), more.len());
        }
        // Those that are near the best are the same whether the others are sought or not.
        let near = all.iter().take_while(|(_, score)| *score > all[0].1 - 3.0);
        for (near, within) in near.zip(&within) {
            prop_assert_eq!(near, within);
        }
    }

    #[test]
    fn a_memory_is_the_same_in_whatever_pieces_the_frames_come(seed in 0u64..10_000) {
        let decoder = decoder(seed);
        let (encoded, texts) = utterance(seed);
        let texts: Vec<&[u32]> = texts.iter().map(Vec::as_slice).collect();
        let mut random = Random::new(seed);
        let (mut pieces, mut rest) = (Memory::default(), encoded.as_slice());
        while !rest.is_empty() {
            let (piece, behind) = rest.split_at((random.below(5) * DIM).min(rest.len()));
            decoder.extend(&mut pieces, piece);
            rest = behind;
        }
        let whole = decoder.memory(&encoded);
        prop_assert_eq!(pieces.frames(), encoded.len() / DIM);
        prop_assert_eq!(decoder.score(&pieces, &texts), decoder.score(&whole, &texts));
    }
}

/// With so few texts that all of them can be scored, a beam that holds them all finds the best of all, in order.
#[test]
fn a_beam_that_holds_everything_finds_the_best_of_all_texts() {
    let (classes, most) = (6, 3);
    for seed in 0..20 {
        let decoder = random_decoder(&SIZES, DIM, classes, seed, Precision::F32);
        let memory = decoder.memory(&utterance(seed).0);
        let mut all: Vec<Vec<u32>> = vec![Vec::new()];
        let mut longest = all.clone();
        for _ in 0..most {
            let longer = |text: &Vec<u32>| {
                (0..classes as u32 - 3)
                    .map(|id| [text.as_slice(), &[id]].concat())
                    .collect::<Vec<_>>()
            };
            longest = longest.iter().flat_map(longer).collect();
            all.extend(longest.iter().cloned());
        }
        let texts: Vec<&[u32]> = all.iter().map(Vec::as_slice).collect();
        let scores = decoder.score(&memory, &texts);
        let best = (0..all.len())
            .max_by(|&left, &right| scores[left].total_cmp(&scores[right]))
            .unwrap();
        // 27 texts of three tokens are open at most, so that none ever loses its place.
        let found = decoder.search(&memory, 27, most);
        assert_eq!(found[0].0, all[best], "{seed}");
    }
}

#[test]
fn what_cannot_be_read_has_no_score_and_harms_nothing_else() {
    let decoder = decoder(1);
    let (encoded, _) = utterance(1);
    let memory = decoder.memory(&encoded);
    let vocabulary = Arc::clone(decoder.vocabulary());
    let (longest, too_long) = ([3; 12], [3; 13]);
    let special = [
        vocabulary.start(),
        vocabulary.silent(),
        vocabulary.end(),
        CLASSES as u32,
        u32::MAX,
    ];
    let mut texts: Vec<&[u32]> = vec![&longest, &too_long, &[]];
    texts.extend(special.iter().map(std::slice::from_ref));
    let scores = decoder.score(&memory, &texts);
    for (index, score) in scores.iter().enumerate() {
        assert_eq!(score.is_finite(), index == 0 || index == 2, "{index}");
    }
    assert!(
        scores[1..2]
            .iter()
            .chain(&scores[3..])
            .all(|&score| score == f64::NEG_INFINITY)
    );
    assert!(decoder.log_probs(&memory, &too_long).is_empty());
    assert!(decoder.score(&memory, &[]).is_empty());
    assert!(decoder.search(&memory, 0, 5).is_empty());
    assert!(decoder.search(&memory, usize::MAX, usize::MAX)[0].0.len() <= 12);

    let poisoned = |value: f32| {
        let mut encoded = encoded.clone();
        encoded[7] = value;
        decoder.memory(&encoded)
    };
    let wider = TextDecoderConfig {
        num_layers: 3,
        ..SIZES
    };
    let other = random_decoder(&wider, DIM, CLASSES, 1, Precision::F32);
    let foreign = other.memory(&encoded);
    let less_than_a_frame = decoder.memory(&encoded[..DIM - 1]);
    for memory in [
        poisoned(f32::NAN),
        poisoned(f32::INFINITY),
        Memory::default(),
        less_than_a_frame,
        foreign.clone(),
    ] {
        assert_eq!(decoder.score(&memory, &[&longest, &[]]), [f64::NEG_INFINITY; 2]);
        assert!(decoder.search(&memory, 4, 5).is_empty());
    }
    let mut untouched = foreign.clone();
    decoder.extend(&mut untouched, &encoded);
    assert_eq!(
        other.score(&untouched, &[&longest]),
        other.score(&foreign, &[&longest])
    );
    assert_eq!(decoder.score(&memory, &texts), scores);
}

#[test]
fn eight_bits_keep_scores_near() {
    for seed in 0..5 {
        let (encoded, texts) = utterance(seed);
        let texts: Vec<&[u32]> = texts.iter().map(Vec::as_slice).collect();
        let score = |precision| {
            let decoder = random_decoder(&SIZES, DIM, CLASSES, seed, precision);
            decoder.score(&decoder.memory(&encoded), &texts)
        };
        let (exact, rounded) = (score(Precision::F32), score(Precision::Int8));
        for ((exact, rounded), text) in exact.iter().zip(rounded).zip(&texts) {
            let off = (exact - rounded).abs() / (text.len() + 1) as f64;
            assert!(off > 0.0 && off < 0.2, "{seed} {}: {exact} {rounded}", text.len());
        }
    }
}

#[test]
fn the_cost_is_that_of_the_sizes() {
    let decoder = decoder(1);
    let (dim, ffn, layers) = (DIM as u64, SIZES.ffn_dim as u64, SIZES.num_layers as u64);
    assert_eq!(decoder.products_per_frame(), layers * 2 * dim * dim);
    let layer = 6 * dim * dim + 2 * dim * ffn + 2 * 50 * dim;
    assert_eq!(
        decoder.products_per_token(50),
        layers * layer + CLASSES as u64 * dim
    );
    assert_eq!(decoder.memory_bytes(50), SIZES.num_layers * 50 * 2 * DIM * 4);
}

#[test]
fn wrong_sizes_and_tensors_are_named() {
    let tensors: HashMap<String, Tensor> = expected_tensors(DIM, CLASSES, &SIZES)
        .into_iter()
        .map(|(name, shape)| {
            (
                name,
                Tensor::zeros(shape, candle_core::DType::F32, &Device::Cpu).unwrap(),
            )
        })
        .collect();
    let bytes = safetensors::serialize(&tensors, None).unwrap();
    let weights = Weights::from_safetensors(&bytes, &expected_tensors(DIM, CLASSES, &SIZES)).unwrap();
    let refused = |config: &TextDecoderConfig, dim: usize, classes: usize| {
        let built = TextDecoder::new(config, dim, vocabulary(classes), &weights, Precision::F32);
        built.err().unwrap().to_string()
    };
    for (message, part) in [
        (
            refused(&SIZES, DIM, CLASSES + 1),
            "text_decoder.embedding.weight: expected shape [31, 24], found [30, 24]",
        ),
        (
            refused(
                &TextDecoderConfig {
                    num_layers: 3,
                    ..SIZES
                },
                DIM,
                CLASSES,
            ),
            "text_decoder.layers.2.ffn.3.bias: missing, expected shape [24]",
        ),
        (
            refused(&SIZES, 0, CLASSES),
            "text_decoder.num_heads: expected a divisor of the encoder's width (0), found 3",
        ),
    ] {
        assert!(message.contains(part), "{part}: {message}");
    }
}
