//! Best-path decoding, one frame at a time.
//!
//! The whole state of a stream is the class of its last frame: a run of one class that crosses from one call into
//! the next, across an endpoint or across a flush, is still one token.

/// What one output frame says.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct FrameDecision {
    /// The most probable class; the first of equals.
    pub class: u32,
    /// Its natural log-posterior, never above 0.
    pub log_posterior: f32,
    /// Whether the class differs from the last frame's: with a class that is not the blank, a new token.
    pub is_new: bool,
}

/// Greedy CTC decoder: the class of the last frame, and nothing else.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GreedyDecoder {
    blank: u32,
    last_class: u32,
}

impl GreedyDecoder {
    /// Makes a decoder that has seen nothing, which is as if it had seen a blank.
    pub fn new(blank: u32) -> Self {
        Self {
            blank,
            last_class: blank,
        }
    }

    /// The class of the last frame.
    pub(crate) fn last_class(&self) -> u32 {
        self.last_class
    }

    /// Goes on behind a frame that sounded as `class`, or behind a blank.
    pub(crate) fn continue_after(&mut self, class: Option<u32>) {
        self.last_class = class.unwrap_or(self.blank);
    }

    /// Decides one frame from its log-probs `(classes) f32`. Does not allocate. A value that is not a number is
    /// never the most probable; a frame without any finite value is a blank.
    pub fn step(&mut self, log_probs: &[f32]) -> FrameDecision {
        let (class, log_posterior) = most_probable(log_probs, self.blank);
        let is_new = class != self.last_class;
        self.last_class = class;
        FrameDecision {
            class,
            log_posterior: log_posterior.min(0.0),
            is_new,
        }
    }
}

/// The most probable class of each frame of `(frames, classes) f32`. Allocates the path.
pub fn best_path(log_probs: &[f32], num_classes: usize, blank: u32) -> Vec<u32> {
    log_probs
        .chunks_exact(num_classes.max(1))
        .map(|frame| most_probable(frame, blank).0)
        .collect()
}

/// The tokens that a whole path spells: equal neighbours merged, then blanks removed. The definition that
/// [`GreedyDecoder`] is tested against. Allocates the tokens.
pub fn collapse(path: &[u32], blank: u32) -> Vec<u32> {
    let mut merged = path.to_vec();
    merged.dedup();
    merged.retain(|&class| class != blank);
    merged
}

fn most_probable(log_probs: &[f32], blank: u32) -> (u32, f32) {
    let mut best = (blank, f32::NEG_INFINITY);
    for (class, &log_prob) in (0..).zip(log_probs) {
        if log_prob > best.1 {
            best = (class, log_prob);
        }
    }
    best
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn merges_runs_and_removes_blanks() {
        assert_eq!(collapse(&[0, 3, 3, 0, 3, 4, 4, 0, 0], 0), [3, 3, 4]);
        assert_eq!(collapse(&[0, 0], 0), Vec::<u32>::new());
        assert_eq!(collapse(&[], 0), Vec::<u32>::new());
    }

    #[test]
    fn takes_the_first_of_equals() {
        assert_eq!(best_path(&[-1.0, -1.0, -2.0], 3, 2), [0]);
    }

    #[test]
    fn frames_without_finite_values_are_blanks() {
        let mut decoder = GreedyDecoder::new(1);
        let nothing = decoder.step(&[f32::NAN, f32::NEG_INFINITY]);
        assert_eq!((nothing.class, nothing.is_new), (1, false));
        assert_eq!(decoder.step(&[-0.5, f32::NAN]).class, 0);
    }

    #[test]
    fn posteriors_stay_below_one() {
        assert_eq!(GreedyDecoder::new(0).step(&[-3.0, 1e-7]).log_posterior, 0.0);
    }
}
