//! Sessions, batching engine and wire of the speech-recognition server.
//!
//! The path through this crate: [`server`] accepts, [`routes`] guards, [`protocol`] turns messages into a stream's
//! inputs and its events into messages as [`session`] decides, [`engine`] computes.

pub mod app;
pub mod auth;
pub mod catalog;
pub mod cli;
#[cfg(test)]
mod codes_tests;
pub mod config;
pub mod device;
pub mod engine;
pub mod files;
pub mod limits;
pub mod logging;
pub mod metrics;
pub mod protocol;
pub mod routes;
pub mod search;
pub mod server;
pub mod session;
pub mod wire;
