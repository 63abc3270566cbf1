//! Protocol adapters, one file each: between a socket and a stream of the engine.

pub mod native;
