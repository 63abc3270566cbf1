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

impl TextDecoder {
    /// The most probable texts of an utterance, best first, each with its natural log-probability, its end included: what
    /// [`score`](Self::score) gives for it. At most `beam_width` ([`MOST_BEAM_WIDTH`] if that is less) texts of at most `most_tokens` tokens
    /// ([`max_text_tokens`](super::TextDecoderConfig::max_text_tokens) if that is less).
    ///
    /// A beam search over tokens, as Whisper's: the best `beam_width` continuations stay open, and a text has ended whose end
    /// ranks among them; those that are open at the last token end there. The greedy text always keeps a place, so that
    /// no width finds less than width 1, which finds that text alone. The search ends when no open hypothesis can become
    /// better than the best text that has ended, since scores only fall. Equal inputs give equal results.
    ///
    /// Nothing is found for a beam without width, or over a memory without frames, with frames that are not finite, or that
    /// another decoder made.
    pub fn search(&self, memory: &Memory, beam_width: usize, most_tokens: usize) -> Vec<(Vec<u32>, f64)> {
        let beam_width = beam_width.min(MOST_BEAM_WIDTH);
        if beam_width == 0 || self.frames_of(memory) == 0 {
            return Vec::new();
        }
        let most_tokens = most_tokens.min(self.config.max_text_tokens());
        let mut found: Vec<(Vec<u32>, f64)> = self.scratch.with(|scratch| {
            scratch.begin();
            let start = scratch.tree.push(None, self.vocabulary.start());
            let mut open = vec![Hypothesis {
                tokens: Vec::new(),
                node: scratch.tree.push(Some(start), self.vocabulary.silent()),
                score: 0.0,
                is_greedy: true,
            }];
            let mut found: Vec<(Vec<u32>, f64)> = Vec::new();
            let mut best_found = f64::NEG_INFINITY;
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
                        if has_place || is_greedy(&candidate) {
                            best_found = best_found.max(candidate.score);
                            found.push((open[candidate.parent].tokens.clone(), candidate.score));
                        }
                    } else if has_place {
                        next.push(candidate);
                    } else if is_greedy(&candidate) {
                        next[beam_width - 1] = candidate;
                    }
                }
                // Sorted, but for a greedy one in the last place, which is no better than those before it.
                if next.first().is_none_or(|best| best.score <= best_found) {
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
        });
        // Stable: among equals the one that ended first.
        found.sort_by(|left, right| right.1.total_cmp(&left.1));
        found.truncate(beam_width);
        found
    }

    /// Appends what may follow a hypothesis: its best tokens, the end among them; at the last position the end alone.
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
        let mut best: Vec<(f32, u32)> = Vec::with_capacity(beam_width + 2);
        let texts = if is_last { 0 } else { start };
        for (token, &log_prob) in (0..)
            .zip(log_probs)
            .filter(|&(token, _)| token < texts || token == end)
        {
            // One more than there are places, since the end takes none. A NaN is never taken.
            let is_full = best.len() > beam_width;
            let least = if is_full {
                best[beam_width].0
            } else {
                f32::NEG_INFINITY
            };
            if log_prob > least {
                let at = best.partition_point(|&(better, _)| better >= log_prob);
                best.insert(at, (log_prob, token));
                best.truncate(beam_width + 1);
            }
        }
        candidates.extend(
            best.into_iter()
                .enumerate()
                .map(|(rank, (log_prob, token))| Candidate {
                    parent,
                    token,
                    score: hypothesis.score + f64::from(log_prob),
                    is_best: rank == 0,
                }),
        );
    }
}
