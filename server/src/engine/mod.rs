//! The batching engine: admission, the queue of ready segments, workers, supervision.
//!
//! A protocol adapter opens a [`Stream`], sends it [`Input`]s and reads [`Event`]s. Everything between (front end,
//! encoder, decoder) happens on the engine's worker threads, batched with other streams.

use bytes::Bytes;

use crate::wire::code::ErrorCode;

/// What a client sends into a stream, in order: a flush applies to exactly the audio before it.
#[derive(Debug)]
pub enum Input {
    /// Audio as the client encoded it; any split, also inside a sample.
    Audio(Bytes),
    /// Decoded mono samples at the stream's declared rate (files).
    Samples(Vec<f32>),
    /// Finalise everything before this and go on; answered by [`Event::Flushed`].
    Flush {
        /// Echoed back.
        id: Option<String>,
    },
    /// No more audio: last finals, then [`Event::Done`].
    Stop,
}

/// One recognised word; times in seconds of the stream's own audio.
#[derive(Debug, Clone, PartialEq)]
pub struct Word {
    /// Spoken form, lower case.
    pub word: String,
    /// Seconds from the stream's first sample.
    pub start: f64,
    /// Seconds from the stream's first sample.
    pub end: f64,
    /// 0 to 1.
    pub confidence: f32,
}

/// The hypothesis for one utterance: a partial while it may change, a final when it never will.
#[derive(Debug, Clone, PartialEq)]
pub struct Utterance {
    /// Counts from 0 in each stream.
    pub utterance: u64,
    /// Start of the first word, in seconds.
    pub start: f64,
    /// End of the last word, in seconds.
    pub end: f64,
    /// Words joined by spaces.
    pub text: String,
    /// The words.
    pub words: Vec<Word>,
    /// Leading words that will not change any more.
    pub stable_words: usize,
    /// 0 to 1.
    pub confidence: f32,
    /// Seconds of audio that this event takes into account.
    pub audio_processed: f64,
}

/// What a stream tells its client.
#[derive(Debug, Clone, PartialEq)]
pub enum Event {
    /// The current hypothesis of the open utterance; a newer partial replaces an unread one.
    Partial(Utterance),
    /// An utterance that will not change.
    Final(Utterance),
    /// Everything before the flush has been finalised.
    Flushed {
        /// As sent.
        id: Option<String>,
    },
    /// Something was wrong and the stream goes on.
    Warning {
        /// From the closed list of warnings.
        code: &'static str,
        /// For a person.
        message: String,
    },
    /// The stream is complete; nothing follows.
    Done {
        /// Audio received, in seconds.
        audio_seconds: f64,
        /// Finals sent.
        utterances: u64,
    },
    /// The stream failed; nothing follows.
    Error {
        /// From the closed list.
        code: ErrorCode,
        /// For the caller.
        message: String,
    },
}
