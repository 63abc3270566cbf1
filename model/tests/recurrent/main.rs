//! The recurrent systems against what their originals compute (`tests/golden/`), and served live.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "helpers of tests fail and report as tests do"
)]

mod convert;
mod csr;
mod live;
mod skim;
mod speechbrain;
mod support;
