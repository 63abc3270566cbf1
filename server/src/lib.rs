//! Sessions, batching engine and wire of the speech-recognition server.

pub mod auth;
pub mod config;
pub mod engine;
pub mod limits;
pub mod session;
pub mod wire;
