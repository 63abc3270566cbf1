//! Times the prefix beam search alone, on one core: microseconds for each frame of log-probs in a file.
//!
//! ```text
//! cargo run --release --example bench_decode -- LOG_PROBS.safetensors WIDTH MAX_TOKENS MIN_TOKEN_LOG_PROB MAX_DISTANCE REPEATS [SESSIONS]
//! cargo run --release --example bench_decode -- LOG_PROBS.safetensors WIDTH MAX_TOKENS MIN_TOKEN_LOG_PROB MAX_DISTANCE REPEATS tokens ARPA WEIGHT
//! cargo run --release --example bench_decode -- LOG_PROBS.safetensors WIDTH MAX_TOKENS MIN_TOKEN_LOG_PROB MAX_DISTANCE REPEATS words ARPA WEIGHT TOKENS.txt
//! ```
//!
//! With SESSIONS the search in tensor operations decodes as many copies at once, and the time is that of one session's frame. With `tokens` a language
//! model scores every token (its words are `t1`, `t2` and so on, for the classes), with `words` every word that the tokens spell.
//! Prints the fastest repeat, as the other decoders' times are taken in `tests/golden/ctc_speed.py`, which calls this and prints ratios.
#![expect(clippy::print_stdout, reason = "the figure is the output")]

use std::error::Error;
use std::hint::black_box;
use std::sync::Arc;
use std::time::Instant;

use candle_core::{DType, Device, Tensor};
use waxwing_model::ctc::{BatchedBeam, Fusion, NoScorer, Pruning, Scorer, n_best};
use waxwing_model::language_model::{LanguageModel, LanguageModelState, WordId};
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
    if let [kind, arpa, weight, spellings @ ..] = sessions {
        let log_probs = log_probs.flatten_all()?.to_vec1::<f32>()?;
        let language_model = Arc::new(LanguageModel::load(arpa.as_ref())?);
        let (weight, repeats) = (weight.parse()?, repeats.parse()?);
        let seconds = match (kind.as_str(), spellings) {
            ("tokens", []) => {
                let scorer = TokenModel::new(&language_model, weight, classes);
                fastest(&numbered(classes)?, &log_probs, pruning, repeats, &scorer)
            }
            ("words", [file]) => {
                let tokens = Arc::new(Tokens::parse(&std::fs::read_to_string(file)?)?);
                let fusion = Fusion {
                    language_model: Some(language_model),
                    language_model_weight: weight,
                    unknown_word_log_prob: -10.0,
                    tokens: Some(Arc::clone(&tokens)),
                    ..Fusion::default()
                };
                fastest(&tokens, &log_probs, pruning, repeats, &fusion)
            }
            _ => return Err("expected `tokens ARPA WEIGHT` or `words ARPA WEIGHT TOKENS.txt`".into()),
        };
        println!("{:.4}", 1e6 * seconds / frames as f64);
        return Ok(());
    }
    if let Some(sessions) = sessions.first() {
        let sessions = sessions.parse::<usize>()?.max(1);
        println!("{:.4}", batched(log_probs, sessions, pruning, repeats.parse()?)?);
        return Ok(());
    }
    let log_probs = log_probs.flatten_all()?.to_vec1::<f32>()?;
    let best = fastest(
        &numbered(classes)?,
        &log_probs,
        pruning,
        repeats.parse()?,
        &NoScorer,
    );
    println!("{:.4}", 1e6 * best / frames as f64);
    Ok(())
}

/// Tokens that spell nothing that is a word: `t1`, `t2` and so on.
fn numbered(classes: usize) -> Result<Arc<Tokens>, Box<dyn Error>> {
    let names: Vec<String> = (1..classes).map(|class| format!("t{class}")).collect();
    Ok(Arc::new(Tokens::parse(&format!(
        "<blank>\n{}",
        names.join("\n")
    ))?))
}

/// Seconds of the fastest repeat.
fn fastest<S: Scorer + Clone>(
    tokens: &Arc<Tokens>,
    log_probs: &[f32],
    pruning: Pruning,
    repeats: usize,
    scorer: &S,
) -> f64 {
    let mut best = f64::INFINITY;
    for _ in 0..repeats.max(1) {
        let begin = Instant::now();
        let tokens = Arc::clone(tokens);
        black_box(n_best(tokens, black_box(log_probs), pruning, scorer.clone(), 1));
        best = best.min(begin.elapsed().as_secs_f64());
    }
    best
}

/// A language model whose words are tokens, as a decoder without a lexicon uses one.
#[derive(Clone)]
struct TokenModel {
    model: Arc<LanguageModel>,
    weight: f32,
    ids: Vec<WordId>,
}

impl TokenModel {
    fn new(model: &Arc<LanguageModel>, weight: f32, classes: usize) -> Self {
        Self {
            model: Arc::clone(model),
            weight,
            ids: (0..classes)
                .map(|class| model.word(&format!("t{class}")))
                .collect(),
        }
    }
}

impl Scorer for TokenModel {
    type State = LanguageModelState;

    fn start(&self) -> LanguageModelState {
        self.model.begin()
    }

    fn token(&self, state: &LanguageModelState, token: u32) -> (f32, LanguageModelState) {
        let (log_prob, next) = self.model.score(*state, self.ids[token as usize]);
        (self.weight * log_prob, next)
    }

    fn word(&self, state: &LanguageModelState, _word: &str) -> (f32, LanguageModelState) {
        (0.0, *state)
    }

    fn end(&self, state: &LanguageModelState) -> f32 {
        self.weight * self.model.end(*state)
    }

    fn best_token(&self) -> Option<f32> {
        Some(0.01)
    }

    fn best_word(&self) -> Option<f32> {
        // Only because ends are asked for where words have scores.
        Some(0.0)
    }
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
