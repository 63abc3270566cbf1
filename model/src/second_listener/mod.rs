//! A second listener: a network of its own that hears an utterance again when it has ended, whole, and judges what the second pass of the
//! streaming recogniser found in it; it also says what it heard itself.
//!
//! The streaming encoder knows a segment and a third of a second behind it; this one knows the whole utterance, and its decoder knows what people
//! write. What it finds alone may repeat itself or miss a piece, as attention does; so its texts are candidates like the others, and the
//! acoustics of the first pass and the language model have their say (Sainath et al., "Two-Pass End-to-End Speech Recognition", Interspeech 2019;
//! Watanabe et al., "Hybrid CTC/Attention Architecture for End-to-End Speech Recognition", 2017, §II-D).

pub mod phone_head;
mod with_phones;

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::error::ModelError;
use crate::loader::{Expected, Weights};
use crate::precision::Precision;
use crate::text_decoder::{self, Memory, TextDecoder, TextDecoderConfig, TextVocabulary};
use crate::transcript::{Hears, Judgement, TextScorer};
use crate::utterance_encoder::{self, UtteranceEncoder, UtteranceEncoderConfig};

pub use with_phones::WithPhones;

use phone_head::{PhoneHead, PhoneHeadConfig, Read};

/// Multiply-adds that judging given texts costs at most: some 50 ms of one core. An utterance's length bounds the rest.
const MOST_PRODUCTS: u64 = 3_000_000_000;

/// Texts of its own that are looked for.
const OWN_TEXTS: usize = 2;

/// Nobody says more tokens than this in a frame: eight in a second, and some for words cut short at both ends.
const TOKENS_PER_FRAME: f64 = 0.16;
const MORE_TOKENS: usize = 8;

/// Sizes of a second listener.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SecondListenerConfig {
    /// What hears.
    pub encoder: UtteranceEncoderConfig,
    /// What reads and writes.
    pub decoder: TextDecoderConfig,
    /// What says phones behind the encoder, if anything does; the model names them in `phones`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub phone_head: Option<PhoneHeadConfig>,
}

impl SecondListenerConfig {
    /// Reports everything that contradicts itself.
    pub fn problems(&self, require: &mut dyn FnMut(bool, String)) {
        self.encoder.problems(require);
        self.decoder.problems(self.encoder.dim, require);
        if let Some(head) = &self.phone_head {
            head.problems(require);
        }
    }
}

/// Every tensor of a second listener over frames of `num_features` values, with a vocabulary of `tokens`; its phone head, if it has one, tells `phones` classes apart.
pub fn expected_tensors(
    num_features: usize,
    (tokens, phones): (usize, usize),
    config: &SecondListenerConfig,
) -> Vec<Expected> {
    let mut expected = utterance_encoder::expected_tensors(num_features, &config.encoder);
    expected.extend(text_decoder::expected_tensors(
        config.encoder.dim,
        tokens,
        &config.decoder,
    ));
    if let Some(head) = &config.phone_head {
        let size = (config.encoder.dim, config.encoder.num_layers);
        expected.extend(phone_head::expected_tensors(size, phones, head));
    }
    expected
}

/// Encoder, decoder and, where it has one, phone head: weights only, shared by all threads.
pub struct SecondListener {
    encoder: UtteranceEncoder,
    decoder: TextDecoder,
    phone_head: Option<PhoneHead>,
}

impl SecondListener {
    /// Builds a second listener over frames of `num_features` log-mel values, of which `silence` is the lowest there is.
    ///
    /// # Errors
    /// As [`UtteranceEncoder::new`] and [`TextDecoder::new`].
    pub fn new(
        config: &SecondListenerConfig,
        (num_features, silence): (usize, f32),
        vocabulary: Arc<TextVocabulary>,
        weights: &Weights,
        precision: Precision,
    ) -> Result<Self, ModelError> {
        let dim = config.encoder.dim;
        Ok(Self {
            encoder: UtteranceEncoder::new(&config.encoder, num_features, silence, weights, precision)?,
            decoder: TextDecoder::new(&config.decoder, dim, vocabulary, weights, precision)?,
            phone_head: match &config.phone_head {
                Some(sizes) => Some(PhoneHead::new(dim, sizes, weights, precision)?),
                None => None,
            },
        })
    }

    /// What hears.
    pub fn encoder(&self) -> &UtteranceEncoder {
        &self.encoder
    }

    /// What reads and writes.
    pub fn decoder(&self) -> &TextDecoder {
        &self.decoder
    }

    /// What a natural log-probability of the phones counts; 0 where it says none.
    fn phone_weight(&self) -> f64 {
        self.phone_head.as_ref().map_or(0.0, PhoneHead::weight)
    }

    /// Log-probs of texts in their order as long as the work is bounded; `None` for those behind, and for those that the vocabulary cannot spell or
    /// that have no place.
    fn log_probs_of(&self, memory: &Memory, texts: &[String]) -> Vec<Option<f64>> {
        let per_token = self.decoder.products_per_token(memory.frames());
        let mut left = MOST_PRODUCTS;
        let mut spelled: Vec<Option<Vec<u32>>> = Vec::with_capacity(texts.len());
        for text in texts {
            let fits = |ids: &Vec<u32>| ids.len() <= self.decoder.config().max_text_tokens();
            let ids = self.decoder.vocabulary().encode(text).filter(fits).filter(|ids| {
                // What it begins with in common with another costs nothing.
                let others = spelled.iter().flatten();
                let known = others.map(|other| common(ids, other)).max().unwrap_or(0);
                let cost = per_token.saturating_mul((ids.len() + 1 - known) as u64);
                let is_affordable = cost <= left;
                left = left.saturating_sub(cost);
                is_affordable
            });
            spelled.push(ids);
        }
        let judged: Vec<&[u32]> = spelled.iter().flatten().map(Vec::as_slice).collect();
        let mut scores = self.decoder.score(memory, &judged).into_iter();
        spelled
            .iter()
            .map(|ids| ids.as_ref().and_then(|_| scores.next()))
            .collect()
    }
}

/// How many tokens two texts begin with in common.
fn common(left: &[u32], right: &[u32]) -> usize {
    left.iter()
        .zip(right)
        .take_while(|(left, right)| left == right)
        .count()
}

/// What a second listener heard of an utterance.
struct Heard {
    memory: Memory,
    /// Probabilities of the phones, `(frames, classes)`; empty where it says none.
    phones: Vec<f32>,
    /// What it would write, with the natural log-probabilities.
    own: Vec<(String, f64)>,
}

impl SecondListener {
    /// The probabilities of the phones, `(frames, classes) f32`, that it hears in `(output frames, values)` features and in the silence behind them; nothing where it says none.
    pub fn phones(&self, features: &[f32]) -> Vec<f32> {
        self.encode(features).1
    }

    /// What the encoder says of an utterance, and the probabilities of the phones in it.
    fn encode(&self, features: &[f32]) -> (Vec<f32>, Vec<f32>) {
        let Some(head) = &self.phone_head else {
            return (self.encoder.encode(features), Vec::new());
        };
        let mut read = Read::default();
        let encoded = self.encoder.encode_watched(features, &mut |layer, encoded| {
            head.read(layer, encoded, &mut read);
        });
        (encoded, head.probabilities(read))
    }

    fn hear(&self, frames: &[f32]) -> Heard {
        let (encoded, phones) = self.encode(frames);
        let memory = self.decoder.memory(&encoded);
        let spoken = frames.len() / self.hears().frame_len();
        let most_tokens = (spoken as f64 * TOKENS_PER_FRAME) as usize + MORE_TOKENS;
        let own = self.decoder.search(&memory, OWN_TEXTS, most_tokens).into_iter();
        let vocabulary = self.decoder.vocabulary();
        Heard {
            phones,
            own: own
                .map(|(ids, log_prob)| (vocabulary.decode(&ids), log_prob))
                .collect(),
            memory,
        }
    }
}

impl TextScorer for SecondListener {
    fn hears(&self) -> Hears {
        Hears::Features(self.encoder.values_per_frame())
    }

    fn judge(&self, frames: &[f32], texts: &[String]) -> Judgement {
        let heard = self.hear(frames);
        Judgement {
            log_probs: self.log_probs_of(&heard.memory, texts),
            found: heard.own,
        }
    }
}
