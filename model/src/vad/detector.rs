//! From silence probabilities to the beginnings and ends of speech, frame by frame.
//!
//! The decision of FunASR's FSMN-VAD (`E2EVadModel` of `funasr_onnx` 0.4 and of `funasr` 1.4, MIT), for one stream: a frame is speech
//! if its speech probability exceeds that of silence by a margin; a sliding window over those decisions smooths them; speech begins
//! a look-back before the window turned, and ends a look-ahead into a silence of sufficient length.
//!
//! Left out is what no published configuration uses: thresholds on loudness and signal-to-noise ratio (−100 dB is never undercut)
//! and the prior threshold of the older front end.

use serde::{Deserialize, Serialize};

/// Settings of a [`SpeechDetector`], with the names and defaults of `model_conf` in a FunASR `config.yaml`. Times in
/// milliseconds.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct VadConfig {
    /// Whether it goes on after the first segment.
    pub detect_mode: DetectMode,
    /// Silence that ends a segment.
    pub max_end_silence_time: u32,
    /// With [`DetectMode::Single`], silence at the beginning after which it gives up.
    pub max_start_silence_time: u32,
    /// Length of the sliding window.
    pub window_size_ms: u32,
    /// Speech in the window from which on silence turns to speech.
    pub sil_to_speech_time_thres: u32,
    /// Speech in the window down to which speech turns to silence.
    pub speech_to_sil_time_thres: u32,
    /// Exponent on the probability of silence.
    pub speech_2_noise_ratio: f64,
    /// Whether a segment is extended by the two times below.
    #[serde(with = "zero_or_one")]
    pub do_extend: bool,
    /// Taken into a segment before its beginning.
    pub lookback_time_start_point: u32,
    /// Taken into a segment after its end.
    pub lookahead_time_end_point: u32,
    /// A longer segment is cut.
    pub max_single_segment_time: u32,
    /// By how much speech must be more probable than silence.
    pub speech_noise_thres: f64,
    /// Classes that are silence.
    pub sil_pdf_ids: Vec<usize>,
    /// From one frame to the next.
    pub frame_in_ms: u32,
}

/// Whether a detector goes on after its first segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DetectMode {
    /// It stops.
    Single,
    /// It looks for the next one.
    Multiple,
}

/// `do_extend` is written as a number.
mod zero_or_one {
    use serde::{Deserialize, Deserializer, Serializer};

    #[expect(clippy::trivially_copy_pass_by_ref, reason = "serde's signature")]
    pub(super) fn serialize<S: Serializer>(value: &bool, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_u8(u8::from(*value))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<bool, D::Error> {
        Ok(u8::deserialize(deserializer)? != 0)
    }
}

impl Default for VadConfig {
    fn default() -> Self {
        Self {
            detect_mode: DetectMode::Multiple,
            max_end_silence_time: 800,
            max_start_silence_time: 3_000,
            window_size_ms: 200,
            sil_to_speech_time_thres: 150,
            speech_to_sil_time_thres: 150,
            speech_2_noise_ratio: 1.0,
            do_extend: true,
            lookback_time_start_point: 200,
            lookahead_time_end_point: 100,
            max_single_segment_time: 60_000,
            speech_noise_thres: 0.6,
            sil_pdf_ids: vec![0],
            frame_in_ms: 10,
        }
    }
}

impl VadConfig {
    /// Reports what does not make sense for posteriors of `classes` classes through `require`.
    pub fn problems(&self, classes: usize, require: &mut dyn FnMut(bool, String)) {
        const MOST_MS: u32 = 1 << 30;
        require(
            self.frame_in_ms > 0,
            "vad.frame_in_ms: expected at least 1, found 0".into(),
        );
        require(
            self.window_size_ms >= self.frame_in_ms && self.window_size_ms <= 1 << 20,
            format!(
                "vad.window_size_ms: expected frame_in_ms ({}) to {}, found {}",
                self.frame_in_ms,
                1 << 20,
                self.window_size_ms
            ),
        );
        let times = [
            ("max_end_silence_time", self.max_end_silence_time),
            ("max_start_silence_time", self.max_start_silence_time),
            ("sil_to_speech_time_thres", self.sil_to_speech_time_thres),
            ("speech_to_sil_time_thres", self.speech_to_sil_time_thres),
            ("lookback_time_start_point", self.lookback_time_start_point),
            ("lookahead_time_end_point", self.lookahead_time_end_point),
            ("max_single_segment_time", self.max_single_segment_time),
        ];
        for (name, time) in times {
            require(
                time <= MOST_MS,
                format!("vad.{name}: expected at most {MOST_MS}, found {time}"),
            );
        }
        require(
            self.speech_2_noise_ratio.is_finite() && self.speech_noise_thres.is_finite(),
            "vad.speech_2_noise_ratio and speech_noise_thres: expected finite numbers".into(),
        );
        require(
            !self.sil_pdf_ids.is_empty() && self.sil_pdf_ids.iter().all(|&class| class < classes),
            format!(
                "vad.sil_pdf_ids: expected classes below {classes}, found {:?}",
                self.sil_pdf_ids
            ),
        );
    }

    /// Frames in a time, rounded down.
    fn frames(&self, milliseconds: u32) -> i64 {
        i64::from(milliseconds / self.frame_in_ms.max(1))
    }
}

/// A decision, in milliseconds from the stream's first sample.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SpeechEvent {
    /// Speech began here: earlier than it was noticed, never earlier than the last end.
    Start(u64),
    /// Speech ended here.
    End(u64),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Waiting,
    Speaking,
    /// Only with [`DetectMode::Single`]: nothing is decided any more.
    Done,
}

/// What the window makes of a frame.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Change {
    ToSpeech,
    ToSilence,
    StillSpeech,
    StillSilence,
}

/// Decisions of the last frames, and what they amount to.
#[derive(Debug, Clone)]
struct Window {
    speech: Box<[bool]>,
    position: usize,
    count: i64,
    is_speech: bool,
}

impl Window {
    fn push(&mut self, speech: bool, to_speech: i64, to_silence: i64) -> Change {
        let oldest = std::mem::replace(&mut self.speech[self.position], speech);
        self.count += i64::from(speech) - i64::from(oldest);
        self.position = (self.position + 1) % self.speech.len();
        if !self.is_speech && self.count >= to_speech {
            self.is_speech = true;
            Change::ToSpeech
        } else if self.is_speech && self.count <= to_silence {
            self.is_speech = false;
            Change::ToSilence
        } else if self.is_speech {
            Change::StillSpeech
        } else {
            Change::StillSilence
        }
    }

    fn reset(&mut self) {
        self.speech.fill(false);
        (self.position, self.count, self.is_speech) = (0, 0, false);
    }
}

/// The decision for one stream. A plain value of fixed size: it can be cloned, and a reset one equals a new one.
#[derive(Debug, Clone)]
pub struct SpeechDetector {
    config: VadConfig,
    window: Window,
    phase: Phase,
    /// Index of the next frame.
    frame: i64,
    /// First frame that no segment holds and that silence has not passed.
    free: i64,
    silent_frames: i64,
    /// First frame of the open segment.
    start: i64,
    /// Last frame known to be in the open segment; 0 when there is none.
    last_speech: i64,
    /// Last frame that silence has passed; −1 when there is none.
    last_silence: i64,
    /// End of the open segment so far, in frames.
    end: i64,
    /// Ends so far, a vain wait for speech included.
    ends: u64,
}

impl SpeechDetector {
    /// Makes a detector; `config` has no [`VadConfig::problems`].
    pub fn new(config: VadConfig) -> Self {
        let length = usize::try_from(config.frames(config.window_size_ms))
            .unwrap_or(1)
            .max(1);
        Self {
            config,
            window: Window {
                speech: vec![false; length].into_boxed_slice(),
                position: 0,
                count: 0,
                is_speech: false,
            },
            phase: Phase::Waiting,
            frame: 0,
            free: 0,
            silent_frames: 0,
            start: -1,
            last_speech: 0,
            last_silence: -1,
            end: 0,
            ends: 0,
        }
    }

    /// As new.
    pub fn reset(&mut self) {
        self.forget_segment();
        (self.frame, self.free, self.end, self.ends) = (0, 0, 0, 0);
    }

    /// Whether a segment is open.
    pub fn is_speaking(&self) -> bool {
        self.phase == Phase::Speaking
    }

    /// Frames so far.
    pub fn frames(&self) -> u64 {
        self.frame.unsigned_abs()
    }

    /// Frames by which a start lies before the frame that tells of it.
    pub fn start_latency_frames(&self) -> u64 {
        self.latency().unsigned_abs()
    }

    /// Takes the next frame's posteriors, `(classes)`, and appends what they decide to `events`.
    pub fn push(&mut self, posteriors: &[f32], events: &mut Vec<SpeechEvent>) {
        self.decide(posteriors, false, events);
    }

    /// Takes the last frame's posteriors: an open segment ends with it.
    pub fn push_last(&mut self, posteriors: &[f32], events: &mut Vec<SpeechEvent>) {
        self.decide(posteriors, true, events);
        if self.phase == Phase::Speaking {
            events.push(SpeechEvent::End(self.milliseconds(self.end)));
            self.forget_segment();
        }
    }

    fn latency(&self) -> i64 {
        let lookback = if self.config.do_extend {
            self.config.frames(self.config.lookback_time_start_point)
        } else {
            0
        };
        self.window.speech.len() as i64 + lookback
    }

    fn milliseconds(&self, frame: i64) -> u64 {
        frame.unsigned_abs() * u64::from(self.config.frame_in_ms)
    }

    /// `(classes)` to speech or not, in the original's order of roundings.
    fn is_speech(&self, posteriors: &[f32]) -> bool {
        let silence: f32 = self
            .config
            .sil_pdf_ids
            .iter()
            .filter_map(|&class| posteriors.get(class))
            .sum();
        let noise = f64::from(silence).powf(self.config.speech_2_noise_ratio);
        f64::from(1.0 - silence) >= noise + self.config.speech_noise_thres
    }

    fn decide(&mut self, posteriors: &[f32], is_last: bool, events: &mut Vec<SpeechEvent>) {
        let frame = self.frame;
        self.frame += 1;
        if self.phase == Phase::Done {
            return;
        }
        let to_speech = self.config.frames(self.config.sil_to_speech_time_thres);
        let to_silence = self.config.frames(self.config.speech_to_sil_time_thres);
        let speech = self.is_speech(posteriors);
        let change = self.window.push(speech, to_speech, to_silence);
        self.silent_frames = if change == Change::StillSilence {
            self.silent_frames + 1
        } else {
            0
        };
        match (self.phase, change) {
            (Phase::Waiting, Change::ToSpeech) => self.begin(frame, events),
            (Phase::Waiting, Change::StillSilence) => self.wait(frame, is_last),
            (Phase::Speaking, Change::StillSilence) => self.hear_silence(frame, is_last, events),
            (Phase::Speaking, _) => {
                if change == Change::ToSpeech {
                    self.hold(self.last_speech + 1, frame);
                }
                if is_last || self.is_too_long(frame) {
                    self.finish(frame, events);
                } else {
                    self.hold(frame, frame + 1);
                }
            }
            _ => {}
        }
    }

    fn begin(&mut self, frame: i64, events: &mut Vec<SpeechEvent>) {
        let start = self.free.max(frame - self.latency());
        self.start = start;
        events.push(SpeechEvent::Start(self.milliseconds(start)));
        self.take(start);
        self.hold(start + 1, frame + 1);
        self.phase = Phase::Speaking;
    }

    fn wait(&mut self, frame: i64, is_last: bool) {
        let silence_ms = self.silent_frames * i64::from(self.config.frame_in_ms);
        let gives_up = self.config.detect_mode == DetectMode::Single
            && silence_ms > i64::from(self.config.max_start_silence_time);
        if gives_up || (is_last && self.ends == 0) {
            if self.last_silence + 1 < frame {
                self.free = self.free.max(frame - 1);
            }
            self.ends += 1;
            self.close();
        } else if frame >= self.latency() {
            self.last_silence = frame - self.latency();
            self.free = self.free.max(self.last_silence);
        }
    }

    fn hear_silence(&mut self, frame: i64, is_last: bool, events: &mut Vec<SpeechEvent>) {
        let config = &self.config;
        // Both in milliseconds; the window has already seen the beginning of the silence.
        let enough = i64::from(config.max_end_silence_time) - i64::from(config.speech_to_sil_time_thres);
        let silence = self.silent_frames * i64::from(config.frame_in_ms);
        if silence >= enough {
            let mut back = enough / i64::from(config.frame_in_ms.max(1));
            if config.do_extend {
                back = (back - config.frames(config.lookahead_time_end_point) - 1).max(0);
            }
            self.finish(frame - back, events);
        } else if self.is_too_long(frame) {
            self.finish(frame, events);
        } else if config.do_extend && !is_last {
            if self.silent_frames <= config.frames(config.lookahead_time_end_point) {
                self.hold(frame, frame + 1);
            }
        } else if is_last {
            self.finish(frame, events);
        }
    }

    fn is_too_long(&self, frame: i64) -> bool {
        let length = (frame - self.start + 1) * i64::from(self.config.frame_in_ms);
        length > i64::from(self.config.max_single_segment_time)
    }

    /// Puts frames `begin..end` into the open segment.
    fn hold(&mut self, begin: i64, end: i64) {
        if begin < end {
            self.last_speech = end - 1;
            self.free = self.free.max(begin) + (end - begin);
            self.end = end;
        }
    }

    /// Puts one frame into the segment without counting it as speech.
    fn take(&mut self, frame: i64) {
        self.free = self.free.max(frame) + 1;
        self.end = frame + 1;
    }

    fn finish(&mut self, frame: i64, events: &mut Vec<SpeechEvent>) {
        self.hold(self.last_speech + 1, frame);
        self.take(frame);
        self.ends += 1;
        events.push(SpeechEvent::End(self.milliseconds(self.end)));
        self.close();
    }

    fn close(&mut self) {
        self.forget_segment();
        if self.config.detect_mode == DetectMode::Single {
            self.phase = Phase::Done;
        }
    }

    /// What the end of a segment leaves as it was: the frames counted and the frames given out.
    fn forget_segment(&mut self) {
        self.window.reset();
        self.phase = Phase::Waiting;
        (self.silent_frames, self.start) = (0, -1);
        (self.last_speech, self.last_silence) = (0, -1);
    }
}
