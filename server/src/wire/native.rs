//! Messages of the native protocol, `GET /v1/stream`. Audio travels in binary messages, everything else is here.

use serde::{Deserialize, Serialize};
use waxwing_model::formatting::formatted;
use waxwing_model::transcript;

use super::hotwords::HotwordField;
use crate::engine::{Alternative, Utterance, Word};

/// What sets a session up: the query of the request, or a first text message `start`. Every field is optional.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct Start {
    /// `s16le`, `s32le`, `f32le`, `mulaw` or `alaw`.
    pub encoding: Option<String>,
    /// Of the audio as sent, in Hz.
    pub sample_rate: Option<u32>,
    /// Interleaved channels.
    pub channels: Option<u16>,
    /// The one channel to hear, from 0; all are mixed without it.
    pub channel: Option<u16>,
    /// The id of a loaded model.
    pub model: Option<String>,
    /// Whole words of options that may change later.
    #[serde(flatten)]
    pub options: Options,
}

/// Options that `configure` changes in mid-session.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct Options {
    /// Whether partials are sent.
    pub partials: Option<bool>,
    /// Whether finals list their words.
    pub words: Option<bool>,
    /// How words are searched for.
    #[serde(flatten)]
    pub decoding: Decoding,
    /// Whether finals also show how their words are written.
    pub formatted: Option<bool>,
    /// Words and phrases to favour from here on, in place of those before.
    pub hotwords: Option<Vec<HotwordField>>,
    /// When an utterance ends.
    pub endpointing: Option<Endpointing>,
}

/// What of the search for words is set, by the server's operator or by a client; the rest is the model's default.
#[derive(Debug, Clone, Copy, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct Decoding {
    /// Prefixes that are kept from frame to frame; 1 is the best path.
    pub beam_width: Option<u32>,
    /// Hypotheses that a final shows, the best one included.
    pub alternatives: Option<u32>,
    /// Width of a second search of each utterance at its end; 0 is none.
    pub second_pass_width: Option<u32>,
    /// What a text's natural log-probability by the second listener is multiplied by, which judges the second pass; 0 leaves it out.
    pub rescoring_weight: Option<f32>,
    /// What a word's natural log-probability in the language model is multiplied by; 0 is no language model.
    pub language_model_weight: Option<f32>,
    /// Added for every word, where a language model is heard.
    pub word_bonus: Option<f32>,
}

impl Decoding {
    /// What is set here, and elsewhere what is set there.
    #[must_use]
    pub fn or(self, other: Self) -> Self {
        Self {
            beam_width: self.beam_width.or(other.beam_width),
            alternatives: self.alternatives.or(other.alternatives),
            second_pass_width: self.second_pass_width.or(other.second_pass_width),
            rescoring_weight: self.rescoring_weight.or(other.rescoring_weight),
            language_model_weight: self.language_model_weight.or(other.language_model_weight),
            word_bonus: self.word_bonus.or(other.word_bonus),
        }
    }

    /// What is given here over a model's settings.
    pub fn over(self, settings: transcript::Decoding) -> transcript::Decoding {
        let count = |wanted: Option<u32>, other: usize| {
            wanted.map_or(other, |count| usize::try_from(count).unwrap_or(usize::MAX))
        };
        transcript::Decoding {
            beam_width: count(self.beam_width, settings.beam_width),
            alternatives: count(self.alternatives, settings.alternatives),
            second_pass_width: count(self.second_pass_width, settings.second_pass_width),
            rescoring_weight: self.rescoring_weight.unwrap_or(settings.rescoring_weight),
            language_model_weight: self
                .language_model_weight
                .unwrap_or(settings.language_model_weight),
            word_bonus: self.word_bonus.unwrap_or(settings.word_bonus),
            ..settings
        }
    }
}

/// When an utterance ends.
#[derive(Debug, Clone, Copy, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct Endpointing {
    /// Silence after the last word, in milliseconds.
    pub silence_ms: Option<u32>,
    /// Longest utterance, in milliseconds.
    pub max_utterance_ms: Option<u32>,
}

impl Endpointing {
    /// What is given here over the defaults of the model.
    pub fn over(self, defaults: transcript::Endpointing) -> transcript::Endpointing {
        transcript::Endpointing {
            silence_ms: self.silence_ms.unwrap_or(defaults.silence_ms),
            max_utterance_ms: self.max_utterance_ms.unwrap_or(defaults.max_utterance_ms),
        }
    }
}

/// A text message of the client.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum ClientMessage {
    /// Sets the session up; first message only.
    Start(Start),
    /// Changes options from here on.
    Configure(Options),
    /// Finalise everything sent so far and go on.
    Flush {
        /// Echoed in `flushed`.
        #[serde(default)]
        id: Option<String>,
    },
    /// Still here.
    Keepalive,
    /// End of audio.
    Stop,
}

impl ClientMessage {
    /// The known values of `type`.
    pub const TYPES: [&str; 5] = ["start", "configure", "flush", "keepalive", "stop"];
}

/// A text message of the server.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum ServerMessage {
    /// The session is set up; sent at once and again as the answer to `start`.
    Ready {
        /// Names the session in logs.
        session: String,
        /// The model that hears it.
        model: String,
        /// Of the audio to be sent, in Hz.
        sample_rate: u32,
        /// What the encoder waits for.
        latency_ms: Latency,
    },
    /// The current hypothesis of the open utterance.
    Partial(Partial),
    /// An utterance that will not change.
    Final(Final),
    /// Everything before the flush is final.
    Flushed {
        /// As sent.
        #[serde(skip_serializing_if = "Option::is_none")]
        id: Option<String>,
    },
    /// The session is complete.
    Done {
        /// Audio received, in seconds.
        audio_seconds: f64,
        /// Finals sent.
        utterances: u64,
        /// Messages without effect: empty ones and those after `stop`.
        ignored_messages: u64,
    },
    /// Something was wrong and the session goes on.
    Warning {
        /// From the closed list.
        code: &'static str,
        /// For a person.
        message: String,
    },
    /// The session failed.
    Error {
        /// From the closed list.
        code: &'static str,
        /// For a person.
        message: String,
        /// Whether a new session may succeed.
        retryable: bool,
    },
}

impl ServerMessage {
    /// The JSON text.
    pub fn to_json(&self) -> String {
        // Only maps with non-string keys and failing writers can fail; neither occurs in these types.
        serde_json::to_string(self).unwrap_or_default()
    }
}

/// How long the encoder waits, in milliseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Latency {
    /// Audio that one step advances by.
    pub segment: u64,
    /// Audio past the segment that a step must hear.
    pub right_context: u64,
}

/// The body of a partial.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Partial {
    /// Counts from 0.
    pub utterance: u64,
    /// Seconds from the session's first sample.
    pub start: f64,
    /// Seconds from the session's first sample.
    pub end: f64,
    /// Spoken form.
    pub text: String,
    /// Leading words that will not change any more.
    pub stable_words: usize,
    /// Seconds of audio taken into account.
    pub audio_processed: f64,
}

/// The body of a final.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Final {
    /// Counts from 0.
    pub utterance: u64,
    /// Seconds from the session's first sample.
    pub start: f64,
    /// Seconds from the session's first sample.
    pub end: f64,
    /// Spoken form.
    pub text: String,
    /// As one would write it, where that was asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub formatted: Option<String>,
    /// 0 to 1.
    pub confidence: f64,
    /// Seconds of audio taken into account.
    pub audio_processed: f64,
    /// The words, unless switched off.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub words: Option<Vec<FinalWord>>,
    /// What else it may have been, the most probable first, where that was asked for.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub alternatives: Vec<FinalAlternative>,
}

/// Another hypothesis for a whole utterance.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct FinalAlternative {
    /// Spoken form.
    pub text: String,
    /// 0 to 1.
    pub confidence: f64,
}

impl From<Alternative> for FinalAlternative {
    fn from(alternative: Alternative) -> Self {
        Self {
            text: alternative.text,
            confidence: seconds(f64::from(alternative.confidence)),
        }
    }
}

/// A word of a final.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct FinalWord {
    /// Spoken form.
    pub word: String,
    /// Seconds from the session's first sample.
    pub start: f64,
    /// Seconds from the session's first sample.
    pub end: f64,
    /// 0 to 1.
    pub confidence: f64,
}

/// Whole milliseconds, so that JSON shows 0.32 and not 0.31999999999999995.
pub fn seconds(value: f64) -> f64 {
    (value * 1000.0).round() / 1000.0
}

impl From<Utterance> for Partial {
    fn from(utterance: Utterance) -> Self {
        Self {
            utterance: utterance.utterance,
            start: seconds(utterance.start),
            end: seconds(utterance.end),
            text: utterance.text,
            stable_words: utterance.stable_words,
            audio_processed: seconds(utterance.audio_processed),
        }
    }
}

impl Final {
    /// Takes over a final utterance, with its words and its written form or without.
    pub fn new(utterance: Utterance, with_words: bool, with_formatted: bool) -> Self {
        Self {
            formatted: with_formatted.then(|| written(&utterance)),
            utterance: utterance.utterance,
            start: seconds(utterance.start),
            end: seconds(utterance.end),
            text: utterance.text,
            confidence: seconds(f64::from(utterance.confidence)),
            audio_processed: seconds(utterance.audio_processed),
            words: with_words.then(|| utterance.words.into_iter().map(FinalWord::from).collect()),
            alternatives: utterance
                .alternatives
                .into_iter()
                .map(FinalAlternative::from)
                .collect(),
        }
    }
}

/// An utterance as one would write it.
pub fn written(utterance: &Utterance) -> String {
    let words: Vec<&str> = utterance.words.iter().map(|word| word.word.as_str()).collect();
    formatted(&words)
}

impl From<Word> for FinalWord {
    fn from(word: Word) -> Self {
        Self {
            word: word.word,
            start: seconds(word.start),
            end: seconds(word.end),
            confidence: seconds(f64::from(word.confidence)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn json(message: ServerMessage) -> String {
        message.to_json()
    }

    fn utterance() -> Utterance {
        Utterance {
            utterance: 0,
            start: 0.32,
            end: 1.600_000_000_1,
            text: "and mister john".into(),
            words: vec![Word {
                word: "and".into(),
                start: 0.32,
                end: 0.48,
                confidence: 0.97,
            }],
            stable_words: 2,
            confidence: 0.93,
            audio_processed: 1.92,
            alternatives: Vec::new(),
        }
    }

    #[test]
    fn server_messages_have_the_published_shapes() {
        let latency_ms = Latency {
            segment: 640,
            right_context: 160,
        };
        insta::assert_snapshot!(json(ServerMessage::Ready { session: "s1".into(), model: "en-emformer".into(), sample_rate: 16000, latency_ms }),
            @r#"{"type":"ready","session":"s1","model":"en-emformer","sample_rate":16000,"latency_ms":{"segment":640,"right_context":160}}"#);
        insta::assert_snapshot!(json(ServerMessage::Partial(utterance().into())),
            @r#"{"type":"partial","utterance":0,"start":0.32,"end":1.6,"text":"and mister john","stable_words":2,"audio_processed":1.92}"#);
        insta::assert_snapshot!(json(ServerMessage::Final(Final::new(utterance(), true, false))),
            @r#"{"type":"final","utterance":0,"start":0.32,"end":1.6,"text":"and mister john","confidence":0.93,"audio_processed":1.92,"words":[{"word":"and","start":0.32,"end":0.48,"confidence":0.97}]}"#);
        insta::assert_snapshot!(json(ServerMessage::Final(Final::new(utterance(), false, false))),
            @r#"{"type":"final","utterance":0,"start":0.32,"end":1.6,"text":"and mister john","confidence":0.93,"audio_processed":1.92}"#);
        let alternatives = vec![Alternative {
            text: "and mister jon".into(),
            confidence: 0.51,
        }];
        insta::assert_snapshot!(json(ServerMessage::Final(Final::new(Utterance { alternatives, ..utterance() }, false, false))),
            @r#"{"type":"final","utterance":0,"start":0.32,"end":1.6,"text":"and mister john","confidence":0.93,"audio_processed":1.92,"alternatives":[{"text":"and mister jon","confidence":0.51}]}"#);
        insta::assert_snapshot!(json(ServerMessage::Final(Final::new(utterance(), false, true))),
            @r#"{"type":"final","utterance":0,"start":0.32,"end":1.6,"text":"and mister john","formatted":"And","confidence":0.93,"audio_processed":1.92}"#);
        insta::assert_snapshot!(json(ServerMessage::Flushed { id: Some("42".into()) }), @r#"{"type":"flushed","id":"42"}"#);
        insta::assert_snapshot!(json(ServerMessage::Done { audio_seconds: 7.0, utterances: 1, ignored_messages: 0 }),
            @r#"{"type":"done","audio_seconds":7.0,"utterances":1,"ignored_messages":0}"#);
        insta::assert_snapshot!(json(ServerMessage::Warning { code: "odd_audio_length", message: "m".into() }),
            @r#"{"type":"warning","code":"odd_audio_length","message":"m"}"#);
        insta::assert_snapshot!(json(ServerMessage::Error { code: "unknown_encoding", message: "m".into(), retryable: false }),
            @r#"{"type":"error","code":"unknown_encoding","message":"m","retryable":false}"#);
    }

    #[test]
    fn client_messages_are_read_as_published() {
        let start = r#"{"type":"start","encoding":"s16le","sample_rate":16000,"channels":1,"model":"m","partials":true,
            "words":true,"alternatives":1,"hotwords":[{"text":"waxwing","boost":2.0}],
            "endpointing":{"silence_ms":800,"max_utterance_ms":20000}}"#;
        let ClientMessage::Start(start) = serde_json::from_str(start).unwrap() else {
            panic!("no start")
        };
        assert_eq!(start.encoding.as_deref(), Some("s16le"));
        assert_eq!(start.options.decoding.alternatives, Some(1));
        assert_eq!(start.options.hotwords.map(|list| list.len()), Some(1));
        assert_eq!(start.options.endpointing.unwrap().silence_ms, Some(800));
        assert_eq!(
            serde_json::from_str::<ClientMessage>(r#"{"type":"flush","id":"42"}"#).unwrap(),
            ClientMessage::Flush {
                id: Some("42".into())
            }
        );
        for text in [
            r#"{"type":"keepalive"}"#,
            r#"{"type":"stop"}"#,
            r#"{"type":"configure"}"#,
        ] {
            assert!(serde_json::from_str::<ClientMessage>(text).is_ok(), "{text}");
        }
    }
}
