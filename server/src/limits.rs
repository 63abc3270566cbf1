//! Every limit of the server in one place. What can be changed is a setting; the rest is part of the protocol.

use std::time::Duration;

/// Largest WebSocket message, in bytes; part of the native protocol.
pub const MESSAGE_BYTES: usize = 256 * 1024;
/// Longest id of a `flush`, in bytes; part of the native protocol.
pub const FLUSH_ID_BYTES: usize = 256;
/// Messages that may be misunderstood before the next one is an error.
pub const BAD_MESSAGES: u64 = 10;
/// Ping every so often: below the 60 s after which common proxies drop a silent connection.
pub const PING_INTERVAL: Duration = Duration::from_secs(20);
/// A request's headers must be complete after so long.
pub const HEADER_TIMEOUT: Duration = Duration::from_secs(10);
/// Largest request head, in bytes.
pub const HEADER_BYTES: usize = 16 * 1024;
/// How long the closing handshake may take before the socket is dropped.
pub const CLOSE_TIMEOUT: Duration = Duration::from_secs(3);
/// The warning before a session's longest duration comes so early.
pub const SESSION_NOTICE: Duration = Duration::from_secs(60);
/// Sample rates that can be resampled, in Hz.
pub const RATES_HZ: std::ops::RangeInclusive<u32> = 8_000..=192_000;
/// Most interleaved channels.
pub const CHANNELS: u16 = 8;
/// Widest beam that a client may ask for: a wider one would make the others of its batch late.
pub const BEAM_WIDTH: usize = 64;
/// Widest second search that a client may ask for: it is made once an utterance, in the turn of its last segment.
pub const SECOND_PASS_WIDTH: usize = 200;
/// Letters of all hotwords of a session together: what bounds the memory of their automaton, about fifty bytes each.
pub const HOTWORD_LETTERS: usize = 16_384;
/// Longest form field that is no file, in bytes.
pub const FIELD_BYTES: usize = 64 * 1024;

/// Limits that an operator may set.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// Open TCP connections.
    pub connections: usize,
    /// A session with neither audio nor keepalive for so long is ended.
    pub idle: Duration,
    /// Longest session; zero is without end.
    pub session: Duration,
    /// A client that takes nothing for so long is closed. No setting: the protocol says 10 s.
    pub slow_reader: Duration,
    /// Largest request body, in bytes.
    pub body_bytes: usize,
    /// Files that are received and transcribed at the same time.
    pub files: usize,
    /// Longest audio of a file.
    pub file_audio: Duration,
    /// Longest audio of a file for a model that cannot stream.
    pub whole_audio: Duration,
    /// Longest time that decoding a file's container may take.
    pub file_decode: Duration,
    /// From SIGTERM to exit at the latest.
    pub drain: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: 4096,
            idle: Duration::from_secs(30),
            session: Duration::from_secs(4 * 3600),
            slow_reader: Duration::from_secs(10),
            body_bytes: 100 * 1024 * 1024,
            files: 8,
            file_audio: Duration::from_secs(4 * 3600),
            whole_audio: Duration::from_secs(120),
            file_decode: Duration::from_secs(60),
            drain: Duration::from_secs(25),
        }
    }
}
