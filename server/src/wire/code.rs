//! The closed lists of error and warning codes: one table from which every protocol translates.

use std::fmt;

/// Declares an enum of codes together with its table, so that no code can exist without its row.
macro_rules! error_codes {
    ($($(#[$doc:meta])* $variant:ident = $name:literal, $status:literal, $close:literal, $retryable:literal, $text:literal;)*) => {
        /// Why a request or a session failed.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        #[non_exhaustive]
        pub enum ErrorCode {
            $($(#[$doc])* $variant,)*
        }

        impl ErrorCode {
            /// Every code, in the order of the table.
            pub const ALL: &[Self] = &[$(Self::$variant,)*];

            /// The name on the wire.
            pub fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $name,)* }
            }

            /// The HTTP status.
            pub fn status(self) -> u16 {
                match self { $(Self::$variant => $status,)* }
            }

            /// The WebSocket close code.
            pub fn close_code(self) -> u16 {
                match self { $(Self::$variant => $close,)* }
            }

            /// Whether the same request may succeed later.
            pub fn retryable(self) -> bool {
                match self { $(Self::$variant => $retryable,)* }
            }

            /// What it means, for the caller.
            pub fn text(self) -> &'static str {
                match self { $(Self::$variant => $text,)* }
            }
        }
    };
}

error_codes! {
    /// All slots are taken, or the machine is too busy to take one more in real time.
    ServerFull = "server_full", 503, 1013, true, "all sessions of this server are taken";
    /// The server is stopping.
    Draining = "draining", 503, 1012, true, "the server is stopping";
    /// A step failed; the session can be started again.
    EngineFailed = "engine_failed", 503, 1011, true, "the recogniser failed and is being restarted";
    /// The encoder produced a non-finite value for this session.
    NonFinite = "non_finite", 500, 1011, false, "the recogniser could not compute this audio";
    /// Something of ours broke; the cause is in the log.
    Internal = "internal", 500, 1011, true, "the server failed";
    /// No key, or not one of the server's.
    Unauthorized = "unauthorized", 401, 1008, false, "a valid key is needed: send `Authorization: Bearer KEY`";
    /// The `Origin` header names a page that may not use this server.
    ForbiddenOrigin = "forbidden_origin", 403, 1008, false, "pages of this origin may not use this server";
    /// The `Host` header names a host that this server does not answer for.
    ForbiddenHost = "forbidden_host", 403, 1008, false, "this server does not answer for this host name";
    /// `encoding` is none of ours.
    UnknownEncoding = "unknown_encoding", 400, 1008, false, "unknown encoding";
    /// `model` is not loaded.
    UnknownModel = "unknown_model", 404, 1008, false, "unknown model";
    /// The model hears whole recordings; the message says why and what to do instead.
    CannotStream = "cannot_stream", 400, 1008, false, "this model cannot stream: send the recording by POST /v1/audio/transcriptions";
    /// A recording is longer than its model, which hears it as a whole, takes at once.
    TooLongForModel = "too_long_for_model", 413, 1009, false, "the recording is longer than this model takes at once";
    /// `sample_rate` is outside the range that can be resampled.
    UnsupportedRate = "unsupported_rate", 400, 1008, false, "unsupported sample rate";
    /// `channels` or `channel` cannot be served.
    UnsupportedChannels = "unsupported_channels", 400, 1008, false, "unsupported number of channels";
    /// A field has a value of the wrong type or range.
    InvalidField = "invalid_field", 400, 1008, false, "a field has an invalid value";
    /// More than ten messages were not understood.
    TooManyBadMessages = "too_many_bad_messages", 400, 1008, false, "too many messages were not understood";
    /// A WebSocket message above the limit.
    MessageTooLarge = "message_too_large", 413, 1009, false, "a message is larger than 256 KiB";
    /// Neither audio nor keepalive for too long.
    IdleTimeout = "idle_timeout", 408, 1008, true, "neither audio nor keepalive arrived";
    /// The session reached the longest allowed duration.
    SessionTooLong = "session_too_long", 408, 1008, true, "the session reached its longest allowed duration";
    /// The client does not read what it is sent.
    SlowReader = "slow_reader", 408, 1008, true, "the client stopped reading";
    /// The form has no part `file`.
    MissingFile = "missing_file", 400, 1008, false, "the form has no part `file`";
    /// The file holds no audio.
    EmptyFile = "empty_file", 400, 1008, false, "the file holds no audio";
    /// The file is no audio format that is read here.
    UnsupportedFile = "unsupported_file", 400, 1003, false, "the file is no audio that can be read here";
    /// The request body is above the limit.
    BodyTooLarge = "body_too_large", 413, 1009, false, "the request body is over the limit";
    /// The form or request could not be parsed.
    BadRequest = "bad_request", 400, 1008, false, "the request could not be understood";
    /// Nothing lives at this path.
    NotFound = "not_found", 404, 1008, false, "nothing lives at this path";
    /// The path exists, the method does not.
    MethodNotAllowed = "method_not_allowed", 405, 1008, false, "the path does not take this method";
    /// A WebSocket endpoint was asked for by plain HTTP.
    UpgradeRequired = "upgrade_required", 426, 1008, false, "this path speaks WebSocket";
}

impl fmt::Display for ErrorCode {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.as_str())
    }
}

/// Declares the warnings with their names.
macro_rules! warning_codes {
    ($($(#[$doc:meta])* $variant:ident = $name:literal;)*) => {
        /// Something was wrong and the session goes on.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        #[non_exhaustive]
        pub enum WarningCode {
            $($(#[$doc])* $variant,)*
        }

        impl WarningCode {
            /// Every code, in the order of the table.
            pub const ALL: &[Self] = &[$(Self::$variant,)*];

            /// The name on the wire.
            pub fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $name,)* }
            }
        }
    };
}

warning_codes! {
    /// The audio ended inside a sample.
    OddAudioLength = "odd_audio_length";
    /// NaN or infinity in the samples became 0.
    NonFiniteAudio = "non_finite_audio";
    /// A text message is no JSON object of a known shape.
    BadMessage = "bad_message";
    /// A text message of an unknown type.
    UnknownType = "unknown_type";
    /// A `start` that came after audio or a second `start`.
    LateStart = "late_start";
    /// A field that is understood and has no effect here.
    UnsupportedOption = "unsupported_option";
    /// The session will reach its longest allowed duration.
    SessionEnding = "session_ending";
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn names_are_unique_and_statuses_and_close_codes_are_legal() {
        let mut names = HashSet::new();
        for code in ErrorCode::ALL {
            assert!(names.insert(code.as_str()), "{code} twice");
            assert!((400..=599).contains(&code.status()), "{code}");
            assert!(matches!(code.close_code(), 1003 | 1008..=1013), "{code}");
            assert!(!code.text().ends_with('.') && code.text().is_ascii(), "{code}");
            // Only what may pass by itself is worth a retry.
            assert!(
                !code.retryable() || matches!(code.status(), 408 | 500 | 503),
                "{code}"
            );
        }
        for code in WarningCode::ALL {
            assert!(names.insert(code.as_str()), "{} twice", code.as_str());
        }
    }
}
