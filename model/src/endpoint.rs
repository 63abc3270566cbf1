//! When an utterance is over.
//!
//! The judgement is made after every output frame, from the decoder's own view of the speech, so it depends neither
//! on where segments begin nor on how the frames were handed over.
//!
//! **Blank is not silence.** A CTC model is peaky: inside a word most frames are blanks, and a long vowel can be a
//! run of them. So
//!
//! * nothing is counted before the utterance has its first letter: no endpoint without words;
//! * a frame counts as *quiet* only when the blank is more probable than all tokens together; a frame whose best
//!   class is a blank of less than half the mass is *doubtful*: it does not count, and it does not start the count
//!   anew either;
//! * a word separator without letters is doubtful too: models emit it at either end of a pause;
//! * so that steady noise cannot hold an utterance open with doubtful frames, it is over in any case after twice
//!   the silence without a letter.
//!
//! The encoder's state and the decoder's last class live through an endpoint; nothing is reset, so the first word
//! after it is decoded as if there had been none.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// Log of one half: a blank above it outweighs all tokens together.
const QUIET_LOG_POSTERIOR: f32 = -std::f32::consts::LN_2;

/// Quiet or doubtful frames for this long mark the last word as complete when an utterance is cut for its length.
const WORD_PAUSE: Duration = Duration::from_millis(400);

/// After this many times the silence without a letter the utterance is over, however doubtful the frames are.
const DOUBTFUL_FACTOR: u64 = 2;

/// When utterances end; may be changed in mid-stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Endpointing {
    /// Silence after a word that ends an utterance, in milliseconds of audio. 0: silence ends none; then only
    /// `max_utterance_ms`, a flush and the end of the stream do.
    pub silence_ms: u32,
    /// An utterance that began this long ago is cut at its last word boundary, in milliseconds of audio; the open
    /// word moves on into the next utterance.
    pub max_utterance_ms: u32,
}

impl Default for Endpointing {
    /// See `docs/endpointing.md` for the figures behind these.
    fn default() -> Self {
        Self {
            silence_ms: 800,
            max_utterance_ms: 20_000,
        }
    }
}

/// Why an [`Endpointing`] was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum EndpointingError {
    /// Neither 0 nor within the bounds.
    #[error("silence_ms: expected 0 or {} to {}, found {found}", .expected.start(), .expected.end())]
    Silence {
        /// Bounds, besides 0.
        expected: std::ops::RangeInclusive<u32>,
        /// As given.
        found: u32,
    },
    /// Outside the bounds; there is no "without end", because a session's memory is bounded.
    #[error("max_utterance_ms: expected {} to {}, found {found}", .expected.start(), .expected.end())]
    MaxUtterance {
        /// Bounds.
        expected: std::ops::RangeInclusive<u32>,
        /// As given.
        found: u32,
    },
}

/// What to expect between the end of a word that ends an utterance and its final, in audio time: computing, queueing
/// and the network come on top.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FinalDelay {
    /// The end of the silence falls anywhere in a segment: half of one on average.
    pub expected: Duration,
    /// When the frames after the word are quiet.
    pub latest: Duration,
    /// When all of them are doubtful (noise).
    pub latest_in_noise: Duration,
}

impl Endpointing {
    /// Accepted values of `silence_ms`, besides 0.
    pub const SILENCE_MS: std::ops::RangeInclusive<u32> = 100..=10_000;
    /// Accepted values of `max_utterance_ms`.
    pub const MAX_UTTERANCE_MS: std::ops::RangeInclusive<u32> = 1_000..=60_000;

    /// Checks both values against their bounds. A transcriber that is given others uses the nearest accepted ones.
    ///
    /// # Errors
    /// Names the first value that is out of bounds, and the bounds.
    pub fn validate(&self) -> Result<(), EndpointingError> {
        if self.silence_ms != 0 && !Self::SILENCE_MS.contains(&self.silence_ms) {
            return Err(EndpointingError::Silence {
                expected: Self::SILENCE_MS,
                found: self.silence_ms,
            });
        }
        if !Self::MAX_UTTERANCE_MS.contains(&self.max_utterance_ms) {
            return Err(EndpointingError::MaxUtterance {
                expected: Self::MAX_UTTERANCE_MS,
                found: self.max_utterance_ms,
            });
        }
        Ok(())
    }

    /// How long after the end of the last word a final comes, for a model that advances by `segment` and sees
    /// `lookahead` past its end. `None` where silence ends no utterance.
    pub fn final_delay(&self, segment: Duration, lookahead: Duration) -> Option<FinalDelay> {
        let silence = Duration::from_millis(u64::from(self.bounded().silence_ms));
        (!silence.is_zero()).then(|| FinalDelay {
            expected: silence + lookahead + segment / 2,
            latest: silence + lookahead + segment,
            latest_in_noise: silence * DOUBTFUL_FACTOR as u32 + lookahead + segment,
        })
    }

    fn bounded(self) -> Self {
        let silence_ms = match self.silence_ms {
            0 => 0,
            ms => ms.clamp(*Self::SILENCE_MS.start(), *Self::SILENCE_MS.end()),
        };
        let max_utterance_ms = self
            .max_utterance_ms
            .clamp(*Self::MAX_UTTERANCE_MS.start(), *Self::MAX_UTTERANCE_MS.end());
        Self {
            silence_ms,
            max_utterance_ms,
        }
    }
}

/// What to do after a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// The utterance goes on.
    GoOn,
    /// All its words are final.
    EndUtterance,
    /// The completed words are final, the open one begins the next utterance.
    CutAtWordBoundary,
}

/// Counts the frames since the last letter and compares them with the limits, all in output frames.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct EndpointDetector {
    silence_frames: Option<u64>,
    max_utterance_frames: u64,
    word_pause_frames: u64,
    frames_since_letter: u64,
    quiet_frames: u64,
}

impl EndpointDetector {
    pub(crate) fn new(endpointing: Endpointing, frame: Duration) -> Self {
        let mut detector = Self {
            silence_frames: None,
            max_utterance_frames: 0,
            word_pause_frames: frames_in(WORD_PAUSE, frame),
            frames_since_letter: 0,
            quiet_frames: 0,
        };
        detector.configure(endpointing, frame);
        detector
    }

    /// Changes the limits from the next frame on; what has been counted stays.
    pub(crate) fn configure(&mut self, endpointing: Endpointing, frame: Duration) {
        let Endpointing {
            silence_ms,
            max_utterance_ms,
        } = endpointing.bounded();
        let frames = |ms: u32| frames_in(Duration::from_millis(u64::from(ms)), frame);
        self.silence_frames = (silence_ms != 0).then(|| frames(silence_ms));
        self.max_utterance_frames = frames(max_utterance_ms);
    }

    /// Output frames that an utterance spans at most.
    pub(crate) fn max_utterance_frames(&self) -> u64 {
        self.max_utterance_frames
    }

    /// A frame whose class has letters.
    pub(crate) fn letter(&mut self) {
        self.frames_since_letter = 0;
        self.quiet_frames = 0;
    }

    /// A frame that is most probably a blank.
    pub(crate) fn blank(&mut self, log_posterior: f32) {
        self.frames_since_letter += 1;
        if log_posterior > QUIET_LOG_POSTERIOR {
            self.quiet_frames += 1;
        }
    }

    /// A frame of a class without letters that is not the blank.
    pub(crate) fn doubtful(&mut self) {
        self.frames_since_letter += 1;
    }

    /// Judges an utterance whose first word began `age_frames` ago.
    pub(crate) fn judge(&self, age_frames: u64, has_completed_words: bool) -> Verdict {
        let is_silent = self.silence_frames.is_some_and(|limit| {
            self.quiet_frames >= limit || self.frames_since_letter >= limit * DOUBTFUL_FACTOR
        });
        if is_silent {
            Verdict::EndUtterance
        } else if age_frames < self.max_utterance_frames {
            Verdict::GoOn
        } else if has_completed_words && self.frames_since_letter < self.word_pause_frames {
            Verdict::CutAtWordBoundary
        } else {
            Verdict::EndUtterance
        }
    }
}

/// The fewest frames that last at least `duration`, one at least.
pub(crate) fn frames_in(duration: Duration, frame: Duration) -> u64 {
    let frames = duration.as_nanos().div_ceil(frame.as_nanos().max(1));
    u64::try_from(frames).unwrap_or(u64::MAX).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    const FRAME: Duration = Duration::from_millis(40);
    const QUIET: f32 = -0.01;
    const DOUBTFUL: f32 = -1.0;

    fn detector(silence_ms: u32) -> EndpointDetector {
        EndpointDetector::new(
            Endpointing {
                silence_ms,
                max_utterance_ms: 2000,
            },
            FRAME,
        )
    }

    /// Frames of `log_posterior` until the utterance is over, `None` if it is not after 40.
    fn blanks_until_end(detector: &mut EndpointDetector, log_posterior: f32) -> Option<u64> {
        (1..=40).find(|_| {
            detector.blank(log_posterior);
            detector.judge(1, true) == Verdict::EndUtterance
        })
    }

    #[test]
    fn ends_after_exactly_the_silence() {
        assert_eq!(blanks_until_end(&mut detector(400), QUIET), Some(10));
        assert_eq!(blanks_until_end(&mut detector(410), QUIET), Some(11));
    }

    #[test]
    fn doubtful_blanks_count_half() {
        assert_eq!(blanks_until_end(&mut detector(400), DOUBTFUL), Some(20));
        let mut mixed = detector(400);
        for _ in 0..5 {
            mixed.blank(DOUBTFUL);
            mixed.doubtful();
        }
        assert_eq!(blanks_until_end(&mut mixed, QUIET), Some(10));
    }

    #[test]
    fn a_letter_starts_the_count_anew() {
        let mut detector = detector(400);
        (0..9).for_each(|_| detector.blank(QUIET));
        detector.letter();
        assert_eq!(blanks_until_end(&mut detector, QUIET), Some(10));
    }

    #[test]
    fn zero_means_that_silence_ends_nothing() {
        assert_eq!(blanks_until_end(&mut detector(0), QUIET), None);
    }

    #[test]
    fn a_long_utterance_is_cut_behind_its_last_complete_word() {
        let mut detector = detector(0);
        assert_eq!(detector.judge(49, true), Verdict::GoOn);
        assert_eq!(detector.judge(50, true), Verdict::CutAtWordBoundary);
        assert_eq!(
            detector.judge(50, false),
            Verdict::EndUtterance,
            "nothing else to cut at"
        );
        (0..10).for_each(|_| detector.blank(QUIET));
        assert_eq!(
            detector.judge(50, true),
            Verdict::EndUtterance,
            "the last word is over, too"
        );
    }

    #[test]
    fn configure_keeps_what_was_counted() {
        let mut detector = detector(800);
        (0..12).for_each(|_| detector.blank(QUIET));
        assert_eq!(detector.judge(20, true), Verdict::GoOn);
        detector.configure(
            Endpointing {
                silence_ms: 300,
                ..Endpointing::default()
            },
            FRAME,
        );
        assert_eq!(detector.judge(20, true), Verdict::EndUtterance);
    }

    #[test]
    fn bounds_are_checked_and_named() {
        assert_eq!(Endpointing::default().validate(), Ok(()));
        assert_eq!(
            Endpointing {
                silence_ms: 0,
                ..Endpointing::default()
            }
            .validate(),
            Ok(())
        );
        let error = Endpointing {
            silence_ms: 50,
            ..Endpointing::default()
        }
        .validate()
        .unwrap_err();
        assert_eq!(
            error.to_string(),
            "silence_ms: expected 0 or 100 to 10000, found 50"
        );
        let error = Endpointing {
            max_utterance_ms: 0,
            ..Endpointing::default()
        }
        .validate()
        .unwrap_err();
        assert_eq!(
            error.to_string(),
            "max_utterance_ms: expected 1000 to 60000, found 0"
        );
    }

    #[test]
    fn values_out_of_bounds_act_as_the_nearest_accepted() {
        assert_eq!(detector(1), detector(100));
        assert_eq!(detector(u32::MAX), detector(10_000));
    }

    #[test]
    fn the_delay_of_a_final_is_published() {
        let delay = Endpointing::default()
            .final_delay(Duration::from_millis(640), Duration::from_millis(160))
            .expect("silence ends utterances by default");
        assert_eq!(delay.expected, Duration::from_millis(1280));
        assert_eq!(delay.latest, Duration::from_millis(1600));
        assert_eq!(delay.latest_in_noise, Duration::from_millis(2400));
        let never = Endpointing {
            silence_ms: 0,
            ..Endpointing::default()
        };
        assert_eq!(never.final_delay(Duration::ZERO, Duration::ZERO), None);
    }
}
