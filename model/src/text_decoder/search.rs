//! Texts that the decoder finds by itself.

use std::cmp::Ordering;

use super::{Memory, TextDecoder};

/// The widest beam; a wider one is as this one.
pub const MOST_BEAM_WIDTH: usize = 64;

/// A text that has not ended.
struct Hypothesis {
    tokens: Vec<u32>,
    /// Its last token in the tree.
    node: usize,
    score: f64,
    /// Whether each of its tokens was the most probable one.
    is_greedy: bool,
}

/// A token that may follow a hypothesis.
#[derive(Debug, Clone, Copy)]
struct Candidate {
    parent: usize,
    token: u32,
    score: f64,
    /// Whether no other token follows the hypothesis with a higher score.
    is_best: bool,
}

/// Best first; among equals the earlier hypothesis, then the lower id.
fn order(left: &Candidate, right: &Candidate) -> Ordering {
    let scores = right.score.total_cmp(&left.score);
    scores.then((left.parent, left.token).cmp(&(right.parent, right.token)))
}

/// Keeps the texts in order, best first; among equals the one that ended first.
fn insert(found: &mut Vec<(Vec<u32>, f64)>, tokens: Vec<u32>, score: f64) {
    let at = found.partition_point(|&(_, better)| better >= score);
    found.insert(at, (tokens, score));
}

impl TextDecoder {
    /// The most probable texts of an utterance, best first, each with its natural log-probability, its end included: what
    /// [`score`](Self::score) gives for it. At most `beam_width` ([`MOST_BEAM_WIDTH`] if that is less) texts of at most
    /// `most_tokens` tokens ([`max_text_tokens`](super::TextDecoderConfig::max_text_tokens) if that is less).
    ///
    /// A beam search over tokens: the best `beam_width` continuations stay open, and each of them may end at each step
    /// (Whisper's lets only those ends count that rank among the continuations, and misses short texts); those that are
    /// open at the last token end there. Width 1 is greedy: its text ends where nothing is more probable than the end. The
    /// greedy text always keeps a place, so that no width finds less than width 1. The search ends when no open hypothesis
    /// can become better than the best text that has ended, since scores only fall. Equal inputs give equal results.
    ///
    /// A decoder that has heard little that it knows may repeat itself until the last token: let `most_tokens` follow from
    /// the length of the utterance.
    ///
    /// See [`search_within`](Self::search_within) for more than the best text.
    ///
    /// Nothing is found for a beam without width, or over a memory without frames, with frames that are not finite, or that
    /// another decoder made.
    pub fn search(&self, memory: &Memory, beam_width: usize, most_tokens: usize) -> Vec<(Vec<u32>, f64)> {
        self.search_within(memory, beam_width, most_tokens, 0.0)
    }

    /// As [`search`](Self::search), for those who choose among several texts: goes on for texts whose log-probability is
    /// less than `margin` below that of the best one, until there are `beam_width` better than all that is open. A margin
    /// of 0 (or less, or NaN) is [`search`](Self::search).
    pub fn search_within(
        &self,
        memory: &Memory,
        beam_width: usize,
        most_tokens: usize,
        margin: f64,
    ) -> Vec<(Vec<u32>, f64)> {
        // A NaN becomes 0, too.
        let margin = margin.max(0.0);
        let beam_width = beam_width.min(MOST_BEAM_WIDTH);
        if beam_width == 0 || self.frames_of(memory) == 0 {
            return Vec::new();
        }
        let most_tokens = most_tokens.min(self.config.max_text_tokens());
        self.scratch.with(|scratch| {
            scratch.begin();
            let start = scratch.tree.push(None, self.vocabulary.start());
            let mut open = vec![Hypothesis {
                tokens: Vec::new(),
                node: scratch.tree.push(Some(start), self.vocabulary.silent()),
                score: 0.0,
                is_greedy: true,
            }];
            let mut found: Vec<(Vec<u32>, f64)> = Vec::new();
            let mut candidates = Vec::new();
            for num_tokens in 0..=most_tokens {
                candidates.clear();
                let is_last = num_tokens == most_tokens;
                // The nodes of this step are the last ones, in the order of their hypotheses.
                let first = open[0].node;
                self.read(memory, scratch, first, |node, log_probs| {
                    let parent = node - first;
                    let Some(hypothesis) = open.get(parent) else {
                        return;
                    };
                    self.candidates(
                        hypothesis,
                        parent,
                        log_probs,
                        is_last,
                        beam_width,
                        &mut candidates,
                    );
                });
                candidates.sort_unstable_by(order);
                let mut next: Vec<Candidate> = Vec::with_capacity(beam_width);
                let is_greedy = |candidate: &Candidate| candidate.is_best && open[candidate.parent].is_greedy;
                for &candidate in &candidates {
                    let has_place = next.len() < beam_width;
                    if candidate.token == self.vocabulary.end() {
                        if beam_width > 1 || is_greedy(&candidate) {
                            insert(&mut found, open[candidate.parent].tokens.clone(), candidate.score);
                            found.truncate(beam_width);
                        }
                    } else if has_place {
                        next.push(candidate);
                    } else if is_greedy(&candidate) {
                        next[beam_width - 1] = candidate;
                    }
                }
                let enough = found.first().map_or(f64::NEG_INFINITY, |(_, best)| best - margin);
                let enough = match found.get(beam_width - 1) {
                    Some(&(_, worst)) => worst.max(enough),
                    None => enough,
                };
                next.retain(|candidate| candidate.score > enough);
                if next.is_empty() {
                    break;
                }
                open = next
                    .iter()
                    .map(|candidate| {
                        let parent = &open[candidate.parent];
                        let mut tokens = Vec::with_capacity(parent.tokens.len() + 1);
                        tokens.extend_from_slice(&parent.tokens);
                        tokens.push(candidate.token);
                        Hypothesis {
                            tokens,
                            node: scratch.tree.push(Some(parent.node), candidate.token),
                            score: candidate.score,
                            is_greedy: is_greedy(candidate),
                        }
                    })
                    .collect();
            }
            scratch.end(self.dim);
            found
        })
    }

    /// Appends what may follow a hypothesis: its best tokens and its end; at the last position the end alone.
    fn candidates(
        &self,
        hypothesis: &Hypothesis,
        parent: usize,
        log_probs: &[f32],
        is_last: bool,
        beam_width: usize,
        candidates: &mut Vec<Candidate>,
    ) {
        let (start, end) = (self.vocabulary.start(), self.vocabulary.end());
        let mut best: Vec<(f32, u32)> = Vec::with_capacity(beam_width + 1);
        let texts = if is_last { 0 } else { start as usize };
        for (token, &log_prob) in (0..).zip(log_probs.iter().take(texts)) {
            // A NaN is never taken.
            let is_full = best.len() == beam_width;
            let least = if is_full {
                best[beam_width - 1].0
            } else {
                f32::NEG_INFINITY
            };
            if log_prob > least {
                let at = best.partition_point(|&(better, _)| better >= log_prob);
                best.insert(at, (log_prob, token));
                best.truncate(beam_width);
            }
        }
        let log_prob = log_probs[end as usize];
        if log_prob > f32::NEG_INFINITY {
            // Behind all that are as probable, so that among equals the lowest id comes first.
            let at = best.partition_point(|&(better, _)| better >= log_prob);
            best.insert(at, (log_prob, end));
        }
        let ranked = best.into_iter().enumerate();
        candidates.extend(ranked.map(|(rank, (log_prob, token))| Candidate {
            parent,
            token,
            score: hypothesis.score + f64::from(log_prob),
            is_best: rank == 0,
        }));
    }
}
