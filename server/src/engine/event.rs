//! What goes into a stream and what comes out of it.

use bytes::Bytes;
use waxwing_model::transcript::TranscriberOptions;

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
    /// From here on other settings.
    Configure {
        /// Whether partials are wanted.
        partials: bool,
        /// Endpointing and what else the transcriber can be told.
        transcriber: TranscriberOptions,
    },
    /// No more audio: last finals, then [`Event::Done`].
    Stop,
}

impl Input {
    /// Bytes on the heap.
    pub(super) fn heap_bytes(&self) -> usize {
        match self {
            Self::Audio(bytes) => bytes.len(),
            Self::Samples(samples) => samples.capacity() * size_of::<f32>(),
            Self::Flush { id } => id.as_ref().map_or(0, String::capacity),
            Self::Configure { .. } | Self::Stop => 0,
        }
    }
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
    /// What else a final may have been, the most probable first, where that was asked for.
    pub alternatives: Vec<Alternative>,
}

/// Another hypothesis for a whole utterance.
#[derive(Debug, Clone, PartialEq)]
pub struct Alternative {
    /// Words joined by spaces.
    pub text: String,
    /// 0 to 1.
    pub confidence: f32,
}

/// What a stream tells its client.
#[derive(Debug, Clone, PartialEq)]
pub enum Event {
    /// After every step: the current hypothesis of the open utterance, or no words while none is open. A newer
    /// partial replaces an unread one.
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
