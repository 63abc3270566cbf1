//! Tests of the real binary over real sockets. One file a subject:
//!
//! * `bench`: what `waxwing bench` says of a server adds up.
//! * `life`: sessions come, speak, leave, vanish; memory, descriptors and slots stay what they were.
//! * `privacy`: at the most talkative level, the logs hold neither words nor audio nor keys.

mod bench;
mod life;
mod privacy;
