//! Tests of the real binary over real sockets. One file a subject:
//!
//! * `life`: sessions come, speak, leave, vanish; memory, descriptors and slots stay what they were.
//! * `privacy`: at the most talkative level, the logs hold neither words nor audio nor keys.

mod life;
mod privacy;
