//! How probable texts are.

use std::collections::HashMap;

use super::{Memory, TextDecoder};

/// A token behind a node, and its log-prob there.
struct Step {
    node: usize,
    token: u32,
    log_prob: f64,
}

impl TextDecoder {
    /// Natural log-probability of each text, its end included, given the utterance. A text is ids below
    /// [`TextVocabulary::start`](super::TextVocabulary::start); it may be empty.
    ///
    /// A text's score does not depend, to the bit, on the others; what texts begin with in common costs once. The call
    /// needs memory for all their tokens, as much as [`memory_bytes`](Self::memory_bytes) of so many frames.
    ///
    /// Minus infinity, and never NaN, is the score of a text that has none: longer than
    /// [`max_text_tokens`](super::TextDecoderConfig::max_text_tokens), with other ids, or over a memory without frames,
    /// with frames that are not finite, or that another decoder made.
    pub fn score(&self, memory: &Memory, texts: &[&[u32]]) -> Vec<f64> {
        if self.frames_of(memory) == 0 {
            return vec![f64::NEG_INFINITY; texts.len()];
        }
        self.scratch.with(|scratch| {
            scratch.begin();
            let root = scratch.tree.push(None, self.vocabulary.start());
            let root = scratch.tree.push(Some(root), self.vocabulary.silent());
            let mut steps = Vec::new();
            // What follows a node: the step to it, and the node there unless the text ends.
            let mut known: HashMap<(usize, u32), (usize, usize)> = HashMap::new();
            let mut paths = Vec::with_capacity(texts.len());
            for &text in texts {
                if !self.can_read(text) {
                    paths.push(None);
                    continue;
                }
                let mut path = Vec::with_capacity(text.len() + 1);
                let mut node = root;
                for &token in text.iter().chain([&self.vocabulary.end()]) {
                    let (step, next) = *known.entry((node, token)).or_insert_with(|| {
                        steps.push(Step {
                            node,
                            token,
                            log_prob: f64::NAN,
                        });
                        let ends = token == self.vocabulary.end();
                        let next = if ends {
                            node
                        } else {
                            scratch.tree.push(Some(node), token)
                        };
                        (steps.len() - 1, next)
                    });
                    path.push(step);
                    node = next;
                }
                paths.push(Some(path));
            }
            let mut order: Vec<usize> = (0..steps.len()).collect();
            order.sort_by_key(|&step| steps[step].node);
            let mut order = order.into_iter().peekable();
            self.read(memory, scratch, root, |node, log_probs| {
                while let Some(step) = order.next_if(|&step| steps[step].node == node) {
                    steps[step].log_prob = f64::from(log_probs[steps[step].token as usize]);
                }
            });
            scratch.end(self.dim);
            let total = |path: Vec<usize>| path.into_iter().map(|step| steps[step].log_prob).sum::<f64>();
            let totals = paths.into_iter().map(|path| path.map_or(f64::NAN, total));
            totals
                .map(|total| if total.is_nan() { f64::NEG_INFINITY } else { total })
                .collect()
        })
    }

    /// Natural log-probs of what follows the prompt and each token of a text: `(tokens + 1, classes) f32`. Nothing for a
    /// text that cannot be scored, or over a memory without frames or of another decoder.
    pub fn log_probs(&self, memory: &Memory, text: &[u32]) -> Vec<f32> {
        if self.frames_of(memory) == 0 || !self.can_read(text) {
            return Vec::new();
        }
        self.scratch.with(|scratch| {
            scratch.begin();
            let start = scratch.tree.push(None, self.vocabulary.start());
            let first = scratch.tree.push(Some(start), self.vocabulary.silent());
            text.iter()
                .fold(first, |node, &token| scratch.tree.push(Some(node), token));
            let mut all = Vec::with_capacity((text.len() + 1) * self.vocabulary.len());
            self.read(memory, scratch, first, |_, log_probs| {
                all.extend_from_slice(log_probs)
            });
            scratch.end(self.dim);
            all
        })
    }

    fn can_read(&self, text: &[u32]) -> bool {
        text.len() <= self.config.max_text_tokens()
            && text.iter().all(|&token| token < self.vocabulary.start())
    }
}
