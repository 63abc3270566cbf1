//! The FSMN family: equality with its originals, and the promises of a streaming encoder.

mod parity;
mod promises;
mod sanm;
mod served;
mod support;
mod vad;
