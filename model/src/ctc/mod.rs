//! Connectionist temporal classification: from log-probs to token ids.
//!
//! A CTC head gives each output frame a distribution over tokens and a blank; a path names one class for each
//! frame, and a path spells what is left after equal neighbours are merged and blanks removed (Graves et al.,
//! "Connectionist Temporal Classification", ICML 2006, §3.1).

mod greedy;

pub use greedy::{FrameDecision, GreedyDecoder, best_path, collapse};
