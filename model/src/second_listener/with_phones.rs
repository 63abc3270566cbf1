//! A second listener and the phones that it hears, judging together.
//!
//! A text decoder knows what people write and guesses where it hears badly; phones say what sounded and know no words. So each keeps the other from its own mistakes: both are asked about every
//! text, those that the [phones](crate::phones) find in the list of pronunciations too.

use std::sync::Arc;

use super::SecondListener;
use crate::phones::PhoneJudge;
use crate::transcript::{Hears, Judgement, TextScorer};

/// Texts that the phones may add.
const FOUND_TEXTS: usize = 8;

/// Judges by a weighted sum of what a second listener would write and of the phones that it hears.
pub struct WithPhones {
    listener: Arc<SecondListener>,
    phones: PhoneJudge,
    /// What the phones count.
    weight: f64,
}

impl WithPhones {
    /// Of a second listener with a phone head, and somebody who knows what its phones may mean.
    pub fn new(listener: Arc<SecondListener>, phones: PhoneJudge) -> Self {
        Self {
            weight: listener.phone_weight(),
            listener,
            phones,
        }
    }
}

impl TextScorer for WithPhones {
    fn hears(&self) -> Hears {
        self.listener.hears()
    }

    fn judge(&self, frames: &[f32], texts: &[String]) -> Judgement {
        let heard = self.listener.hear(frames);
        let mut all = texts.to_vec();
        let own = heard.own.into_iter().map(|(text, _)| text);
        let found = self.phones.found(&heard.phones).into_iter().take(FOUND_TEXTS);
        for text in own.chain(found.map(|(text, _)| text)) {
            if !all.contains(&text) {
                all.push(text);
            }
        }
        let written = self.listener.log_probs_of(&heard.memory, &all);
        let together = |(text, written): (&String, Option<f64>)| {
            Some(written? + self.weight * self.phones.sounds(&heard.phones, text)?)
        };
        let mut judged = all.iter().zip(written).map(together);
        Judgement {
            log_probs: judged.by_ref().take(texts.len()).collect(),
            found: all
                .iter()
                .skip(texts.len())
                .cloned()
                .zip(judged)
                .filter_map(|(text, log_prob)| Some((text, log_prob?)))
                .collect(),
        }
    }
}
