//! `waxwing decode`: the decoders of sessions on log-probs of a file, for comparison with other implementations.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, anyhow, bail};
use clap::Args;
use safetensors::{Dtype, SafeTensors};
use serde::Serialize;
use waxwing_model::confidence::Evidence;
use waxwing_model::ctc::{BeamHypothesis, Decoding, Fusion, Hotword, Hotwords, best_path_tokens, n_best};
use waxwing_model::hypothesis::join_tokens_found_with;
use waxwing_model::language_model::{LanguageModel, LanguageModelError};
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
    #[arg(long = "beam-width", visible_alias = "beam", value_name = "N", default_value_t = Decoding::default().beam_width)]
    beam_width: usize,
    /// Hypotheses to write, the best first
    #[arg(
        long = "alternatives",
        visible_alias = "nbest",
        value_name = "N",
        default_value_t = 1
    )]
    alternatives: usize,
    /// Most probable classes that are tried in a frame
    #[arg(long, value_name = "N", default_value_t = Decoding::default().max_tokens)]
    max_tokens: usize,
    /// Least natural log-probability of a class that is tried
    #[arg(long, value_name = "X", default_value_t = Decoding::default().min_token_log_prob, allow_negative_numbers = true)]
    min_token_log_prob: f32,
    /// Prefixes further below the best one, in natural logs, are dropped
    #[arg(long, value_name = "X", default_value_t = Decoding::default().max_distance, allow_negative_numbers = true)]
    max_distance: f32,
    /// Language model: an ARPA file, plain or gzip, or the compact form; needs a beam
    #[arg(long, visible_alias = "lm", value_name = "FILE")]
    language_model: Option<PathBuf>,
    /// What natural log-probabilities of the language model are multiplied by
    #[arg(long, visible_alias = "lm-weight", value_name = "X", default_value_t = Decoding::default().language_model_weight, allow_negative_numbers = true)]
    language_model_weight: f32,
    /// Added for every word [default: 1 with a language model, 0 without]
    #[arg(long, value_name = "X", allow_negative_numbers = true)]
    word_bonus: Option<f32>,
    /// Added to the log-probability of a word that the language model does not know
    #[arg(long, value_name = "X", default_value_t = Decoding::default().unknown_word_log_prob, allow_negative_numbers = true)]
    unknown_word_log_prob: f32,
    /// A word or phrase to prefer, with its boost for each letter if it is not the default; may be repeated; needs a beam
    #[arg(long = "hotword", value_name = "TEXT[:BOOST]")]
    hotwords: Vec<String>,
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
        beam_width: arguments.beam_width,
        alternatives: arguments.alternatives,
        max_tokens: arguments.max_tokens,
        min_token_log_prob: arguments.min_token_log_prob,
        max_distance: arguments.max_distance,
        language_model_weight: arguments.language_model_weight,
        word_bonus: arguments.word_bonus.unwrap_or(default_word_bonus(arguments)),
        unknown_word_log_prob: arguments.unknown_word_log_prob,
        ..Decoding::default()
    };
    decoding
        .validate()
        .map_err(|error| Failure::Usage(error.into()))?;
    let says_more = arguments.language_model.is_some()
        || arguments.word_bonus.is_some()
        || !arguments.hotwords.is_empty();
    if decoding.beam_width == 1 && says_more {
        let message =
            "--language-model, --word-bonus and --hotword need a beam\n\nhint: add `--beam-width 32`";
        return Err(Failure::Usage(anyhow!(message)));
    }
    let path = arguments.model.join(TOKENS);
    let text = std::fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
    let tokens = Arc::new(Tokens::parse(&text).with_context(|| path.display().to_string())?);
    let log_probs = read_log_probs(&arguments.log_probs, tokens.len())?;
    let frames = (log_probs.len() / tokens.len()) as u64;
    let found = if decoding.beam_width == 1 {
        vec![best_path_tokens(&tokens, &log_probs)]
    } else {
        let fusion = fusion(arguments, &decoding, &tokens)?;
        n_best(
            Arc::clone(&tokens),
            &log_probs,
            decoding.pruning(FRAME),
            fusion,
            arguments.alternatives,
        )
    };
    let evidence = match arguments.language_model {
        Some(_) if decoding.language_model_weight > 0.0 => Evidence::LanguageModel,
        _ => Evidence::Acoustics,
    };
    let mut out = std::io::stdout().lock();
    for (rank, hypothesis) in (1..).zip(found.iter().take(arguments.alternatives)) {
        let line = serde_json::to_string(&line(rank, hypothesis, &tokens, frames, evidence))?;
        writeln!(out, "{line}")?;
    }
    Ok(out.flush()?)
}

fn default_word_bonus(arguments: &Arguments) -> f32 {
    match arguments.language_model {
        Some(_) => Decoding::default().word_bonus,
        None => 0.0,
    }
}

/// What is heard beside the log-probs. Hotwords that cannot be used are named on stderr.
fn fusion(arguments: &Arguments, decoding: &Decoding, tokens: &Arc<Tokens>) -> anyhow::Result<Fusion> {
    let language_model = match &arguments.language_model {
        Some(path) => {
            let loaded = LanguageModel::load(path).map_err(|error| match error {
                // Names the file.
                LanguageModelError::File { .. } => anyhow!("{error}"),
                error => anyhow!("{}: {error}", path.display()),
            });
            Some(Arc::new(loaded?))
        }
        None => None,
    };
    let wanted: Vec<Hotword> = arguments.hotwords.iter().map(|text| hotword(text)).collect();
    let (hotwords, warnings) = Hotwords::new(tokens, &wanted);
    let mut stderr = std::io::stderr().lock();
    for warning in warnings {
        writeln!(stderr, "warning: {warning}")?;
    }
    Ok(Fusion {
        language_model,
        language_model_weight: decoding.language_model_weight,
        word_bonus: decoding.word_bonus,
        unknown_word_log_prob: decoding.unknown_word_log_prob,
        tokens: Some(Arc::clone(tokens)),
        hotwords: Some(Arc::new(hotwords)),
    })
}

/// `TEXT` or `TEXT:BOOST`.
fn hotword(argument: &str) -> Hotword {
    let split = argument
        .rsplit_once(':')
        .and_then(|(text, boost)| Some((text, boost.trim().parse().ok()?)));
    let (text, boost) = split.unwrap_or((argument, Hotwords::DEFAULT_BOOST));
    Hotword {
        text: text.to_owned(),
        boost,
    }
}

fn line<'a>(
    rank: usize,
    hypothesis: &BeamHypothesis,
    tokens: &'a Tokens,
    frames: u64,
    evidence: Evidence,
) -> Line<'a> {
    let joined = join_tokens_found_with(evidence, tokens, &hypothesis.tokens, FRAME, frames);
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hotword_may_name_its_boost() {
        let parsed = ["waxwing", "new york:0.5", "a:b"].map(hotword);
        let parsed: Vec<(&str, f32)> = parsed
            .iter()
            .map(|hotword| (hotword.text.as_str(), hotword.boost))
            .collect();
        let default = Hotwords::DEFAULT_BOOST;
        assert_eq!(
            parsed,
            [("waxwing", default), ("new york", 0.5), ("a:b", default)]
        );
    }
}
