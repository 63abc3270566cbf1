//! Mean and variance normalisation with fixed vectors: `(x − mean) · inv_stddev`, value by value.

use serde::{Deserialize, Serialize};

use crate::FrontendError;

/// The vectors of a normalisation: one value for each feature.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Cmvn {
    /// What is taken off.
    pub mean: Vec<f32>,
    /// What the rest is multiplied by.
    pub inv_stddev: Vec<f32>,
}

impl Cmvn {
    /// Reads the text of Kaldi's nnet1 `am.mvn`, as FunASR's models ship it: a vector of negative means after
    /// `<AddShift>`, and one of inverse standard deviations after `<Rescale>`.
    ///
    /// # Errors
    ///
    /// [`FrontendError::Normalisation`] says what is missing.
    pub fn from_kaldi_text(text: &str) -> Result<Self, FrontendError> {
        let shift = vector_after(text, "<AddShift>")?;
        let inv_stddev = vector_after(text, "<Rescale>")?;
        let cmvn = Self {
            mean: shift.into_iter().map(|value| -value).collect(),
            inv_stddev,
        };
        cmvn.check(cmvn.mean.len())?;
        Ok(cmvn)
    }

    /// Checks that both vectors have `num_features` finite values.
    ///
    /// # Errors
    ///
    /// [`FrontendError::Normalisation`].
    pub fn check(&self, num_features: usize) -> Result<(), FrontendError> {
        for (name, vector) in [("mean", &self.mean), ("inv_stddev", &self.inv_stddev)] {
            if vector.len() != num_features {
                let reason = format!("`{name}` has {} values, expected {num_features}", vector.len());
                return Err(FrontendError::Normalisation { reason });
            }
            if !vector.iter().all(|value| value.is_finite()) {
                let reason = format!("`{name}` has values that are not finite numbers");
                return Err(FrontendError::Normalisation { reason });
            }
        }
        Ok(())
    }

    /// Normalises `(frames, features) f32` in place.
    pub fn apply(&self, features: &mut [f32]) {
        for frame in features.chunks_exact_mut(self.mean.len().max(1)) {
            for ((value, mean), scale) in frame.iter_mut().zip(&self.mean).zip(&self.inv_stddev) {
                *value = (*value - mean) * scale;
            }
        }
    }

    /// Bytes held.
    pub fn state_bytes(&self) -> usize {
        size_of_val(self) + (self.mean.capacity() + self.inv_stddev.capacity()) * size_of::<f32>()
    }
}

/// The numbers in the first brackets after `marker`.
fn vector_after(text: &str, marker: &str) -> Result<Vec<f32>, FrontendError> {
    let missing = || FrontendError::Normalisation {
        reason: format!("it has no vector after {marker}"),
    };
    let (_, rest) = text.split_once(marker).ok_or_else(missing)?;
    let (before, rest) = rest.split_once('[').ok_or_else(missing)?;
    // Between a marker and its vector stand sizes and a learning rate, but never another component's vector.
    if before.matches('<').count() > 1 {
        return Err(missing());
    }
    let (numbers, _) = rest.split_once(']').ok_or_else(missing)?;
    let number = |word: &str| {
        word.parse::<f32>().map_err(|_| FrontendError::Normalisation {
            reason: format!("\"{word}\" after {marker} is not a number"),
        })
    };
    numbers.split_whitespace().map(number).collect()
}
