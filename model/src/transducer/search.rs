//! The beam search of `torchaudio.models.RNNTBeamSearch`, its ties and its single precision included.
//!
//! Every encoder frame takes the hypotheses of the frame before, lets each end here by a blank, extends the best by one
//! token, lets those end, and so on until no extension is better than the beam. Hypotheses are carried from call to
//! call, so any split of the frames gives the same result.

use std::sync::Arc;

use super::config::RnntConfig;
use super::networks::{Networks, Prediction};

/// A token of a hypothesis.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Emission {
    /// Class.
    pub token: u32,
    /// Encoder frame, counted from the beginning of the stream, that it was emitted in.
    pub frame: u64,
    /// Its log-prob there.
    pub log_prob: f32,
}

/// One way to read the frames so far.
#[derive(Debug, Clone, PartialEq)]
pub struct Hypothesis {
    emissions: Vec<Emission>,
    prediction: Arc<Prediction>,
    score: f32,
    /// Of the blank that ended the last frame.
    blank_log_prob: f32,
}

impl Hypothesis {
    /// Its tokens, without the blank that torchaudio's lists begin with and without those that were forgotten.
    pub fn emissions(&self) -> &[Emission] {
        &self.emissions
    }

    /// Log-prob of all its tokens and blanks: as torchaudio's, not normalised.
    pub fn score(&self) -> f32 {
        self.score
    }

    /// Log-prob of the blank that ended the last frame, where it was last extended.
    pub fn blank_log_prob(&self) -> f32 {
        self.blank_log_prob
    }

    fn has_same_tokens(&self, other: &Self) -> bool {
        self.emissions.len() == other.emissions.len()
            && (self.emissions.iter().rev().map(|emission| emission.token)).eq(other
                .emissions
                .iter()
                .rev()
                .map(|emission| emission.token))
    }
}

/// The hypotheses of one stream, the best first.
#[derive(Debug, Clone)]
pub struct Search {
    networks: Arc<Networks>,
    beam_width: usize,
    hypotheses: Vec<Hypothesis>,
    /// Tokens that were taken off the front of every hypothesis; they still count for the order.
    forgotten: usize,
    frames_seen: u64,
}

impl PartialEq for Search {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.networks, &other.networks)
            && self.beam_width == other.beam_width
            && self.hypotheses == other.hypotheses
            && (self.forgotten, self.frames_seen) == (other.forgotten, other.frames_seen)
    }
}

impl Search {
    /// Begins a stream, with the beam that the model's configuration asks for.
    pub fn new(networks: Arc<Networks>) -> Self {
        let hypotheses = vec![Hypothesis {
            emissions: Vec::new(),
            prediction: networks.beginning(),
            score: 0.0,
            blank_log_prob: 0.0,
        }];
        Self {
            beam_width: networks.config().search.beam_width,
            networks,
            hypotheses,
            forgotten: 0,
            frames_seen: 0,
        }
    }

    /// Sizes of its networks.
    pub fn config(&self) -> &RnntConfig {
        self.networks.config()
    }

    /// Keeps so many hypotheses, at least one, after each frame from the next one on.
    pub fn set_beam_width(&mut self, beam_width: usize) {
        self.beam_width = beam_width.max(1);
    }

    /// The hypotheses after the last frame, the best first; one without tokens before the first frame.
    pub fn hypotheses(&self) -> &[Hypothesis] {
        &self.hypotheses
    }

    /// Values of one encoder frame.
    pub fn frame_len(&self) -> usize {
        self.networks.config().encoding_dim
    }

    /// Tokens that all hypotheses begin with: no later frame changes them.
    pub fn num_certain(&self) -> usize {
        let Some((best, others)) = self.hypotheses.split_first() else {
            return 0;
        };
        let shared = |other: &Hypothesis| {
            let pairs = best.emissions.iter().zip(&other.emissions);
            pairs
                .take_while(|(left, right)| left.token == right.token)
                .count()
        };
        others.iter().map(shared).min().unwrap_or(best.emissions.len())
    }

    /// Forgets the first `count` of the tokens that all hypotheses begin with, so that a stream of any length is held in
    /// bounded memory. Changes nothing that comes later.
    pub fn forget(&mut self, count: usize) {
        let count = count.min(self.num_certain());
        for hypothesis in &mut self.hypotheses {
            hypothesis.emissions.drain(..count);
        }
        self.forgotten += count;
    }

    /// Keeps the best hypothesis alone, gives its tokens and forgets them: what has been read until now will not change. What
    /// comes is measured as if the stream began here, so that scores keep their precision however long the stream is.
    /// The predictor goes on.
    pub fn decide(&mut self) -> Vec<Emission> {
        self.hypotheses.truncate(1);
        self.forgotten = 0;
        let Some(best) = self.hypotheses.first_mut() else {
            return Vec::new();
        };
        best.score = 0.0;
        std::mem::take(&mut best.emissions)
    }

    /// Bytes on the heap, the networks not counted.
    pub fn heap_bytes(&self) -> usize {
        let held = |hypothesis: &Hypothesis| {
            hypothesis.emissions.capacity() * size_of::<Emission>() + hypothesis.prediction.heap_bytes()
        };
        self.hypotheses.capacity() * size_of::<Hypothesis>() + self.hypotheses.iter().map(held).sum::<usize>()
    }

    /// The most that [`heap_bytes`](Self::heap_bytes) can be with a beam of `beam_width` while no hypothesis has more than `num_tokens`.
    pub fn max_heap_bytes(config: &RnntConfig, beam_width: usize, num_tokens: usize) -> usize {
        let prediction = config.encoding_dim + 2 * config.num_lstm_layers * config.symbol_embedding_dim;
        let each = size_of::<Hypothesis>()
            + 2 * num_tokens.max(4) * size_of::<Emission>()
            + 2 * prediction * size_of::<f32>();
        beam_width.saturating_mul(each)
    }

    /// Reads the next encoder frame, `(encoding) f32`.
    pub fn accept(&mut self, frame: &[f32]) {
        let config = self.networks.config();
        let (classes, beam) = (config.num_symbols, self.beam_width);
        let mut open = std::mem::take(&mut self.hypotheses);
        // Ended by a blank in this frame, ascending by score.
        let mut ended: Vec<Hypothesis> = Vec::new();
        let mut num_symbols = 0;
        while !open.is_empty() {
            let log_probs = self
                .networks
                .join(frame, open.iter().map(|h| h.prediction.as_ref()));
            for (hypothesis, log_probs) in open.iter().zip(log_probs.chunks_exact(classes)) {
                let score = hypothesis.score + log_probs[classes - 1];
                let known = ended.iter().position(|other| other.has_same_tokens(hypothesis));
                let score = match known.map(|index| ended.remove(index)) {
                    Some(other) => log_add(other.score, score),
                    None => score,
                };
                ended.push(Hypothesis {
                    score,
                    blank_log_prob: log_probs[classes - 1],
                    ..hypothesis.clone()
                });
            }
            ended.sort_by(|left, right| left.score.total_cmp(&right.score));
            if num_symbols == config.search.step_max_tokens {
                break;
            }
            let worst = match ended.len().checked_sub(beam) {
                Some(index) => ended[index].score,
                None => f32::NEG_INFINITY,
            };
            open = self.extend(&open, &log_probs, worst, beam);
            if !open.is_empty() {
                num_symbols += 1;
            }
        }
        let order = |hypothesis: &Hypothesis| {
            // Both the leading blank and one more, as the original counts.
            let length = self.forgotten + hypothesis.emissions.len() + 2;
            (f64::from(hypothesis.score) / length as f64) as f32
        };
        ended.sort_by(|left, right| order(right).total_cmp(&order(left)));
        ended.truncate(beam);
        ended.shrink_to_fit();
        self.hypotheses = ended;
        self.frames_seen += 1;
    }

    /// The best `beam` extensions by one token, where they are better than `worst`.
    fn extend(&self, open: &[Hypothesis], log_probs: &[f32], worst: f32, beam: usize) -> Vec<Hypothesis> {
        let classes = self.networks.config().num_symbols;
        let mut best: Vec<(f32, usize, u32)> = Vec::new();
        for (index, (hypothesis, log_probs)) in open.iter().zip(log_probs.chunks_exact(classes)).enumerate() {
            for (token, log_prob) in (0u32..).zip(&log_probs[..classes - 1]) {
                let score = hypothesis.score + log_prob;
                // `best` is descending; an equal score stays behind the earlier one.
                if score > worst && (best.len() < beam || best.last().is_some_and(|last| score > last.0)) {
                    let at = best.partition_point(|other| other.0 >= score);
                    best.insert(at, (score, index, token));
                    best.truncate(beam);
                }
            }
        }
        let rows: Vec<(u32, &Prediction)> = best
            .iter()
            .map(|&(_, index, token)| (token, open[index].prediction.as_ref()))
            .collect();
        if rows.is_empty() {
            return Vec::new();
        }
        let predictions = self.networks.predict(&rows);
        best.iter()
            .zip(predictions)
            .map(|(&(score, index, token), prediction)| {
                let mut emissions = open[index].emissions.clone();
                emissions.push(Emission {
                    token,
                    frame: self.frames_seen,
                    log_prob: log_probs[index * classes + token as usize],
                });
                Hypothesis {
                    emissions,
                    prediction: Arc::new(prediction),
                    score,
                    blank_log_prob: 0.0,
                }
            })
            .collect()
    }
}

/// ln(eˡ + eʳ)
fn log_add(left: f32, right: f32) -> f32 {
    let (low, high) = if left < right {
        (left, right)
    } else {
        (right, left)
    };
    if low == f32::NEG_INFINITY {
        return high;
    }
    high + (low - high).exp().ln_1p()
}
