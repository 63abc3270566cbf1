//! Features to words: streaming encoders with a state cache for each session, CTC decoding, transcripts.
//!
//! Sits between `waxwing-frontend` (bytes → features) and `waxwing-server` (sessions, batching, wire). It knows
//! Candle; it knows nothing of tokio, HTTP or clocks.
//!
//! The path through this crate: features → [`encoder::StreamingEncoder::step`] over a compact batch of
//! sessions → log-probs → CTC decoder → words.

#![deny(unsafe_code)]

pub mod architecture;
pub mod attention_decoder;
pub mod bench;
pub mod confidence;
pub mod config;
pub mod convert;
pub mod ctc;
pub mod device;
pub mod encode;
pub mod encoder;
pub mod endpoint;
pub mod error;
pub mod evaluation;
pub mod formatting;
pub mod hypothesis;
pub mod language_model;
pub mod loader;
pub mod model;
pub mod module;
pub mod pauses;
pub mod phones;
pub mod precision;
pub mod second_listener;
pub mod text_decoder;
pub mod tokens;
pub mod transcript;
pub mod transducer;
mod transformer;
pub mod utterance_encoder;
pub mod vad;
mod whole;

pub use config::Config;
pub use error::ModelError;
pub use model::Model;
