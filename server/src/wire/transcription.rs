//! Transcripts as JSON: OpenAI's `json` and `verbose_json`, and the lines of `waxwing transcribe -f json`.
//!
//! Shapes as in openai-python, `types/audio/transcription.py` and `transcription_verbose.py`. An utterance is a
//! segment.

use serde::Serialize;

use super::native::{FinalAlternative, seconds, written};
use super::openai::Usage;
use super::subtitles;
use crate::engine::{Utterance, Word};

/// `response_format=json`.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Transcription {
    /// The whole transcript.
    pub text: String,
    /// As one would write it, where that was asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub formatted: Option<String>,
    /// How much was heard.
    pub usage: Usage,
    /// What was wrong with the file, if anything.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub warnings: Vec<String>,
}

/// `response_format=verbose_json`.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct VerboseTranscription {
    /// Always `transcribe`.
    pub task: &'static str,
    /// Of the model.
    pub language: String,
    /// Of the audio, in seconds.
    pub duration: f64,
    /// The whole transcript.
    pub text: String,
    /// As one would write it, where that was asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub formatted: Option<String>,
    /// One for each utterance, where segments were asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub segments: Option<Vec<Segment>>,
    /// All words, where words were asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub words: Option<Vec<TimedWord>>,
    /// How much was heard.
    pub usage: Usage,
    /// What was wrong with the file, if anything.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub warnings: Vec<String>,
}

/// An utterance as clients of Whisper know it.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Segment {
    /// Counts from 0.
    pub id: u64,
    /// Whisper's position in units of 10 ms: here where the segment starts.
    pub seek: u64,
    /// Seconds.
    pub start: f64,
    /// Seconds.
    pub end: f64,
    /// With a space before the first word, as Whisper has it: joined without separators, segments are the text.
    pub text: String,
    /// As one would write it, where that was asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub formatted: Option<String>,
    /// Always empty: our token ids mean nothing to clients of another model.
    pub tokens: [u32; 0],
    /// Always 0: nothing is sampled.
    pub temperature: f32,
    /// The mean log-posterior of the tokens.
    pub avg_logprob: f32,
    /// Always 1: what it guards against in Whisper, endless repetition, does not happen in CTC.
    pub compression_ratio: f32,
    /// Always 0: a segment has words.
    pub no_speech_prob: f32,
    /// What else it may have been, the most probable first, where that was asked for.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub alternatives: Vec<FinalAlternative>,
}

/// A word with its times.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct TimedWord {
    /// Spoken form.
    pub word: String,
    /// Seconds.
    pub start: f64,
    /// Seconds.
    pub end: f64,
}

/// What `waxwing transcribe -f json` prints of each file.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct FileTranscription {
    /// As named on the command line.
    pub file: String,
    /// Of the audio, in seconds.
    pub duration: f64,
    /// The whole transcript.
    pub text: String,
    /// As one would write it, where that was asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub formatted: Option<String>,
    /// What the native protocol sends as finals.
    pub utterances: Vec<FileUtterance>,
    /// What was wrong with the file, if anything.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub warnings: Vec<String>,
}

/// An utterance of a file.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct FileUtterance {
    /// Seconds.
    pub start: f64,
    /// Seconds.
    pub end: f64,
    /// Words joined by spaces.
    pub text: String,
    /// As one would write it, where that was asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub formatted: Option<String>,
    /// 0 to 1.
    pub confidence: f32,
    /// The words.
    pub words: Vec<FileWord>,
    /// What else it may have been, the most probable first, where that was asked for.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub alternatives: Vec<FinalAlternative>,
}

fn alternatives(utterance: &Utterance) -> Vec<FinalAlternative> {
    utterance
        .alternatives
        .iter()
        .cloned()
        .map(FinalAlternative::from)
        .collect()
}

/// A word of a file.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct FileWord {
    /// Time and spelling.
    #[serde(flatten)]
    pub timed: TimedWord,
    /// 0 to 1.
    pub confidence: f32,
}

impl Transcription {
    /// The body for `audio_seconds` of audio.
    pub fn new(utterances: &[Utterance], audio_seconds: f64, formatted: bool, warnings: Vec<String>) -> Self {
        Self {
            text: subtitles::text(utterances),
            formatted: formatted.then(|| subtitles::formatted(utterances)),
            usage: Usage::seconds(audio_seconds),
            warnings,
        }
    }
}

/// What a client of `verbose_json` asked for beside the text.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Shown {
    /// Times.
    pub granularities: Granularities,
    /// The written form.
    pub formatted: bool,
}

/// Which times a client of `verbose_json` asked for (`timestamp_granularities[]`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Granularities {
    /// Times of segments.
    pub segments: bool,
    /// Times of words.
    pub words: bool,
}

impl Default for Granularities {
    /// Segments, as OpenAI gives where nothing is asked for.
    fn default() -> Self {
        Self {
            segments: true,
            words: false,
        }
    }
}

impl VerboseTranscription {
    /// The body for `audio_seconds` of audio.
    pub fn new(
        utterances: &[Utterance],
        audio_seconds: f64,
        language: &str,
        shown: Shown,
        warnings: Vec<String>,
    ) -> Self {
        let Shown {
            granularities,
            formatted,
        } = shown;
        let words = || {
            utterances
                .iter()
                .flat_map(|utterance| &utterance.words)
                .map(TimedWord::from)
        };
        Self {
            task: "transcribe",
            language: language.to_owned(),
            duration: seconds(audio_seconds),
            text: subtitles::text(utterances),
            formatted: formatted.then(|| subtitles::formatted(utterances)),
            segments: granularities.segments.then(|| {
                (0..)
                    .zip(utterances)
                    .map(|(id, utterance)| Segment::new(id, utterance, formatted))
                    .collect()
            }),
            words: granularities.words.then(|| words().collect()),
            usage: Usage::seconds(audio_seconds),
            warnings,
        }
    }
}

impl Segment {
    fn new(id: u64, utterance: &Utterance, formatted: bool) -> Self {
        Self {
            id,
            seek: (utterance.start * 100.0).round() as u64,
            start: seconds(utterance.start),
            end: seconds(utterance.end),
            text: format!(" {}", utterance.text),
            formatted: formatted.then(|| written(utterance)),
            tokens: [],
            temperature: 0.0,
            // A confidence of 0 would be minus infinity, which is no JSON.
            avg_logprob: utterance.confidence.max(f32::MIN_POSITIVE).ln(),
            compression_ratio: 1.0,
            no_speech_prob: 0.0,
            alternatives: alternatives(utterance),
        }
    }
}

impl From<&Word> for TimedWord {
    fn from(word: &Word) -> Self {
        Self {
            word: word.word.clone(),
            start: seconds(word.start),
            end: seconds(word.end),
        }
    }
}

impl FileTranscription {
    /// The transcript of `audio_seconds` of audio.
    pub fn new(
        file: &str,
        utterances: &[Utterance],
        audio_seconds: f64,
        formatted: bool,
        warnings: Vec<String>,
    ) -> Self {
        Self {
            file: file.to_owned(),
            duration: seconds(audio_seconds),
            text: subtitles::text(utterances),
            formatted: formatted.then(|| subtitles::formatted(utterances)),
            utterances: utterances
                .iter()
                .map(|utterance| FileUtterance::new(utterance, formatted))
                .collect(),
            warnings,
        }
    }
}

impl FileUtterance {
    fn new(utterance: &Utterance, formatted: bool) -> Self {
        let word = |word: &Word| FileWord {
            timed: word.into(),
            confidence: word.confidence,
        };
        Self {
            start: seconds(utterance.start),
            end: seconds(utterance.end),
            text: utterance.text.clone(),
            formatted: formatted.then(|| written(utterance)),
            confidence: utterance.confidence,
            words: utterance.words.iter().map(word).collect(),
            alternatives: alternatives(utterance),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn utterances() -> [Utterance; 2] {
        let word = |word: &str, start, end| Word {
            word: word.to_owned(),
            start,
            end,
            confidence: 0.5,
        };
        let utterance = |utterance, words: Vec<Word>| Utterance {
            utterance,
            start: words[0].start,
            end: words[words.len() - 1].end,
            text: words
                .iter()
                .map(|word| word.word.as_str())
                .collect::<Vec<_>>()
                .join(" "),
            stable_words: words.len(),
            words,
            confidence: 1.0,
            audio_processed: 9.0,
            alternatives: Vec::new(),
        };
        [
            utterance(0, vec![word("and", 0.32, 0.48), word("then", 0.56, 0.880_000_1)]),
            utterance(1, vec![word("so", 3.0, 3.2)]),
        ]
    }

    fn json(value: &impl Serialize) -> String {
        serde_json::to_string(value).expect("serialisable")
    }

    #[test]
    fn json_is_text_and_usage() {
        let body = Transcription::new(&utterances(), 4.0, false, vec![]);
        insta::assert_snapshot!(json(&body), @r#"{"text":"and then so","usage":{"type":"duration","seconds":4.0}}"#);
        let body = Transcription::new(&utterances(), 4.0, true, vec![]);
        insta::assert_snapshot!(json(&body), @r#"{"text":"and then so","formatted":"And then So","usage":{"type":"duration","seconds":4.0}}"#);
        let body = Transcription::new(&[], 4.0, false, vec!["the file ends early".into()]);
        insta::assert_snapshot!(json(&body), @r#"{"text":"","usage":{"type":"duration","seconds":4.0},"warnings":["the file ends early"]}"#);
    }

    #[test]
    fn verbose_json_has_segments_unless_only_words_are_asked_for() {
        let body = VerboseTranscription::new(&utterances(), 4.0, "en", Shown::default(), vec![]);
        insta::assert_snapshot!(json(&body), @r#"{"task":"transcribe","language":"en","duration":4.0,"text":"and then so","segments":[{"id":0,"seek":32,"start":0.32,"end":0.88,"text":" and then","tokens":[],"temperature":0.0,"avg_logprob":0.0,"compression_ratio":1.0,"no_speech_prob":0.0},{"id":1,"seek":300,"start":3.0,"end":3.2,"text":" so","tokens":[],"temperature":0.0,"avg_logprob":0.0,"compression_ratio":1.0,"no_speech_prob":0.0}],"usage":{"type":"duration","seconds":4.0}}"#);
        let words = Shown {
            granularities: Granularities {
                segments: false,
                words: true,
            },
            formatted: false,
        };
        let body = VerboseTranscription::new(&utterances(), 4.0, "en", words, vec![]);
        insta::assert_snapshot!(json(&body), @r#"{"task":"transcribe","language":"en","duration":4.0,"text":"and then so","words":[{"word":"and","start":0.32,"end":0.48},{"word":"then","start":0.56,"end":0.88},{"word":"so","start":3.0,"end":3.2}],"usage":{"type":"duration","seconds":4.0}}"#);
    }

    #[test]
    fn no_confidence_is_still_json() {
        let mut utterances = utterances();
        utterances[0].confidence = 0.0;
        let body = VerboseTranscription::new(&utterances, 4.0, "en", Shown::default(), vec![]);
        assert!(json(&body).contains(r#""avg_logprob":-87.3"#), "{}", json(&body));
    }

    #[test]
    fn files_show_everything() {
        let body = FileTranscription::new("a.wav", &utterances()[1..], 4.0, true, vec![]);
        insta::assert_snapshot!(json(&body), @r#"{"file":"a.wav","duration":4.0,"text":"so","formatted":"So","utterances":[{"start":3.0,"end":3.2,"text":"so","formatted":"So","confidence":1.0,"words":[{"word":"so","start":3.0,"end":3.2,"confidence":0.5}]}]}"#);
    }
}
