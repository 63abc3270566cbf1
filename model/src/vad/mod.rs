//! Voice activity: where speech begins and ends in a stream, by an encoder that tells silence from speech.
//!
//! FunASR's FSMN-VAD as a whole: filter banks, stacked and normalised → the FSMN of [`crate::encoder::fsmn::FunasrFsmnConfig`] → class
//! probabilities → [`SpeechDetector`]. Its model directory is like every other, with `"vad"` in `config.json`.

mod detector;
mod module;
mod stream;

pub use detector::{DetectMode, SpeechDetector, SpeechEvent, VadConfig};
pub use module::VadModule;
pub use stream::{VadModel, VadStream};
