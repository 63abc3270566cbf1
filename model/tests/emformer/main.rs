//! Tests of the Emformer: equality with its originals, the promises of serving, what the loader says.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "helpers of tests fail and report as tests do"
)]

mod device;
mod loader;
mod parity;
mod precision;
mod promises;
mod support;
