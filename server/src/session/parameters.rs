//! What a session is set up with: the query of the request and a first `start`, checked against what is served.

use waxwing_frontend::pcm::Encoding;
use waxwing_model::ctc::Hotword;
use waxwing_model::transcript;

use crate::config::nearest;
use crate::limits;
use crate::wire::code::ErrorCode;
use crate::wire::hotwords::{self, HotwordField};
use crate::wire::native::{Decoding, Endpointing, Options, Start};

/// Why parameters were refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refused {
    /// From the closed list.
    pub code: ErrorCode,
    /// For the caller.
    pub message: String,
}

impl Refused {
    /// A refusal.
    pub fn new(code: ErrorCode, message: impl Into<String>) -> Self {
        Self {
            code,
            message: message.into(),
        }
    }
}

/// The ids of the loaded models, the default first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ModelNames(pub Vec<String>);

/// Names under which OpenAI serves transcription: clients that insist on them get the default model.
const OPENAI_MODELS: [&str; 6] = [
    "whisper-1",
    "gpt-4o-transcribe",
    "gpt-4o-mini-transcribe",
    "gpt-4o-transcribe-diarize",
    "gpt-transcribe",
    "default",
];

impl ModelNames {
    /// The default model.
    pub fn default_model(&self) -> &str {
        self.0.first().map_or("", String::as_str)
    }

    /// The loaded model of a name that a client gave.
    ///
    /// # Errors
    /// [`ErrorCode::UnknownModel`] with the known names and the nearest one.
    pub fn resolve(&self, name: &str) -> Result<&str, Refused> {
        if let Some(id) = self.0.iter().find(|id| *id == name) {
            return Ok(id);
        }
        if name.is_empty() || OPENAI_MODELS.contains(&name) {
            return Ok(self.default_model());
        }
        let mut message = format!("unknown model `{name}`; this server has {}", self.0.join(", "));
        if let Some(near) = nearest(name, self.0.iter().map(String::as_str)) {
            message.push_str(&format!("; did you mean `{near}`?"));
        }
        Err(Refused::new(ErrorCode::UnknownModel, message))
    }
}

/// A session's parameters, all of them known and in range.
#[derive(Debug, Clone, PartialEq)]
pub struct Parameters {
    /// Of the binary messages.
    pub encoding: Encoding,
    /// Of the audio as sent.
    pub sample_rate_hz: u32,
    /// Interleaved.
    pub channels: u16,
    /// The one channel to hear; `None` mixes.
    pub channel: Option<u16>,
    /// A loaded model.
    pub model: String,
    /// Whether partials are sent.
    pub partials: bool,
    /// Whether finals list their words.
    pub words: bool,
    /// Whether finals show how their words are written.
    pub formatted: bool,
    /// When an utterance ends, where the client says so.
    pub endpointing: Endpointing,
    /// How words are searched for, where the client or the operator says so.
    pub decoding: Decoding,
    /// Words and phrases to favour.
    pub hotwords: Vec<Hotword>,
}

/// What a client asks of the search for words, over what holds already.
///
/// # Errors
/// [`ErrorCode::InvalidField`] for a value out of range.
pub fn decoding(wanted: Decoding, settings: Decoding) -> Result<Decoding, Refused> {
    let wanted = wanted.or(settings);
    let decoding = wanted.over(transcript::Decoding::default());
    let refused = |message| Err(Refused::new(ErrorCode::InvalidField, message));
    for (name, low, high, found) in [
        ("beam_width", 1, limits::BEAM_WIDTH, decoding.beam_width),
        (
            "second_pass_width",
            0,
            limits::SECOND_PASS_WIDTH,
            decoding.second_pass_width,
        ),
    ] {
        if !(low..=high).contains(&found) {
            return refused(format!("{name}: expected {low} to {high}, found {found}"));
        }
    }
    match decoding.validate() {
        Ok(()) => Ok(wanted),
        Err(error) => refused(error.to_string()),
    }
}

/// The hotwords of a request.
///
/// # Errors
/// [`ErrorCode::InvalidField`] when they have more letters than a session may hold.
pub fn hotwords(list: &[HotwordField]) -> Result<Vec<Hotword>, Refused> {
    let hotwords: Vec<Hotword> = list.iter().map(Hotword::from).collect();
    let letters: usize = hotwords.iter().map(|hotword| hotword.text.len()).sum();
    if letters > limits::HOTWORD_LETTERS {
        return Err(Refused::new(
            ErrorCode::InvalidField,
            format!(
                "hotwords: expected at most {} letters in all, found {letters}",
                limits::HOTWORD_LETTERS
            ),
        ));
    }
    Ok(hotwords)
}

impl Parameters {
    /// s16le, 16 kHz, mono, default model; words are searched for as the server is set up.
    pub fn new(models: &ModelNames, decoding: Decoding) -> Self {
        Self {
            encoding: Encoding::S16le,
            sample_rate_hz: 16_000,
            channels: 1,
            channel: None,
            model: models.default_model().into(),
            partials: true,
            words: true,
            formatted: false,
            endpointing: Endpointing::default(),
            decoding,
            hotwords: Vec::new(),
        }
    }

    /// Takes over what a `start` sets.
    ///
    /// # Errors
    /// For an unknown encoding or model, or values out of range.
    pub fn start(&mut self, start: &Start, models: &ModelNames) -> Result<(), Refused> {
        if let Some(name) = &start.encoding {
            self.encoding = name.parse().map_err(|_| {
                let known = Encoding::ALL.map(Encoding::name).join(", ");
                Refused::new(
                    ErrorCode::UnknownEncoding,
                    format!("unknown encoding `{name}`; known are {known}"),
                )
            })?;
        }
        if let Some(rate) = start.sample_rate {
            let (low, high) = (limits::RATES_HZ.start(), limits::RATES_HZ.end());
            if !limits::RATES_HZ.contains(&rate) {
                let message =
                    format!("unsupported sample rate {rate} Hz; it must be from {low} to {high} Hz");
                return Err(Refused::new(ErrorCode::UnsupportedRate, message));
            }
            self.sample_rate_hz = rate;
        }
        self.channels = start.channels.unwrap_or(self.channels);
        self.channel = start.channel.or(self.channel);
        if !(1..=limits::CHANNELS).contains(&self.channels)
            || self.channel.is_some_and(|channel| channel >= self.channels)
        {
            let message = format!(
                "`channels` must be from 1 to {} and `channel` below it, counted from 0",
                limits::CHANNELS
            );
            return Err(Refused::new(ErrorCode::UnsupportedChannels, message));
        }
        if let Some(name) = &start.model {
            self.model = models.resolve(name)?.into();
        }
        self.configure(&start.options)
    }

    /// Takes over what a `configure` sets.
    ///
    /// # Errors
    /// For values out of range.
    pub fn configure(&mut self, options: &Options) -> Result<(), Refused> {
        let wanted = options.endpointing.unwrap_or_default();
        let mut endpointing = self.endpointing;
        endpointing.silence_ms = wanted.silence_ms.or(endpointing.silence_ms);
        endpointing.max_utterance_ms = wanted.max_utterance_ms.or(endpointing.max_utterance_ms);
        endpointing
            .over(transcript::Endpointing::default())
            .validate()
            .map_err(|error| Refused::new(ErrorCode::InvalidField, format!("endpointing: {error}")))?;
        self.decoding = decoding(options.decoding, self.decoding)?;
        self.endpointing = endpointing;
        self.partials = options.partials.unwrap_or(self.partials);
        self.words = options.words.unwrap_or(self.words);
        self.formatted = options.formatted.unwrap_or(self.formatted);
        if let Some(list) = &options.hotwords {
            self.hotwords = hotwords(list)?;
        }
        Ok(())
    }
}

/// Reads the query of the request as a `start`. Unknown names are left to others (proxies add their own).
///
/// # Errors
/// For a value of the wrong type.
pub fn from_query<'a>(pairs: impl IntoIterator<Item = (&'a str, &'a str)>) -> Result<Start, Refused> {
    fn parsed<T: std::str::FromStr>(name: &str, value: &str, kind: &str) -> Result<Option<T>, Refused> {
        let refused = |_| {
            Refused::new(
                ErrorCode::InvalidField,
                format!("`{name}` must be a {kind}, not `{value}`"),
            )
        };
        value.parse().map(Some).map_err(refused)
    }
    fn number<T: std::str::FromStr>(name: &str, value: &str) -> Result<Option<T>, Refused> {
        parsed(name, value, "whole number")
    }
    fn decimal(name: &str, value: &str) -> Result<Option<f32>, Refused> {
        parsed(name, value, "number")
    }
    fn switch(name: &str, value: &str) -> Result<Option<bool>, Refused> {
        match value {
            "true" | "1" => Ok(Some(true)),
            "false" | "0" => Ok(Some(false)),
            _ => Err(Refused::new(
                ErrorCode::InvalidField,
                format!("`{name}` must be true or false, not `{value}`"),
            )),
        }
    }
    let mut start = Start::default();
    let mut endpointing = Endpointing::default();
    for (name, value) in pairs {
        match name {
            "encoding" => start.encoding = Some(value.into()),
            "sample_rate" => start.sample_rate = number(name, value)?,
            "channels" => start.channels = number(name, value)?,
            "channel" => start.channel = number(name, value)?,
            "model" => start.model = Some(value.into()),
            "partials" => start.options.partials = switch(name, value)?,
            "words" => start.options.words = switch(name, value)?,
            "formatted" => start.options.formatted = switch(name, value)?,
            "hotwords" => start.options.hotwords = Some(hotwords::list(value)),
            "beam_width" => start.options.decoding.beam_width = number(name, value)?,
            "alternatives" => start.options.decoding.alternatives = number(name, value)?,
            "second_pass_width" => start.options.decoding.second_pass_width = number(name, value)?,
            "rescoring_weight" => start.options.decoding.rescoring_weight = decimal(name, value)?,
            "language_model_weight" => {
                start.options.decoding.language_model_weight = decimal(name, value)?;
            }
            "word_bonus" => start.options.decoding.word_bonus = decimal(name, value)?,
            "silence_ms" => endpointing.silence_ms = number(name, value)?,
            "max_utterance_ms" => endpointing.max_utterance_ms = number(name, value)?,
            _ => {}
        }
    }
    if endpointing != Endpointing::default() {
        start.options.endpointing = Some(endpointing);
    }
    Ok(start)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn models() -> ModelNames {
        ModelNames(vec!["en-emformer".into(), "de-emformer".into()])
    }

    #[test]
    fn names_of_models() {
        let models = models();
        for (name, expected) in [
            ("", "en-emformer"),
            ("whisper-1", "en-emformer"),
            ("de-emformer", "de-emformer"),
        ] {
            assert_eq!(models.resolve(name), Ok(expected));
        }
        let refused = models.resolve("en-emfromer").unwrap_err();
        assert_eq!(refused.code, ErrorCode::UnknownModel);
        assert_eq!(
            refused.message,
            "unknown model `en-emfromer`; this server has en-emformer, de-emformer; did you mean `en-emformer`?"
        );
    }

    #[test]
    fn a_query_is_a_start() {
        let pairs = [
            ("encoding", "mulaw"),
            ("sample_rate", "8000"),
            ("partials", "false"),
            ("silence_ms", "500"),
            ("x", "y"),
        ];
        let mut parameters = Parameters::new(&models(), Decoding::default());
        assert_eq!(parameters.start(&from_query(pairs).unwrap(), &models()), Ok(()));
        assert_eq!(
            (
                parameters.encoding,
                parameters.sample_rate_hz,
                parameters.partials
            ),
            (Encoding::Mulaw, 8000, false)
        );
        assert_eq!(parameters.endpointing.silence_ms, Some(500));
        for pair in [("sample_rate", "fast"), ("partials", "maybe"), ("channels", "-1")] {
            assert_eq!(
                from_query([pair]).unwrap_err().code,
                ErrorCode::InvalidField,
                "{pair:?}"
            );
        }
    }

    #[test]
    fn what_is_not_served_is_refused_by_name() {
        let decoding = Decoding::default();
        let refuse = |start: Start| {
            Parameters::new(&models(), decoding)
                .start(&start, &models())
                .unwrap_err()
        };
        let refused = refuse(Start {
            encoding: Some("opus".into()),
            ..Start::default()
        });
        assert_eq!(refused.code, ErrorCode::UnknownEncoding);
        assert!(
            refused.message.contains("s16le, s32le, f32le, mulaw, alaw"),
            "{}",
            refused.message
        );
        for rate in [0, 7_999, 192_001, u32::MAX] {
            assert_eq!(
                refuse(Start {
                    sample_rate: Some(rate),
                    ..Start::default()
                })
                .code,
                ErrorCode::UnsupportedRate
            );
        }
        for (channels, channel) in [(0, None), (9, None), (2, Some(2))] {
            let start = Start {
                channels: Some(channels),
                channel,
                ..Start::default()
            };
            assert_eq!(refuse(start).code, ErrorCode::UnsupportedChannels);
        }
        let endpointing = Some(Endpointing {
            silence_ms: Some(1),
            max_utterance_ms: None,
        });
        let start = Start {
            options: Options {
                endpointing,
                ..Options::default()
            },
            ..Start::default()
        };
        assert_eq!(refuse(start).code, ErrorCode::InvalidField);
    }

    #[test]
    fn a_client_searches_wider_within_bounds_and_keeps_what_it_does_not_name() {
        let mut parameters = Parameters::new(&models(), Decoding::default());
        let pairs = [("beam_width", "16"), ("alternatives", "3")];
        assert_eq!(parameters.start(&from_query(pairs).unwrap(), &models()), Ok(()));
        assert_eq!(parameters.configure(&Options::default()), Ok(()));
        let weight = [
            ("rescoring_weight", "0.5"),
            ("language_model_weight", "0.25"),
            ("word_bonus", "-1"),
        ];
        assert_eq!(parameters.start(&from_query(weight).unwrap(), &models()), Ok(()));
        assert_eq!(
            parameters.decoding,
            Decoding {
                beam_width: Some(16),
                alternatives: Some(3),
                second_pass_width: None,
                rescoring_weight: Some(0.5),
                language_model_weight: Some(0.25),
                word_bonus: Some(-1.0),
            }
        );
        for (pair, message) in [
            (("beam_width", "65"), "beam_width: expected 1 to 64, found 65"),
            (("beam_width", "0"), "beam_width: expected 1 to 64, found 0"),
            (("alternatives", "21"), "alternatives: expected 1 to 20, found 21"),
            (
                ("beam_width", "wide"),
                "`beam_width` must be a whole number, not `wide`",
            ),
            (
                ("second_pass_width", "201"),
                "second_pass_width: expected 0 to 200, found 201",
            ),
            (
                ("rescoring_weight", "-1"),
                "rescoring_weight: expected 0 to 10, found -1",
            ),
            (
                ("language_model_weight", "11"),
                "language_model_weight: expected 0 to 10, found 11",
            ),
            (
                ("word_bonus", "much"),
                "`word_bonus` must be a number, not `much`",
            ),
            (("word_bonus", "NaN"), "word_bonus: expected -10 to 10, found NaN"),
        ] {
            let refused = from_query([pair])
                .and_then(|start| parameters.start(&start, &models()))
                .unwrap_err();
            assert_eq!(
                (refused.code, refused.message.as_str()),
                (ErrorCode::InvalidField, message)
            );
        }
    }

    #[test]
    fn hotwords_and_the_written_form_stay_until_they_are_changed() {
        let mut parameters = Parameters::new(&models(), Decoding::default());
        let pairs = [("hotwords", "ada lovelace,waxwing:2"), ("formatted", "true")];
        parameters.start(&from_query(pairs).unwrap(), &models()).unwrap();
        let texts = |parameters: &Parameters| -> Vec<String> {
            parameters
                .hotwords
                .iter()
                .map(|hotword| hotword.text.clone())
                .collect()
        };
        parameters.configure(&Options::default()).unwrap();
        assert_eq!(texts(&parameters), ["ada lovelace", "waxwing"]);
        assert!(parameters.formatted);
        parameters
            .configure(&Options {
                hotwords: Some(Vec::new()),
                formatted: Some(false),
                ..Options::default()
            })
            .unwrap();
        assert!(texts(&parameters).is_empty() && !parameters.formatted);
        let long = vec![HotwordField::Text("x".repeat(limits::HOTWORD_LETTERS + 1))];
        let refused = parameters
            .configure(&Options {
                hotwords: Some(long),
                ..Options::default()
            })
            .unwrap_err();
        assert_eq!(
            refused.message,
            "hotwords: expected at most 16384 letters in all, found 16385"
        );
    }
}
