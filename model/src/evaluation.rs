//! How good transcripts are: word alignment, word error rate, and how sure one can be of it.
//!
//! A word error rate is (substitutions + insertions + deletions) / reference words over a whole test set. It is
//! only as good as its test set is large, so it is reported with its number of words and a bootstrap interval over
//! the utterances (Bisani and Ney, "Bootstrap estimates for confidence intervals in ASR performance evaluation",
//! ICASSP 2004), and two systems are compared on the same utterances, pair by pair.

use std::fmt;
use std::iter::Sum;
use std::ops::{Add, AddAssign};

/// The words that count: lower case, no punctuation, apostrophes kept inside words, hyphens and dashes as spaces.
/// Allocates.
pub fn normalise(text: &str) -> Vec<String> {
    let plain: String = text
        .chars()
        .flat_map(char::to_lowercase)
        .map(|c| match c {
            '\u{2019}' | '\u{2018}' => '\'',
            c if c.is_alphanumeric() || c == '\'' => c,
            _ => ' ',
        })
        .collect();
    plain
        .split(' ')
        .map(|word| word.trim_matches('\''))
        .filter(|word| !word.is_empty())
        .map(str::to_owned)
        .collect()
}

/// One column of an alignment; indices into the two sequences.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Edit {
    /// The same on both sides.
    Match {
        /// Index in the reference.
        reference: usize,
        /// Index in the hypothesis.
        hypothesis: usize,
    },
    /// One for another.
    Substitution {
        /// Index in the reference.
        reference: usize,
        /// Index in the hypothesis.
        hypothesis: usize,
    },
    /// In the reference only.
    Deletion {
        /// Index in the reference.
        reference: usize,
    },
    /// In the hypothesis only.
    Insertion {
        /// Index in the hypothesis.
        hypothesis: usize,
    },
}

/// A cheapest alignment of a hypothesis with its reference, each edit costing 1 (Levenshtein). Of equally cheap ones
/// the one that, read from the end, prefers pairs to deletions and deletions to insertions. Works on words as on
/// characters. Takes time and memory proportional to the product of the lengths.
pub fn align<R, H>(reference: &[R], hypothesis: &[H]) -> Vec<Edit>
where
    R: PartialEq<H>,
{
    let columns = hypothesis.len() + 1;
    let mut costs: Vec<usize> = (0..columns).collect();
    costs.reserve(reference.len() * columns);
    for (i, expected) in reference.iter().enumerate() {
        costs.push(i + 1);
        for (j, found) in hypothesis.iter().enumerate() {
            let above = i * columns + j;
            let pair = costs[above] + usize::from(expected != found);
            let deletion = costs[above + 1] + 1;
            let insertion = costs[above + columns] + 1;
            costs.push(pair.min(deletion).min(insertion));
        }
    }
    let cost = |i: usize, j: usize| costs[i * columns + j];
    let (mut i, mut j) = (reference.len(), hypothesis.len());
    let mut edits = Vec::with_capacity(i.max(j));
    while i > 0 || j > 0 {
        let is_match = i > 0 && j > 0 && reference[i - 1] == hypothesis[j - 1];
        if i > 0 && j > 0 && cost(i, j) == cost(i - 1, j - 1) + usize::from(!is_match) {
            (i, j) = (i - 1, j - 1);
            edits.push(match is_match {
                true => Edit::Match {
                    reference: i,
                    hypothesis: j,
                },
                false => Edit::Substitution {
                    reference: i,
                    hypothesis: j,
                },
            });
        } else if i > 0 && cost(i, j) == cost(i - 1, j) + 1 {
            i -= 1;
            edits.push(Edit::Deletion { reference: i });
        } else {
            j -= 1;
            edits.push(Edit::Insertion { hypothesis: j });
        }
    }
    edits.reverse();
    edits
}

/// Errors against a reference, of one utterance or of many together; of words, or of characters.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ErrorCounts {
    /// Wrong ones.
    pub substitutions: usize,
    /// Ones that nobody said.
    pub insertions: usize,
    /// Missing ones.
    pub deletions: usize,
    /// Length of the reference.
    pub reference_length: usize,
}

impl ErrorCounts {
    /// Counts the edits of a cheapest alignment.
    pub fn between<R: PartialEq<H>, H>(reference: &[R], hypothesis: &[H]) -> Self {
        let mut counts = Self {
            reference_length: reference.len(),
            ..Self::default()
        };
        for edit in align(reference, hypothesis) {
            match edit {
                Edit::Match { .. } => {}
                Edit::Substitution { .. } => counts.substitutions += 1,
                Edit::Insertion { .. } => counts.insertions += 1,
                Edit::Deletion { .. } => counts.deletions += 1,
            }
        }
        counts
    }

    /// Word errors of a text, both sides [normalised](normalise).
    pub fn of_words(reference: &str, hypothesis: &str) -> Self {
        Self::between(&normalise(reference), &normalise(hypothesis))
    }

    /// Character errors of a text, both sides [normalised](normalise), a space between words.
    pub fn of_characters(reference: &str, hypothesis: &str) -> Self {
        let characters = |text| normalise(text).join(" ").chars().collect::<Vec<_>>();
        Self::between(&characters(reference), &characters(hypothesis))
    }

    /// Substitutions, insertions and deletions together.
    pub fn errors(&self) -> usize {
        self.substitutions + self.insertions + self.deletions
    }

    /// Errors for each unit of the reference; may exceed 1. Not a number where there is no reference.
    pub fn rate(&self) -> f64 {
        self.errors() as f64 / self.reference_length as f64
    }
}

impl Add for ErrorCounts {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self {
            substitutions: self.substitutions + other.substitutions,
            insertions: self.insertions + other.insertions,
            deletions: self.deletions + other.deletions,
            reference_length: self.reference_length + other.reference_length,
        }
    }
}

impl AddAssign for ErrorCounts {
    fn add_assign(&mut self, other: Self) {
        *self = *self + other;
    }
}

impl Sum for ErrorCounts {
    fn sum<I: Iterator<Item = Self>>(counts: I) -> Self {
        counts.fold(Self::default(), Self::add)
    }
}

impl<'a> Sum<&'a ErrorCounts> for ErrorCounts {
    fn sum<I: Iterator<Item = &'a ErrorCounts>>(counts: I) -> Self {
        counts.copied().sum()
    }
}

/// An error rate with the interval that holds 95 % of its bootstrap.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ErrorRate {
    /// All utterances together.
    pub counts: ErrorCounts,
    /// The 2.5th percentile.
    pub low: f64,
    /// The 97.5th percentile.
    pub high: f64,
}

impl ErrorRate {
    /// Resamples utterances 2,000 times from a fixed seed: the same input gives the same interval.
    pub fn of(utterances: &[ErrorCounts]) -> Self {
        let mut rates = resample(utterances.len(), |sample| {
            sample.map(|index| utterances[index]).sum::<ErrorCounts>().rate()
        });
        rates.retain(|rate| rate.is_finite());
        let (low, high) = percentiles(&mut rates);
        Self {
            counts: utterances.iter().sum(),
            low,
            high,
        }
    }
}

impl fmt::Display for ErrorRate {
    /// As in "23.4 % of 1066 words (95 % interval 20.9 to 26.0; 180 sub, 12 ins, 57 del)".
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ErrorCounts {
            substitutions,
            insertions,
            deletions,
            reference_length,
        } = self.counts;
        write!(
            f,
            "{:.1} % of {reference_length} words (95 % interval {:.1} to {:.1}; {substitutions} sub, {insertions} \
             ins, {deletions} del)",
            100.0 * self.counts.rate(),
            100.0 * self.low,
            100.0 * self.high,
        )
    }
}

/// How much lower the error rate of one system is than another's on the same utterances.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Improvement {
    /// Rate of the first minus rate of the second: positive where the second is better.
    pub difference: f64,
    /// The 2.5th percentile of the bootstrap.
    pub low: f64,
    /// The 97.5th percentile of the bootstrap.
    pub high: f64,
    /// The share of bootstrap samples in which the second system is strictly better.
    pub probability: f64,
}

impl Improvement {
    /// Compares two systems utterance by utterance, by a paired bootstrap with a fixed seed. Utterances that only
    /// one side has are left out.
    pub fn between(first: &[ErrorCounts], second: &[ErrorCounts]) -> Self {
        let pairs: Vec<_> = first.iter().zip(second).collect();
        let difference = |sample: &mut dyn Iterator<Item = usize>| {
            let (mut a, mut b) = (ErrorCounts::default(), ErrorCounts::default());
            for index in sample {
                a += *pairs[index].0;
                b += *pairs[index].1;
            }
            a.rate() - b.rate()
        };
        let mut differences = resample(pairs.len(), |mut sample| difference(&mut sample));
        differences.retain(|value| value.is_finite());
        let (low, high) = percentiles(&mut differences);
        let better = differences.iter().filter(|&&value| value > 0.0).count();
        Self {
            difference: difference(&mut (0..pairs.len())),
            low,
            high,
            probability: better as f64 / differences.len().max(1) as f64,
        }
    }
}

const RESAMPLES: usize = 2000;

/// Draws `length` indices below `length` with replacement, again and again.
fn resample(
    length: usize,
    mut statistic: impl FnMut(Box<dyn Iterator<Item = usize> + '_>) -> f64,
) -> Vec<f64> {
    let mut state = 0u64;
    (0..RESAMPLES)
        .map(|_| statistic(Box::new((0..length).map(|_| below(&mut state, length)))))
        .collect()
}

/// SplitMix64 (Steele, Lea and Flood, OOPSLA 2014), reduced to `0..length` by multiplication.
fn below(state: &mut u64, length: usize) -> usize {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut z = *state;
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^= z >> 31;
    ((u128::from(z) * length as u128) >> 64) as usize
}

/// The 2.5th and the 97.5th percentile; not numbers where there are no values.
fn percentiles(values: &mut [f64]) -> (f64, f64) {
    (percentile(values, 2.5), percentile(values, 97.5))
}

/// The value below which `percent` of the values lie, nearest rank; sorts them. Not a number where there are none.
pub fn percentile(values: &mut [f64], percent: f64) -> f64 {
    values.sort_by(f64::total_cmp);
    let rank = (percent / 100.0 * values.len() as f64).ceil() as usize;
    values
        .get(rank.clamp(1, values.len().max(1)) - 1)
        .copied()
        .unwrap_or(f64::NAN)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn words(text: &str) -> Vec<&str> {
        text.split_whitespace().collect()
    }

    #[test]
    fn normalises_what_does_not_count() {
        let expected = [
            "mr", "smith's", "twenty", "one", "rock", "n", "roll", "naïve", "7",
        ];
        assert_eq!(
            normalise("Mr. Smith\u{2019}s twenty-one \u{201c}Rock 'n' Roll\u{201d} — NAÏVE, 7!"),
            expected
        );
    }

    #[test]
    fn names_each_edit() {
        let edits = align(&words("the cat sat down"), &words("a the cat sad"));
        assert_eq!(
            edits,
            [
                Edit::Insertion { hypothesis: 0 },
                Edit::Match {
                    reference: 0,
                    hypothesis: 1
                },
                Edit::Match {
                    reference: 1,
                    hypothesis: 2
                },
                Edit::Deletion { reference: 2 },
                Edit::Substitution {
                    reference: 3,
                    hypothesis: 3
                },
            ]
        );
    }

    #[test]
    fn counts_and_rates() {
        let counts = ErrorCounts::of_words("Please hold the line for us.", "now please old the line us");
        let expected = ErrorCounts {
            substitutions: 1,
            insertions: 1,
            deletions: 1,
            reference_length: 6,
        };
        assert_eq!(counts, expected);
        assert_eq!(counts.rate(), 0.5);
        assert_eq!(ErrorCounts::of_characters("ab c", "abc").errors(), 1);
        assert!(ErrorCounts::default().rate().is_nan());
    }

    #[test]
    fn the_interval_holds_the_rate_and_is_reproducible() {
        let utterances: Vec<_> = (0..100)
            .map(|i| ErrorCounts {
                substitutions: i % 3,
                reference_length: 5,
                ..ErrorCounts::default()
            })
            .collect();
        let rate = ErrorRate::of(&utterances);
        assert!(
            rate.low < rate.counts.rate() && rate.counts.rate() < rate.high,
            "{rate}"
        );
        // The mean of 100 draws of 0, 1, 2 out of 5 words has a standard error of 0.0163.
        assert!(
            (rate.high - rate.low - 2.0 * 1.96 * 0.0163).abs() < 0.01,
            "{rate}"
        );
        assert_eq!(rate, ErrorRate::of(&utterances));
        assert!(
            rate.to_string()
                .starts_with("19.8 % of 500 words (95 % interval "),
            "{rate}"
        );
    }

    #[test]
    fn no_utterances_have_no_rate() {
        let rate = ErrorRate::of(&[]);
        assert!(rate.low.is_nan() && rate.high.is_nan() && rate.counts.rate().is_nan());
    }

    #[test]
    fn a_paired_comparison_sees_what_intervals_cannot() {
        // Utterances differ much, but the second system makes one error less in nearly each of them.
        let first: Vec<_> = (0..60)
            .map(|i| ErrorCounts {
                deletions: 1 + i % 10,
                reference_length: 10,
                ..ErrorCounts::default()
            })
            .collect();
        let second: Vec<_> = first
            .iter()
            .enumerate()
            .map(|(i, counts)| ErrorCounts {
                deletions: counts.deletions - usize::from(i % 7 != 0),
                ..*counts
            })
            .collect();
        assert!(
            ErrorRate::of(&first).low < ErrorRate::of(&second).high,
            "the intervals overlap"
        );
        let improvement = Improvement::between(&first, &second);
        assert!((improvement.difference - 51.0 / 600.0).abs() < 1e-12);
        assert!(
            improvement.low > 0.05 && improvement.high < 0.1,
            "{improvement:?}"
        );
        assert_eq!(improvement.probability, 1.0);
        assert_eq!(Improvement::between(&first, &first).probability, 0.0);
    }

    #[test]
    fn percentiles_are_values_that_occur() {
        let mut values = vec![3.0, 1.0, 2.0, 4.0];
        assert_eq!(percentile(&mut values, 50.0), 2.0);
        assert_eq!(percentile(&mut values, 0.0), 1.0);
        assert_eq!(percentile(&mut values, 100.0), 4.0);
        assert!(percentile(&mut [], 50.0).is_nan());
    }

    /// Edit distance by the recursive definition, for short sequences.
    fn distance(reference: &[u8], hypothesis: &[u8]) -> usize {
        match (reference, hypothesis) {
            ([], rest) | (rest, []) => rest.len(),
            ([a, reference_rest @ ..], [b, hypothesis_rest @ ..]) => {
                let pair = distance(reference_rest, hypothesis_rest) + usize::from(a != b);
                let deletion = distance(reference_rest, hypothesis) + 1;
                let insertion = distance(reference, hypothesis_rest) + 1;
                pair.min(deletion).min(insertion)
            }
        }
    }

    proptest! {
        /// An alignment mentions each position of both sides once, in order, says truly what matches, and is a
        /// cheapest one.
        #[test]
        fn alignments_are_complete_true_and_cheapest(
            reference in prop::collection::vec(0..3u8, 0..7),
            hypothesis in prop::collection::vec(0..3u8, 0..7),
        ) {
            let (mut i, mut j) = (0, 0);
            for edit in align(&reference, &hypothesis) {
                match edit {
                    Edit::Match { reference: r, hypothesis: h } | Edit::Substitution { reference: r, hypothesis: h } => {
                        prop_assert_eq!((r, h), (i, j));
                        prop_assert_eq!(reference[i] == hypothesis[j], matches!(edit, Edit::Match { .. }));
                        (i, j) = (i + 1, j + 1);
                    }
                    Edit::Deletion { reference: r } => {
                        prop_assert_eq!(r, i);
                        i += 1;
                    }
                    Edit::Insertion { hypothesis: h } => {
                        prop_assert_eq!(h, j);
                        j += 1;
                    }
                }
            }
            prop_assert_eq!((i, j), (reference.len(), hypothesis.len()));
            prop_assert_eq!(ErrorCounts::between(&reference, &hypothesis).errors(), distance(&reference, &hypothesis));
        }
    }
}
