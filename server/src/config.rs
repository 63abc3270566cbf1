//! Settings: defaults < file < environment < flags. Each setting is one row of [`SETTINGS`]; flags, variables, the
//! file's keys, their help and their checks all come from it, and all mistakes are reported at once.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use waxwing_model::precision::Precision;
use waxwing_model::transcript;

use crate::auth::Secret;
use crate::device::DeviceChoice;
use crate::limits::{self, Limits};
use crate::wire::native::Decoding;

/// What `serve` runs with.
#[derive(Debug, Clone, PartialEq)]
pub struct Config {
    /// Address to listen on.
    pub host: IpAddr,
    /// Port to listen on; 0 takes a free one.
    pub port: u16,
    /// Model directories or ids of built-in models, the default first; empty is the built-in default.
    pub models: Vec<String>,
    /// Keys that clients may present; never shown.
    pub keys: Vec<Secret>,
    /// Serve other machines without a key.
    pub insecure: bool,
    /// Origins of pages on other hosts that may use this server.
    pub origins: Vec<String>,
    /// Host names that this server answers for besides its own.
    pub hosts: Vec<String>,
    /// Where models run.
    pub device: DeviceChoice,
    /// Numbers of the models' products.
    pub precision: Precision,
    /// Worker threads; 0 is one for each core.
    pub threads: usize,
    /// Sessions at the same time; 0 is what warm-up measures.
    pub slots: usize,
    /// Audio that may wait in a session before its socket is no longer read.
    pub backlog: Duration,
    /// How words are searched for where the client does not say; what is not set is the model's default.
    pub decoding: Decoding,
    /// Filter of the log, as of `tracing`.
    pub log: String,
    /// Log in JSON.
    pub log_json: bool,
    /// The limits.
    pub limits: Limits,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            host: IpAddr::V4(Ipv4Addr::LOCALHOST),
            port: 8080,
            models: Vec::new(),
            keys: Vec::new(),
            insecure: false,
            origins: Vec::new(),
            hosts: Vec::new(),
            device: DeviceChoice::Auto,
            precision: Precision::F32,
            threads: 0,
            slots: 0,
            backlog: Duration::from_secs(10),
            decoding: Decoding::default(),
            log: "info".into(),
            log_json: false,
            limits: Limits::default(),
        }
    }
}

/// One setting.
#[derive(Debug)]
pub struct Setting {
    /// Key in the file; `--key-with-dashes` as a flag; `WAXWING_KEY` as a variable.
    pub key: &'static str,
    /// How the value is named in the help; empty for a switch.
    pub value_name: &'static str,
    /// What it does and why one would change it.
    pub help: &'static str,
    /// Reads the text of a value into the configuration.
    apply: fn(&mut Config, &str) -> Result<(), String>,
}

impl Setting {
    /// The flag without its dashes.
    pub fn flag(&self) -> String {
        self.key.replace('_', "-")
    }

    /// The environment variable.
    pub fn variable(&self) -> String {
        format!("WAXWING_{}", self.key.to_ascii_uppercase())
    }
}

/// Every setting.
#[rustfmt::skip]
pub const SETTINGS: &[Setting] = &[
    Setting { key: "host", value_name: "ADDRESS", help: "Address to listen on; other machines reach the server only on an address that is not loopback [default: 127.0.0.1]",
        apply: |config, text| { config.host = if text == "localhost" { IpAddr::V4(Ipv4Addr::LOCALHOST) } else { parse(text, "an IP address")? }; Ok(()) } },
    Setting { key: "port", value_name: "PORT", help: "Port to listen on; 0 takes a free one [default: 8080]",
        apply: |config, text| { config.port = parse(text, "a port from 0 to 65535")?; Ok(()) } },
    Setting { key: "model", value_name: "DIR|ID", help: "Model directories or ids of built-in models, comma-separated, the default first [default: the built-in model]",
        apply: |config, text| { config.models = list(text); Ok(()) } },
    Setting { key: "keys", value_name: "KEYS", help: "Keys that clients may present, comma-separated; prefer the variable or the file, since other users can read flags",
        apply: |config, text| { config.keys = list(text).into_iter().map(Secret::new).collect(); Ok(()) } },
    Setting { key: "insecure", value_name: "", help: "Serve other machines without a key; without it, a key is made when none is set",
        apply: |config, text| { config.insecure = switch(text)?; Ok(()) } },
    Setting { key: "origins", value_name: "ORIGINS", help: "Origins of pages elsewhere that may use this server, comma-separated, such as https://example.org",
        apply: |config, text| { config.origins = origins(text)?; Ok(()) } },
    Setting { key: "hosts", value_name: "NAMES", help: "Host names that this server answers for besides localhost, comma-separated; on loopback all others are refused",
        apply: |config, text| { config.hosts = list(&text.to_ascii_lowercase()); Ok(()) } },
    Setting { key: "device", value_name: "DEVICE", help: "Where models run: cpu, cuda (an NVIDIA GPU, by the binary waxwing-cuda beside this one), metal (an Apple GPU, untested, where built with it), or auto: a GPU where one can be used [default: auto]",
        apply: |config, text| { config.device = text.parse()?; Ok(()) } },
    Setting { key: "precision", value_name: "NUMBERS", help: "Numbers of the models' products on the CPU: f32, bf16, int8, or w8a8, the fastest where the processor has VNNI and the least exact; all but the first for the Emformers [default: f32]",
        apply: |config, text| { config.precision = text.parse()?; Ok(()) } },
    Setting { key: "threads", value_name: "N", help: "Worker threads; 0 is one for each core [default: 0]",
        apply: |config, text| { config.threads = in_range(text, 0, 1024)?; Ok(()) } },
    Setting { key: "slots", value_name: "N", help: "Sessions at the same time; 0 is what the machine is measured to run in real time [default: 0]",
        apply: |config, text| { config.slots = in_range(text, 0, 100_000)?; Ok(()) } },
    Setting { key: "backlog_seconds", value_name: "S", help: "Audio that may wait in a session before its socket is no longer read [default: 10]",
        apply: |config, text| { config.backlog = seconds(text, 1, 600)?; Ok(()) } },
    Setting { key: "beam_width", value_name: "N", help: "Hypotheses that the decoder keeps where a client does not say; 1 is the best path, wider beams cost processor time [default: 32 for a model with a language model, else 1]",
        apply: |config, text| { config.decoding.beam_width = u32::try_from(in_range(text, 1, limits::BEAM_WIDTH)?).ok(); Ok(()) } },
    Setting { key: "second_pass_width", value_name: "N", help: "Width of a second search of each utterance at its end, of what is not stable by then, where a client does not say; 0 is none [default: 64 for a model with a language model, else 0]",
        apply: |config, text| { config.decoding.second_pass_width = u32::try_from(in_range(text, 0, limits::SECOND_PASS_WIDTH)?).ok(); Ok(()) } },
    Setting { key: "rescoring_weight", value_name: "X", help: "How much a model's second listener is heard, which hears each utterance again at its end, where a client does not say, from 0 (not at all) to 10 [default: the model's]",
        apply: |config, text| { config.decoding.rescoring_weight = Some(decimal(text, &transcript::Decoding::RESCORING_WEIGHT)?); Ok(()) } },
    Setting { key: "language_model_weight", value_name: "X", help: "How much the language model beside a model is heard where a client does not say, from 0 (not at all) to 10; only beams hear it [default: 0.5]",
        apply: |config, text| { config.decoding.language_model_weight = Some(decimal(text, &transcript::Decoding::LANGUAGE_MODEL_WEIGHT)?); Ok(()) } },
    Setting { key: "word_bonus", value_name: "X", help: "Added to the score of every word where a language model is heard, from -10 to 10; higher gives more and shorter words [default: 1]",
        apply: |config, text| { config.decoding.word_bonus = Some(decimal(text, &transcript::Decoding::WORD_BONUS)?); Ok(()) } },
    Setting { key: "max_connections", value_name: "N", help: "Open connections; more wait in the system's queue [default: 4096]",
        apply: |config, text| { config.limits.connections = in_range(text, 1, 1_000_000)?; Ok(()) } },
    Setting { key: "idle_seconds", value_name: "S", help: "A session with neither audio nor keepalive for so long is ended [default: 30]",
        apply: |config, text| { config.limits.idle = seconds(text, 1, 86_400)?; Ok(()) } },
    Setting { key: "max_session_seconds", value_name: "S", help: "Longest session; 0 is without end [default: 14400]",
        apply: |config, text| { config.limits.session = seconds(text, 0, 31_536_000)?; Ok(()) } },
    Setting { key: "max_body_mb", value_name: "MB", help: "Largest upload; it is held in memory [default: 100]",
        apply: |config, text| { config.limits.body_bytes = in_range(text, 1, 4096)? * 1024 * 1024; Ok(()) } },
    Setting { key: "max_files", value_name: "N", help: "Uploads that are received and transcribed at the same time; more are refused with 503 [default: 8]",
        apply: |config, text| { config.limits.files = in_range(text, 1, 1024)?; Ok(()) } },
    Setting { key: "max_file_seconds", value_name: "S", help: "Longest audio of a file [default: 14400]",
        apply: |config, text| { config.limits.file_audio = seconds(text, 1, 31_536_000)?; Ok(()) } },
    Setting { key: "max_whole_seconds", value_name: "S", help: "Longest audio of a file for a model that cannot stream and hears it as a whole; memory and time can grow with its square [default: 120]",
        apply: |config, text| { config.limits.whole_audio = seconds(text, 1, 3600)?; Ok(()) } },
    Setting { key: "max_decode_seconds", value_name: "S", help: "Longest time that unpacking a file may take, so that no crafted file holds a thread [default: 60]",
        apply: |config, text| { config.limits.file_decode = seconds(text, 1, 3600)?; Ok(()) } },
    Setting { key: "drain_seconds", value_name: "S", help: "From SIGTERM to exit at the latest; sessions get their last words in that time [default: 25]",
        apply: |config, text| { config.limits.drain = seconds(text, 1, 3600)?; Ok(()) } },
    Setting { key: "log", value_name: "FILTER", help: "What is logged to stderr: error, warn, info, debug, trace or a filter of these by module [default: info]",
        apply: |config, text| { text.parse::<tracing_subscriber::filter::Targets>().map_err(|_| "is no log filter".to_string())?; config.log = text.into(); Ok(()) } },
    Setting { key: "log_json", value_name: "", help: "Log in JSON, one object a line",
        apply: |config, text| { config.log_json = switch(text)?; Ok(()) } },
];

/// Where values come from, in rising order of precedence.
#[derive(Debug, Default)]
pub struct Sources {
    /// The TOML file, with its path for messages.
    pub file: Option<(PathBuf, String)>,
    /// Variables `WAXWING_*`.
    pub environment: Vec<(String, String)>,
    /// Flags by key.
    pub flags: Vec<(String, String)>,
}

/// All that is wrong with a configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigErrors(pub Vec<String>);

impl fmt::Display for ConfigErrors {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0.join("\n"))
    }
}

impl std::error::Error for ConfigErrors {}

impl Config {
    /// Merges the sources.
    ///
    /// # Errors
    /// Every mistake in every source, at once.
    pub fn merge(sources: &Sources) -> Result<Self, ConfigErrors> {
        let mut config = Self::default();
        let mut errors = Vec::new();
        if let Some((path, text)) = &sources.file {
            match text.parse::<toml::Table>() {
                Ok(table) => {
                    for (key, value) in &table {
                        let place = format!("{}: `{key}`", path.display());
                        match (find(key), plain(value)) {
                            (Some(setting), Some(text)) => {
                                apply(setting, &mut config, &text, &place, &mut errors)
                            }
                            (Some(_), None) => {
                                errors.push(format!(
                                    "{place} must be text, a number, a switch or a list of these"
                                ));
                            }
                            (None, _) => errors.push(format!("{place} is no setting{}", suggestion(key))),
                        }
                    }
                }
                Err(error) => errors.push(format!("{}: {}", path.display(), error.to_string().trim_end())),
            }
        }
        for (name, text) in &sources.environment {
            // Variables of other tools may share the prefix, so unknown ones are no mistake.
            if let Some(setting) = SETTINGS.iter().find(|setting| setting.variable() == *name) {
                apply(setting, &mut config, text, name, &mut errors);
            }
        }
        for (key, text) in &sources.flags {
            if let Some(setting) = find(key) {
                apply(
                    setting,
                    &mut config,
                    text,
                    &format!("--{}", setting.flag()),
                    &mut errors,
                );
            }
        }
        config.contradictions(&mut errors);
        if errors.is_empty() {
            Ok(config)
        } else {
            Err(ConfigErrors(errors))
        }
    }

    /// Settings that are fine alone and not together.
    fn contradictions(&self, errors: &mut Vec<String>) {
        let limits = &self.limits;
        if self.insecure && !self.keys.is_empty() {
            errors.push("`insecure` and `keys` contradict each other: drop one".into());
        }
        if !limits.session.is_zero() && limits.session < limits.idle {
            errors.push("`max_session_seconds` is below `idle_seconds`".into());
        }
        if self.slots != 0 && self.slots > limits.connections {
            errors.push("`slots` is above `max_connections`: the rest could never be reached".into());
        }
    }
}

/// The setting of a key.
pub fn find(key: &str) -> Option<&'static Setting> {
    SETTINGS.iter().find(|setting| setting.key == key)
}

/// Reads the file of `--config` or `WAXWING_CONFIG`, if one is named.
///
/// # Errors
/// When it cannot be read.
pub fn read_file(path: Option<&Path>) -> Result<Option<(PathBuf, String)>, ConfigErrors> {
    let Some(path) = path else { return Ok(None) };
    match std::fs::read_to_string(path) {
        Ok(text) => Ok(Some((path.into(), text))),
        Err(error) => Err(ConfigErrors(vec![format!(
            "cannot read {}: {error}",
            path.display()
        )])),
    }
}

/// The nearest of the known names, as the end of a message.
pub fn nearest<'a>(name: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let limit = name.chars().count().div_ceil(3).max(2);
    known
        .into_iter()
        .map(|known| (edit_distance(name, known), known))
        .filter(|(distance, _)| *distance <= limit)
        .min()
        .map(|(_, known)| known)
}

fn suggestion(key: &str) -> String {
    nearest(key, SETTINGS.iter().map(|setting| setting.key))
        .map_or_else(String::new, |near| format!("; did you mean `{near}`?"))
}

fn apply(setting: &Setting, config: &mut Config, text: &str, place: &str, errors: &mut Vec<String>) {
    if let Err(what) = (setting.apply)(config, text.trim()) {
        // The value of a secret never reaches a message: its own parser cannot fail.
        errors.push(format!("{place}: `{text}` {what}"));
    }
}

fn plain(value: &toml::Value) -> Option<String> {
    match value {
        toml::Value::String(text) => Some(text.clone()),
        toml::Value::Integer(number) => Some(number.to_string()),
        toml::Value::Float(number) => Some(number.to_string()),
        toml::Value::Boolean(switch) => Some(switch.to_string()),
        toml::Value::Array(items) => items
            .iter()
            .map(plain)
            .collect::<Option<Vec<_>>>()
            .map(|items| items.join(",")),
        _ => None,
    }
}

fn parse<T: std::str::FromStr>(text: &str, what: &str) -> Result<T, String> {
    text.parse().map_err(|_| format!("is not {what}"))
}

fn in_range(text: &str, low: usize, high: usize) -> Result<usize, String> {
    text.parse()
        .ok()
        .filter(|value| (low..=high).contains(value))
        .ok_or_else(|| format!("is not a whole number from {low} to {high}"))
}

fn decimal(text: &str, accepted: &std::ops::RangeInclusive<f32>) -> Result<f32, String> {
    text.parse()
        .ok()
        .filter(|value| accepted.contains(value))
        .ok_or_else(|| format!("is not a number from {} to {}", accepted.start(), accepted.end()))
}

fn seconds(text: &str, low: u32, high: u32) -> Result<Duration, String> {
    text.parse()
        .ok()
        .filter(|value| (f64::from(low)..=f64::from(high)).contains(value))
        .map(Duration::from_secs_f64)
        .ok_or_else(|| format!("is not a number of seconds from {low} to {high}"))
}

fn switch(text: &str) -> Result<bool, String> {
    match text {
        "true" | "1" | "yes" | "on" => Ok(true),
        "false" | "0" | "no" | "off" | "" => Ok(false),
        _ => Err("is neither `true` nor `false`".into()),
    }
}

fn list(text: &str) -> Vec<String> {
    text.split(',')
        .map(str::trim)
        .filter(|item| !item.is_empty())
        .map(String::from)
        .collect()
}

fn origins(text: &str) -> Result<Vec<String>, String> {
    let origins = list(&text.to_ascii_lowercase());
    for origin in &origins {
        let host = origin
            .strip_prefix("https://")
            .or_else(|| origin.strip_prefix("http://"))
            .unwrap_or_default();
        if host.is_empty() || host.contains('/') {
            return Err(format!(
                "names `{origin}`, which is no origin: write scheme://host[:port]"
            ));
        }
    }
    Ok(origins)
}

/// Levenshtein distance in characters.
fn edit_distance(left: &str, right: &str) -> usize {
    let right: Vec<char> = right.chars().collect();
    let mut row: Vec<usize> = (0..=right.len()).collect();
    for (i, expected) in left.chars().enumerate() {
        let mut diagonal = i;
        let mut before = i + 1;
        for (cell, actual) in row.iter_mut().skip(1).zip(&right) {
            let substitution = diagonal + usize::from(expected != *actual);
            diagonal = *cell;
            *cell = substitution.min(diagonal + 1).min(before + 1);
            before = *cell;
        }
        if let Some(first) = row.first_mut() {
            *first = i + 1;
        }
    }
    row.last().copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pairs(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
        pairs
            .iter()
            .map(|(key, value)| (key.to_string(), value.to_string()))
            .collect()
    }

    #[test]
    fn flags_win_over_environment_over_file_over_defaults() {
        let mut sources = Sources {
            file: Some((
                "w.toml".into(),
                "port = 1\nslots = 2\nthreads = 3\norigins = [\"https://a\", \"https://b\"]".into(),
            )),
            ..Sources::default()
        };
        let config = Config::merge(&sources).unwrap();
        assert_eq!((config.port, config.slots, config.threads), (1, 2, 3));
        assert_eq!(config.origins, ["https://a", "https://b"]);
        assert_eq!(config.host, Config::default().host);
        sources.environment = pairs(&[
            ("WAXWING_PORT", "10"),
            ("WAXWING_SLOTS", "20"),
            ("WAXWING_SOMETHING_ELSE", "x"),
        ]);
        sources.flags = pairs(&[("port", "100"), ("insecure", "true")]);
        let config = Config::merge(&sources).unwrap();
        assert_eq!(
            (config.port, config.slots, config.threads, config.insecure),
            (100, 20, 3, true)
        );
    }

    #[test]
    fn all_mistakes_are_reported_at_once() {
        let sources = Sources {
            file: Some(("w.toml".into(), "prot = 1\nslots = -1\nhost = {}".into())),
            environment: pairs(&[("WAXWING_IDLE_SECONDS", "soon")]),
            flags: pairs(&[
                ("port", "99999"),
                ("insecure", "true"),
                ("keys", "a,b"),
                ("origins", "example.org"),
            ]),
        };
        insta::assert_snapshot!(Config::merge(&sources).unwrap_err().to_string(), @r"
        w.toml: `host` must be text, a number, a switch or a list of these
        w.toml: `prot` is no setting; did you mean `port`?
        w.toml: `slots`: `-1` is not a whole number from 0 to 100000
        WAXWING_IDLE_SECONDS: `soon` is not a number of seconds from 1 to 86400
        --port: `99999` is not a port from 0 to 65535
        --origins: `example.org` names `example.org`, which is no origin: write scheme://host[:port]
        `insecure` and `keys` contradict each other: drop one
        ");
    }

    #[test]
    fn secrets_never_show() {
        let sources = Sources {
            flags: pairs(&[("keys", "swordfish")]),
            ..Sources::default()
        };
        assert!(!format!("{:?}", Config::merge(&sources).unwrap()).contains("swordfish"));
    }

    #[test]
    fn near_names_are_found() {
        assert_eq!(
            nearest("en-emfromer", ["de-emformer", "en-emformer"]),
            Some("en-emformer")
        );
        assert_eq!(nearest("gpt-4", ["en-emformer"]), None);
        assert_eq!(edit_distance("kitten", "sitting"), 3);
        assert_eq!(edit_distance("", "abc"), 3);
    }

    #[test]
    fn every_setting_has_a_unique_key_and_a_help_text() {
        for (index, setting) in SETTINGS.iter().enumerate() {
            assert!(!setting.help.is_empty());
            assert!(
                SETTINGS
                    .iter()
                    .skip(index + 1)
                    .all(|other| other.key != setting.key),
                "{}",
                setting.key
            );
        }
    }
}
