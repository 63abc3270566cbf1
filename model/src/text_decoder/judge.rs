//! The text decoder as the judge of a second pass.

use super::{Memory, TextDecoder};
use crate::transcript::TextScorer;

/// Multiply-adds that one judgement costs at most: some 50 ms of one core, so that other sessions do not wait.
const MOST_PRODUCTS: u64 = 3_000_000_000;

/// How many tokens two texts begin with in common.
fn common(left: &[u32], right: &[u32]) -> usize {
    left.iter()
        .zip(right)
        .take_while(|(left, right)| left == right)
        .count()
}

impl TextScorer for TextDecoder {
    fn frame_len(&self) -> usize {
        self.dim
    }

    /// Texts are judged in their order as long as the work is bounded; those behind are not, nor are those that the vocabulary cannot spell or that
    /// have no place.
    fn score(&self, frames: &[f32], texts: &[String]) -> Vec<Option<f64>> {
        let memory: Memory = self.memory(frames);
        let per_token = self.products_per_token(memory.frames());
        let mut left = MOST_PRODUCTS.saturating_sub(self.products_per_frame() * memory.frames() as u64);
        let mut spelled: Vec<Option<Vec<u32>>> = Vec::with_capacity(texts.len());
        for text in texts {
            let fits = |ids: &Vec<u32>| ids.len() <= self.config.max_text_tokens();
            let ids = self.vocabulary.encode(text).filter(fits).filter(|ids| {
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
        let mut scores = TextDecoder::score(self, &memory, &judged).into_iter();
        spelled
            .iter()
            .map(|ids| ids.as_ref().and_then(|_| scores.next()))
            .collect()
    }
}
