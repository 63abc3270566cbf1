//! Hotwords: what is added for a phrase is added once, whatever its segmentation, and taken back unless the phrase is complete.

#![expect(clippy::unwrap_used, reason = "a helper of tests may fail as a test does")]

use std::sync::Arc;

use proptest::prelude::*;
use waxwing_model::ctc::{Fusion, Hotword, HotwordWarning, Hotwords, Pruning, Scorer, n_best};
use waxwing_model::language_model::LanguageModel;
use waxwing_model::tokens::Tokens;

const TOKENS: &str = "<blank>\n▁\na\nb\nc\n▁a\n▁ab\nbc\n▁b\nabc\n";

fn tokens() -> Tokens {
    Tokens::parse(TOKENS).unwrap()
}

fn hotwords(texts: &[&str], boost: f32) -> (Hotwords, Vec<HotwordWarning>) {
    let list: Vec<Hotword> = texts
        .iter()
        .map(|&text| Hotword {
            text: text.to_owned(),
            boost,
        })
        .collect();
    Hotwords::new(&tokens(), &list)
}

/// All that a row of tokens adds, and what is left when the utterance ends there.
fn total(hotwords: &Hotwords, row: &[u32]) -> (f32, f32) {
    let (sum, state) = row.iter().fold((0.0, hotwords.start()), |(sum, state), &token| {
        let (bonus, next) = hotwords.advance(state, token);
        (sum + bonus, next)
    });
    (sum, sum + hotwords.end(state))
}

fn spelled(row: &[u32]) -> String {
    let table = tokens();
    row.iter().fold(String::new(), |mut text, &token| {
        if table.begins_word(token) {
            text.push(' ');
        }
        text + table.spelling(token)
    })
}

#[test]
fn a_phrase_counts_in_every_segmentation() {
    let (hotwords, warnings) = hotwords(&["abc ab"], 0.5);
    assert!(warnings.is_empty(), "{warnings:?}");
    for row in [
        &[1, 2, 3, 4, 1, 2, 3][..],
        &[6, 4, 6],
        &[5, 7, 5, 3],
        &[1, 9, 1, 2, 3],
    ] {
        assert_eq!(total(&hotwords, row), (2.5, 2.5), "{row:?}");
    }
}

#[test]
fn an_unfinished_phrase_is_taken_back() {
    let (hotwords, _) = hotwords(&["abc ab"], 1.0);
    assert_eq!(total(&hotwords, &[6, 4]), (3.0, 0.0));
    assert_eq!(total(&hotwords, &[6, 4, 8]).0, 0.0);
    assert_eq!(total(&hotwords, &[6, 2]).0, 0.0);
}

#[test]
fn a_phrase_stands_only_between_word_ends() {
    let (hotwords, _) = hotwords(&["ab"], 1.0);
    assert_eq!(total(&hotwords, &[6]), (2.0, 2.0));
    assert_eq!(total(&hotwords, &[6, 4]).1, 0.0);
    assert_eq!(total(&hotwords, &[8, 2, 3]).1, 0.0);
    assert_eq!(total(&hotwords, &[6, 6, 8]).1, 4.0);
}

#[test]
fn leaving_one_phrase_goes_on_with_another() {
    let (hotwords, _) = hotwords(&["a b c", "b ab"], 1.0);
    assert_eq!(total(&hotwords, &[5, 8, 6]).1, 3.0);
}

#[test]
fn a_longer_phrase_keeps_the_shorter_one_inside() {
    let (hotwords, _) = hotwords(&["a", "a b b"], 1.0);
    assert_eq!(total(&hotwords, &[5, 8]), (2.0, 1.0));
    assert_eq!(total(&hotwords, &[5, 8, 8]).1, 3.0);
}

#[test]
fn what_cannot_be_used_is_named_and_the_rest_works() {
    let list = [
        ("c b", 9.0),
        ("axb", 1.0),
        ("  ", 1.0),
        ("AB", 1.0),
        ("b", f32::NAN),
    ];
    let list = list.map(|(text, boost)| Hotword {
        text: text.to_owned(),
        boost,
    });
    let (hotwords, warnings) = Hotwords::new(&tokens(), &list);
    let texts: Vec<String> = warnings.iter().map(ToString::to_string).collect();
    assert_eq!(
        texts,
        [
            "hotword `c b` has boost 2 instead of 9: expected 0 to 2",
            "hotword `axb` is left out: the model has no token for `x` there",
            "hotword 2 is left out: it is empty",
            "hotword `b` has boost 0 instead of NaN: expected 0 to 2",
        ]
    );
    assert_eq!(total(&hotwords, &[6]), (2.0, 2.0));
}

#[test]
fn too_many_and_too_long_are_left_out() {
    let long = "a".repeat(Hotwords::MAX_CHARACTERS + 1);
    let mut texts = vec!["ab"; Hotwords::MAX_COUNT + 2];
    texts[0] = &long;
    let (hotwords, warnings) = hotwords(&texts, 1.0);
    assert_eq!(warnings.len(), 2);
    assert_eq!(warnings[1], HotwordWarning::TooMany { left_out: 2 });
    assert_eq!(total(&hotwords, &[6]).1, 2.0);
}

#[test]
fn a_hotword_wins_in_the_beam() {
    let table = Arc::new(tokens());
    let mut frames = vec![(0.01_f32).ln(); 3 * table.len()];
    for (frame, class, probability) in [(0, 6, 0.9), (1, 2, 0.5), (1, 4, 0.4), (2, 0, 0.9)] {
        frames[frame * table.len() + class] = f32::ln(probability);
    }
    let best = |fusion: Fusion| {
        let found = n_best(Arc::clone(&table), &frames, Pruning::width_only(20), fusion, 1);
        spelled(&found[0].tokens.iter().map(|token| token.id).collect::<Vec<_>>())
    };
    assert_eq!(best(Fusion::default()), " aba");
    let (list, _) = hotwords(&["abc"], 1.0);
    assert_eq!(
        best(Fusion {
            hotwords: Some(Arc::new(list)),
            ..Fusion::default()
        }),
        " abc"
    );
}

proptest! {
    /// With phrases of single words, what stays is the letters of the words that are phrases.
    #[test]
    fn what_stays_is_what_was_completed(row in prop::collection::vec(1..10_u32, 0..30), boost in 0.0..2.0_f32) {
        let phrases = ["abc", "a", "abab", "b"];
        let (hotwords, _) = hotwords(&phrases, boost);
        let text = spelled(&row);
        let letters: usize = text.split(' ').filter(|word| phrases.contains(word)).map(str::len).sum();
        let (_, stays) = total(&hotwords, &row);
        prop_assert!((stays - boost * letters as f32).abs() < 1e-3, "{text}: {stays}");
    }

    #[test]
    fn no_token_adds_more_than_is_said(
        row in prop::collection::vec(1..10_u32, 0..30),
        phrases in prop::collection::vec("[abc]{1,4}( [abc]{1,4}){0,2}", 1..6),
        boosts in prop::collection::vec(0.0..2.0_f32, 6),
    ) {
        let list: Vec<Hotword> = phrases.into_iter().zip(boosts).map(|(text, boost)| Hotword { text, boost }).collect();
        let (hotwords, _) = Hotwords::new(&tokens(), &list);
        let mut state = hotwords.start();
        for token in row {
            let (bonus, next) = hotwords.advance(state, token);
            prop_assert!(bonus <= hotwords.best_token() + 1e-4);
            prop_assert!(hotwords.end(next) <= 1e-4);
            state = next;
        }
    }
}

/// A model's unknown word stands for all of them, so one spelling of so many costs more; words of hotwords are known.
#[test]
fn unknown_words_are_dear_unless_they_are_hotwords() {
    let arpa = "\\data\\\nngram 1=4\n\n\\1-grams:\n-1\t<unk>\n-99\t<s>\n-1\t</s>\n-1\tab\n\n\\end\\\n";
    let language_model = LanguageModel::from_bytes(arpa.as_bytes()).unwrap();
    let (expected, _) = hotwords(&["cab b"], 1.0);
    let fusion = Fusion {
        language_model: Some(Arc::new(language_model)),
        language_model_weight: 0.5,
        word_bonus: 1.0,
        unknown_word_log_prob: -8.0,
        tokens: None,
        hotwords: Some(Arc::new(expected)),
    };
    let said = |word: &str| fusion.word(&fusion.start(), word).0;
    let known = 0.5 * -std::f32::consts::LN_10 + 1.0;
    assert!((said("ab") - known).abs() < 1e-4, "{}", said("ab"));
    assert!((said("cab") - known).abs() < 1e-4, "{}", said("cab"));
    assert!((said("bca") - (known - 4.0)).abs() < 1e-4, "{}", said("bca"));
}

proptest! {
    /// An unknown word is paid for once, as soon as it can be no known one and no hotword; what a row of tokens costs in the end is the same as if all were paid late.
    #[test]
    fn unknown_words_are_paid_early_and_once(row in prop::collection::vec(1..10_u32, 0..12)) {
        let arpa = "\\data\\\nngram 1=5\n\n\\1-grams:\n-1\t<unk>\n-99\t<s>\n-1\t</s>\n-1\tab\n-1\tcabb\n\n\\end\\\n";
        let language_model = Arc::new(LanguageModel::from_bytes(arpa.as_bytes()).unwrap());
        let (expected, _) = hotwords(&["bca"], 0.0);
        let late = Fusion {
            language_model: Some(language_model),
            language_model_weight: 0.5,
            word_bonus: 1.0,
            unknown_word_log_prob: -8.0,
            tokens: None,
            hotwords: Some(Arc::new(expected)),
        };
        let table = Arc::new(tokens());
        let early = Fusion { tokens: Some(Arc::clone(&table)), ..late.clone() };
        // As a search asks: a word when the next one begins and at the end.
        let told = |fusion: &Fusion| {
            let (mut state, mut sum, mut word, mut open) = (fusion.start(), 0.0, String::new(), 0.0);
            for &token in &row {
                if table.begins_word(token) && !word.is_empty() {
                    let (said, next) = fusion.word(&state, &word);
                    (sum, state) = (sum + said, next);
                    word.clear();
                    open = 0.0;
                }
                let (said, next) = fusion.token(&state, token);
                (sum, state) = (sum + said, next);
                open += said;
                word.push_str(table.spelling(token));
            }
            let last = if word.is_empty() { 0.0 } else { fusion.word(&state, &word).0 };
            (sum + last, word, open)
        };
        let ((sum, word, paid), (expected, ..)) = (told(&early), told(&late));
        prop_assert!((sum - expected).abs() < 1e-3, "{} against {}", sum, expected);
        let may_be = ["ab", "cabb", "bca"].iter().any(|known| known.starts_with(&word));
        prop_assert_eq!(paid, if may_be { 0.0 } else { -4.0 });
    }
}
