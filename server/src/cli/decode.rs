//! `waxwing decode`: the decoders of sessions on log-probs of a file, for comparison with other implementations.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, anyhow, bail};
use clap::Args;
use safetensors::{Dtype, SafeTensors};
use serde::Serialize;
use waxwing_model::ctc::{BeamHypothesis, Decoding, NoScorer, best_path_tokens, n_best};
use waxwing_model::hypothesis::join_tokens;
use waxwing_model::tokens::Tokens;

use super::{Failure, Outcome};

const TOKENS: &str = "tokens.txt";
/// Of the shipped model; only the tails of words depend on it.
const FRAME: Duration = Duration::from_millis(20);

/// Run a CTC decoder on the log-probs of a file
#[derive(Debug, Args)]
pub(super) struct Arguments {
    /// Model directory; only its `tokens.txt` is needed
    #[arg(value_name = "DIR")]
    model: PathBuf,
    /// `log_probs` (frames, classes) f32
    #[arg(long, value_name = "FILE")]
    log_probs: PathBuf,
    /// Prefixes kept from frame to frame; 1 is the best path
    #[arg(long, value_name = "N", default_value_t = Decoding::default().beam_width)]
    beam: usize,
    /// Hypotheses to write, the best first
    #[arg(long, value_name = "N", default_value_t = 1)]
    nbest: usize,
    /// Most probable classes that are tried in a frame
    #[arg(long, value_name = "N", default_value_t = Decoding::default().max_tokens)]
    max_tokens: usize,
    /// Least natural log-probability of a class that is tried
    #[arg(long, value_name = "X", default_value_t = Decoding::default().min_token_log_prob, allow_negative_numbers = true)]
    min_token_log_prob: f32,
    /// Prefixes further below the best one, in natural logs, are dropped
    #[arg(long, value_name = "X", default_value_t = Decoding::default().max_distance)]
    max_distance: f32,
}

/// One line of output. Times are output frames.
#[derive(Debug, Serialize)]
struct Line<'a> {
    rank: usize,
    text: String,
    /// Natural log of the probability, of the one best path where there is no beam; with what the scorers added.
    score: f64,
    /// What the scorers added.
    scored: f64,
    words: Vec<Word>,
    tokens: Vec<Token<'a>>,
}

#[derive(Debug, Serialize)]
struct Word {
    word: String,
    start: u64,
    end: u64,
    confidence: f32,
}

#[derive(Debug, Serialize)]
struct Token<'a> {
    token: &'a str,
    id: u32,
    start: u64,
    end: u64,
    log_posterior: f32,
}

pub(super) fn run(arguments: &Arguments) -> Outcome {
    let decoding = Decoding {
        beam_width: arguments.beam,
        max_tokens: arguments.max_tokens,
        min_token_log_prob: arguments.min_token_log_prob,
        max_distance: arguments.max_distance,
        ..Decoding::default()
    };
    decoding
        .validate()
        .map_err(|error| Failure::Usage(error.into()))?;
    let path = arguments.model.join(TOKENS);
    let text = std::fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
    let tokens = Arc::new(Tokens::parse(&text).with_context(|| path.display().to_string())?);
    let log_probs = read_log_probs(&arguments.log_probs, tokens.len())?;
    let frames = (log_probs.len() / tokens.len()) as u64;
    let found = if decoding.beam_width == 1 {
        vec![best_path_tokens(&tokens, &log_probs)]
    } else {
        n_best(
            Arc::clone(&tokens),
            &log_probs,
            decoding.pruning(FRAME),
            NoScorer,
            arguments.nbest,
        )
    };
    let mut out = std::io::stdout().lock();
    for (rank, hypothesis) in (1..).zip(found.iter().take(arguments.nbest)) {
        let line = serde_json::to_string(&line(rank, hypothesis, &tokens, frames))?;
        writeln!(out, "{line}")?;
    }
    Ok(out.flush()?)
}

fn line<'a>(rank: usize, hypothesis: &BeamHypothesis, tokens: &'a Tokens, frames: u64) -> Line<'a> {
    let joined = join_tokens(tokens, &hypothesis.tokens, FRAME, frames);
    let text = joined.as_ref().map(|joined| joined.text()).unwrap_or_default();
    let words = joined.map(|joined| joined.words).unwrap_or_default();
    Line {
        rank,
        text,
        score: hypothesis.score,
        scored: hypothesis.scored,
        words: words
            .into_iter()
            .map(|word| Word {
                word: word.word,
                start: word.start,
                end: word.end,
                confidence: word.confidence,
            })
            .collect(),
        tokens: hypothesis
            .tokens
            .iter()
            .map(|token| Token {
                token: tokens.name(token.id).unwrap_or_default(),
                id: token.id,
                start: token.start,
                end: token.end,
                log_posterior: token.log_posterior,
            })
            .collect(),
    }
}

/// `(frames, classes) f32`, row by row.
fn read_log_probs(path: &Path, classes: usize) -> anyhow::Result<Vec<f32>> {
    let bytes = std::fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
    let file = SafeTensors::deserialize(&bytes)
        .with_context(|| format!("{}: expected a safetensors file", path.display()))?;
    let tensor = file.tensor("log_probs").map_err(|_| {
        let names = file
            .names()
            .into_iter()
            .map(|name| format!("`{name}`"))
            .collect::<Vec<_>>();
        anyhow!(
            "{}: expected a tensor `log_probs`, found {}",
            path.display(),
            names.join(", ")
        )
    })?;
    match (tensor.dtype(), tensor.shape()) {
        (Dtype::F32, &[_, found]) if found == classes => {}
        (dtype, shape) => bail!(
            "{}: `log_probs`: expected (frames, {classes}) F32, as many classes as {TOKENS} has lines; found {shape:?} {dtype:?}",
            path.display()
        ),
    }
    Ok(tensor
        .data()
        .as_chunks::<4>()
        .0
        .iter()
        .map(|bytes| f32::from_le_bytes(*bytes))
        .collect())
}
