//! Times the prefix beam search alone, on one core: microseconds for each frame of log-probs in a file.
//!
//! ```text
//! cargo run --release --example bench_decode -- LOG_PROBS.safetensors WIDTH MAX_TOKENS MIN_TOKEN_LOG_PROB MAX_DISTANCE REPEATS [SESSIONS]
//! ```
//!
//! With SESSIONS the search in tensor operations decodes as many copies at once, and the time is that of one session's frame.
//! Prints the fastest repeat, as the other decoders' times are taken in `tests/golden/ctc_speed.py`, which calls this and prints ratios.
#![expect(clippy::print_stdout, reason = "the figure is the output")]

use std::error::Error;
use std::hint::black_box;
use std::sync::Arc;
use std::time::Instant;

use candle_core::{DType, Device, Tensor};
use waxwing_model::ctc::{BatchedBeam, NoScorer, Pruning, n_best};
use waxwing_model::tokens::Tokens;

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [file, width, max_tokens, floor, distance, repeats, sessions @ ..] = arguments.as_slice() else {
        return Err(
            "expected LOG_PROBS WIDTH MAX_TOKENS MIN_TOKEN_LOG_PROB MAX_DISTANCE REPEATS [SESSIONS]".into(),
        );
    };
    let pruning = Pruning {
        beam_width: width.parse()?,
        max_tokens: max_tokens.parse()?,
        min_token_log_prob: floor.parse()?,
        max_distance: distance.parse()?,
        settle_frames: u64::MAX,
    };
    let tensors = candle_core::safetensors::load(file, &Device::Cpu)?;
    let log_probs = tensors.get("log_probs").ok_or("no tensor `log_probs`")?;
    let (frames, classes) = log_probs.dims2()?;
    if let Some(sessions) = sessions.first() {
        let sessions = sessions.parse::<usize>()?.max(1);
        println!("{:.4}", batched(log_probs, sessions, pruning, repeats.parse()?)?);
        return Ok(());
    }
    let log_probs = log_probs.flatten_all()?.to_vec1::<f32>()?;
    let names: Vec<String> = (1..classes).map(|class| format!("t{class}")).collect();
    let tokens = Arc::new(Tokens::parse(&format!("<blank>\n{}", names.join("\n")))?);
    let mut best = f64::INFINITY;
    for _ in 0..repeats.parse::<usize>()?.max(1) {
        let begin = Instant::now();
        black_box(n_best(
            Arc::clone(&tokens),
            black_box(&log_probs),
            pruning,
            NoScorer,
            1,
        ));
        best = best.min(begin.elapsed().as_secs_f64());
    }
    println!("{:.4}", 1e6 * best / frames as f64);
    Ok(())
}

/// Microseconds for a frame of one of `sessions` sessions that are decoded at once.
fn batched(
    log_probs: &Tensor,
    sessions: usize,
    pruning: Pruning,
    repeats: usize,
) -> Result<f64, Box<dyn Error>> {
    let (frames, classes) = log_probs.dims2()?;
    let device = Device::cuda_if_available(0)?;
    let rows = log_probs.to_device(&device)?.unsqueeze(1)?;
    let rows = rows.broadcast_as((frames, sessions, classes))?.contiguous()?;
    let active = Tensor::ones(sessions, DType::U8, &device)?;
    let mut best = f64::INFINITY;
    for _ in 0..repeats.max(1) {
        let begin = Instant::now();
        let mut beams = BatchedBeam::new(sessions, classes, 0, pruning, &device)?;
        for frame in 0..frames {
            beams.step(&rows.get(frame)?, &active)?;
        }
        black_box(beams.n_best(1)?);
        best = best.min(begin.elapsed().as_secs_f64());
    }
    Ok(1e6 * best / (frames * sessions) as f64)
}
