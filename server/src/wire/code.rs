//! The closed list of error and warning codes, with what each means to HTTP, WebSocket and the caller.

/// Why a request or a session failed. The one table that every protocol translates from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorCode {
    /// All slots are taken, or the machine is too busy to take one more in real time.
    ServerFull,
    /// The server is stopping.
    Draining,
    /// A step failed; the session can be started again.
    EngineFailed,
    /// The encoder produced a non-finite value for this session.
    NonFinite,
}
