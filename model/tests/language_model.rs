//! Language models: KenLM's scores, the back-off law, and refusal of what is broken.

#![expect(clippy::unwrap_used, reason = "helpers of tests fail and report as tests do")]

use std::f32::consts::LN_10;
use std::io::{Read as _, Write as _};

use proptest::prelude::*;
use serde::Deserialize;
use waxwing_model::language_model::{LanguageModel, LanguageModelError};

const ARPA: &str = include_str!("../../tests/golden/language_model.arpa");
const GOLDEN: &str = include_str!("../../tests/golden/language_model.json");
/// Of a word's log10 probability, against KenLM.
const EXACT: f32 = 1e-5;
/// The same of the compact form: at most four stored numbers make one, each within 1/508 of a range of 4.
const QUANTISED: f32 = 3.2e-2;

#[derive(Deserialize)]
struct Golden {
    order: usize,
    sentences: Vec<Sentence>,
}

#[derive(Deserialize)]
struct Sentence {
    words: Vec<String>,
    log10: Vec<f32>,
}

fn exact() -> LanguageModel {
    LanguageModel::from_bytes(ARPA.as_bytes()).unwrap()
}

fn compact() -> LanguageModel {
    LanguageModel::from_bytes(&exact().to_bytes()).unwrap()
}

fn log10s(model: &LanguageModel, words: &[String]) -> Vec<f32> {
    let mut state = model.begin();
    let mut scores = Vec::new();
    for word in words {
        let (score, next) = model.score(state, model.word(word));
        scores.push(score / LN_10);
        state = next;
    }
    scores.push(model.end(state) / LN_10);
    scores
}

fn greatest_difference(model: &LanguageModel) -> f32 {
    let golden: Golden = serde_json::from_str(GOLDEN).unwrap();
    assert_eq!(model.order(), golden.order);
    let mut greatest = 0.0_f32;
    for sentence in &golden.sentences {
        let scores = log10s(model, &sentence.words);
        assert_eq!(scores.len(), sentence.log10.len());
        for (found, expected) in scores.iter().zip(&sentence.log10) {
            greatest = greatest.max((found - expected).abs());
        }
    }
    greatest
}

#[test]
fn scores_are_kenlm_s() {
    let difference = greatest_difference(&exact());
    assert!(difference < EXACT, "{difference}");
}

#[test]
fn compact_scores_are_kenlm_s_within_the_stated_tolerance() {
    let difference = greatest_difference(&compact());
    assert!(difference < QUANTISED, "{difference}");
}

#[test]
fn a_packed_text_is_the_same_model() {
    let mut packer = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    packer.write_all(ARPA.as_bytes()).unwrap();
    assert_eq!(
        LanguageModel::from_bytes(&packer.finish().unwrap()).unwrap(),
        exact()
    );
}

#[test]
fn a_compact_model_keeps_words_and_counts() {
    let (one, other) = (exact(), compact());
    assert_eq!(one.num_ngrams(), other.num_ngrams());
    assert!(one.words().eq(other.words()));
    assert!(other.knows("he's") && !other.knows("zed"));
    assert_eq!(other.word("zed"), other.word("<unk>"));
}

/// Three words with a bigram; worked out by hand.
const SMALL: &str = "\\data\\\nngram 1=5\nngram 2=2\n\n\\1-grams:\n-99 <s> -0.30103\n-0.60206 </s>\n-0.60206 a -0.1760913\n\
                     -0.60206 b\n-0.60206 <unk>\n\n\\2-grams:\n-0.30103 a b\n-0.20412 <s> a\n\n\\end\\\n";

#[test]
fn listed_ngrams_have_their_own_probability_and_others_back_off() {
    let model = LanguageModel::from_bytes(SMALL.as_bytes()).unwrap();
    let (_, after_a) = model.score(model.nothing_before(), model.word("a"));
    let probability = |word: &str| model.score(after_a, model.word(word)).0.exp();
    assert!((probability("b") - 0.5).abs() < 1e-5);
    assert!((probability("a") - 0.25 * 10_f32.powf(-0.176_091_3)).abs() < 1e-5);
}

#[test]
fn probabilities_behind_a_history_sum_to_one() {
    let model = LanguageModel::from_bytes(SMALL.as_bytes()).unwrap();
    let (_, after_a) = model.score(model.nothing_before(), model.word("a"));
    for state in [model.nothing_before(), after_a] {
        let words = ["</s>", "a", "b", "<unk>"];
        let sum: f32 = words
            .iter()
            .map(|word| model.score(state, model.word(word)).0.exp())
            .sum();
        assert!((sum - 1.0).abs() < 1e-4, "{sum}");
    }
}

#[test]
fn a_missing_unknown_word_is_as_improbable_as_in_kenlm() {
    let text = SMALL
        .replace("ngram 1=5", "ngram 1=4")
        .replace("-0.60206 <unk>\n", "");
    let model = LanguageModel::from_bytes(text.as_bytes()).unwrap();
    let (score, _) = model.score(model.nothing_before(), model.word("zed"));
    assert!((score / LN_10 + 100.0).abs() < 1e-3);
}

#[test]
fn malformed_texts_are_refused_with_line_and_reason() {
    let cases = [
        (
            "ngram 2=2",
            "ngram 3=2",
            "ARPA line 3: expected `ngram 2=` and a number, found `ngram 3=2`",
        ),
        (
            "-0.60206 a ",
            "0.5 a ",
            "ARPA line 8: expected a log10 probability of at most 0, found `0.5`",
        ),
        (
            "-0.60206 a ",
            "nan a ",
            "ARPA line 8: expected a log10 probability of at most 0, found `nan`",
        ),
        (
            "-0.1760913",
            "much",
            "ARPA line 8: expected a back-off weight, found `much`",
        ),
        ("-0.60206 b", "-0.60206 a", "ARPA line 9: `a` is listed twice"),
        ("a b\n", "a c\n", "ARPA line 13: `c` is not among the 1-grams"),
        ("<s> a\n", "a b\n", "ARPA line 14: the n-gram is listed twice"),
        (
            "a b\n",
            "a\n",
            "ARPA line 13: expected a log10 probability, 2 words, found 2 fields",
        ),
        (
            "ngram 2=2",
            "ngram 2=1",
            "ARPA line 14: expected `\\end\\`, found `-0.20412 <s> a`",
        ),
        (
            "ngram 2=2",
            "ngram 2=3",
            "ARPA line 16: expected 3 2-grams, found 2",
        ),
        (
            "\\end\\\n",
            "",
            "ARPA line 16: expected `\\end\\`, found the end of the file",
        ),
        ("<s>", "<t>", "ARPA line 14: `<s>` is not among the 1-grams"),
    ];
    for (from, to, expected) in cases {
        let text = if from == "<s>" {
            SMALL.replacen(from, to, 1)
        } else {
            SMALL.replace(from, to)
        };
        let error = LanguageModel::from_bytes(text.as_bytes())
            .unwrap_err()
            .to_string();
        if from == "<s>" {
            assert!(error.contains("expected `<s>` among the 1-grams"), "{error}");
        } else {
            assert_eq!(error, expected);
        }
    }
}

#[test]
fn a_file_without_data_and_a_file_that_is_not_there_say_so() {
    let error = LanguageModel::from_bytes(b"hello\n").unwrap_err();
    assert_eq!(
        error.to_string(),
        "ARPA line 2: expected `\\end\\`, found the end of the file"
    );
    let missing = LanguageModel::load(std::path::Path::new("no/such/model.arpa")).unwrap_err();
    assert!(matches!(missing, LanguageModelError::File { .. }));
}

/// Magic and version of a compact model; the stream is behind them.
const HEAD: usize = 6;

/// What the stream of a compact model holds.
fn unpacked(bytes: &[u8]) -> Vec<u8> {
    let mut content = Vec::new();
    let mut stream = flate2::read::DeflateDecoder::new(&bytes[HEAD..bytes.len() - 4]);
    stream.read_to_end(&mut content).unwrap();
    content
}

/// A compact model of any content, whose stream and checksum are right.
fn sealed(content: &[u8]) -> Vec<u8> {
    let head = exact().to_bytes()[..HEAD].to_vec();
    let mut packer = flate2::write::DeflateEncoder::new(head, flate2::Compression::fast());
    packer.write_all(content).unwrap();
    with_checksum(packer.finish().unwrap())
}

fn with_checksum(mut bytes: Vec<u8>) -> Vec<u8> {
    let mut sum = flate2::Crc::new();
    sum.update(&bytes);
    bytes.extend(sum.sum().to_le_bytes());
    bytes
}

#[test]
fn a_model_packed_again_is_the_same() {
    assert_eq!(
        LanguageModel::from_bytes(&sealed(&unpacked(&exact().to_bytes()))).unwrap(),
        compact()
    );
}

#[test]
fn another_version_says_what_to_do() {
    let mut bytes = exact().to_bytes();
    bytes[4] = 1;
    bytes.truncate(bytes.len() - 4);
    assert_eq!(
        LanguageModel::from_bytes(&with_checksum(bytes))
            .unwrap_err()
            .to_string(),
        "compact language model: expected version 2, found 1: convert the ARPA file again"
    );
}

proptest! {
    #[test]
    fn a_damaged_compact_model_is_refused(place in any::<prop::sample::Index>(), change in 1_u8..) {
        let mut bytes = exact().to_bytes();
        let place = place.index(bytes.len());
        bytes[place] ^= change;
        prop_assert!(LanguageModel::from_bytes(&bytes).is_err());
    }

    #[test]
    fn no_bytes_make_it_panic(
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..6),
        cut in any::<bool>(),
        length in any::<prop::sample::Index>(),
    ) {
        let mut content = unpacked(&exact().to_bytes());
        for (place, byte) in changes {
            let place = place.index(content.len());
            content[place] = byte;
        }
        if cut {
            content.truncate(length.index(content.len()) + 1);
        }
        if let Ok(model) = LanguageModel::from_bytes(&sealed(&content)) {
            log10s(&model, &["a".to_owned(), "bee".to_owned(), "zed".to_owned()]);
        }
    }

    #[test]
    fn only_the_last_words_matter(
        before in prop::collection::vec(0..6_usize, 0..4),
        last in prop::collection::vec(0..6_usize, 3),
    ) {
        let model = exact();
        let words: Vec<&str> = "a bee sea dee he's eff".split(' ').collect();
        let after = |ids: &mut dyn Iterator<Item = &usize>| {
            ids.fold(model.begin(), |state, &id| model.score(state, model.word(words[id])).1)
        };
        prop_assert_eq!(after(&mut before.iter().chain(&last)), after(&mut last.iter()));
    }
}
