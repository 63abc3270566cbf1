//! What a listener gets, example by example: each test tells one story about endpoints, cuts and flushes.

#![expect(clippy::expect_used, reason = "a helper of tests may fail as a test does")]

use std::sync::Arc;

use waxwing_model::tokens::Tokens;
use waxwing_model::transcript::{Endpointing, Transcriber, TranscriberOptions, Utterance};

const FRAME_SECONDS: f64 = 0.04;

/// Frames that spell `script`: one character a frame, `.` a sure blank, `,` a doubtful one, ` ` the separator.
fn say(script: &str) -> Vec<f32> {
    let num_classes = tokens().len();
    let mut log_probs = Vec::new();
    for character in script.chars() {
        let (class, posterior) = match character {
            '.' => (0, 0.99f32),
            ',' => (0, 0.4),
            ' ' => (1, 0.9),
            letter => (letter as usize - 'a' as usize + 2, 0.9),
        };
        let rest = ((1.0 - posterior) / (num_classes - 1) as f32).ln();
        log_probs.extend((0..num_classes).map(|c| if c == class { posterior.ln() } else { rest }));
    }
    log_probs
}

fn tokens() -> Arc<Tokens> {
    let letters: String = ('a'..='z').map(|letter| format!("{letter}\n")).collect();
    Arc::new(Tokens::parse(&format!("<blank>\n▁\n{letters}")).expect("well-formed"))
}

fn transcriber(silence_ms: u32, max_utterance_ms: u32) -> Transcriber {
    let endpointing = Endpointing {
        silence_ms,
        max_utterance_ms,
    };
    Transcriber::new(
        tokens(),
        FRAME_SECONDS,
        TranscriberOptions {
            endpointing,
            ..TranscriberOptions::default()
        },
    )
}

fn hear(transcriber: &mut Transcriber, script: &str) -> Vec<Utterance> {
    let mut finals = Vec::new();
    transcriber.accept(&say(script), &mut finals);
    finals
}

fn texts(finals: &[Utterance]) -> Vec<String> {
    finals.iter().map(Utterance::text).collect()
}

#[test]
fn doubled_letters_need_a_blank_between() {
    let mut transcriber = transcriber(400, 20_000);
    assert_eq!(texts(&hear(&mut transcriber, " heel.lo..........")), ["hello"]);
}

#[test]
fn silence_before_the_first_word_is_no_utterance() {
    let mut transcriber = transcriber(400, 1000);
    assert_eq!(hear(&mut transcriber, &".".repeat(1000)), []);
    assert_eq!(transcriber.partial(), None);
    assert_eq!(texts(&hear(&mut transcriber, " a..........")), ["a"]);
}

#[test]
fn a_final_comes_in_the_frame_that_completes_the_silence() {
    let mut transcriber = transcriber(400, 20_000);
    assert_eq!(hear(&mut transcriber, "..  a.b c........."), []);
    let finals = hear(&mut transcriber, ".");
    let expected = [("ab", 4, 7), ("c", 8, 11)];
    let words: Vec<_> = finals[0]
        .words
        .iter()
        .map(|word| (&*word.word, word.start, word.end))
        .collect();
    assert_eq!(words, expected, "two frames of tail, but not into the next word");
    assert_eq!((finals[0].utterance, finals[0].start, finals[0].end), (0, 4, 11));
}

#[test]
fn the_first_word_after_an_endpoint_is_whole() {
    let mut transcriber = transcriber(400, 20_000);
    let finals = hear(&mut transcriber, " one.......... two..........");
    assert_eq!(texts(&finals), ["one", "two"]);
    assert_eq!((finals[1].utterance, finals[1].words[0].start), (1, 15));
}

#[test]
fn a_separator_before_the_pause_serves_the_word_behind_it() {
    let mut transcriber = transcriber(400, 20_000);
    let finals = hear(&mut transcriber, " one ..........two..........");
    assert_eq!(texts(&finals), ["one", "two"]);
    assert_eq!(
        finals[1].tokens[0].id, 1,
        "the next utterance knows that its first word has a beginning"
    );
}

#[test]
fn doubtful_blanks_do_not_end_a_word_early() {
    let mut transcriber = transcriber(400, 20_000);
    assert_eq!(
        texts(&hear(&mut transcriber, " a,,,,,,,,,,,,,,,b..........")),
        ["ab"]
    );
    assert_eq!(
        texts(&hear(&mut transcriber, " a,,,,,,,,,,,,,,,,,,,,b..........")),
        ["a", "b"]
    );
}

#[test]
fn a_long_utterance_is_cut_and_its_open_word_moves_on() {
    let mut transcriber = transcriber(800, 1000);
    // The utterance begins at frame 1, so it is 25 frames old behind frame 25, in the middle of "juliet".
    let finals = hear(
        &mut transcriber,
        " alpha golf hotel kilo juliet.mike....................",
    );
    assert_eq!(texts(&finals), ["alpha golf hotel kilo", "julietmike"]);
    assert_eq!(finals[1].start, 23);
    assert!(finals[0].end <= finals[1].start);
}

#[test]
fn a_word_without_end_is_cut_at_last() {
    let mut transcriber = transcriber(0, 1000);
    let finals = hear(&mut transcriber, &"ab".repeat(60));
    assert_eq!(finals.len(), 4);
    assert!(
        finals
            .iter()
            .all(|last| last.end - last.start == 25 && last.words.len() == 1),
        "{finals:?}"
    );
    assert_eq!(transcriber.finish().map(|last| last.end - last.start), Some(20));
}

#[test]
fn a_pause_at_the_limit_completes_the_last_word() {
    let mut transcriber = transcriber(0, 1000);
    assert_eq!(
        texts(&hear(&mut transcriber, " one two....................")),
        ["one two"]
    );
}

#[test]
fn partials_show_the_open_word_as_not_stable() {
    let mut transcriber = transcriber(800, 20_000);
    let revision = transcriber.revision();
    hear(&mut transcriber, " one tw");
    assert!(transcriber.revision() > revision);
    let partial = transcriber.partial().expect("two words are open");
    assert_eq!((partial.text().as_str(), partial.stable_words), ("one tw", 1));
    let revision = transcriber.revision();
    hear(&mut transcriber, ".....");
    assert_eq!(transcriber.revision(), revision, "nothing new was said");
    hear(&mut transcriber, "o ");
    let partial = transcriber.partial().expect("two words are open");
    assert_eq!((partial.text().as_str(), partial.stable_words), ("one two", 2));
}

#[test]
fn a_flush_ends_the_utterance_and_repeats_no_sound() {
    let mut transcriber = transcriber(800, 20_000);
    hear(&mut transcriber, " so");
    assert_eq!(
        transcriber.finish().map(|last| last.text()).as_deref(),
        Some("so")
    );
    assert_eq!(transcriber.finish(), None, "nothing new to finalise");
    assert_eq!(transcriber.partial(), None);
    hear(&mut transcriber, "oo. go");
    assert_eq!(
        transcriber.finish().map(|last| (last.utterance, last.text())),
        Some((1, "go".to_owned()))
    );
}

#[test]
fn configure_acts_from_the_next_frame_on() {
    let mut transcriber = transcriber(2000, 20_000);
    assert_eq!(hear(&mut transcriber, " one................"), []);
    let endpointing = Endpointing {
        silence_ms: 400,
        max_utterance_ms: 20_000,
    };
    transcriber.configure(TranscriberOptions {
        endpointing,
        ..TranscriberOptions::default()
    });
    assert_eq!(texts(&hear(&mut transcriber, ".")), ["one"]);
}

#[test]
fn confidence_follows_the_posteriors() {
    let mut transcriber = transcriber(400, 20_000);
    let finals = hear(&mut transcriber, " a..........");
    // Two tokens of 0.9, corrected as the module says.
    let expected = 1.0 / (1.0 + (0.19f32 / 0.81).powf(0.66) * 0.8f32.exp());
    let confidence = finals[0].words[0].confidence;
    assert!((confidence - expected).abs() < 1e-4, "{confidence}");
    assert_eq!(finals[0].confidence, confidence);
}
