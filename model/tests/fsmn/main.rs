//! The FSMN family: equality with its originals, and the promises of a streaming encoder.

#![expect(clippy::unwrap_used, reason = "helpers of tests fail and report as tests do")]

mod parity;
mod promises;
mod sanm;
mod served;
mod support;
mod vad;
