//! From the log-probs of one stream to its utterances: decoding, words, endpoints.
//!
//! A [`Transcriber`] is the last stage before the wire. It is fed the output frames of every step in order and tells
//! which utterances have become final; between them it shows the open one as a partial. What it says depends on
//! the frames alone, not on how many of them come in one call.
//!
//! The decoder is the best path or a prefix beam search over log-probs, or the search of a transducer over encoder frames. Endpoints are judged from the frames' most probable classes in both
//! cases; the beam lives through them with its best prefix, so the sound in which an utterance was ended goes on.

mod deferred;
mod ending;
mod memory;
mod rescoring;

use std::sync::Arc;
use std::time::Duration;

use crate::confidence::Evidence;
use crate::ctc::{BeamEvent, Fusion, GreedyDecoder, Hotwords, PrefixBeam, Pruning, SETTLE_EVERY, SecondPass};
use crate::endpoint::{EndpointDetector, Verdict, frames_in};
use crate::hypothesis::{Hypothesis, WORD_TAIL};
use crate::language_model::LanguageModel;
use crate::tokens::Tokens;
use crate::transducer::{Heard, Networks, Stage};

use deferred::Due;

pub use crate::ctc::{Decoding, DecodingError};
pub use crate::endpoint::{Endpointing, EndpointingError, FinalDelay};
pub use crate::hypothesis::{Alternative, EmittedToken, Utterance, Word};
pub use rescoring::{Hears, Judgement, TextScorer};

/// What a session can set, at its start and in mid-stream.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct TranscriberOptions {
    /// When utterances end.
    pub endpointing: Endpointing,
    /// How words are searched for.
    pub decoding: Decoding,
    /// Knows which words follow which; heard by a beam only. `None` is the model's own, if it has one; a weight of 0 is none at all.
    pub language_model: Option<Arc<LanguageModel>>,
    /// Words that are expected; heard by a beam only.
    pub hotwords: Option<Arc<Hotwords>>,
}

impl TranscriberOptions {
    fn fusion(&self, own: Option<&Arc<LanguageModel>>, tokens: &Arc<Tokens>) -> Fusion {
        let decoding = self.decoding.bounded();
        let language_model = self.language_model.as_ref().or(own);
        let language_model = language_model.filter(|_| decoding.language_model_weight > 0.0);
        Fusion {
            language_model: language_model.cloned(),
            language_model_weight: decoding.language_model_weight,
            word_bonus: language_model.map_or(0.0, |_| decoding.word_bonus),
            unknown_word_log_prob: decoding.unknown_word_log_prob,
            tokens: Some(Arc::clone(tokens)),
            hotwords: self.hotwords.clone(),
        }
    }
}

#[derive(Debug, Clone, PartialEq)]
enum Decoder {
    Greedy,
    Beam(Box<PrefixBeam<Fusion>>),
    /// Frames are a transducer's encoder frames instead of log-probs.
    Transducer(Box<Stage>),
}

/// Turns one stream's log-probs into words. Owned by its session. Holds the open utterance only, typically a few
/// kilobytes and never more than [`max_state_bytes`](Self::max_state_bytes). Frames without a new word cost no
/// allocation.
#[derive(Debug, Clone, PartialEq)]
pub struct Transcriber {
    tokens: Arc<Tokens>,
    frame: Duration,
    /// The most probable class of each frame: what endpoints are judged from, and all of it without a beam.
    greedy: GreedyDecoder,
    decoder: Decoder,
    alternatives: usize,
    /// What a beam hears where the options name no other.
    own_language_model: Option<Arc<LanguageModel>>,
    /// What a wider search at the end of the utterance would search; only with a beam.
    second_pass: Option<Box<SecondPass<Fusion>>>,
    /// Judges what the second pass finds.
    text_scorer: Option<rescoring::Scorer>,
    rescoring_weight: f32,
    /// Output frame from which on the words of a long utterance are judged again.
    next_judgement: u64,
    /// A judgement that waits.
    due: Option<Due>,
    hypothesis: Hypothesis,
    /// Of the beam, in the frame before.
    best_serial: u64,
    detector: EndpointDetector,
    frames_seen: u64,
    utterances_ended: u64,
    revision: u64,
}

impl Transcriber {
    /// Makes a transcriber for a new stream of a model that emits an output frame every `frame_seconds`.
    pub fn new(tokens: Arc<Tokens>, frame_seconds: f64, options: TranscriberOptions) -> Self {
        Self::with_own_language_model(tokens, frame_seconds, options, None)
    }

    /// As [`new`](Self::new), for a model that has a language model: it is heard wherever options name no other, now and after
    /// [`configure`](Self::configure).
    pub fn with_own_language_model(
        tokens: Arc<Tokens>,
        frame_seconds: f64,
        options: TranscriberOptions,
        own_language_model: Option<Arc<LanguageModel>>,
    ) -> Self {
        let frame = frame_duration(frame_seconds);
        let decoding = options.decoding.bounded();
        let fusion = options.fusion(own_language_model.as_ref(), &tokens);
        let evidence = evidence(&decoding, &fusion);
        let decoder = if decoding.beam_width == 1 {
            Decoder::Greedy
        } else {
            let pruning = pruning(&decoding, &options.endpointing, frame);
            Decoder::Beam(Box::new(PrefixBeam::new(
                Arc::clone(&tokens),
                pruning,
                fusion.clone(),
            )))
        };
        let second_pass = (decoding.second_pass_width > decoding.beam_width && decoding.beam_width > 1)
            .then(|| Box::new(second_pass(&tokens, &decoding, frame, fusion, 0, None)));
        Self {
            second_pass,
            text_scorer: None,
            rescoring_weight: decoding.rescoring_weight,
            next_judgement: 0,
            due: None,
            greedy: GreedyDecoder::new(tokens.blank()),
            decoder,
            alternatives: decoding.alternatives,
            own_language_model,
            best_serial: 0,
            hypothesis: Hypothesis::new(frames_in(WORD_TAIL, frame), evidence),
            detector: EndpointDetector::new(options.endpointing, frame),
            tokens,
            frame,
            frames_seen: 0,
            utterances_ended: 0,
            revision: 0,
        }
    }

    /// Makes a transcriber for a new stream of a transducer: it takes encoder frames instead of log-probs. The model's own
    /// search decides; of `options.decoding` the number of alternatives counts, which are at most its beam, and a `beam_width` above 1,
    /// which takes the place of the model's.
    pub fn for_transducer(
        tokens: Arc<Tokens>,
        networks: Arc<Networks>,
        frame_seconds: f64,
        options: TranscriberOptions,
    ) -> Self {
        let decoding = options.decoding.bounded();
        let mut transcriber = Self::new(tokens, frame_seconds, options);
        transcriber.decoder = Decoder::Transducer(Box::new(Stage::new(networks, &decoding)));
        transcriber.second_pass = None;
        transcriber.hypothesis.set_evidence(Evidence::Acoustics);
        transcriber
    }

    /// Takes further output frames, `(frames, classes) f32` log-probs with what the model says beside them, or `(frames, encoding) f32` of a transducer, and appends the utterances that end in
    /// them. Any split of the same frames into calls gives the same finals.
    pub fn accept(&mut self, log_probs: &[f32], finals: &mut Vec<Utterance>) {
        self.accept_heard(log_probs, &[], finals);
    }

    /// As [`accept`](Self::accept), with the features that each of them advances by, `(frames, values) f32`, for a text scorer that [hears](Hears) these. Without them
    /// it judges nothing.
    pub fn accept_heard(&mut self, log_probs: &[f32], features: &[f32], finals: &mut Vec<Utterance>) {
        let (mut log_probs, mut features) = (log_probs, features);
        let (width, len) = (self.frame_width(), self.heard_len());
        loop {
            let taken = self.take(log_probs, features, finals);
            log_probs = log_probs.get(taken * width..).unwrap_or_default();
            features = features.get(taken * len..).unwrap_or_default();
            while self.is_due() {
                self.judge(finals);
            }
            if log_probs.is_empty() {
                return;
            }
        }
    }

    /// Values of a frame that it takes.
    fn frame_width(&self) -> usize {
        match &self.decoder {
            Decoder::Transducer(stage) => stage.frame_len(),
            Decoder::Greedy | Decoder::Beam(_) => self.tokens.len() + self.beside_classes(),
        }
    }

    /// The open utterance as heard so far, or `None` while it has no letter. Its stable words are those that all
    /// hypotheses agree on: all but the last on the best path, fewer in a beam. Allocates;
    /// [`revision`](Self::revision) tells whether it is worth it.
    pub fn partial(&self) -> Option<Utterance> {
        let (table, id, now) = (&self.tokens, self.utterances_ended, self.frames_seen);
        match &self.decoder {
            Decoder::Greedy => self.hypothesis.partial(table, id, now),
            Decoder::Beam(search) => {
                let mut tail = Vec::new();
                search.best_tail(&mut tail);
                let mut partial = self.hypothesis.partial_with(table, id, now, &tail)?;
                partial.stable_words = self.stable_words();
                Some(partial)
            }
            Decoder::Transducer(stage) => {
                let tail: Vec<BeamEvent> = stage
                    .tail()
                    .into_iter()
                    .flat_map(|token| {
                        let (id, start) = (token.id, token.start);
                        [BeamEvent::Began { id, start }, BeamEvent::Ended(token)]
                    })
                    .collect();
                let now = tail_end(&tail).max(now);
                self.hypothesis.partial_with(table, id, now, &tail)
            }
        }
    }

    /// Changes when the words of [`partial`](Self::partial) do or more of them are stable, or when an utterance ends.
    pub fn revision(&self) -> u64 {
        self.revision
    }

    /// Ends the open utterance here, as a flush or the end of the stream wants, and returns it if it has words. The
    /// stream may go on: the decoder keeps its last class, so a sound that is cut in two by this is not heard
    /// twice, and all later tokens are what they would have been. A word that is cut in two becomes two words.
    pub fn finish(&mut self) -> Option<Utterance> {
        // What was due is part of it.
        self.due = None;
        let ended = self.end_utterance();
        self.count(ended)
    }

    /// Changes the options from the next frame on. Silence that has been counted stays counted. Where the decoder becomes
    /// another one, it goes on from the best hypothesis of the old one.
    pub fn configure(&mut self, options: TranscriberOptions) {
        let frame = self.frame;
        self.detector.configure(options.endpointing, frame);
        let fusion = options.fusion(self.own_language_model.as_ref(), &self.tokens);
        let decoding = options.decoding.bounded();
        self.alternatives = decoding.alternatives;
        self.rescoring_weight = decoding.rescoring_weight;
        match &mut self.decoder {
            Decoder::Beam(search) if decoding.beam_width > 1 => {
                search.set_pruning(pruning(&decoding, &options.endpointing, frame));
                search.set_scorer(fusion.clone());
                self.apply_settled();
            }
            Decoder::Beam(search) => {
                search.restart_with_best();
                self.greedy.continue_after(search.sounding());
                self.apply_settled();
                self.decoder = Decoder::Greedy;
            }
            Decoder::Greedy if decoding.beam_width > 1 => {
                let pruning = pruning(&decoding, &options.endpointing, frame);
                let mut search = PrefixBeam::new(Arc::clone(&self.tokens), pruning, fusion.clone());
                search.continue_after(self.greedy.last_class(), self.frames_seen);
                self.best_serial = search.best_serial();
                self.decoder = Decoder::Beam(Box::new(search));
            }
            Decoder::Transducer(stage) => stage.configure(&decoding),
            Decoder::Greedy => {}
        }
        if !matches!(self.decoder, Decoder::Transducer(_)) {
            self.hypothesis.set_evidence(evidence(&decoding, &fusion));
        }
        self.configure_second_pass(&decoding, fusion);
    }

    /// What was kept so far was kept for other settings: a change counts from the next utterance on.
    fn configure_second_pass(&mut self, decoding: &Decoding, fusion: Fusion) {
        let heard_len = self.heard_len();
        let Decoder::Beam(search) = &self.decoder else {
            self.second_pass = None;
            return;
        };
        let (width, pruning) = (decoding.second_pass_width, decoding.pruning(self.frame));
        match &mut self.second_pass {
            _ if width <= decoding.beam_width => self.second_pass = None,
            Some(second_pass) if second_pass.heard_len() == heard_len => {
                second_pass.reconfigure(width, pruning, fusion);
            }
            _ => {
                let (now, sounding) = (self.frames_seen, search.sounding());
                let made = second_pass(&self.tokens, decoding, self.frame, fusion.clone(), now, sounding);
                let mut made = made.with_heard(heard_len);
                made.spoil();
                self.second_pass = Some(Box::new(made));
            }
        }
    }

    /// Output frames taken since the stream's start.
    pub fn frames_seen(&self) -> u64 {
        self.frames_seen
    }

    fn accept_frame(&mut self, log_probs: &[f32], heard: &[f32]) {
        if let Decoder::Transducer(stage) = &mut self.decoder {
            let mut settled = Vec::new();
            let (heard, has_changed) = stage.step(&self.tokens, log_probs, self.frames_seen, &mut settled);
            self.frames_seen += 1;
            self.revision += u64::from(has_changed);
            match heard {
                Heard::Letter => self.detector.letter(),
                Heard::Doubtful => self.detector.doubtful(),
                Heard::Blank(log_prob) => self.detector.blank(log_prob),
            }
            self.push_settled(&settled);
            return;
        }
        let decision = self.greedy.step(log_probs);
        let frame = self.frames_seen;
        self.frames_seen += 1;
        let is_blank = decision.class == self.tokens.blank();
        if is_blank {
            self.detector.blank(decision.log_posterior);
        } else if self.tokens.spelling(decision.class).is_empty() {
            self.detector.doubtful();
        } else {
            self.detector.letter();
        }
        match &mut self.decoder {
            Decoder::Beam(search) => {
                search.step(log_probs);
                let serial = search.best_serial();
                if serial != self.best_serial {
                    self.best_serial = serial;
                    self.revision += 1;
                }
                if let Some(second_pass) = &mut self.second_pass {
                    second_pass.keep(search.tried(), heard);
                }
                self.apply_settled();
                self.move_second_pass();
            }
            Decoder::Transducer(_) => {}
            Decoder::Greedy if is_blank => {}
            Decoder::Greedy if decision.is_new => {
                self.hypothesis
                    .push(&self.tokens, decision.class, frame, decision.log_posterior);
                self.revision += 1;
            }
            Decoder::Greedy => {
                self.hypothesis
                    .extend(decision.class, frame, decision.log_posterior);
            }
        }
    }

    /// Hands what a transducer has settled to the hypothesis.
    fn push_settled(&mut self, settled: &[EmittedToken]) {
        for token in settled {
            self.hypothesis
                .push(&self.tokens, token.id, token.start, token.log_posterior);
        }
    }

    /// Settles the best hypothesis of a transducer; gives the output frame behind everything that was heard.
    fn settle_transducer(&mut self) -> u64 {
        let mut settled = Vec::new();
        let end = match &mut self.decoder {
            Decoder::Transducer(stage) => {
                stage.settle_all(&mut settled);
                stage.end()
            }
            Decoder::Greedy | Decoder::Beam(_) => 0,
        };
        self.push_settled(&settled);
        self.frames_seen.max(end)
    }

    /// Hands what the beam has settled to the hypothesis.
    fn apply_settled(&mut self) {
        if let Decoder::Beam(search) = &mut self.decoder {
            for event in search.drain_events() {
                self.hypothesis.apply(&self.tokens, &event);
                self.revision += 1;
            }
        }
    }

    /// Lets the second pass forget the frames of words that are stable now, and silence before the first one.
    fn move_second_pass(&mut self) {
        if self.move_rescored() {
            return;
        }
        let (Some(second_pass), Decoder::Beam(search)) = (&mut self.second_pass, &self.decoder) else {
            return;
        };
        let (words, tokens) = self.hypothesis.completed();
        if !words.is_empty() {
            second_pass.settled(words, tokens, self.frames_seen);
        } else if !self.hypothesis.has_open_word()
            && search.unsettled().next().is_none()
            && search.sounding().is_none()
        {
            second_pass.nothing_yet(self.frames_seen);
        }
    }

    fn end_if_over(&mut self) -> Option<Utterance> {
        let (start, has_completed_words) = self.progress();
        let age_frames = self.frames_seen.saturating_sub(start?);
        let is_full = matches!(&self.decoder, Decoder::Transducer(stage) if stage.is_full());
        let verdict = self.detector.judge(age_frames, has_completed_words);
        let ended = match verdict {
            _ if is_full => self.end_utterance(),
            Verdict::GoOn => None,
            Verdict::EndUtterance | Verdict::CutAtWordBoundary if self.has_to_judge() => {
                let is_over = verdict == Verdict::EndUtterance;
                self.due = Some(if is_over { Due::End } else { Due::Cut });
                None
            }
            Verdict::EndUtterance => self.end_utterance(),
            Verdict::CutAtWordBoundary => self.end_at_word(),
        };
        self.count(ended)
    }

    /// Ends the utterance behind the last complete word of the best hypothesis.
    fn end_at_word(&mut self) -> Option<Utterance> {
        if let Decoder::Beam(search) = &mut self.decoder {
            search.settle_to_word();
            self.apply_settled();
        }
        self.settle_transducer();
        self.cut()
    }

    /// Ends the utterance behind its last complete word; the open one goes on.
    fn cut(&mut self) -> Option<Utterance> {
        if self.stable_words() < self.hypothesis.completed().0.len() {
            self.commit(self.frames_seen);
        }
        if self.stable_words() == 0 {
            // No word of the second pass is complete: those of the first are.
            let (words, tokens) = self.hypothesis.completed();
            if let Some(second_pass) = &mut self.second_pass {
                second_pass.settled(words, tokens, self.frames_seen);
            }
        } else {
            self.move_second_pass();
        }
        let num_words = self.stable_words();
        if let Some(second_pass) = &mut self.second_pass {
            second_pass.cut();
        }
        self.hypothesis
            .take_first(&self.tokens, self.utterances_ended, num_words)
    }

    /// The first frame of the open utterance, if it has letters, and whether it has words that are complete: in the best
    /// hypothesis.
    fn progress(&self) -> (Option<u64>, bool) {
        let mut start = self.hypothesis.start();
        let mut has_completed_words = self.hypothesis.has_completed_words();
        let unsettled: Option<Vec<(u32, u64)>> = match &self.decoder {
            Decoder::Greedy => None,
            Decoder::Beam(search) => (!has_completed_words).then(|| search.unsettled().collect()),
            Decoder::Transducer(stage) => {
                let tail = stage.tail();
                (!has_completed_words).then(|| tail.iter().map(|token| (token.id, token.start)).collect())
            }
        };
        if let Some(unsettled) = unsettled {
            let mut first_letter = None;
            let mut followed = false;
            for (id, frame) in unsettled {
                if !self.tokens.spelling(id).is_empty() {
                    first_letter = Some(frame);
                    has_completed_words |= followed;
                }
                followed |= self.tokens.begins_word(id);
            }
            start = start.or(first_letter);
            has_completed_words |= followed && self.hypothesis.has_open_word();
        }
        (start, has_completed_words)
    }

    fn count(&mut self, ended: Option<Utterance>) -> Option<Utterance> {
        if ended.is_some() {
            self.utterances_ended += 1;
            self.revision += 1;
        }
        ended
    }
}

fn evidence(decoding: &Decoding, fusion: &Fusion) -> Evidence {
    if decoding.beam_width > 1 && fusion.language_model.is_some() {
        Evidence::LanguageModel
    } else {
        Evidence::Acoustics
    }
}

/// What the beam leaves out. It settles everything sooner than an utterance can last: a hypothesis that turns out best too late would
/// begin an utterance longer than its limit.
fn pruning(decoding: &Decoding, endpointing: &Endpointing, frame: Duration) -> Pruning {
    let limit = EndpointDetector::new(*endpointing, frame).max_utterance_frames();
    let pruning = decoding.pruning(frame);
    Pruning {
        settle_frames: pruning
            .settle_frames
            .min(limit.saturating_sub(SETTLE_EVERY))
            .max(1),
        ..pruning
    }
}

/// For a beam that stands at output frame `now` with a token sounding.
fn second_pass(
    tokens: &Arc<Tokens>,
    decoding: &Decoding,
    frame: Duration,
    fusion: Fusion,
    now: u64,
    sounding: Option<u32>,
) -> SecondPass<Fusion> {
    let (width, pruning) = (decoding.second_pass_width, decoding.pruning(frame));
    SecondPass::new(Arc::clone(tokens), width, pruning, frame, fusion, now, sounding)
}

/// The output frame behind the last of these tokens.
fn tail_end(tail: &[BeamEvent]) -> u64 {
    match tail.last() {
        Some(BeamEvent::Ended(token)) => token.end,
        _ => 0,
    }
}

/// At least a millisecond, so that nothing is divided by zero, whatever a model says.
fn frame_duration(frame_seconds: f64) -> Duration {
    Duration::try_from_secs_f64(frame_seconds)
        .unwrap_or_default()
        .max(Duration::from_millis(1))
}
