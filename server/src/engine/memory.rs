//! I8: the one published bound of the bytes that a session may hold.
//!
//! It counts what belongs to one live session: the encoder's state, the front end, the transcriber with the longest
//! utterance that is accepted, audio and requests that wait, and events that nobody has read. What a state takes of a GPU's memory
//! is no part of it. The socket's own
//! buffers come on top: see `docs/memory.md`. Workers compare it with what is held after every step.

use waxwing_frontend::pcm::Encoding;
use waxwing_frontend::{Frontend, FrontendConfig, FrontendError};
use waxwing_model::transcript::{Endpointing, Hears, TranscriberOptions};

use super::core::{Core, EMISSION_DELAY};
use super::inbox::{CONTROL_BYTES, Inbox, WAITING_CONTROLS, most_slots};
use super::model::StepModel;
use super::options::{AudioFormat, EngineOptions, StreamRequest};
use super::outbox::Outbox;
use super::stream::StreamShared;
use crate::limits;

/// What a session may hold, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SessionBytes {
    /// Before its first audio: what an open but silent client costs.
    pub idle: usize,
    /// At any time, whatever it sends and however little it reads.
    pub most: usize,
}

impl SessionBytes {
    /// The bound for a live session of this model and these options.
    ///
    /// # Errors
    /// [`FrontendError`] for a rate that cannot be served.
    pub fn of(
        model: &dyn StepModel,
        options: &EngineOptions,
        request: &StreamRequest,
    ) -> Result<Self, FrontendError> {
        let frontend = Frontend::new(FrontendConfig {
            input_rate_hz: request.input_rate_hz,
            model_rate_hz: model.sample_rate_hz(),
            features: model.features(),
        })?;
        let state = model.new_state().host_bytes();
        Ok(Self::with(model, options, request, &frontend, state))
    }

    /// As [`of`](Self::of), with what an opened stream already has: a fresh front end; its state will have `state` bytes.
    pub(super) fn with(
        model: &dyn StepModel,
        options: &EngineOptions,
        request: &StreamRequest,
        frontend: &Frontend,
        state: usize,
    ) -> Self {
        let (geometry, decoding) = (model.geometry(), &request.transcriber.decoding);
        let frame_seconds = model.output_frame_seconds() / geometry.subsampling as f64;
        let rate = f64::from(request.input_rate_hz);

        // Two segments and look-aheads and the delay of emission are the most that a flush leaves to be stepped; a
        // window and a resampled block come on top. Vectors that grow hold at most twice what they need.
        let step_frames = geometry.segment_frames + geometry.lookahead_frames;
        let silence_frames = (EMISSION_DELAY.as_secs_f64() / frame_seconds).ceil() as usize;
        let feature_frames = 2 * step_frames + silence_frames + SLACK_FRAMES;
        let samples = frontend.samples_needed_for((geometry.frames_needed(0) + 1) as u64) as usize;
        let log_probs = geometry.output_frames() * geometry.output_dim;
        let looked_ahead = match model.text_scorer_hears() {
            Some(Hears::Features(_)) => step_frames,
            Some(Hears::BesideClasses(_)) | None => 0,
        };
        let values = (feature_frames + looked_ahead) * geometry.num_features + samples + log_probs;
        // A flush's silence is forgotten once the look-ahead behind it is through.
        let silences = geometry.lookahead_frames.div_ceil(geometry.segment_frames) + 3;

        let transcriber = model.max_transcriber_bytes(decoding);
        let fixed = size_of::<StreamShared>() + size_of::<Core>();
        let core =
            2 * size_of::<f32>() * values + size_of::<(u64, u64)>() * most_slots(silences) + transcriber;

        let unit_bytes = match request.format {
            AudioFormat::Raw {
                encoding, channels, ..
            } => encoding.bytes_per_sample() * usize::from(channels),
            AudioFormat::Samples => size_of::<f32>(),
        };
        // One message is read while there is room, whatever its size.
        let backlog = (options.backlog.as_secs_f64() * rate) as usize * unit_bytes;
        let waiting = backlog.max(samples * unit_bytes) + limits::MESSAGE_BYTES;
        let controls = WAITING_CONTROLS + 2;
        let control_bytes = CONTROL_BYTES + limits::FLUSH_ID_BYTES;
        let inbox = Inbox::max_heap_bytes(waiting, controls, control_bytes);

        // What is said after the outbox was full comes from the audio that waited and the utterance that was open.
        let words_in = |seconds: f64| (seconds / model.output_frame_seconds()).ceil() as usize + 1;
        let longest_utterance = f64::from(*Endpointing::MAX_UTTERANCE_MS.end()) / 1000.0;
        let heard = waiting as f64 / (rate * unit_bytes as f64) + feature_frames as f64 * frame_seconds;
        // An utterance ends by a silence, by a request, or because it is the longest.
        let shortest_utterance = f64::from(*Endpointing::SILENCE_MS.start()) / 1000.0;
        let outbox = Outbox::max_heap_bytes(
            words_in(longest_utterance + heard),
            ((longest_utterance + heard) / shortest_utterance).ceil() as usize + controls,
            words_in(longest_utterance),
            model.tokens().longest_spelling(),
            decoding.alternatives,
            controls,
            control_bytes,
        );
        // A list that replaces another waits beside it until the audio before it is heard.
        let hotwords = 2 * request
            .transcriber
            .hotwords
            .as_ref()
            .map_or(0, |hotwords| size_of_val(&**hotwords) + hotwords.heap_bytes());
        let fresh = model.transcriber(request.transcriber.clone()).state_bytes();
        Self {
            idle: fixed + frontend.state_bytes() + fresh + hotwords,
            most: fixed + frontend.max_state_bytes() + state + core + inbox + outbox + hotwords,
        }
    }
}

/// Feature frames of a window and of a resampled block, which come on top of those that are asked for.
const SLACK_FRAMES: usize = 16;

/// The request whose bound is published for a rate: a microphone's, s16le and mono.
pub fn microphone(options: &EngineOptions, rate_hz: u32) -> StreamRequest {
    StreamRequest {
        transcriber: TranscriberOptions {
            decoding: options.decoding,
            ..TranscriberOptions::default()
        },
        input_rate_hz: rate_hz,
        format: AudioFormat::Raw {
            encoding: Encoding::S16le,
            channels: 1,
            selection: waxwing_frontend::pcm::ChannelSelection::Mix,
        },
        ..StreamRequest::default()
    }
}
