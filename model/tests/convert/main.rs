//! Checkpoints that the originals' own programs saved (`tests/golden/checkpoints.py`): what becomes of them, and of bad ones.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    reason = "helpers of tests fail and report as tests do"
)]

mod originals;
mod refusals;
mod support;
