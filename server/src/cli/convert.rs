//! `waxwing convert`: a checkpoint of the original program becomes a model directory.

use std::io::Write;
use std::path::PathBuf;

use clap::Args;
use serde_json::Value;
use waxwing_model::convert::{KINDS, Options, convert_file};

use super::{Failure, Outcome};
use crate::config::nearest;

/// Make a model directory of a public checkpoint, reading it as data
#[derive(Debug, Args)]
pub(super) struct Arguments {
    /// What the checkpoint is; `list` shows all kinds
    #[arg(value_name = "KIND")]
    kind: String,
    /// PyTorch file in zip format, or safetensors
    #[arg(value_name = "CHECKPOINT")]
    checkpoint: Option<PathBuf>,
    /// New model directory
    #[arg(short, long, value_name = "DIR")]
    output: Option<PathBuf>,
    /// A size that the tensors' shapes do not tell, such as `num_heads=8`; may be given several times
    #[arg(long = "set", value_name = "NAME=VALUE")]
    set: Vec<String>,
    /// Name under which the model is asked for
    #[arg(long)]
    id: Option<String>,
    /// BCP 47 tag of its language
    #[arg(long)]
    language: Option<String>,
    /// SPDX expression for the weights
    #[arg(long)]
    license: Option<String>,
    /// `tokens.txt`, or a SentencePiece `.model`
    #[arg(long, value_name = "FILE")]
    tokens: Option<PathBuf>,
    /// Normalisation of the features: global stats in JSON, or an `am.mvn`
    #[arg(long, value_name = "FILE")]
    normalisation: Option<PathBuf>,
    /// The `config.yaml` that lies beside a checkpoint of FunASR
    #[arg(long, value_name = "FILE")]
    original_config: Option<PathBuf>,
}

pub(super) fn run(arguments: Arguments) -> Outcome {
    let mut out = std::io::stdout().lock();
    if arguments.kind == "list" {
        for kind in KINDS {
            writeln!(out, "{:<20} {}", kind.name, kind.about)?;
        }
        return Ok(out.flush()?);
    }
    let kind = KINDS
        .iter()
        .find(|kind| kind.name == arguments.kind)
        .ok_or_else(|| {
            let names: Vec<&str> = KINDS.iter().map(|kind| kind.name).collect();
            let near = nearest(&arguments.kind, names.iter().copied())
                .map(|near| format!("; did you mean `{near}`?"))
                .unwrap_or_default();
            Failure::Usage(anyhow::anyhow!(
                "no kind of checkpoint is called `{}`: {}{near}",
                arguments.kind,
                names.join(", ")
            ))
        })?;
    let (Some(checkpoint), Some(output)) = (&arguments.checkpoint, &arguments.output) else {
        return Err(Failure::Usage(anyhow::anyhow!(
            "expected a checkpoint and a new directory: waxwing convert {} CHECKPOINT -o DIR",
            kind.name
        )));
    };
    let mut options = Options {
        id: arguments.id,
        language: arguments.language,
        license: arguments.license,
        tokens: arguments.tokens,
        normalisation: arguments.normalisation,
        original_config: arguments.original_config,
        ..Options::default()
    };
    for setting in &arguments.set {
        let (name, value) = setting.split_once('=').ok_or_else(|| {
            Failure::Usage(anyhow::anyhow!(
                "--set {setting}: expected NAME=VALUE, such as num_heads=8"
            ))
        })?;
        // Numbers, `true`, `null` and lists are JSON; anything else is a word.
        let value = serde_json::from_str(value).unwrap_or_else(|_| Value::String(value.to_owned()));
        options.set.insert(name.to_owned(), value);
    }
    let config = convert_file(kind, checkpoint, &options, output)?;
    writeln!(out, "{}: model `{}`", output.display(), config.id)?;
    Ok(out.flush()?)
}
