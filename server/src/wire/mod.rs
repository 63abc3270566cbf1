//! What goes over the wire: types only, no I/O.

pub mod code;
pub mod hotwords;
pub mod native;
pub mod openai;
pub mod subtitles;
pub mod transcription;
