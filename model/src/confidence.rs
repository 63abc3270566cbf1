//! How probably a word is right.
//!
//! The product over its tokens, separators included, of the highest
//! posterior in each one's run is the acoustic model's own opinion of that; it is too high, so its odds are
//! corrected by a power and a factor (Platt, "Probabilistic outputs for support vector machines", 1999). Where a language model is heard, words are right
//! that the acoustics alone would not have found: there the opinion is the geometric mean over the tokens, and longer words are
//! surer. The corrections were fitted on real speech: `docs/decoding.md` shows how well they hold. The confidence of an utterance is the mean over its words:
//! the share of them that is probably right.

use crate::hypothesis::EmittedToken;

/// What a word was found with, and so what its confidence is judged by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Evidence {
    /// Acoustics; hotwords may have helped.
    #[default]
    Acoustics,
    /// Acoustics and a language model.
    LanguageModel,
    /// Acoustics, a language model and a [second listener](crate::second_listener), whose word counts for more than that of the acoustics.
    SecondListener,
    /// Acoustics, a language model and [phones](crate::phones), which count for as much as the acoustics of the classes.
    Phones,
}

/// A log-odds of what the acoustics make of a word becomes one of its being right. `model/examples/decoding_report.rs` fits these numbers.
struct Correction {
    offset: f32,
    /// Of the log-odds of the opinion.
    slope: f32,
    /// For each letter.
    letter: f32,
}

impl Evidence {
    const fn correction(self) -> Correction {
        match self {
            Self::Acoustics => Correction {
                offset: -0.8,
                slope: 0.66,
                letter: 0.0,
            },
            Self::LanguageModel => Correction {
                offset: -1.07,
                slope: 0.43,
                letter: 0.29,
            },
            Self::SecondListener => Correction {
                offset: 1.12,
                slope: 0.28,
                letter: 0.125,
            },
            Self::Phones => Correction {
                offset: 0.33,
                slope: 0.41,
                letter: 0.208,
            },
        }
    }

    /// What the acoustics make of a word: `num_tokens` with the sum of their natural log-posteriors.
    pub fn opinion(self, num_tokens: usize, log_posterior: f32) -> f32 {
        match self {
            Self::Acoustics => log_posterior.min(0.0).exp(),
            // Nobody is sure here.
            Self::LanguageModel | Self::SecondListener | Self::Phones => (log_posterior
                / num_tokens.max(1) as f32)
                .exp()
                .clamp(1e-6, 0.9999),
        }
    }

    /// The probability that a word of so many letters, from these tokens, is right: 0 to 1.
    pub fn confidence(self, tokens: &[EmittedToken], letters: usize) -> f32 {
        let sum: f32 = tokens.iter().map(|token| token.log_posterior).sum();
        let opinion = self.opinion(tokens.len(), sum);
        let Correction {
            offset,
            slope,
            letter,
        } = self.correction();
        let odds_against =
            ((1.0 - opinion) / opinion).powf(slope) * (-offset - letter * letters as f32).exp();
        1.0 / (1.0 + odds_against)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The confidence of a word of two letters, from tokens of such posteriors.
    fn confidence(evidence: Evidence, posteriors: &[f32]) -> f32 {
        let token = |posterior: &f32| EmittedToken {
            id: 1,
            start: 0,
            end: 1,
            log_posterior: posterior.ln(),
        };
        evidence.confidence(&posteriors.iter().map(token).collect::<Vec<_>>(), 2)
    }

    #[test]
    fn confidence_corrects_the_product_over_the_tokens() {
        // A product of 1/4 is odds of 3 against: 3 to the power of 0.66, times e to the power of 0.8.
        let expected = 1.0 / (1.0 + 2.0649 * 2.2255);
        let found = confidence(Evidence::Acoustics, &[0.5, 0.5]);
        assert!((found - expected).abs() < 1e-4, "{found}");
        assert_eq!(confidence(Evidence::Acoustics, &[1.0]), 1.0);
    }

    #[test]
    fn behind_a_language_model_confidence_corrects_the_mean_over_the_tokens() {
        // A mean of 1/2 is even odds, whatever their power.
        let expected = 1.0 / (1.0 + (1.07f32 - 0.29 * 2.0).exp());
        let found = confidence(Evidence::LanguageModel, &[0.5, 0.5]);
        assert!((found - expected).abs() < 1e-4, "{found}");
    }

    #[test]
    fn what_a_second_listener_heard_too_is_surer() {
        let found = [Evidence::LanguageModel, Evidence::SecondListener]
            .map(|evidence| confidence(evidence, &[0.5, 0.5]));
        assert!(found[0] < found[1] && found[1] < 1.0, "{found:?}");
    }

    #[test]
    fn impossible_words_have_no_confidence() {
        assert_eq!(confidence(Evidence::Acoustics, &[0.0]), 0.0);
    }
}
