//! Connectionist temporal classification: from log-probs to token ids.
//!
//! A CTC head gives each output frame a distribution over tokens and a blank; a path names one class for each
//! frame, and a path spells what is left after equal neighbours are merged and blanks removed (Graves et al.,
//! "Connectionist Temporal Classification", ICML 2006, §3.1). [`GreedyDecoder`] follows the best path;
//! [`PrefixBeam`] sums over all paths of the most probable spellings, and lets a [`Scorer`] have its say.

mod align;
mod batched;
mod beam;
mod fusion;
mod greedy;
mod hotwords;
mod options;
mod scorer;
mod second_pass;
mod whole;

pub use batched::{BatchedBeam, Ranked};
pub(crate) use beam::SETTLE_EVERY;
pub use beam::{BeamEvent, BeamHypothesis, PrefixBeam};
pub use fusion::{Fusion, FusionState};
pub use greedy::{FrameDecision, GreedyDecoder, best_path, collapse};
pub use hotwords::{Hotword, HotwordState, HotwordWarning, Hotwords};
pub use options::{Decoding, DecodingError, Pruning};
pub use scorer::{NoScorer, Scorer};
pub(crate) use second_pass::SecondPass;
pub use whole::{best_path_tokens, n_best};
