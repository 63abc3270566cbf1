//! Tests of the real binary over real sockets. One file a subject:
//!
//! * `bench`: what `waxwing bench` says of a server adds up.
//! * `life`: sessions come, speak, leave, vanish; memory, descriptors and slots stay what they were.
//! * `commands`: what a stranger types first does what the documents say.
//! * `decode`: the decoder of files, and what it refuses.
//! * `privacy`: at the most talkative level, the logs hold neither words nor audio nor keys.
//! * `whole`: a model that cannot stream takes files and refuses speech.

mod bench;
mod commands;
mod decode;
mod life;
mod privacy;
mod whole;
