//! The computing half of a stream: front end, state cache, transcriber, timeline. It belongs to whoever works on it: the
//! stream while parked, a worker while it computes.

mod whole;

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use waxwing_frontend::pcm::PcmDecoder;
use waxwing_frontend::{Frontend, FrontendConfig, FrontendError};
use waxwing_model::encoder::StepRow;
use waxwing_model::transcript::{self, Hears, Transcriber};

use super::counters::{Counters, count};
use super::memory::SessionBytes;
use super::model::StepModel;
use super::options::{AudioFormat, EngineOptions, StreamRequest};
use super::slots::Slot;
use super::timeline::Timeline;
use super::{Alternative, Event, Input, Utterance, Word};
use crate::wire::code::{ErrorCode, WarningCode};

/// How late behind its sound a model may emit a letter: part of the virtual silence, so that a letter whose sound
/// ends with the last sample is still heard.
pub(super) const EMISSION_DELAY: Duration = Duration::from_millis(200);

/// What a stream can do next.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Next {
    /// A whole segment of features is there: step it.
    Step,
    /// A segment was stepped and its words are still to be found, which [`Core::advance`] does first.
    Words,
    /// An utterance is to be judged before anything else: see [`Core::judge`].
    Judge,
    /// Wait for this many more units of audio (see [`Core::unit_bytes`]) or a control input.
    Park {
        /// Units that complete the next segment.
        units: u64,
    },
    /// `done` was said.
    Finished,
    /// The stream cannot be served: the code and the message of its end.
    Refused(ErrorCode, String),
}

/// What follows once all audio so far is through.
#[derive(Debug)]
enum Then {
    Flush { id: Option<String> },
    Stop,
}

#[derive(Debug)]
pub(super) struct Core {
    model: Arc<dyn StepModel>,
    slot: Slot,
    pcm: Option<PcmDecoder>,
    frontend: Frontend,
    transcriber: Transcriber,
    timeline: Timeline,
    counters: Arc<Counters>,
    partials: bool,
    /// Decoded samples on their way into the front end; empty between calls.
    samples: Vec<f32>,
    /// Feature frames of the next segment.
    features: Vec<f32>,
    /// Features that have been stepped as look-ahead only: their output frames come with the next step. Kept where the model hears utterances twice.
    looked_ahead: Vec<f32>,
    /// Log-probs of the last step.
    log_probs: Vec<f32>,
    /// Output frames of the last step that have been decoded: not all of them while an utterance waits to be judged.
    decoded: usize,
    /// Virtual silence was inserted: what to do once this many steps are done.
    completing: Option<(u64, Then)>,
    /// Audio has come since everything was last complete.
    unfinished: bool,
    finals_sent: u64,
    last_end: f64,
    /// First frame of the last final's last word, and how many words began in it before.
    last_word: (u64, i32),
    units_taken: u64,
    warned_non_finite: bool,
    /// The model cannot stream: everything is heard first and then encoded at once.
    is_whole: bool,
    /// Longest audio of such a model.
    whole_limit: Duration,
}

impl std::fmt::Debug for dyn StepModel {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "StepModel({})", self.id())
    }
}

impl Core {
    pub(super) fn new(
        model: Arc<dyn StepModel>,
        slot: Slot,
        counters: Arc<Counters>,
        request: &StreamRequest,
        whole_limit: Duration,
    ) -> Result<Self, FrontendError> {
        let frontend = Frontend::new(FrontendConfig {
            input_rate_hz: request.input_rate_hz,
            model_rate_hz: model.sample_rate_hz(),
            features: model.features(),
        })?;
        let pcm = match request.format {
            AudioFormat::Raw {
                encoding,
                channels,
                selection,
            } => Some(PcmDecoder::new(encoding, channels, selection)?),
            AudioFormat::Samples => None,
        };
        let transcriber = model.transcriber(request.transcriber.clone());
        Ok(Self {
            is_whole: model.cannot_stream().is_some(),
            whole_limit,
            model,
            slot,
            pcm,
            frontend,
            transcriber,
            timeline: Timeline::default(),
            counters,
            partials: request.partials,
            samples: Vec::new(),
            features: Vec::new(),
            looked_ahead: Vec::new(),
            log_probs: Vec::new(),
            decoded: 0,
            completing: None,
            unfinished: false,
            finals_sent: 0,
            last_end: 0.0,
            last_word: (0, -1),
            units_taken: 0,
            warned_non_finite: false,
        })
    }

    /// Makes the state look as if that many steps were behind it: what it then holds is zeros, but a step over it costs
    /// what one of a long session does.
    pub(super) fn age(&mut self, steps: u64) {
        self.slot.state_mut().steps = steps;
    }

    /// Bytes held, on the heap and by itself: never more than the published bound (I8).
    pub(super) fn bytes_held(&self) -> usize {
        let values = self.samples.capacity()
            + self.features.capacity()
            + self.looked_ahead.capacity()
            + self.log_probs.capacity();
        size_of_val(self)
            + self.slot.held_bytes()
            + self.frontend.state_bytes()
            + self.transcriber.state_bytes()
            + self.timeline.heap_bytes()
            + values * size_of::<f32>()
    }

    /// The bound for a stream of this request; to be asked before any audio is taken.
    pub(super) fn bytes_bound(&self, options: &EngineOptions, request: &StreamRequest) -> SessionBytes {
        let state = self.slot.state_bytes();
        SessionBytes::with(self.model.as_ref(), options, request, &self.frontend, state)
    }

    /// Bytes of one unit of audio: a sample of all channels, or 1 where decoded samples come in.
    pub(super) fn unit_bytes(&self) -> u64 {
        self.pcm.as_ref().map_or(1, |pcm| pcm.frame_bytes() as u64)
    }

    /// Takes inputs until a segment is complete, everything is done, or nothing more is there. `pop` gives the next
    /// input, of audio at most so many units.
    pub(super) fn advance(
        &mut self,
        mut pop: impl FnMut(u64) -> Option<Input>,
        events: &mut Vec<Event>,
    ) -> Next {
        if self.is_whole {
            return self.advance_whole(pop, events);
        }
        loop {
            self.find_words(events);
            if self.transcriber.is_due() {
                return Next::Judge;
            }
            match self.completing.take() {
                Some((until, then)) if self.slot.steps() >= until => {
                    if self.transcriber.begin_finish() {
                        self.completing = Some((until, then));
                        return Next::Judge;
                    }
                    if self.complete(then, events) {
                        return Next::Finished;
                    }
                    continue;
                }
                other => self.completing = other,
            }
            if self.features.len() >= self.features_needed() {
                return Next::Step;
            }
            let units = self.units_needed();
            match pop(units) {
                None => return Next::Park { units },
                Some(Input::Audio(bytes)) => {
                    if let Some(pcm) = &mut self.pcm {
                        pcm.push(&bytes, &mut self.samples);
                    }
                    self.units_taken += bytes.len() as u64;
                    self.hear(events);
                }
                Some(Input::Samples(samples)) => {
                    self.units_taken += samples.len() as u64;
                    self.samples = samples;
                    self.hear(events);
                    // The block that the samples came in can be many times a segment.
                    self.samples = Vec::new();
                }
                Some(Input::Configure {
                    partials,
                    transcriber,
                }) => {
                    self.partials = partials;
                    self.transcriber.configure(transcriber);
                }
                Some(Input::Flush { id }) => self.begin_completing(Then::Flush { id }),
                Some(Input::Stop) => self.begin_completing(Then::Stop),
            }
        }
    }

    /// This stream's row of a batched step; only after [`Next::Step`].
    pub(super) fn row(&mut self) -> StepRow<'_> {
        let needed = self.features_needed();
        StepRow {
            state: self.slot.state_mut(),
            features: self.features.get(..needed).unwrap_or_default(),
            output: &mut self.log_probs,
        }
    }

    /// Whether all log-probs of the last step are numbers.
    pub(super) fn is_finite(&self) -> bool {
        // −∞ is the log of 0, which a class may well have.
        self.log_probs
            .iter()
            .all(|value| value.is_finite() || *value == f32::NEG_INFINITY)
    }

    /// A step was done, which consumed so many feature values: its words can be found.
    pub(super) fn stepped(&mut self, consumed: usize) {
        let consumed = consumed.min(self.features.len());
        if matches!(self.model.text_scorer_hears(), Some(Hears::Features(_))) {
            self.looked_ahead.extend_from_slice(&self.features[..consumed]);
        }
        self.features.drain(..consumed);
        self.decoded = 0;
    }

    /// Decodes the log-probs of the last step, if it has not been done, as far as no judgement is due.
    pub(super) fn find_words(&mut self, events: &mut Vec<Event>) {
        if !self.log_probs.is_empty() && !self.transcriber.is_due() {
            self.decode(events);
        }
    }

    /// Does the judgement that is due; the words behind it are still to be found. Takes a good part of a second of speech.
    pub(super) fn judge(&mut self, events: &mut Vec<Event>) {
        let mut finals = Vec::new();
        self.transcriber.judge(&mut finals);
        for utterance in &finals {
            self.push_final(utterance, events);
        }
    }

    /// Finds all words of the last step, with all judgements that are due.
    pub(super) fn find_all_words(&mut self, events: &mut Vec<Event>) {
        self.find_words(events);
        while self.transcriber.is_due() {
            self.judge(events);
            self.find_words(events);
        }
    }

    fn decode(&mut self, events: &mut Vec<Event>) {
        let geometry = self.model.geometry();
        let (frames, width) = (geometry.output_frames(), geometry.output_dim);
        let heard_len = geometry.subsampling * geometry.num_features;
        // An aged state has looked ahead at nothing.
        let heard = self.looked_ahead.len().min(frames * heard_len);
        let log_probs = self.log_probs.get(self.decoded * width..).unwrap_or_default();
        let features = self
            .looked_ahead
            .get(self.decoded * heard_len..heard)
            .unwrap_or_default();
        let mut finals = Vec::new();
        self.decoded += self.transcriber.take(log_probs, features, &mut finals);
        for utterance in &finals {
            self.push_final(utterance, events);
        }
        if self.decoded >= frames {
            self.looked_ahead.drain(..heard);
            self.log_probs.clear();
            self.decoded = 0;
        }
        if self.partials {
            count(&self.counters.partials);
            let partial = match self.transcriber.partial() {
                Some(partial) => self.on_the_wire(&partial),
                None => self.nothing_open(),
            };
            events.push(Event::Partial(partial));
        }
    }

    /// The partial while no utterance is open: no words, and how far the audio has been heard.
    fn nothing_open(&self) -> Utterance {
        let audio_processed = self.client_seconds(self.transcriber.frames_seen() as f64);
        Utterance {
            utterance: self.finals_sent,
            start: audio_processed,
            end: audio_processed,
            text: String::new(),
            words: Vec::new(),
            stable_words: 0,
            confidence: 0.0,
            audio_processed,
            alternatives: Vec::new(),
        }
    }

    /// Feature values that the next step consumes.
    pub(super) fn features_needed(&self) -> usize {
        let geometry = self.model.geometry();
        geometry.frames_needed(self.slot.steps()) * geometry.num_features
    }

    /// Seconds of the client's audio that have been taken.
    pub(super) fn audio_seconds(&self) -> f64 {
        self.timeline.received() as f64 / f64::from(self.frontend.config().input_rate_hz)
    }

    /// Seconds of the client's audio at the end of the segment that comes next.
    pub(super) fn next_segment_end(&self) -> f64 {
        let geometry = self.model.geometry();
        let heard = (self.slot.steps() + 1) as f64 * geometry.segment_frames as f64 * self.frame_seconds();
        // Silence that was inserted is not the client's time: who flushes often is not ahead of its own clock.
        let inserted = self
            .frontend
            .samples_received()
            .saturating_sub(self.timeline.received());
        // The look-ahead of the first segment can be longer than the segment itself.
        (heard - inserted as f64 / f64::from(self.frontend.config().input_rate_hz)).max(0.0)
    }

    /// Units of audio taken since the beginning.
    pub(super) fn units_taken(&self) -> u64 {
        self.units_taken
    }

    fn frame_seconds(&self) -> f64 {
        self.model.output_frame_seconds() / self.model.geometry().subsampling as f64
    }

    /// Units of audio that complete the next segment.
    pub(super) fn units_needed(&self) -> u64 {
        if self.is_whole {
            // A second at a time: nothing comes of it before the end.
            return self.unit_bytes() * u64::from(self.frontend.config().input_rate_hz);
        }
        let num_features = self.model.geometry().num_features;
        let missing = (self.features_needed() - self.features.len()).div_ceil(num_features);
        let samples = self.frontend.samples_needed_for(missing as u64);
        let carried = self.pcm.as_ref().map_or(0, PcmDecoder::pending_bytes) as u64;
        (samples * self.unit_bytes()).saturating_sub(carried).max(1)
    }

    /// Pushes the decoded samples through the front end.
    fn hear(&mut self, events: &mut Vec<Event>) {
        self.unfinished |= !self.samples.is_empty();
        self.timeline.receive(self.samples.len() as u64);
        self.counters
            .samples_decoded
            .fetch_add(self.samples.len() as u64, Relaxed);
        self.frontend.push(&self.samples, &mut self.features);
        self.samples.clear();
        if !self.warned_non_finite && self.pcm.as_ref().is_some_and(|pcm| pcm.non_finite_replaced() > 0) {
            self.warned_non_finite = true;
            events.push(Event::Warning {
                code: WarningCode::NonFiniteAudio.as_str(),
                message: "samples that are not finite numbers were taken as 0".into(),
            });
        }
    }

    /// Appends the silence that pushes every sample through all delays and fills the last segment.
    fn begin_completing(&mut self, then: Then) {
        let steps = self.slot.steps();
        if !std::mem::take(&mut self.unfinished) {
            self.completing = Some((steps, then));
            return;
        }
        let geometry = self.model.geometry();
        let heard = self.frontend.samples_received() as f64 / f64::from(self.frontend.config().input_rate_hz);
        let frames = ((heard + EMISSION_DELAY.as_secs_f64()) / self.frame_seconds()).ceil() as u64;
        let segments = frames.div_ceil(geometry.segment_frames as u64).max(steps);
        let frames = segments * geometry.segment_frames as u64 + geometry.lookahead_frames as u64;
        let missing = frames.saturating_sub(self.frontend.frames_emitted());
        if missing > 0 {
            let silence = self.frontend.samples_needed_for(missing);
            self.frontend.push_silence(silence, &mut self.features);
            self.timeline.insert_silence(silence);
        }
        self.completing = Some((segments, then));
    }

    /// Says what was promised for the moment when everything is through; `true` at the end of the stream.
    fn complete(&mut self, then: Then, events: &mut Vec<Event>) -> bool {
        if let Some(last) = self.transcriber.finish() {
            self.push_final(&last, events);
        }
        // Whatever is said from here on lies behind these frames; so a client that flushes for hours costs nothing.
        let rate = f64::from(self.frontend.config().input_rate_hz);
        let seen = self.transcriber.frames_seen() as f64 * self.model.output_frame_seconds();
        self.timeline.forget_before((seen * rate).floor() as u64);
        let cut = self.pcm.as_ref().is_some_and(|pcm| pcm.pending_bytes() > 0);
        match then {
            Then::Flush { id } => {
                events.push(Event::Flushed { id });
                false
            }
            Then::Stop => {
                if cut {
                    events.push(Event::Warning {
                        code: WarningCode::OddAudioLength.as_str(),
                        message: "the audio ended inside a sample, which was left out".into(),
                    });
                }
                events.push(Event::Done {
                    audio_seconds: self.audio_seconds(),
                    utterances: self.finals_sent,
                });
                true
            }
        }
    }

    fn push_final(&mut self, utterance: &transcript::Utterance, events: &mut Vec<Event>) {
        let (utterance, last_word) = self.placed(utterance);
        self.last_word = last_word;
        let grows = utterance.utterance == self.finals_sent && utterance.start >= self.last_end - 1e-9;
        debug_assert!(
            grows,
            "I5: {utterance:?} after {} finals that end at {}",
            self.finals_sent, self.last_end
        );
        if !grows {
            count(&self.counters.promise_finals_broken);
        }
        self.last_end = utterance.end;
        self.finals_sent += 1;
        count(&self.counters.finals);
        events.push(Event::Final(utterance));
    }

    /// An utterance with times in seconds of the client's audio.
    fn on_the_wire(&self, utterance: &transcript::Utterance) -> Utterance {
        self.placed(utterance).0
    }

    /// Also where its last word stands: its first frame, and how many words began in that before.
    ///
    /// A transducer may begin several words in one frame. Each of them takes half of what those before left of it, so that a
    /// word's times depend on no later word.
    fn placed(&self, utterance: &transcript::Utterance) -> (Utterance, (u64, i32)) {
        let mut last = self.last_word;
        let within = |(frame, before): (u64, i32)| frame as f64 + 1.0 - 0.5f64.powi(before);
        let words: Vec<Word> = utterance
            .words
            .iter()
            .map(|word| {
                let (frame, before) = last;
                last = (word.start, if word.start == frame { before + 1 } else { 0 });
                let end = match word.end > word.start {
                    true => word.end as f64,
                    false => within((last.0, last.1 + 1)),
                };
                Word {
                    word: word.word.clone(),
                    start: self.client_seconds(within(last)),
                    end: self.client_seconds(end),
                    confidence: word.confidence,
                }
            })
            .collect();
        let (start, end) = (words.first(), words.last());
        let utterance = Utterance {
            utterance: utterance.utterance,
            start: start.map_or(0.0, |word| word.start),
            end: end.map_or(0.0, |word| word.end),
            text: utterance.text(),
            words,
            stable_words: utterance.stable_words,
            confidence: utterance.confidence,
            audio_processed: self.client_seconds(self.transcriber.frames_seen() as f64),
            alternatives: utterance.alternatives.iter().map(Alternative::from).collect(),
        };
        (utterance, last)
    }

    /// The client's time at the beginning of an output frame, or at a part of it.
    fn client_seconds(&self, frame: f64) -> f64 {
        let rate = f64::from(self.frontend.config().input_rate_hz);
        let heard = (frame * self.model.output_frame_seconds() * rate).round() as u64;
        self.timeline.client_position(heard) as f64 / rate
    }
}

impl From<&transcript::Alternative> for Alternative {
    fn from(other: &transcript::Alternative) -> Self {
        let words: Vec<&str> = other.words.iter().map(|word| word.word.as_str()).collect();
        Self {
            text: words.join(" "),
            confidence: other.confidence,
        }
    }
}
