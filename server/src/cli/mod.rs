//! The command line. stdout is data, stderr is logs; exit codes 0, 1 (failed) and 2 (wrong usage).

mod bench;
mod check;
mod convert;
mod decode;
mod encode;
mod health;
mod http;
mod models;
mod run;
mod serve;
mod settings;
mod transcribe;

use std::ffi::OsString;
use std::io::Write;
use std::process::ExitCode;

use clap::{Args, Command, FromArgMatches};

use crate::device;

/// Why a command did not do its work.
#[derive(Debug)]
pub enum Failure {
    /// It was asked wrongly: exit 2.
    Usage(anyhow::Error),
    /// It failed: exit 1.
    Failed(anyhow::Error),
}

impl<E: Into<anyhow::Error>> From<E> for Failure {
    fn from(error: E) -> Self {
        Self::Failed(error.into())
    }
}

/// What a command gives.
pub type Outcome = Result<(), Failure>;

/// Runs the command of the arguments, the program's name first.
pub fn run(arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
    let arguments: Vec<OsString> = arguments.into_iter().collect();
    if arguments
        .get(1)
        .is_some_and(|argument| argument == device::PROBE_FLAG)
    {
        return match device::probe() {
            Ok(_) => ExitCode::SUCCESS,
            Err(error) => fail(&error, 1),
        };
    }
    let matches = match command().try_get_matches_from(with_default_verb(arguments)) {
        Ok(matches) => matches,
        Err(error) => {
            // Broken pipes while printing help are nobody's problem.
            let _ = error.print();
            return ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(2));
        }
    };
    let Some((verb, matches)) = matches.subcommand() else {
        return ExitCode::from(2);
    };
    let outcome = match verb {
        "serve" => serve::run(matches),
        "transcribe" => parsed(matches).and_then(|arguments| transcribe::run(arguments, matches)),
        "models" => parsed(matches).and_then(|arguments| models::run(&arguments)),
        "doctor" => check::doctor(matches),
        "check-config" => check::check_config(matches),
        "health" => parsed(matches).and_then(|arguments| health::run(&arguments)),
        "decode" => parsed(matches).and_then(|arguments| decode::run(&arguments)),
        "encode" => parsed(matches).and_then(|arguments| encode::run(&arguments)),
        "convert" => parsed(matches).and_then(convert::run),
        "run" => parsed(matches).and_then(|arguments| run::run(&arguments)),
        "bench" => parsed(matches).and_then(bench::run),
        _ => Err(Failure::Usage(anyhow::anyhow!("unknown command `{verb}`"))),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(Failure::Usage(error)) => fail(&error, 2),
        Err(Failure::Failed(error)) if is_broken_pipe(&error) => ExitCode::SUCCESS,
        Err(Failure::Failed(error)) => fail(&error, 1),
    }
}

fn fail(error: &anyhow::Error, code: u8) -> ExitCode {
    // Nobody to tell: the exit code says it.
    let _ = writeln!(std::io::stderr(), "error: {error:#}");
    ExitCode::from(code)
}

/// `waxwing … | head` ends quietly.
fn is_broken_pipe(error: &anyhow::Error) -> bool {
    error
        .chain()
        .filter_map(|cause| cause.downcast_ref::<std::io::Error>())
        .any(|cause| cause.kind() == std::io::ErrorKind::BrokenPipe)
}

fn parsed<T: FromArgMatches>(matches: &clap::ArgMatches) -> Result<T, Failure> {
    T::from_arg_matches(matches).map_err(|error| Failure::Usage(error.into()))
}

/// No verb means `serve`, flags included.
fn with_default_verb(arguments: impl IntoIterator<Item = OsString>) -> Vec<OsString> {
    let mut arguments: Vec<OsString> = arguments.into_iter().collect();
    let first = arguments.get(1).and_then(|argument| argument.to_str());
    let asks_about_all = matches!(first, Some("-h" | "--help" | "-V" | "--version"));
    if first.is_none_or(|first| first.starts_with('-')) && !asks_about_all {
        arguments.insert(1.min(arguments.len()), "serve".into());
    }
    arguments
}

/// The whole command line.
pub fn command() -> Command {
    let verb = |name: &'static str, about: &'static str| Command::new(name).about(about);
    Command::new("waxwing")
        .version(env!("CARGO_PKG_VERSION"))
        .about("Speech to text while you speak: a streaming server, and a transcriber for files")
        .after_help("Without a command, `waxwing` serves. Every setting is also a variable WAXWING_… and a key of the --config file.")
        .subcommand_required(true)
        .arg_required_else_help(true)
        .subcommand(settings::add(
            verb("serve", "Serve speech recognition over WebSocket and HTTP, with a page to speak to").arg(
                clap::Arg::new("json").long("json").action(clap::ArgAction::SetTrue).help("Print the start-up facts as one line of JSON"),
            ),
            settings::ALL,
        ))
        .subcommand(settings::add(
            transcribe::Arguments::augment_args(verb("transcribe", "Transcribe audio files, or standard input by `-`")),
            &["model", "device", "precision", "threads", "beam_width", "second_pass_width", "rescoring_weight", "language_model_weight", "word_bonus", "max_file_seconds", "max_whole_seconds", "max_decode_seconds", "max_body_mb", "log", "log_json"],
        ))
        .subcommand(models::Arguments::augment_args(verb("models", "List the models, or show one")))
        .subcommand(settings::add(verb("doctor", "Look at this machine, the settings and the models, and say what is wrong"), settings::ALL))
        .subcommand(settings::add(verb("check-config", "Check the settings and say what is wrong, all at once"), settings::ALL))
        .subcommand(health::Arguments::augment_args(verb("health", "Ask a running server whether it is ready: exit 0 or 1, for HEALTHCHECK")))
        .subcommand(decode::Arguments::augment_args(verb("decode", "Run a CTC decoder on the log-probs of a file")))
        .subcommand(encode::Arguments::augment_args(verb("encode", "Run a model's encoder on tensors of a file")))
        .subcommand(convert::Arguments::augment_args(verb("convert", "Make a model directory of a public checkpoint, reading it as data")))
        .subcommand(run::Arguments::augment_args(verb("run", "Run any module of a model directory on tensors of a file")))
        .subcommand(bench::Arguments::augment_args(verb("bench", "Measure a running server with paced sessions, or a model alone")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(words: &[&str]) -> Vec<OsString> {
        words.iter().map(Into::into).collect()
    }

    #[test]
    fn the_command_line_is_consistent() {
        command().debug_assert();
    }

    #[test]
    fn serving_is_the_default() {
        assert_eq!(
            with_default_verb(words(&["waxwing"])),
            words(&["waxwing", "serve"])
        );
        assert_eq!(
            with_default_verb(words(&["waxwing", "--port", "1"])),
            words(&["waxwing", "serve", "--port", "1"])
        );
        assert_eq!(
            with_default_verb(words(&["waxwing", "models"])),
            words(&["waxwing", "models"])
        );
        assert_eq!(
            with_default_verb(words(&["waxwing", "--help"])),
            words(&["waxwing", "--help"])
        );
    }
}
