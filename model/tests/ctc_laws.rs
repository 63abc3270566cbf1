//! Laws of the way from log-probs to utterances, over random log-probs, random splits and random settings.

#![expect(clippy::expect_used, reason = "a helper of tests may fail as a test does")]

use std::sync::Arc;

use proptest::prelude::*;
use waxwing_model::ctc::{GreedyDecoder, best_path, collapse};
use waxwing_model::tokens::Tokens;
use waxwing_model::transcript::{Decoding, Endpointing, Transcriber, TranscriberOptions, Utterance};

const FRAME_SECONDS: f64 = 0.04;
/// Characters and word pieces, a special without letters, and the blank not at 0.
const TOKENS: &str = "▁\na\nb\n<blank>\n▁the\ning\n<unk>\n";
const NUM_CLASSES: usize = 7;
const BLANK: u32 = 3;

fn tokens() -> Arc<Tokens> {
    Arc::new(Tokens::parse(TOKENS).expect("well-formed"))
}

/// A frame whose best class is `class` with about `posterior`, as normalised log-probs.
fn frame(class: u32, posterior: f32) -> Vec<f32> {
    let rest = (1.0 - posterior) / (NUM_CLASSES - 1) as f32;
    (0..NUM_CLASSES as u32)
        .map(|c| if c == class { posterior.ln() } else { rest.ln() })
        .collect()
}

/// What a peaky model emits: mostly blanks, in runs now and then, some doubtful, tokens between.
fn peaky_frames() -> impl Strategy<Value = Vec<f32>> {
    let posterior = prop_oneof![0.16f32..0.5, 0.5f32..0.999];
    let run = prop_oneof![
        3 => (Just(BLANK), 1..4usize, posterior.clone()),
        1 => (Just(BLANK), 5..60usize, posterior.clone()),
        6 => (0..NUM_CLASSES as u32, 1..4usize, posterior),
    ];
    prop::collection::vec(run, 0..80).prop_map(|runs| {
        runs.into_iter()
            .flat_map(|(class, length, posterior)| frame(class, posterior).repeat(length))
            .collect()
    })
}

/// Noise: any class at any time.
fn random_frames() -> impl Strategy<Value = Vec<f32>> {
    prop::collection::vec(prop::collection::vec(-8.0f32..0.0, NUM_CLASSES), 0..300).prop_map(|rows| {
        rows.into_iter()
            .flat_map(|row| {
                let sum = row.iter().map(|value| value.exp()).sum::<f32>().ln();
                row.into_iter().map(move |value| value - sum)
            })
            .collect()
    })
}

fn log_probs() -> impl Strategy<Value = Vec<f32>> {
    prop_oneof![3 => peaky_frames(), 1 => random_frames()]
}

fn endpointing() -> impl Strategy<Value = Endpointing> {
    (prop_oneof![Just(0u32), 100..1200u32], 1000..4000u32).prop_map(|(silence_ms, max_utterance_ms)| {
        Endpointing {
            silence_ms,
            max_utterance_ms,
        }
    })
}

fn greedy(endpointing: Endpointing) -> TranscriberOptions {
    TranscriberOptions {
        endpointing,
        decoding: Decoding::default(),
        ..TranscriberOptions::default()
    }
}

/// Both decoders, narrow and wide, with and without pruning.
fn options() -> impl Strategy<Value = TranscriberOptions> {
    let width = prop_oneof![2 => Just(1usize), 3 => 2..12usize];
    let pruning = (1..8usize, -9.0f32..-0.5, 2.0f32..20.0, 100..600u32, 1..4usize);
    (endpointing(), width, pruning).prop_map(
        |(
            endpointing,
            beam_width,
            (max_tokens, min_token_log_prob, max_distance, settle_ms, alternatives),
        )| {
            TranscriberOptions {
                endpointing,
                decoding: Decoding {
                    beam_width,
                    max_tokens,
                    min_token_log_prob,
                    max_distance,
                    settle_ms,
                    alternatives,
                    ..Decoding::default()
                },
                ..TranscriberOptions::default()
            }
        },
    )
}

/// What happens between two calls.
#[derive(Debug, Clone)]
enum Action {
    Nothing,
    Flush,
    Configure(TranscriberOptions),
}

fn actions() -> impl Strategy<Value = Vec<(usize, Action)>> {
    let action = prop_oneof![
        6 => Just(Action::Nothing),
        1 => Just(Action::Flush),
        1 => options().prop_map(Action::Configure),
    ];
    prop::collection::vec((0..40usize, action), 1..40)
}

/// The same, with the best path for ever.
fn greedy_actions() -> impl Strategy<Value = Vec<(usize, Action)>> {
    actions().prop_map(|actions| {
        let greedy = |action| match action {
            Action::Configure(options) => Action::Configure(greedy(options.endpointing)),
            action => action,
        };
        actions
            .into_iter()
            .map(|(frames, action)| (frames, greedy(action)))
            .collect()
    })
}

/// Everything that a listener gets: finals, and a partial after each call.
#[derive(Debug, Default)]
struct Heard {
    finals: Vec<Utterance>,
    partials: Vec<Utterance>,
}

/// Hands the frames over in parts of the given lengths, the last part again and again.
fn listen(options: &TranscriberOptions, log_probs: &[f32], actions: &[(usize, Action)]) -> Heard {
    let mut transcriber = Transcriber::new(tokens(), FRAME_SECONDS, options.clone());
    let mut heard = Heard::default();
    let mut rest = log_probs;
    let last = actions
        .last()
        .map(|(frames, action)| (1 + frames, action.clone()));
    let mut actions = actions.iter().cloned().chain(last.into_iter().cycle());
    while !rest.is_empty() {
        let (frames, action) = actions.next().expect("endless");
        let (now, later) = rest.split_at(frames.saturating_mul(NUM_CLASSES).min(rest.len()));
        rest = later;
        transcriber.accept(now, &mut heard.finals);
        heard.partials.extend(transcriber.partial());
        match action {
            Action::Nothing => {}
            Action::Flush => heard.finals.extend(transcriber.finish()),
            Action::Configure(options) => transcriber.configure(options),
        }
    }
    heard.finals.extend(transcriber.finish());
    assert_eq!(transcriber.frames_seen(), (log_probs.len() / NUM_CLASSES) as u64);
    heard
}

/// The words that the whole best path spells, with no stream and no endpoints: the definition.
fn offline_words(log_probs: &[f32]) -> Vec<String> {
    let tokens = tokens();
    let ids = collapse(&best_path(log_probs, NUM_CLASSES, BLANK), BLANK);
    let spelled: String = ids
        .iter()
        .filter_map(|&id| tokens.name(id))
        .filter(|name| *name != "<unk>")
        .collect();
    spelled
        .split('▁')
        .filter(|word| !word.is_empty())
        .map(str::to_owned)
        .collect()
}

fn words(finals: &[Utterance]) -> Vec<String> {
    finals
        .iter()
        .flat_map(|last| &last.words)
        .map(|word| word.word.clone())
        .collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    /// Frame by frame, the decoder emits what collapsing the whole path gives.
    #[test]
    fn streaming_greedy_equals_the_definition(log_probs in log_probs()) {
        let mut decoder = GreedyDecoder::new(BLANK);
        let emitted: Vec<u32> = log_probs
            .chunks_exact(NUM_CLASSES)
            .map(|frame| decoder.step(frame))
            .filter(|decision| decision.is_new && decision.class != BLANK)
            .map(|decision| decision.class)
            .collect();
        prop_assert_eq!(emitted, collapse(&best_path(&log_probs, NUM_CLASSES, BLANK), BLANK));
    }

    /// I1: the finals do not depend on how the frames were split into calls.
    #[test]
    fn any_split_gives_the_same_finals(
        log_probs in log_probs(),
        options in options(),
        split in prop::collection::vec(0..40usize, 1..40),
    ) {
        let split: Vec<_> = split.into_iter().map(|frames| (frames, Action::Nothing)).collect();
        let at_once = listen(&options, &log_probs, &[(log_probs.len(), Action::Nothing)]);
        let in_parts = listen(&options, &log_probs, &split);
        prop_assert_eq!(at_once.finals, in_parts.finals);
    }

    /// I5: ids count up from 0 without a gap, times only grow, words do not overlap and lie in their utterance.
    #[test]
    fn ids_and_times_only_grow(
        log_probs in log_probs(), options in options(), actions in actions(),
    ) {
        let heard = listen(&options, &log_probs, &actions);
        let mut time = 0;
        for (id, last) in (0..).zip(&heard.finals) {
            prop_assert_eq!(last.utterance, id);
            prop_assert_eq!(last.start, last.words[0].start);
            prop_assert_eq!(last.end, last.words[last.words.len() - 1].end);
            prop_assert_eq!(last.stable_words, last.words.len());
            for word in &last.words {
                prop_assert!(word.start >= time, "{:?}", heard.finals);
                prop_assert!(word.end > word.start);
                prop_assert!(!word.word.is_empty());
                prop_assert!((0.0..=1.0).contains(&word.confidence));
                time = word.end;
            }
        }
        prop_assert!(time <= (log_probs.len() / NUM_CLASSES) as u64);
    }

    /// A word that a partial calls stable stands in the final of that utterance, unchanged, at the same place.
    #[test]
    fn stable_words_never_lie(
        log_probs in log_probs(), options in options(), actions in actions(),
    ) {
        let heard = listen(&options, &log_probs, &actions);
        for partial in &heard.partials {
            prop_assert!(partial.stable_words <= partial.words.len());
            let stable = &partial.words[..partial.stable_words];
            if stable.is_empty() {
                continue;
            }
            let last = &heard.finals[usize::try_from(partial.utterance).expect("small")];
            prop_assert_eq!(stable, &last.words[..stable.len()], "{:?}", heard.finals);
        }
    }

    /// The finals together hold exactly the letters of the whole path, in order: endpoints, cuts, flushes and
    /// changes of the settings lose no sound, repeat none and alter none.
    #[test]
    fn nothing_is_lost_or_repeated(
        log_probs in log_probs(), endpointing in endpointing(), actions in greedy_actions(),
    ) {
        let heard = listen(&greedy(endpointing), &log_probs, &actions);
        prop_assert_eq!(words(&heard.finals).concat(), offline_words(&log_probs).concat());
    }

    /// In one utterance, streaming gives the words of the definition.
    #[test]
    fn one_utterance_equals_the_definition(log_probs in peaky_frames()) {
        // Below the limit, so that nothing is cut.
        let head = &log_probs[..log_probs.len().min(1400 * NUM_CLASSES)];
        let endpointing = Endpointing { silence_ms: 0, max_utterance_ms: 60_000 };
        let heard = listen(&greedy(endpointing), head, &[(3, Action::Nothing)]);
        prop_assert!(heard.finals.len() <= 1);
        prop_assert_eq!(words(&heard.finals), offline_words(head));
    }

    /// On the best path only the open word is not stable.
    #[test]
    fn the_best_path_is_stable_at_once(
        log_probs in log_probs(), endpointing in endpointing(), actions in greedy_actions(),
    ) {
        for partial in &listen(&greedy(endpointing), &log_probs, &actions).partials {
            prop_assert!(partial.words.len() - partial.stable_words <= 1, "{partial:?}");
        }
    }

    /// Where every frame is sure of its class, a beam hears what the best path hears, at the same times, whatever
    /// happens in between.
    #[test]
    fn sure_frames_leave_a_beam_no_choice(
        runs in prop::collection::vec((0..NUM_CLASSES as u32, 1..6usize), 0..60),
        endpointing in endpointing(),
        actions in greedy_actions(),
        beam_width in 2..8usize,
    ) {
        let log_probs: Vec<f32> = runs
            .into_iter()
            .flat_map(|(class, length)| frame(class, 0.9999).repeat(length))
            .collect();
        let mut beam = greedy(endpointing);
        beam.decoding.beam_width = beam_width;
        let always_beam: Vec<_> = actions
            .iter()
            .cloned()
            .map(|(frames, action)| match action {
                Action::Configure(mut options) => {
                    options.decoding.beam_width = beam_width;
                    (frames, Action::Configure(options))
                }
                action => (frames, action),
            })
            .collect();
        let heard = listen(&greedy(endpointing), &log_probs, &actions);
        let by_beam = listen(&beam, &log_probs, &always_beam);
        let seen = |heard: &Heard| -> Vec<_> {
            heard
                .finals
                .iter()
                .flat_map(|last| &last.words)
                .map(|word| (word.word.clone(), word.start, word.end))
                .collect()
        };
        prop_assert_eq!(seen(&heard), seen(&by_beam));
    }

    /// I8: what a session holds stays below the published bound, however long the stream.
    #[test]
    fn memory_is_bounded(log_probs in log_probs(), options in options()) {
        let mut transcriber = Transcriber::new(tokens(), FRAME_SECONDS, options.clone());
        // The bound for the longest utterances, scaled to the ones of this session: all but what is settled by time.
        let decoding = Decoding { settle_ms: 15 * options.decoding.settle_ms, ..options.decoding };
        let bound = Transcriber::max_state_bytes(&tokens(), FRAME_SECONDS * 60_000.0 / 4_000.0, &decoding);
        for _ in 0..20 {
            transcriber.accept(&log_probs, &mut Vec::new());
            prop_assert!(transcriber.state_bytes() <= bound, "{} > {bound}", transcriber.state_bytes());
        }
    }

    /// No utterance spans more than its limit.
    #[test]
    fn utterances_respect_their_limit(log_probs in log_probs(), options in options()) {
        let limit = (f64::from(options.endpointing.max_utterance_ms) / 1000.0 / FRAME_SECONDS).ceil() as u64;
        for last in &listen(&options, &log_probs, &[(1, Action::Nothing)]).finals {
            prop_assert!(last.end - last.start <= limit, "{last:?}");
        }
    }
}
