//! Feed-forward sequential memory networks: layers whose memory is a weighted sum of neighbouring frames.
//!
//! Three families share the mechanism, and so one room:
//! * [`CellStackConfig`]: the four cells of `d5555/FSMN` (after Zhang et al., *Feedforward Sequential Memory Networks*,
//!   arXiv:1512.08301), with their stack.
//! * [`DeepFsmnConfig`]: compact FSMN, Deep-FSMN (arXiv:1803.05030) and pyramidal FSMN (arXiv:1810.11352) as the papers define them.
//! * [`FunasrFsmnConfig`]: the encoder of FunASR 1.4 (`funasr/models/fsmn_vad_streaming/encoder.py`, MIT), which is FSMN-VAD's.
//!
//! A configuration gives a [`Program`], the list of operations; [`Reference`] runs it in Candle operations over whole utterances
//! (`f32`, `f64`, padding masks), [`Fsmn`] serves it on plain slices. A memory is a finite impulse response, so all of them
//! stream; one that looks ahead declares it.

mod config;
mod deep;
mod module;
mod program;
mod reference;
mod serving;

pub use config::{Cell, CellStackConfig, FunasrFsmnConfig, TableRows};
pub use deep::{DeepFsmnConfig, DeepFsmnLayer, MemoryOn, Stem, StemConvolution};
pub use module::FsmnModule;
pub use program::Program;
pub use reference::{Reference, Run};
pub use serving::Fsmn;
