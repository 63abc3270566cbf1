//! From the log-probs of one stream to its utterances: best path, words, endpoints.
//!
//! A [`Transcriber`] is the last stage before the wire. It is fed the output frames of every step in order and tells
//! which utterances have become final; between them it shows the open one as a partial. What it says depends on
//! the frames alone, not on how many of them come in one call.

use std::sync::Arc;
use std::time::Duration;

use crate::ctc::GreedyDecoder;
use crate::endpoint::{EndpointDetector, Verdict, frames_in};
use crate::hypothesis::{Hypothesis, WORD_TAIL};
use crate::tokens::Tokens;

pub use crate::endpoint::{Endpointing, EndpointingError, FinalDelay};
pub use crate::hypothesis::{EmittedToken, Utterance, Word};

/// What a session can set, at its start and in mid-stream.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct TranscriberOptions {
    /// When utterances end.
    pub endpointing: Endpointing,
}

/// Turns one stream's log-probs into words. Owned by its session. Holds the open utterance only, typically a few
/// kilobytes and never more than [`max_state_bytes`](Self::max_state_bytes). Frames without a new word cost no
/// allocation.
#[derive(Debug, Clone, PartialEq)]
pub struct Transcriber {
    tokens: Arc<Tokens>,
    frame: Duration,
    decoder: GreedyDecoder,
    hypothesis: Hypothesis,
    detector: EndpointDetector,
    frames_seen: u64,
    utterances_ended: u64,
    revision: u64,
}

impl Transcriber {
    /// Makes a transcriber for a new stream of a model that emits an output frame every `frame_seconds`.
    pub fn new(tokens: Arc<Tokens>, frame_seconds: f64, options: TranscriberOptions) -> Self {
        let frame = Duration::try_from_secs_f64(frame_seconds)
            .unwrap_or_default()
            .max(Duration::from_millis(1));
        Self {
            decoder: GreedyDecoder::new(tokens.blank()),
            hypothesis: Hypothesis::new(frames_in(WORD_TAIL, frame)),
            detector: EndpointDetector::new(options.endpointing, frame),
            tokens,
            frame,
            frames_seen: 0,
            utterances_ended: 0,
            revision: 0,
        }
    }

    /// Takes further output frames, `(frames, classes) f32` log-probs, and appends the utterances that end in
    /// them. Any split of the same frames into calls gives the same finals.
    pub fn accept(&mut self, log_probs: &[f32], finals: &mut Vec<Utterance>) {
        let num_classes = self.tokens.len();
        debug_assert_eq!(log_probs.len() % num_classes, 0, "log-probs must be whole frames");
        for frame in log_probs.chunks_exact(num_classes) {
            self.accept_frame(frame);
            finals.extend(self.end_if_over());
        }
    }

    /// The open utterance as heard so far, or `None` while it has no letter. All its words but the last are stable.
    /// Allocates; [`revision`](Self::revision) tells whether it is worth it.
    pub fn partial(&self) -> Option<Utterance> {
        self.hypothesis
            .partial(&self.tokens, self.utterances_ended, self.frames_seen)
    }

    /// Changes when the words of [`partial`](Self::partial) do, or when an utterance ends.
    pub fn revision(&self) -> u64 {
        self.revision
    }

    /// Ends the open utterance here, as a flush or the end of the stream wants, and returns it if it has words. The
    /// stream may go on: the decoder keeps its last class, so a sound that is cut in two by this is not heard
    /// twice, and all later tokens are what they would have been. A word that is cut in two becomes two words.
    pub fn finish(&mut self) -> Option<Utterance> {
        let ended = self
            .hypothesis
            .take_all(&self.tokens, self.utterances_ended, self.frames_seen);
        self.count(ended)
    }

    /// Changes the options from the next frame on. Silence that has been counted stays counted.
    pub fn configure(&mut self, options: TranscriberOptions) {
        self.detector.configure(options.endpointing, self.frame);
    }

    /// Output frames taken since the stream's start.
    pub fn frames_seen(&self) -> u64 {
        self.frames_seen
    }

    /// Bytes held now, the shared tokens not counted.
    pub fn state_bytes(&self) -> usize {
        size_of_val(self) + self.hypothesis.heap_bytes()
    }

    /// The most that [`state_bytes`](Self::state_bytes) can become, with the longest utterances that are accepted
    /// and a token in every frame of them.
    pub fn max_state_bytes(tokens: &Tokens, frame_seconds: f64) -> usize {
        let longest = Duration::from_millis(u64::from(*Endpointing::MAX_UTTERANCE_MS.end()));
        let frames = frames_in(longest, frame_duration(frame_seconds));
        // One more for a word separator that was heard before the utterance began.
        let num_tokens = usize::try_from(frames).unwrap_or(usize::MAX).saturating_add(1);
        size_of::<Self>().saturating_add(Hypothesis::max_heap_bytes(num_tokens, tokens.longest_spelling()))
    }

    fn accept_frame(&mut self, log_probs: &[f32]) {
        let decision = self.decoder.step(log_probs);
        let frame = self.frames_seen;
        self.frames_seen += 1;
        if decision.class == self.tokens.blank() {
            self.detector.blank(decision.log_posterior);
            return;
        }
        if self.tokens.spelling(decision.class).is_empty() {
            self.detector.doubtful();
        } else {
            self.detector.letter();
        }
        if decision.is_new {
            self.hypothesis
                .push(&self.tokens, decision.class, frame, decision.log_posterior);
            self.revision += 1;
        } else {
            self.hypothesis
                .extend(decision.class, frame, decision.log_posterior);
        }
    }

    fn end_if_over(&mut self) -> Option<Utterance> {
        let age_frames = self.frames_seen - self.hypothesis.start()?;
        let ended = match self
            .detector
            .judge(age_frames, self.hypothesis.has_completed_words())
        {
            Verdict::GoOn => None,
            Verdict::EndUtterance => {
                self.hypothesis
                    .take_all(&self.tokens, self.utterances_ended, self.frames_seen)
            }
            Verdict::CutAtWordBoundary => self.hypothesis.take_completed(self.utterances_ended),
        };
        self.count(ended)
    }

    fn count(&mut self, ended: Option<Utterance>) -> Option<Utterance> {
        if ended.is_some() {
            self.utterances_ended += 1;
            self.revision += 1;
        }
        ended
    }
}

/// At least a millisecond, so that nothing is divided by zero, whatever a model says.
fn frame_duration(frame_seconds: f64) -> Duration {
    Duration::try_from_secs_f64(frame_seconds)
        .unwrap_or_default()
        .max(Duration::from_millis(1))
}
