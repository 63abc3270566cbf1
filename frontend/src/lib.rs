//! Audio bytes to features: the first folder on the path of the data.
//!
//! ```text
//! bytes ─ pcm or container ─▶ mono f32 ─ resample ─▶ mono f32 at the model's rate ─ features ─▶ (frames, features) f32
//! ```
//!
//! * [`pcm`]: headerless samples in five encodings, with a sample that a message cut in two carried over.
//! * [`container`]: WAV, FLAC, Ogg, MP3, M4A, WebM under limits, a block at a time.
//! * [`resample`]: any rate of 8 to 192 kHz to the model's, aligned to the input.
//! * [`features`]: streaming log-mel, Kaldi filter banks, frame stacking, mean and variance normalisation.
//! * [`Frontend`]: the last two in a row, one for each session.
//!
//! Every streaming object here keeps three laws. *Splits do not matter*: however the input is cut into pushes, the
//! output is bit-identical. *It says what it needs*: `samples_needed_for` is exact, so a caller may count samples and
//! compute later. *A reset object equals a fresh one.* Nothing has a terminal flush: a caller that wants the last
//! samples out pushes zeros ([`Frontend::push_silence`]), and so a stream and a file give the same features. Memory is
//! bounded however long the audio is, and counters are `u64`.

#![forbid(unsafe_code)]

mod error;
mod frontend;
mod transform;

pub mod container;
pub mod features;
pub mod pcm;
pub mod resample;

pub use error::FrontendError;
pub use frontend::{Frontend, FrontendConfig};

/// Lowest sample rate that is taken, in Hz: telephony.
pub const MIN_RATE_HZ: u32 = 8_000;
/// Highest sample rate that is taken, in Hz.
pub const MAX_RATE_HZ: u32 = 192_000;
/// Most channels that are taken.
pub const MAX_CHANNELS: u16 = 8;
