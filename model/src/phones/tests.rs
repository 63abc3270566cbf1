//! The search and the scores against every path written out.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use super::score::{Sounds, log_prob};
use super::*;

const CLASSES: usize = 4;

const ARPA: &str = "\\data\\\nngram 1=7\nngram 2=4\n\n\\1-grams:\n-1.5\t<unk>\n-99\t<s>\t-0.4\n-0.9\t</s>\n-0.8\tone\t-0.3\n-0.7\twon\t-0.5\n\
    -1.1\ttoo\t-0.2\n-1.3\tan\t-0.1\n\n\\2-grams:\n-0.3\tone too\n-0.2\t<s> won\n-0.6\ttoo </s>\n-0.4\twon an\n\n\\end\\\n";

/// Words that sound alike, that begin alike, that have two pronunciations, that repeat a phone; one that the language model does not know.
const LIST: &str = "one\tA B\nwon\tA B\nwon\tA\ntoo\tB B\nan\tA B C\nan\tC\nodd\tC B\n";

fn judge(with_words: bool) -> PhoneJudge {
    let names = ["A", "B", "C"].map(String::from);
    let list = Pronunciations::from_bytes(LIST.as_bytes(), &names).unwrap();
    let language_model = LanguageModel::from_bytes(ARPA.as_bytes()).unwrap();
    let decoding = Decoding {
        unknown_word_log_prob: -1.0,
        ..Decoding::default()
    };
    PhoneJudge::new(
        CLASSES,
        Arc::new(list),
        with_words.then(|| Arc::new(language_model)),
        &decoding,
    )
}

/// Probabilities of frames that sum to one.
fn frames(most: usize) -> impl Strategy<Value = Vec<f32>> {
    prop::collection::vec(prop::collection::vec(-4.0f32..0.0, CLASSES), 1..=most).prop_map(|frames| {
        let normal = |frame: Vec<f32>| {
            let sum: f32 = frame.iter().map(|value| value.exp()).sum();
            frame.into_iter().map(move |value| value.exp() / sum)
        };
        frames.into_iter().flat_map(normal).collect()
    })
}

/// Every sequence of phones with the sum of the probabilities of its paths.
fn spelled_out(probabilities: &[f32]) -> BTreeMap<Vec<u8>, f64> {
    let mut paths = vec![(Vec::<u8>::new(), 1.0f64)];
    for frame in probabilities.chunks_exact(CLASSES) {
        paths = paths
            .into_iter()
            .flat_map(|(path, probability)| {
                frame.iter().enumerate().map(move |(class, &own)| {
                    let longer = [path.as_slice(), &[class as u8]].concat();
                    (longer, probability * f64::from(own))
                })
            })
            .collect();
    }
    let mut sums = BTreeMap::new();
    for (mut path, probability) in paths {
        path.dedup();
        path.retain(|&class| class != 0);
        *sums.entry(path).or_default() += probability;
    }
    sums
}

/// Every way of saying a text.
fn ways(list: &Pronunciations, text: &[u32]) -> Vec<Vec<u8>> {
    text.iter().fold(vec![Vec::new()], |ways, &word| {
        let longer = |way: &Vec<u8>| {
            let way = way.clone();
            list.of(word)
                .map(move |said| [&way, said].concat())
                .collect::<Vec<_>>()
        };
        ways.iter().flat_map(longer).collect()
    })
}

/// Every text of at most so many words.
fn texts(list: &Pronunciations, most: usize) -> Vec<Vec<u32>> {
    let mut all = vec![Vec::new()];
    let mut longest = all.clone();
    for _ in 0..most {
        longest = longest
            .iter()
            .flat_map(|text: &Vec<u32>| {
                (0..list.num_words() as u32).map(move |word| [text.as_slice(), &[word]].concat())
            })
            .collect();
        all.extend(longest.iter().cloned());
    }
    all
}

fn spelling(list: &Pronunciations, text: &[u32]) -> String {
    let words: Vec<&str> = text.iter().map(|&word| list.word(word)).collect();
    words.join(" ")
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn a_text_is_as_probable_as_all_its_paths(probabilities in frames(5)) {
        let judge = judge(false);
        let sums = spelled_out(&probabilities);
        for text in texts(&judge.list, 2) {
            let expected: f64 = ways(&judge.list, &text).iter().filter_map(|way| sums.get(way)).sum();
            let sounds: Vec<Sounds<'_>> =
                text.iter().map(|&word| Sounds::Known(judge.list.of(word).collect())).collect();
            match log_prob(&probabilities, CLASSES, &sounds) {
                Some(found) => prop_assert!((found - expected.ln()).abs() < 1e-9, "{text:?}: {found} {}", expected.ln()),
                None => prop_assert_eq!(expected, 0.0),
            }
        }
    }

    /// Nothing is left out of so small a search; so the best of all texts that there are is what it finds, and in their order.
    #[test]
    fn the_search_finds_the_best_texts(probabilities in frames(5), with_words in any::<bool>()) {
        let judge = judge(with_words);
        let mut all: Vec<(f64, String)> = texts(&judge.list, 5)
            .iter()
            .map(|text| spelling(&judge.list, text))
            .filter_map(|text| Some((judge.log_prob(&probabilities, &text)?, text)))
            .collect();
        all.sort_by(|a, b| b.0.total_cmp(&a.0));
        let found = judge.search(&probabilities, 10_000);
        prop_assert_eq!(found.iter().collect::<BTreeSet<_>>().len(), found.len());
        for (text, (best, _)) in found.iter().zip(&all).take(5) {
            let own = judge.log_prob(&probabilities, text).unwrap();
            prop_assert!((own - best).abs() < 1e-6, "{text}: {own} {best}");
        }
    }
}

#[test]
fn a_word_that_nobody_can_say_is_heard_as_something() {
    let judge = judge(true);
    // A B, a pause, C.
    let frame = |class: usize| (0..CLASSES).map(move |other| if other == class { 0.97 } else { 0.01 });
    let probabilities: Vec<f32> = [0, 1, 2, 0, 3, 0].into_iter().flat_map(frame).collect();
    let of = |text: &str| judge.log_prob(&probabilities, text).unwrap();
    assert!(of("won an") > of("won hm") && of("won hm") > of("odd won"));
    assert_eq!(judge.search(&probabilities, WIDTH)[0], "won an");
}

#[test]
fn silence_is_no_word() {
    let judge = judge(true);
    let silence: Vec<f32> = [0.97, 0.01, 0.01, 0.01].repeat(20);
    assert_eq!(judge.search(&silence, WIDTH)[0], "");
    let nothing = judge.judge(&[], &[String::new(), "one".into()]);
    assert_eq!(nothing.log_probs.len(), 2);
    assert_eq!(nothing.log_probs[1], None, "there is no frame to say it in");
}
