//! `waxwing transcribe`: files to text in this process, through the same steps as a session.

use std::io::{IsTerminal, Write};
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::Context;
use clap::{ArgMatches, Args, ValueEnum};
use waxwing_frontend::pcm::ChannelSelection;

use super::{Failure, Outcome, serve, settings};
use crate::engine::Engine;
use crate::files::{FileRequest, FileTranscription, Progress, Source, Transcript};
use crate::limits::Limits;
use crate::search::Wanted;
use crate::session::parameters;
use crate::wire::hotwords::{self, HotwordField};
use crate::wire::native::{Decoding, Endpointing};
use crate::wire::{subtitles, transcription as wire};
use crate::{catalog, device, logging};

/// How a transcript is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum Format {
    /// Text, an utterance a line.
    Txt,
    /// Words with times.
    Json,
    /// SubRip subtitles.
    Srt,
    /// WebVTT subtitles.
    Vtt,
}

impl Format {
    fn extension(self) -> &'static str {
        match self {
            Self::Txt => "txt",
            Self::Json => "json",
            Self::Srt => "srt",
            Self::Vtt => "vtt",
        }
    }
}

/// Transcribe audio files, or standard input by `-`
#[derive(Debug, Args)]
pub(super) struct Arguments {
    /// Audio files; `-` is standard input
    #[arg(value_name = "FILE", required = true)]
    files: Vec<PathBuf>,
    /// How the transcript is written
    #[arg(short, long, value_enum, default_value = "txt")]
    format: Format,
    /// Write to this file, or into this directory one file for each input, instead of standard output
    #[arg(short, long, value_name = "PATH")]
    output: Option<PathBuf>,
    /// Hear only this channel, counted from 0, instead of the mean of all
    #[arg(long, value_name = "N")]
    channel: Option<u16>,
    /// Hypotheses of each utterance in `-f json`, the best one included; needs a `--beam-width` above 1
    #[arg(long, value_name = "N")]
    alternatives: Option<u32>,
    /// A word or phrase to favour, with its boost for each letter if it is not 1: `--hotword waxwing:2`; may be repeated
    #[arg(long = "hotword", value_name = "TEXT[:BOOST]")]
    hotwords: Vec<String>,
    /// Write numbers, times and amounts in figures and begin sentences with capitals: as the text of `-f txt`, as `formatted` in `-f json`
    #[arg(long)]
    formatted: bool,
}

pub(super) fn run(arguments: Arguments, matches: &ArgMatches) -> Outcome {
    let mut config = settings::read(matches)?;
    if config.log == "info" {
        // Progress is what a person wants to read here.
        config.log = "warn".into();
    }
    logging::start(&config.log, config.log_json);
    let device = device::resolve(config.device)?;
    let into_directory = arguments.output.as_ref().is_some_and(|path| path.is_dir());
    if arguments.files.len() > 1 && arguments.output.is_some() && !into_directory {
        let error = anyhow::anyhow!(
            "several files go to one output\n\nhint: make a directory and name it with `-o DIR`"
        );
        return Err(Failure::Usage(error));
    }
    let wanted = Decoding {
        alternatives: arguments.alternatives,
        ..Decoding::default()
    };
    let decoding = parameters::decoding(wanted, config.decoding)
        .map_err(|refused| Failure::Usage(anyhow::anyhow!(refused.message)))?;
    if arguments.formatted && matches!(arguments.format, Format::Srt | Format::Vtt) {
        let error =
            anyhow::anyhow!("`--formatted` goes with `-f txt` and `-f json`: subtitles show spoken words");
        return Err(Failure::Usage(error));
    }
    let models = catalog::load_in(&config.models, &device, config.precision)?;
    let model = models.first().context("no model")?;
    let fields: Vec<HotwordField> = arguments
        .hotwords
        .iter()
        .flat_map(|text| hotwords::list(text))
        .collect();
    let hotwords =
        parameters::hotwords(&fields).map_err(|refused| Failure::Usage(anyhow::anyhow!(refused.message)))?;
    let (transcriber, remarks) = Wanted {
        endpointing: Endpointing::default(),
        decoding,
        hotwords: &hotwords,
    }
    .of(model.as_ref());
    for remark in &remarks {
        writeln!(std::io::stderr(), "warning: {remark}")?;
    }
    let model = model.id().to_string();
    let mut options = serve::engine_options_for(&config, &device, &models);
    // Nobody speaks live here.
    options.slots = Some(1);
    let engine = Engine::start(catalog::steppable(&models), options)?;
    let runtime = serve::runtime()?;
    let mut failed = 0;
    for file in &arguments.files {
        let request = FileRequest {
            source: if file.as_os_str() == "-" {
                Source::Stdin
            } else {
                Source::Path(file.clone())
            },
            selection: arguments
                .channel
                .map_or(ChannelSelection::Mix, ChannelSelection::One),
            model: model.clone(),
            transcriber: transcriber.clone(),
            warnings: Vec::new(),
        };
        let result = runtime
            .block_on(transcribe(
                &engine,
                request,
                &config.limits,
                &file.display().to_string(),
            ))
            .and_then(|transcript| write(transcript, &arguments, file, into_directory));
        if let Err(error) = result {
            // The other files are still worth their transcripts.
            writeln!(std::io::stderr(), "error: {}: {error:#}", file.display())?;
            failed += 1;
        }
    }
    runtime.shutdown_background();
    if failed > 0 {
        return Err(Failure::Failed(anyhow::anyhow!(
            "{failed} of {} files have no transcript",
            arguments.files.len()
        )));
    }
    Ok(())
}

async fn transcribe(
    engine: &Arc<Engine>,
    request: FileRequest,
    limits: &Limits,
    name: &str,
) -> anyhow::Result<Transcript> {
    let begun = std::time::Instant::now();
    let mut transcription = FileTranscription::start(engine, request, limits).await?;
    let total = transcription
        .declared_duration()
        .map(|duration| format!(" of {:.0} s", duration.as_secs_f64()));
    let live = std::io::stderr().is_terminal();
    loop {
        match transcription.next().await? {
            Progress::Final(utterance) if live => {
                write!(
                    std::io::stderr(),
                    "\r{name}: {:.0} s{}",
                    utterance.end,
                    total.as_deref().unwrap_or_default()
                )?;
            }
            Progress::Final(_) => {}
            Progress::Done(transcript) => {
                let seconds = begun.elapsed().as_secs_f64();
                let speed = transcript.seconds / seconds.max(1e-9);
                let start = if live { "\r" } else { "" };
                writeln!(
                    std::io::stderr(),
                    "{start}{name}: {:.1} s of audio in {seconds:.1} s ({speed:.0} × real time)",
                    transcript.seconds
                )?;
                for warning in &transcript.warnings {
                    writeln!(std::io::stderr(), "warning: {name}: {warning}")?;
                }
                return Ok(transcript);
            }
        }
    }
}

fn write(
    transcript: Transcript,
    arguments: &Arguments,
    input: &std::path::Path,
    into_directory: bool,
) -> anyhow::Result<()> {
    let Transcript {
        utterances,
        seconds,
        warnings,
    } = transcript;
    let text = match arguments.format {
        Format::Txt if arguments.formatted => subtitles::formatted_lines(&utterances),
        Format::Txt => subtitles::text_lines(&utterances),
        Format::Json => {
            let name = input.display().to_string();
            let body =
                wire::FileTranscription::new(&name, &utterances, seconds, arguments.formatted, warnings);
            serde_json::to_string(&body).context("cannot write JSON")? + "\n"
        }
        Format::Srt => subtitles::srt(&utterances),
        Format::Vtt => subtitles::vtt(&utterances),
    };
    let path = match &arguments.output {
        None => {
            let mut out = std::io::stdout().lock();
            out.write_all(text.as_bytes())?;
            return Ok(out.flush()?);
        }
        Some(directory) if into_directory => {
            let name = if input.as_os_str() == "-" {
                "stdin".as_ref()
            } else {
                input.file_stem().unwrap_or(input.as_os_str())
            };
            directory.join(name).with_extension(arguments.format.extension())
        }
        Some(path) => path.clone(),
    };
    std::fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))
}
