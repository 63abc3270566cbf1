//! Tests of the real binary over real sockets. One file a subject:
//!
//! * `life`: sessions come, speak, leave, vanish; memory, descriptors and slots stay what they were.

mod life;
