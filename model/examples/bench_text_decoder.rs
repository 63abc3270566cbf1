//! Times the text decoder on one core, with random weights of the sizes of Whisper tiny and a vocabulary of 5003 names.
//!
//! ```text
//! cargo run --release --example bench_text_decoder -- [FRAMES [TEXTS [TOKENS [WIDTH [REPEATS]]]]]
//! ```
//!
//! For each precision the milliseconds, the median of the repeats, of reading the frames; of scoring texts that have nothing
//! in common, and texts that differ in their second half only, as those of one beam do; of a greedy search and a beam,
//! whose texts are kept from ending before they have all their tokens; and the multiply-adds of a second in each.
#![expect(clippy::print_stdout, reason = "the figures are the output")]

use std::error::Error;
use std::hint::black_box;
use std::sync::Arc;
use std::time::Instant;

use std::collections::HashMap;

use candle_core::{Device, Tensor};
use waxwing_model::loader::Weights;
use waxwing_model::precision::Precision;
use waxwing_model::text_decoder::{
    SPECIAL_NAMES, TextDecoder, TextDecoderConfig, TextVocabulary, expected_tensors,
};

const DIM: usize = 384;

const CLASSES: usize = 5003;

const CONFIG: TextDecoderConfig = TextDecoderConfig {
    num_layers: 4,
    num_heads: 6,
    ffn_dim: 1536,
    max_tokens: 448,
};

/// Numbers in −1..1.
fn noise(state: &mut u64, count: usize) -> Vec<f32> {
    (0..count)
        .map(|_| {
            *state ^= *state << 13;
            *state ^= *state >> 7;
            *state ^= *state << 17;
            (*state >> 40) as f32 / (1u64 << 23) as f32 - 1.0
        })
        .collect()
}

fn decoder(precision: Precision) -> Result<TextDecoder, Box<dyn Error>> {
    let texts = (0..CLASSES - SPECIAL_NAMES.len()).map(|id| format!("▁{id}"));
    let names: Vec<String> = texts.chain(SPECIAL_NAMES.map(String::from)).collect();
    let expected = expected_tensors(DIM, CLASSES, &CONFIG);
    let mut state = 7;
    let mut values_of = HashMap::new();
    for (name, shape) in &expected {
        let scale = if shape.len() == 1 { 0.3 } else { 0.08 };
        let is_norm = shape.len() == 1 && name.ends_with("weight");
        let values = noise(&mut state, shape.iter().product()).into_iter();
        let values: Vec<f32> = values
            .map(|value| value * scale + f32::from(u8::from(is_norm)))
            .collect();
        values_of.insert(name.as_str(), values);
    }
    // Against the last norm's offset, so that no text ends before it has all its tokens.
    let against: Vec<f32> = values_of
        .get("text_decoder.norm.bias")
        .into_iter()
        .flatten()
        .map(|bias| -20.0 * bias)
        .collect();
    if let Some(embedding) = values_of.get_mut("text_decoder.embedding.weight") {
        let end = embedding.len() - DIM;
        embedding[end..].copy_from_slice(&against);
    }
    let mut tensors = HashMap::new();
    for (name, shape) in &expected {
        let values = values_of.remove(name.as_str()).unwrap_or_default();
        tensors.insert(name, Tensor::from_vec(values, shape.as_slice(), &Device::Cpu)?);
    }
    let weights = Weights::from_safetensors(&safetensors::serialize(tensors, None)?, &expected)?;
    let vocabulary = Arc::new(TextVocabulary::parse(&names.join("\n"))?);
    Ok(TextDecoder::new(&CONFIG, DIM, vocabulary, &weights, precision)?)
}

/// Median of the repeats, in milliseconds.
fn milliseconds<R>(repeats: usize, mut work: impl FnMut() -> R) -> f64 {
    let mut times: Vec<f64> = (0..=repeats)
        .map(|_| {
            let begin = Instant::now();
            black_box(work());
            1e3 * begin.elapsed().as_secs_f64()
        })
        .skip(1)
        .collect();
    times.sort_by(f64::total_cmp);
    times.get(times.len() / 2).copied().unwrap_or(f64::NAN)
}

fn main() -> Result<(), Box<dyn Error>> {
    let mut sizes = [200, 8, 12, 4, 9];
    for (size, argument) in sizes.iter_mut().zip(std::env::args().skip(1)) {
        *size = argument.parse()?;
    }
    let [frames, num_texts, num_tokens, width, repeats] = sizes;
    let mut state = 3;
    let encoded: Vec<f32> = noise(&mut state, frames * DIM);
    let text = |seed: usize, id: usize| ((seed * 7919 + id * 104_729) % (CLASSES - 3)) as u32;
    let apart: Vec<Vec<u32>> = (0..num_texts)
        .map(|seed| (0..num_tokens).map(|id| text(seed, id)).collect())
        .collect();
    let alike: Vec<Vec<u32>> = (0..num_texts)
        .map(|seed| {
            (0..num_tokens)
                .map(|id| text(if id < num_tokens / 2 { 0 } else { seed }, id))
                .collect()
        })
        .collect();
    println!("{frames} frames, {num_texts} texts of {num_tokens} tokens");
    for precision in [Precision::F32, Precision::Int8] {
        let decoder = decoder(precision)?;
        let memory = decoder.memory(&encoded);
        let report = |what: &str, products: u64, time: f64| {
            println!(
                "{precision:>4} {what:<28} {time:8.2} ms {:6.1} G/s",
                products as f64 / time / 1e6
            );
        };
        let of_frames = frames as u64 * decoder.products_per_frame();
        report(
            "memory",
            of_frames,
            milliseconds(repeats, || decoder.memory(&encoded)),
        );
        // The two tokens of the prompt cost once.
        let per_token = decoder.products_per_token(frames);
        let score = |texts: &[Vec<u32>]| {
            let texts: Vec<&[u32]> = texts.iter().map(Vec::as_slice).collect();
            milliseconds(repeats, || decoder.score(&memory, &texts))
        };
        let rows = 2 + num_texts * num_tokens;
        report("score, nothing in common", rows as u64 * per_token, score(&apart));
        let rows = 2 + num_texts * (num_tokens - num_tokens / 2) + num_tokens / 2;
        report(
            "score, first half in common",
            rows as u64 * per_token,
            score(&alike),
        );
        for width in [1, width] {
            let rows = 2 + width * num_tokens;
            let what = format!("search of {width}");
            let time = milliseconds(repeats, || decoder.search(&memory, width, num_tokens));
            report(&what, rows as u64 * per_token, time);
        }
    }
    Ok(())
}
