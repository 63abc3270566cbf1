//! Laws of the way from log-probs to utterances, over random log-probs, random splits and random settings.

#![expect(clippy::expect_used, reason = "a helper of tests may fail as a test does")]

use std::sync::Arc;

use proptest::prelude::*;
use waxwing_model::confidence::Evidence;
use waxwing_model::ctc::{Fusion, GreedyDecoder, Hotword, Hotwords, Pruning, best_path, collapse, n_best};
use waxwing_model::hypothesis::join_tokens_found_with;
use waxwing_model::language_model::LanguageModel;
use waxwing_model::tokens::Tokens;
use waxwing_model::transcript::{
    Decoding, Endpointing, Hears, Judgement, TextScorer, Transcriber, TranscriberOptions, Utterance,
};

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

/// Knows some of what the tokens spell.
fn language_model() -> Arc<LanguageModel> {
    const ARPA: &str = "\\data\\\nngram 1=6\nngram 2=3\n\n\\1-grams:\n-1.5\t<unk>\n-99\t<s>\t-0.4\n-0.9\t</s>\n-0.8\tthe\t-0.3\n-0.7\ta\t-0.5\n\
        -1.1\tab\t-0.2\n\n\\2-grams:\n-0.3\tthe ab\n-0.2\t<s> the\n-0.6\ta </s>\n\n\\end\\\n";
    Arc::new(LanguageModel::from_bytes(ARPA.as_bytes()).expect("well-formed"))
}

fn hotwords(texts: &[String], boost: f32) -> Arc<Hotwords> {
    let list: Vec<Hotword> = texts
        .iter()
        .map(|text| Hotword {
            text: text.clone(),
            boost,
        })
        .collect();
    Arc::new(Hotwords::new(&tokens(), &list).0)
}

/// Judges texts by their letters and by how much it was given to hear: as good as at random, but always the same. What it hears itself has little to do with
/// what was said.
struct Whimsical(Hears);

/// One that hears features.
const WHIMSICAL: Whimsical = Whimsical(Hears::Features(2));

impl TextScorer for Whimsical {
    fn hears(&self) -> Hears {
        self.0
    }

    fn judge(&self, frames: &[f32], texts: &[String]) -> Judgement {
        assert_eq!(frames.len() % 2, 0);
        let whim = |text: &String| {
            let start = frames.len() as u64;
            text.bytes().fold(start, |hash, byte| {
                (hash ^ u64::from(byte))
                    .wrapping_mul(0x100_0000_01b3)
                    .rotate_left(17)
            })
        };
        let score = |text: &String| -((whim(text) % 30_000) as f64) / 1000.0;
        let own = ["the ab", "", "a b b a", "nobody can spell this"].map(String::from);
        let turned = texts
            .first()
            .map(|text| text.split(' ').rev().collect::<Vec<_>>().join(" "));
        Judgement {
            log_probs: texts
                .iter()
                .map(|text| (!text.contains("bb")).then(|| score(text)))
                .collect(),
            found: own
                .into_iter()
                .chain(turned)
                .map(|text| (text.clone(), score(&text)))
                .collect(),
        }
    }
}

/// Both decoders, narrow and wide, with and without pruning, second pass, language model and hotwords.
fn options() -> impl Strategy<Value = TranscriberOptions> {
    let width = prop_oneof![2 => Just(1usize), 3 => 2..12usize];
    let second = prop_oneof![Just(0usize), 2..30usize];
    let pruning = (1..8usize, -9.0f32..-0.5, 2.0f32..20.0, 100..600u32, 1..4usize);
    let fusion = (
        prop_oneof![Just(0.0f32), 0.1f32..1.0],
        prop_oneof![Just(0.0f32), 0.1f32..2.0],
        -1.0f32..3.0,
        prop::option::of((prop::collection::vec("[ab]{1,3}( the)?", 1..3), 0.1f32..3.0)),
    );
    (endpointing(), width, second, pruning, fusion).prop_map(
        |(
            endpointing,
            beam_width,
            second_pass_width,
            (max_tokens, min_token_log_prob, max_distance, settle_ms, alternatives),
            (language_model_weight, rescoring_weight, word_bonus, expected),
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
                    second_pass_width,
                    rescoring_weight,
                    language_model_weight,
                    word_bonus,
                    ..Decoding::default()
                },
                language_model: Some(language_model()),
                hotwords: expected.map(|(texts, boost)| hotwords(&texts, boost)),
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

/// Hands the frames over, and lets every judgement wait until somebody has looked at the open utterance.
fn listen_and_put_off(options: &TranscriberOptions, log_probs: &[f32]) -> Vec<Utterance> {
    let mut transcriber = Transcriber::new(tokens(), FRAME_SECONDS, options.clone())
        .with_text_scorer(Some(Arc::new(WHIMSICAL)));
    let features: Vec<f32> = log_probs
        .chunks(NUM_CLASSES)
        .flat_map(|frame| [frame[0], frame[1]])
        .collect();
    let (mut finals, mut taken, frames) = (Vec::new(), 0, log_probs.len() / NUM_CLASSES);
    while taken < frames {
        taken += transcriber.take(
            &log_probs[taken * NUM_CLASSES..],
            &features[taken * 2..],
            &mut finals,
        );
        assert!(taken == frames || transcriber.is_due());
        let shown = transcriber.partial();
        assert_eq!(transcriber.frames_seen(), taken as u64);
        if let (true, Some(shown)) = (transcriber.is_due(), shown) {
            // Nothing is taken before it is judged.
            let taken = transcriber.take(&log_probs[..NUM_CLASSES], &features[..2], &mut finals);
            assert_eq!((taken, transcriber.partial()), (0, Some(shown)));
        }
        while transcriber.is_due() {
            transcriber.judge(&mut finals);
        }
    }
    while transcriber.begin_finish() {
        transcriber.judge(&mut finals);
    }
    finals.extend(transcriber.finish());
    finals
}

/// Hands the frames over with what a text scorer hears beside their classes.
fn listen_beside(options: &TranscriberOptions, log_probs: &[f32]) -> Vec<Utterance> {
    let mut transcriber = Transcriber::new(tokens(), FRAME_SECONDS, options.clone())
        .with_text_scorer(Some(Arc::new(Whimsical(Hears::BesideClasses(2)))));
    let rows: Vec<f32> = log_probs
        .chunks(NUM_CLASSES)
        .flat_map(|frame| frame.iter().chain(&frame[..2]))
        .copied()
        .collect();
    let mut finals = Vec::new();
    transcriber.accept(&rows, &mut finals);
    assert_eq!(transcriber.frames_seen(), (log_probs.len() / NUM_CLASSES) as u64);
    finals.extend(transcriber.finish());
    finals
}

/// Hands the frames over in parts of the given lengths, the last part again and again.
fn listen(options: &TranscriberOptions, log_probs: &[f32], actions: &[(usize, Action)]) -> Heard {
    let mut transcriber = Transcriber::new(tokens(), FRAME_SECONDS, options.clone())
        .with_text_scorer(Some(Arc::new(WHIMSICAL)));
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
        let features: Vec<f32> = now
            .chunks(NUM_CLASSES)
            .flat_map(|frame| [frame[0], frame[1]])
            .collect();
        transcriber.accept_heard(now, &features, &mut heard.finals);
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

    /// A text scorer may hear features or what stands beside the classes: the same values are judged in the same way.
    #[test]
    fn what_stands_beside_the_classes_is_judged_as_features_are(log_probs in log_probs(), options in options()) {
        let all_at_once = [(usize::MAX, Action::Nothing)];
        let expected = listen(&options, &log_probs, &all_at_once).finals;
        // How sure one may be of a word depends on who judged it.
        let said = |finals: &[Utterance]| -> Vec<(String, u64, u64)> {
            let words = finals.iter().flat_map(|last| &last.words);
            words.map(|word| (word.word.clone(), word.start, word.end)).collect()
        };
        prop_assert_eq!(said(&listen_beside(&options, &log_probs)), said(&expected));
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

    /// Alternatives are other wordings of the same utterance: they hold none of its words twice and nothing of the utterance before.
    #[test]
    fn alternatives_belong_to_their_utterance(log_probs in log_probs(), options in options(), actions in actions()) {
        for last in &listen(&options, &log_probs, &actions).finals {
            for other in &last.alternatives {
                prop_assert_ne!(other.text(), last.text());
                prop_assert!(other.score <= 0.0);
            }
            for pair in last.alternatives.iter().flat_map(|other| other.words.windows(2)) {
                prop_assert!(pair[0].end <= pair[1].start && pair[0].start < pair[0].end, "{last:?}");
            }
        }
    }

    /// I8: what a session holds stays below the published bound, however long the stream.
    #[test]
    fn memory_is_bounded(log_probs in log_probs(), options in options()) {
        let scorer: Arc<dyn TextScorer> = Arc::new(WHIMSICAL);
        let mut transcriber =
            Transcriber::new(tokens(), FRAME_SECONDS, options.clone()).with_text_scorer(Some(scorer));
        let features: Vec<f32> = log_probs.chunks(NUM_CLASSES).flat_map(|frame| [frame[0], frame[1]]).collect();
        // The bound for the longest utterances, scaled to the ones of this session: all but what is settled by time.
        let decoding = Decoding { settle_ms: 15 * options.decoding.settle_ms, ..options.decoding };
        let first_pass = Decoding { second_pass_width: 0, ..decoding };
        // What a second pass keeps is bounded by time.
        let at_true_rate = |decoding| Transcriber::max_state_bytes(&tokens(), FRAME_SECONDS, decoding, 2);
        let kept = at_true_rate(&decoding) - at_true_rate(&first_pass);
        let bound = kept + Transcriber::max_state_bytes(&tokens(), FRAME_SECONDS * 60_000.0 / 4_000.0, &first_pass, 2);
        for _ in 0..20 {
            transcriber.accept_heard(&log_probs, &features, &mut Vec::new());
            prop_assert!(transcriber.state_bytes() <= bound, "{} > {bound}", transcriber.state_bytes());
        }
    }

    /// All of this also holds for utterances so long that a text scorer judges their words while they go on.
    #[test]
    fn long_utterances_are_judged_on_the_way(
        log_probs in prop::collection::vec(log_probs(), 3..6).prop_map(|parts| parts.concat()),
        options in options(),
        max_utterance_ms in 4_000..30_000u32,
        rescoring_weight in 0.1f32..2.0,
        split in prop::collection::vec(0..40usize, 1..40),
    ) {
        let decoding = Decoding { beam_width: 4, second_pass_width: 8, rescoring_weight, ..options.decoding };
        let endpointing = Endpointing { silence_ms: 0, max_utterance_ms };
        let options = TranscriberOptions { endpointing, decoding, ..options };
        let split: Vec<_> = split.into_iter().map(|frames| (frames, Action::Nothing)).collect();
        let heard = listen(&options, &log_probs, &split);
        prop_assert_eq!(&heard.finals, &listen(&options, &log_probs, &[(1, Action::Nothing)]).finals);
        prop_assert_eq!(&heard.finals, &listen_and_put_off(&options, &log_probs));
        let limit = u64::from(max_utterance_ms.div_ceil(40));
        let mut time = 0;
        for last in &heard.finals {
            prop_assert!(last.start >= time && last.end - last.start <= limit, "{last:?}");
            for word in &last.words {
                prop_assert!(word.start >= time && word.end > word.start, "{last:?}");
                time = word.end;
            }
        }
        let mut stable = (0, 0);
        for partial in &heard.partials {
            prop_assert!((partial.utterance, partial.stable_words) >= stable, "a stable word was taken back");
            stable = (partial.utterance, partial.stable_words);
            let stable = &partial.words[..partial.stable_words];
            if !stable.is_empty() {
                let last = &heard.finals[usize::try_from(partial.utterance).expect("small")];
                prop_assert_eq!(stable, &last.words[..stable.len()], "{:?}", heard.finals);
            }
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

proptest! {
    // What is already stable before the end is none of this law's business.
    #![proptest_config(ProptestConfig { cases: 64, max_global_rejects: 8192, ..ProptestConfig::default() })]

    /// Where nothing was stable yet, the second pass hears what a search of its width over all of the utterance hears.
    #[test]
    fn the_second_pass_is_a_wide_search(log_probs in random_frames(), second_pass_width in 5..40usize, weight in 0.0f32..1.0) {
        // Short, so that it fits into the bounds.
        let head = &log_probs[..log_probs.len().min(40 * NUM_CLASSES)];
        let options = TranscriberOptions {
            endpointing: Endpointing { silence_ms: 0, max_utterance_ms: 60_000 },
            decoding: Decoding { beam_width: 4, second_pass_width, settle_ms: 10_000, language_model_weight: weight, ..Decoding::default() },
            language_model: Some(language_model()),
            ..TranscriberOptions::default()
        };
        let mut transcriber = Transcriber::new(tokens(), FRAME_SECONDS, options.clone());
        let mut was_quiet = false;
        for frame in head.chunks(NUM_CLASSES) {
            transcriber.accept(frame, &mut Vec::new());
            was_quiet |= transcriber.partial().is_none_or(|partial| partial.stable_words > 0);
        }
        prop_assume!(!was_quiet);
        let fusion = Fusion {
            language_model: options.language_model.clone().filter(|_| weight > 0.0),
            language_model_weight: weight,
            word_bonus: if weight > 0.0 { options.decoding.word_bonus } else { 0.0 },
            unknown_word_log_prob: options.decoding.unknown_word_log_prob,
            tokens: Some(tokens()),
            hotwords: None,
        };
        let frame = std::time::Duration::from_millis(40);
        let pruning = Pruning { beam_width: second_pass_width, ..options.decoding.pruning(frame) };
        let wide = n_best(tokens(), head, pruning, fusion, 1);
        let evidence = if weight > 0.0 { Evidence::LanguageModel } else { Evidence::Acoustics };
        let expected = join_tokens_found_with(evidence, &tokens(), &wide[0].tokens, frame, (head.len() / NUM_CLASSES) as u64);
        let last = transcriber.finish();
        prop_assume!(expected.is_some());
        prop_assert_eq!(last.map(|last| last.words), expected.map(|expected| expected.words));
    }
}
