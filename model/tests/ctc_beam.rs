//! The beam search against its definition: the sum over all paths.

#![expect(clippy::expect_used, reason = "a helper of tests may fail as a test does")]

use std::collections::BTreeMap;
use std::sync::Arc;

use proptest::prelude::*;
use waxwing_model::ctc::{BatchedBeam, BeamEvent, NoScorer, PrefixBeam, Pruning, Scorer, collapse, n_best};
use waxwing_model::hypothesis::EmittedToken;
use waxwing_model::tokens::Tokens;

const BLANK: u32 = 1;

fn tokens() -> Arc<Tokens> {
    Arc::new(Tokens::parse("▁a\n<blank>\nb\n▁\n").expect("well-formed"))
}

fn random_frames(num_frames: std::ops::Range<usize>) -> impl Strategy<Value = Vec<f32>> {
    let frame = prop::collection::vec(-6.0f32..0.0, 4).prop_map(|row| {
        let sum = row.iter().map(|value| value.exp()).sum::<f32>().ln();
        row.into_iter().map(move |value| value - sum).collect::<Vec<_>>()
    });
    prop::collection::vec(frame, num_frames).prop_map(|rows| rows.concat())
}

/// Each spelling with its probability, the sum over every path.
fn all_spellings(log_probs: &[f32]) -> BTreeMap<Vec<u32>, f64> {
    let frames: Vec<&[f32]> = log_probs.chunks_exact(4).collect();
    let mut spellings = BTreeMap::new();
    for number in 0..4usize.pow(frames.len() as u32) {
        let path: Vec<u32> = (0..frames.len())
            .map(|frame| (number / 4usize.pow(frame as u32) % 4) as u32)
            .collect();
        let log_prob: f64 = path
            .iter()
            .zip(&frames)
            .map(|(&class, frame)| f64::from(frame[class as usize]))
            .sum();
        *spellings.entry(collapse(&path, BLANK)).or_insert(0.0) += log_prob.exp();
    }
    spellings
}

fn ids(tokens: &[EmittedToken]) -> Vec<u32> {
    tokens.iter().map(|token| token.id).collect()
}

/// Made up, but it depends on all of the prefix: words cost by their letters and by how many came before, tokens by
/// their ids.
#[derive(Debug, Clone, PartialEq)]
struct Fussy;

impl Scorer for Fussy {
    type State = (u32, u32);

    fn start(&self) -> (u32, u32) {
        (0, 0)
    }

    fn token(&self, state: &(u32, u32), token: u32) -> (f32, (u32, u32)) {
        (0.1 * (token as f32 - state.1 as f32), (state.0, token))
    }

    fn word(&self, state: &(u32, u32), word: &str) -> (f32, (u32, u32)) {
        let liking = if word.starts_with('a') { 0.7 } else { -0.4 };
        (
            liking * word.len() as f32 / (1.0 + state.0 as f32),
            (state.0 + 1, state.1),
        )
    }

    fn end(&self, state: &(u32, u32)) -> f32 {
        -0.2 * state.0 as f32
    }

    fn best_token(&self) -> Option<f32> {
        Some(0.3)
    }

    fn best_word(&self) -> Option<f32> {
        Some(7.0)
    }
}

/// What [`Fussy`] says to a whole spelling.
fn fuss(spelling: &[u32]) -> f64 {
    let table = tokens();
    let (mut state, mut word, mut sum) = (Fussy.start(), String::new(), 0.0);
    for &id in spelling {
        if table.begins_word(id) && !word.is_empty() {
            let (said, next) = Fussy.word(&state, &word);
            (state, sum) = (next, sum + f64::from(said));
            word.clear();
        }
        word.push_str(table.spelling(id));
        let (said, next) = Fussy.token(&state, id);
        (state, sum) = (next, sum + f64::from(said));
    }
    if !word.is_empty() {
        let (said, next) = Fussy.word(&state, &word);
        (state, sum) = (next, sum + f64::from(said));
    }
    sum + f64::from(Fussy.end(&state))
}

fn check_against_all_spellings<S: Scorer>(log_probs: &[f32], scorer: S, said: impl Fn(&[u32]) -> f64) {
    let mut search = PrefixBeam::new(tokens(), Pruning::width_only(100_000), scorer);
    log_probs.chunks_exact(4).for_each(|frame| search.step(frame));
    assert_eq!(search.drain_events().count(), 0, "all prefixes are alive");
    let found = search.n_best(usize::MAX);
    let expected = all_spellings(log_probs);
    assert_eq!(found.len(), expected.len());
    let mut last = f64::INFINITY;
    for hypothesis in &found {
        let spelling = ids(&hypothesis.tokens);
        let (acoustic, scored) = (expected[&spelling].ln(), said(&spelling));
        assert!(
            (hypothesis.score - acoustic - scored).abs() < 1e-5,
            "{hypothesis:?}: {acoustic} + {scored}"
        );
        assert!(
            (hypothesis.scored - scored).abs() < 1e-5,
            "{hypothesis:?}: {scored}"
        );
        assert!(hypothesis.score <= last, "the best first");
        last = hypothesis.score;
        let times: Vec<u64> = hypothesis
            .tokens
            .iter()
            .flat_map(|token| [token.start, token.end])
            .collect();
        assert!(times.is_sorted() && hypothesis.tokens.iter().all(|token| token.start < token.end));
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    /// Wide enough, the search is the definition: each spelling with the sum over its paths.
    #[test]
    fn a_wide_beam_sums_over_all_paths(log_probs in random_frames(0..7)) {
        check_against_all_spellings(&log_probs, NoScorer, |_| 0.0);
    }

    /// What a scorer adds, it adds to each prefix once, whole words included.
    #[test]
    fn a_scorer_is_asked_once_for_each_prefix(log_probs in random_frames(0..7)) {
        check_against_all_spellings(&log_probs, Fussy, fuss);
    }

    /// What is settled stays: settled tokens and the tail are a whole that nothing settled later contradicts, and the narrow
    /// beam's score is never above the definition's.
    #[test]
    fn settled_tokens_are_the_head_of_all_later_results(
        log_probs in random_frames(0..60), beam_width in 1..6usize, max_distance in 1.0f32..30.0,
    ) {
        let pruning = Pruning {
            beam_width,
            max_tokens: 3,
            min_token_log_prob: -4.0,
            max_distance,
            settle_frames: 20,
        };
        let mut search = PrefixBeam::new(tokens(), pruning, Fussy);
        let mut settled: Vec<EmittedToken> = Vec::new();
        let mut open = None;
        for frame in log_probs.chunks_exact(4) {
            search.step(frame);
            for event in search.drain_events() {
                match event {
                    BeamEvent::Began { id, start } => open = Some((id, start)),
                    BeamEvent::Ended(token) => {
                        prop_assert_eq!(open, Some((token.id, token.start)));
                        prop_assert!(settled.last().is_none_or(|last| last.end <= token.start));
                        settled.push(token);
                    }
                }
            }
        }
        let whole = search.n_best(1).remove(0);
        // Of the token that began last, the end is not settled: the hypothesis says it.
        let mut tail = Vec::new();
        search.best_tail(&mut tail);
        prop_assert!(whole.score <= 1e-6 + 60.0 * 8.0);
        search.end_utterance(0);
        let mut after = settled.clone();
        after.extend(search.drain_events().filter_map(|event| match event {
            BeamEvent::Ended(token) => Some(token),
            BeamEvent::Began { .. } => None,
        }));
        prop_assert_eq!(&after[..settled.len()], &settled[..]);
        prop_assert_eq!(&after[settled.len()..], &whole.tokens[..]);
    }
}

/// A stream without end whose hypotheses never agree: what is old is settled all the same, and memory stays.
#[test]
fn hypotheses_that_never_agree_are_settled_in_time() {
    let table = tokens();
    let mut search = PrefixBeam::new(
        Arc::clone(&table),
        Pruning {
            settle_frames: 200,
            ..Pruning::width_only(8)
        },
        NoScorer,
    );
    // "a" or "b", as probable as each other, then quiet for ever.
    let even = 0.49f32.ln();
    search.step(&[even, -5.0, even, -5.0]);
    let quiet = [-20.0, -1e-6, -20.0, -20.0];
    let mut settled = 0;
    for _ in 0..190 {
        search.step(&quiet);
        settled += search.drain_events().count();
    }
    assert_eq!(settled, 0, "nothing tells them apart");
    for _ in 0..30 {
        search.step(&quiet);
        settled += search.drain_events().count();
    }
    assert!(settled > 0, "after 200 frames the best is taken");
}

/// Frames that say nothing, or too much, change nothing or are cut off, and never break the search.
#[test]
fn strange_frames_do_no_harm() {
    let mut search = PrefixBeam::new(tokens(), Pruning::width_only(4), NoScorer);
    search.step(&[-0.1, -3.0, -4.0, -5.0]);
    let before = search.n_best(4);
    search.step(&[f32::NAN; 4]);
    search.step(&[f32::NEG_INFINITY; 4]);
    assert_eq!(search.n_best(4), before);
    search.step(&[f32::INFINITY, f32::NAN, -1.0, f32::NEG_INFINITY]);
    let after = search.n_best(4);
    assert!(
        after
            .iter()
            .all(|hypothesis| hypothesis.score.is_finite() && hypothesis.score <= 0.0),
        "{after:?}"
    );
    // A thousand nats a frame: below what a probability can hold beside another one.
    for _ in 0..100 {
        search.step(&[-1000.0, -1001.0, -1002.0, -1003.0]);
    }
    assert!(search.n_best(4)[0].score.is_finite());
}

/// Log-probs of sessions of unequal lengths, `(frames, sessions, classes)`, as peaky as a model's, with each session's length.
fn sessions(count: usize, frames: usize, classes: usize) -> (Vec<f32>, Vec<usize>) {
    let mut state = 7u64;
    let mut uniform = || {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (state >> 40) as f32 / (1u64 << 24) as f32
    };
    let lengths: Vec<usize> = (0..count).map(|session| frames - session % 7).collect();
    let mut log_probs = Vec::new();
    for _ in 0..frames * count {
        let row: Vec<f32> = (0..classes)
            .map(|_| 6.0 * uniform() + 3.0 * uniform() * uniform())
            .collect();
        let sum = row.iter().map(|value| value.exp()).sum::<f32>().ln();
        log_probs.extend(row.iter().map(|value| value - sum));
    }
    (log_probs, lengths)
}

/// The search in tensor operations gives every session what it gets alone, whoever its neighbours are.
#[test]
fn a_batch_of_beams_equals_each_alone() -> Result<(), Box<dyn std::error::Error>> {
    const CLASSES: usize = 12;
    const FRAMES: usize = 14;
    let letters: Vec<String> = (1..CLASSES).map(|class| format!("t{class}")).collect();
    let tokens = Arc::new(Tokens::parse(&format!("<blank>\n{}", letters.join("\n")))?);
    let device = candle_core::Device::Cpu;
    let pruned = Pruning {
        beam_width: 6,
        max_tokens: 5,
        min_token_log_prob: -3.0,
        max_distance: 8.0,
        settle_frames: u64::MAX,
    };
    for (count, pruning) in [
        (1, Pruning::width_only(8)),
        (32, pruned),
        (256, Pruning::width_only(4)),
    ] {
        let (log_probs, lengths) = sessions(count, FRAMES, CLASSES);
        let mut batch = BatchedBeam::new(count, CLASSES, 0, pruning, &device)?;
        for frame in 0..FRAMES {
            let rows = &log_probs[frame * count * CLASSES..(frame + 1) * count * CLASSES];
            let rows = candle_core::Tensor::from_slice(rows, (count, CLASSES), &device)?;
            let active: Vec<u8> = lengths.iter().map(|&length| u8::from(frame < length)).collect();
            batch.step(&rows, &candle_core::Tensor::new(active, &device)?)?;
        }
        for (session, found) in batch.n_best(3)?.into_iter().enumerate() {
            let alone: Vec<f32> = (0..lengths[session])
                .flat_map(|frame| &log_probs[(frame * count + session) * CLASSES..][..CLASSES])
                .copied()
                .collect();
            let expected = n_best(Arc::clone(&tokens), &alone, pruning, NoScorer, 3);
            assert_eq!(found.len(), expected.len());
            for ((spelling, score), expected) in found.iter().zip(&expected) {
                assert_eq!(*spelling, ids(&expected.tokens), "session {session} of {count}");
                assert!((score - expected.score).abs() < 1e-6, "{score} for {expected:?}");
            }
        }
    }
    Ok(())
}
