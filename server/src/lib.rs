//! Sessions, batching engine and wire of the speech-recognition server.

pub mod engine;
pub mod wire;
