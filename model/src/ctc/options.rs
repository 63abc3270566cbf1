//! How hard a decoder searches.

use std::ops::RangeInclusive;
use std::time::Duration;

use crate::endpoint::frames_in;

/// Settings of decoding, in sessions, files and `waxwing decode` alike.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Decoding {
    /// Prefixes that are kept from frame to frame. 1: best path, no search at all.
    pub beam_width: usize,
    /// Classes that are tried in a frame, the most probable ones.
    pub max_tokens: usize,
    /// Natural log of the least probability that a class needs to be tried; the most probable one always is.
    pub min_token_log_prob: f32,
    /// A prefix whose score, a natural log, is further below the best one's leaves the beam.
    pub max_distance: f32,
    /// After this long, in milliseconds of audio, the best prefix's tokens are settled, and prefixes that disagree with them
    /// leave the beam: how late a word becomes stable at the latest.
    pub settle_ms: u32,
    /// Hypotheses that a final shows, the best one included.
    pub alternatives: usize,
    /// Width of a second search, when an utterance ends, of what is not stable by then; without effect unless it is above `beam_width`, and
    /// without a beam. 0: none.
    pub second_pass_width: usize,
    /// What the natural log-probability of a text by the model's second listener or by its phones is multiplied by, which judge what the second pass finds; 0
    /// leaves them out. It has no effect without a second pass, or where the model has neither.
    pub rescoring_weight: f32,
    /// What the natural log-probability of a word in the language model is multiplied by; 0 is no language model.
    pub language_model_weight: f32,
    /// Added for every word, against the language model's liking for few words; without one it has no effect in sessions.
    pub word_bonus: f32,
    /// Added to the natural log-probability of a word that the language model does not know, before the weight: the model's unknown word stands for
    /// all of them together, and one spelling out of so many is far less probable. Words of hotwords are taken for known.
    pub unknown_word_log_prob: f32,
}

impl Default for Decoding {
    /// The best path. See `docs/decoding.md` for the figures behind the rest.
    fn default() -> Self {
        Self {
            beam_width: 1,
            max_tokens: 40,
            min_token_log_prob: -9.0,
            max_distance: 14.0,
            settle_ms: 1500,
            alternatives: 1,
            second_pass_width: 0,
            rescoring_weight: 0.0,
            language_model_weight: 0.5,
            word_bonus: 1.0,
            unknown_word_log_prob: -20.0,
        }
    }
}

/// Why a [`Decoding`] was refused.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum DecodingError {
    /// A count outside its bounds.
    #[error("{name}: expected {} to {}, found {found}", .expected.start(), .expected.end())]
    Count {
        /// Which setting.
        name: &'static str,
        /// Its bounds.
        expected: RangeInclusive<usize>,
        /// As given.
        found: usize,
    },
    /// A number outside its bounds, or not a number.
    #[error("{name}: expected {} to {}, found {found}", .expected.start(), .expected.end())]
    Number {
        /// Which setting.
        name: &'static str,
        /// Its bounds.
        expected: RangeInclusive<f32>,
        /// As given.
        found: f32,
    },
}

impl Decoding {
    /// What is used where a model has a language model beside it. See `docs/decoding.md` for the figures behind it.
    pub fn with_language_model() -> Self {
        Self {
            beam_width: 32,
            settle_ms: 1000,
            second_pass_width: 64,
            ..Self::default()
        }
    }

    /// What is used where a model has a second listener. See `docs/decoding.md` for the figures behind it.
    pub fn with_second_listener() -> Self {
        Self {
            rescoring_weight: 1.5,
            ..Self::with_language_model()
        }
    }

    /// Accepted values of `beam_width`.
    pub const BEAM_WIDTH: RangeInclusive<usize> = 1..=500;
    /// Accepted values of `max_tokens`.
    pub const MAX_TOKENS: RangeInclusive<usize> = 1..=10_000;
    /// Accepted values of `min_token_log_prob`.
    pub const MIN_TOKEN_LOG_PROB: RangeInclusive<f32> = -1000.0..=0.0;
    /// Accepted values of `max_distance`.
    pub const MAX_DISTANCE: RangeInclusive<f32> = 0.0..=1000.0;
    /// Accepted values of `settle_ms`.
    pub const SETTLE_MS: RangeInclusive<usize> = 100..=10_000;
    /// Accepted values of `alternatives`.
    pub const ALTERNATIVES: RangeInclusive<usize> = 1..=20;
    /// Accepted values of `second_pass_width`.
    pub const SECOND_PASS_WIDTH: RangeInclusive<usize> = 0..=500;
    /// Accepted values of `rescoring_weight`.
    pub const RESCORING_WEIGHT: RangeInclusive<f32> = 0.0..=10.0;
    /// Accepted values of `language_model_weight`.
    pub const LANGUAGE_MODEL_WEIGHT: RangeInclusive<f32> = 0.0..=10.0;
    /// Accepted values of `word_bonus`.
    pub const WORD_BONUS: RangeInclusive<f32> = -10.0..=10.0;

    /// Accepted values of `unknown_word_log_prob`.
    pub const UNKNOWN_WORD_LOG_PROB: RangeInclusive<f32> = -1000.0..=0.0;

    /// Checks all values against their bounds. A decoder that is given others uses the nearest accepted ones.
    ///
    /// # Errors
    /// Names the first value that is out of bounds, and the bounds.
    pub fn validate(&self) -> Result<(), DecodingError> {
        let counts = [
            ("beam_width", Self::BEAM_WIDTH, self.beam_width),
            ("max_tokens", Self::MAX_TOKENS, self.max_tokens),
            ("settle_ms", Self::SETTLE_MS, self.settle_ms as usize),
            ("alternatives", Self::ALTERNATIVES, self.alternatives),
            (
                "second_pass_width",
                Self::SECOND_PASS_WIDTH,
                self.second_pass_width,
            ),
        ];
        for (name, expected, found) in counts {
            if !expected.contains(&found) {
                return Err(DecodingError::Count {
                    name,
                    expected,
                    found,
                });
            }
        }
        let numbers = [
            (
                "min_token_log_prob",
                Self::MIN_TOKEN_LOG_PROB,
                self.min_token_log_prob,
            ),
            ("max_distance", Self::MAX_DISTANCE, self.max_distance),
            ("rescoring_weight", Self::RESCORING_WEIGHT, self.rescoring_weight),
            (
                "language_model_weight",
                Self::LANGUAGE_MODEL_WEIGHT,
                self.language_model_weight,
            ),
            ("word_bonus", Self::WORD_BONUS, self.word_bonus),
            (
                "unknown_word_log_prob",
                Self::UNKNOWN_WORD_LOG_PROB,
                self.unknown_word_log_prob,
            ),
        ];
        for (name, expected, found) in numbers {
            if !expected.contains(&found) {
                return Err(DecodingError::Number {
                    name,
                    expected,
                    found,
                });
            }
        }
        Ok(())
    }

    /// The nearest accepted values; the default for what is not a number.
    pub(crate) fn bounded(self) -> Self {
        let default = Self::default();
        let count = |value: usize, bounds: RangeInclusive<usize>| value.clamp(*bounds.start(), *bounds.end());
        let number = |value: f32, bounds: RangeInclusive<f32>, default: f32| {
            if value.is_nan() {
                default
            } else {
                value.clamp(*bounds.start(), *bounds.end())
            }
        };
        Self {
            beam_width: count(self.beam_width, Self::BEAM_WIDTH),
            max_tokens: count(self.max_tokens, Self::MAX_TOKENS),
            min_token_log_prob: number(
                self.min_token_log_prob,
                Self::MIN_TOKEN_LOG_PROB,
                default.min_token_log_prob,
            ),
            max_distance: number(self.max_distance, Self::MAX_DISTANCE, default.max_distance),
            settle_ms: count(self.settle_ms as usize, Self::SETTLE_MS) as u32,
            alternatives: count(self.alternatives, Self::ALTERNATIVES),
            second_pass_width: count(self.second_pass_width, Self::SECOND_PASS_WIDTH),
            rescoring_weight: number(
                self.rescoring_weight,
                Self::RESCORING_WEIGHT,
                default.rescoring_weight,
            ),
            language_model_weight: number(
                self.language_model_weight,
                Self::LANGUAGE_MODEL_WEIGHT,
                default.language_model_weight,
            ),
            word_bonus: number(self.word_bonus, Self::WORD_BONUS, default.word_bonus),
            unknown_word_log_prob: number(
                self.unknown_word_log_prob,
                Self::UNKNOWN_WORD_LOG_PROB,
                default.unknown_word_log_prob,
            ),
        }
    }

    /// What the search itself needs of this, for a model that emits an output frame every `frame`.
    pub fn pruning(&self, frame: Duration) -> Pruning {
        let bounded = self.bounded();
        Pruning {
            beam_width: bounded.beam_width,
            max_tokens: bounded.max_tokens,
            min_token_log_prob: bounded.min_token_log_prob,
            max_distance: bounded.max_distance,
            settle_frames: frames_in(Duration::from_millis(u64::from(bounded.settle_ms)), frame),
        }
    }
}

/// What a prefix beam search leaves out.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Pruning {
    /// Prefixes kept from frame to frame; at least 1.
    pub beam_width: usize,
    /// Classes tried in a frame; at least 1.
    pub max_tokens: usize,
    /// Natural log of the least probability of a class that is tried; the most probable class always is.
    pub min_token_log_prob: f32,
    /// Natural log of how much less probable than the best a prefix may be.
    pub max_distance: f32,
    /// Frames after which a token of the best prefix is settled, whatever other prefixes say.
    pub settle_frames: u64,
}

impl Pruning {
    /// Nothing but the width of the beam.
    pub fn width_only(beam_width: usize) -> Self {
        Self {
            beam_width,
            max_tokens: usize::MAX,
            min_token_log_prob: f32::NEG_INFINITY,
            max_distance: f32::INFINITY,
            settle_frames: u64::MAX,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bounds_are_checked_and_named() {
        assert_eq!(Decoding::default().validate(), Ok(()));
        let wide = Decoding {
            beam_width: 501,
            ..Decoding::default()
        };
        assert_eq!(
            wide.validate().unwrap_err().to_string(),
            "beam_width: expected 1 to 500, found 501"
        );
        let unweighable = Decoding {
            language_model_weight: f32::NAN,
            ..Decoding::default()
        };
        assert_eq!(
            unweighable.validate().unwrap_err().to_string(),
            "language_model_weight: expected 0 to 10, found NaN"
        );
    }

    #[test]
    fn values_out_of_bounds_act_as_the_nearest_accepted() {
        let wild = Decoding {
            beam_width: 0,
            max_tokens: usize::MAX,
            min_token_log_prob: f32::NAN,
            max_distance: -1.0,
            settle_ms: 0,
            alternatives: 99,
            second_pass_width: 9999,
            rescoring_weight: -1.0,
            language_model_weight: f32::INFINITY,
            word_bonus: -11.0,
            unknown_word_log_prob: 1.0,
        };
        assert_eq!(wild.bounded().validate(), Ok(()));
        assert_eq!(wild.bounded().beam_width, 1);
        assert_eq!(
            wild.bounded().min_token_log_prob,
            Decoding::default().min_token_log_prob
        );
    }
}
