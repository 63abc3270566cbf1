//! The Emformer RNN-T against torchaudio, and its checkpoints. The data is made by `tests/golden/rnnt.py`.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "helpers of tests fail and report as tests do"
)]

mod checkpoints;
mod live;
mod networks;
mod search;
mod support;
