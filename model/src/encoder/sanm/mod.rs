//! SAN-M: self-attention with a memory of neighbouring frames beside it, and the encoder of FunASR's SenseVoice.
//!
//! Gao et al., *SAN-M: Memory Equipped Self-Attention for End-to-End Speech Recognition* (Interspeech 2020), as in FunASR 1.4 (MIT):
//! `funasr/models/sense_voice/model.py`, and the chunk mode of `funasr/models/scama/encoder.py`. Tensor names are theirs, without
//! the prefix `encoder.`; the model's `ctc.ctc_lo` is this project's `head`.
//!
//! Whole utterances run in [`Reference`] (Candle operations, `f32` and `f64`). A configuration with chunks is served by
//! [`Sanm`] on plain slices: each step computes a chunk with the frames around it again, and keeps keys and values of earlier
//! chunks; the reference does the same for whole utterances and is its oracle.

mod config;
mod module;
mod reference;
mod serving;

pub use config::{ChunkConfig, SanmConfig};
pub use module::SanmModule;
pub use reference::Reference;
pub use serving::Sanm;
