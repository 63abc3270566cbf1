//! What an engine and its streams can be told.

use std::time::Duration;

use waxwing_frontend::pcm::{ChannelSelection, Encoding};
use waxwing_model::transcript::{Decoding, TranscriberOptions};

use super::queue::Class;

/// Sizes and bounds of an [`Engine`](super::Engine).
#[derive(Debug, Clone, PartialEq)]
pub struct EngineOptions {
    /// Worker threads; one a core by default (`available_parallelism` knows container limits).
    pub workers: usize,
    /// Live streams at most. `None`: as many as warm-up finds room for, 1024 at most.
    pub slots: Option<usize>,
    /// Files transcribed at once; further ones are refused.
    pub file_slots: usize,
    /// Rows of one step at most; a number is taken as it is. `None`: the batch that warm-up finds best.
    pub batch_limit: Option<usize>,
    /// Largest batch that warm-up tries.
    pub largest_batch: usize,
    /// Workers that may step or prepare a step at the same time; the others find words meanwhile.
    pub steps_at_once: usize,
    /// Rows of a step whose words are found by the worker that did it; those of further ones by whoever is free.
    pub words_at_once: usize,
    /// Audio that a stream may have waiting before its socket is no longer read.
    pub backlog: Duration,
    /// A step that takes longer than this (or 20 times the 99th percentile, if that is longer) has hung.
    pub hang_after: Duration,
    /// How most streams search for words: what warm-up measures and the published bounds of bytes count with.
    pub decoding: Decoding,
    /// How far behind its arrival a file's segment is due: what makes files yield to speech.
    pub file_patience: Duration,
    /// Longest turn of file rows.
    pub file_turn: Duration,
    /// Longest audio for a model that cannot stream and so hears a file as a whole.
    pub whole_limit: Duration,
    /// Whether what the process takes of its processors beside the workers counts as taken by live streams: in a server that is
    /// their sockets.
    pub counts_sockets: bool,
}

impl Default for EngineOptions {
    fn default() -> Self {
        let workers = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        Self {
            workers,
            slots: None,
            file_slots: 2 * workers,
            batch_limit: None,
            largest_batch: 16,
            steps_at_once: usize::MAX,
            words_at_once: 16,
            backlog: Duration::from_secs(10),
            hang_after: Duration::from_secs(2),
            decoding: Decoding::default(),
            file_patience: Duration::from_secs(10),
            file_turn: Duration::from_millis(20),
            whole_limit: Duration::from_secs(120),
            counts_sockets: false,
        }
    }
}

/// How a stream's audio arrives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AudioFormat {
    /// Encoded PCM by [`Input::Audio`](super::Input::Audio).
    Raw {
        /// Of each value.
        encoding: Encoding,
        /// Interleaved channels.
        channels: u16,
        /// Which become the mono signal.
        selection: ChannelSelection,
    },
    /// Mono `f32` by [`Input::Samples`](super::Input::Samples).
    Samples,
}

/// A request for a stream.
#[derive(Debug, Clone, PartialEq)]
pub struct StreamRequest {
    /// Id of the model; `None` for the default.
    pub model: Option<String>,
    /// Live or file.
    pub class: Class,
    /// Rate of the audio, 8 to 192 kHz.
    pub input_rate_hz: u32,
    /// How it arrives.
    pub format: AudioFormat,
    /// Whether partials are wanted; without them none are made.
    pub partials: bool,
    /// Endpointing and what else the transcriber can be told.
    pub transcriber: TranscriberOptions,
}

impl Default for StreamRequest {
    /// A microphone: s16le, 16 kHz, mono, default model.
    fn default() -> Self {
        Self {
            model: None,
            class: Class::Live,
            input_rate_hz: 16_000,
            format: AudioFormat::Raw {
                encoding: Encoding::S16le,
                channels: 1,
                selection: ChannelSelection::Mix,
            },
            partials: true,
            transcriber: TranscriberOptions::default(),
        }
    }
}
