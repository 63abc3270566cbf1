//! Flags for the rows of [`SETTINGS`], and the configuration that they, the environment and the file make together.

use std::path::PathBuf;

use clap::{Arg, ArgAction, ArgMatches, Command, value_parser};

use super::Failure;
use crate::config::{Config, ConfigErrors, SETTINGS, Sources, read_file};

/// All settings.
pub(super) const ALL: &[&str] = &[];

/// Adds `--config` and a flag for each of the named settings, or for all.
pub(super) fn add(command: Command, keys: &[&str]) -> Command {
    let config = Arg::new("config")
        .long("config")
        .value_name("FILE")
        .env("WAXWING_CONFIG")
        .value_parser(value_parser!(PathBuf))
        .help("TOML file with settings")
        .help_heading("Settings");
    // Flags are texts that live as long as the program; clap takes only those without its feature for owned ones.
    let wanted = SETTINGS
        .iter()
        .filter(|setting| keys.is_empty() || keys.contains(&setting.key));
    wanted.fold(command.arg(config), |command, setting| {
        let flag = Arg::new(setting.key)
            .long(setting.flag())
            .help(format!("{} [env: {}]", setting.help, setting.variable()))
            .help_heading("Settings");
        command.arg(if setting.value_name.is_empty() {
            flag.action(ArgAction::SetTrue)
        } else {
            // Values are checked with those of the file and the environment, so that all mistakes show at once.
            flag.value_name(setting.value_name).allow_hyphen_values(true)
        })
    })
}

/// Merges defaults, file, environment and flags.
///
/// # Errors
/// [`Failure::Usage`] with every mistake.
pub(super) fn read(matches: &ArgMatches) -> Result<Config, Failure> {
    let usage = |errors: ConfigErrors| Failure::Usage(anyhow::Error::new(errors));
    let path = matches.get_one::<PathBuf>("config");
    let sources = Sources {
        file: read_file(path.map(PathBuf::as_path)).map_err(usage)?,
        environment: std::env::vars_os()
            .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
            .filter(|(name, _)| name.starts_with("WAXWING_"))
            .collect(),
        flags: SETTINGS
            .iter()
            .filter_map(|setting| flag(matches, setting.key, setting.value_name.is_empty()))
            .collect(),
    };
    Config::merge(&sources).map_err(usage)
}

fn flag(matches: &ArgMatches, key: &str, is_switch: bool) -> Option<(String, String)> {
    let text = if is_switch {
        let set = matches
            .try_get_one::<bool>(key)
            .ok()
            .flatten()
            .copied()
            .unwrap_or_default();
        set.then(|| "true".to_string())
    } else {
        matches.try_get_one::<String>(key).ok().flatten().cloned()
    };
    text.map(|text| (key.to_string(), text))
}
