//! `waxwing bench`: paced sessions against a running server and what their users would feel, or a model's encoder alone.

mod client;
mod picture;
mod report;
mod soak;
mod steps;

use std::io::Write;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use clap::{Args, ValueEnum};
use waxwing_frontend::container::{AudioFile, DecodeLimits};
use waxwing_frontend::pcm::ChannelSelection;
use waxwing_frontend::resample::Resampler;
use waxwing_model::precision::Precision;

use self::client::{Clip, Manner, Target};
use self::report::{Process, Row};
use self::soak::Soak;
use self::steps::{Layout, Plan};
use super::{Failure, Outcome, serve};

/// How fast audio is sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum Pace {
    /// As a microphone does.
    Realtime,
    /// As fast as the server takes it.
    Max,
}

/// Measure a running server with paced sessions, or a model alone
#[derive(Debug, Args)]
pub(super) struct Arguments {
    /// The server
    #[arg(long, default_value = "ws://127.0.0.1:8080")]
    url: String,
    /// Numbers of sessions at the same time, one row each
    #[arg(long, value_delimiter = ',', default_value = "1,8")]
    sessions: Vec<usize>,
    /// What the sessions say, one file after the other, each session beginning at another
    #[arg(long, value_name = "FILE", required_unless_present = "model", num_args = 1..)]
    audio: Vec<PathBuf>,
    /// Models that the sessions ask for in turn, by their ids; none: the server's first. With several, or several rates, there are rows
    /// for each kind of session, too, but in a soak, whose `--load` is of what the server holds of its first model
    #[arg(long, value_name = "ID", value_delimiter = ',', conflicts_with = "model")]
    ask: Vec<String>,
    /// Rates at which the sessions speak in turn, in Hz
    #[arg(long, value_name = "HZ", value_delimiter = ',', default_value = "16000", value_parser = clap::value_parser!(u32).range(8_000..=192_000))]
    rates: Vec<u32>,
    /// Measure the encoder of this model directory alone, without a server
    #[arg(long, value_name = "DIR", conflicts_with_all = ["audio", "url", "sessions", "pid"])]
    model: Option<PathBuf>,
    /// Sessions in one step, for `--model`; one row each
    #[arg(long, value_delimiter = ',', default_value = "1,8,32", requires = "model")]
    batch: Vec<usize>,
    /// Numbers of threads that step at once, for `--model`; with 1 among them, the others are compared with it
    #[arg(long, value_delimiter = ',', default_value = "1", requires = "model")]
    threads: Vec<usize>,
    /// Milliseconds of one input frame, for a `--model` whose directory does not say it (no `features`)
    #[arg(long, requires = "model", value_parser = clap::value_parser!(u64).range(1..=1000))]
    frame_ms: Option<u64>,
    /// Numbers of the products of `--model`: f32, int8, bf16 or w8a8
    #[arg(long, requires = "model", default_value_t)]
    precision: Precision,
    /// How fast it is said
    #[arg(long, value_enum, default_value = "realtime")]
    pace: Pace,
    /// Seconds that each session speaks; the audio is repeated or cut. 0: all of it once. With `--model`: seconds that each row
    /// is measured for; 0: one
    #[arg(long, default_value_t = 0.0)]
    seconds: f64,
    /// Seconds over which the sessions begin: nobody's crowd speaks in step
    #[arg(long, default_value_t = 1.0, value_name = "SECONDS", conflicts_with_all = ["model", "soak"])]
    spread: f64,
    /// Milliseconds of audio in one message
    #[arg(long, default_value_t = 40, value_parser = clap::value_parser!(u32).range(1..=1000))]
    chunk_ms: u32,
    /// Minutes of mixed traffic instead of numbers of sessions: speakers, some that vanish in mid-word, files; a row a minute, and how fast
    /// memory, file descriptors and latency grow
    #[arg(long, value_name = "MINUTES", conflicts_with_all = ["model", "sessions", "seconds"])]
    soak: Option<f64>,
    /// Connections of the soak in all
    #[arg(long, default_value_t = 10_000, requires = "soak")]
    connects: usize,
    /// Live sessions of the soak, as a part of what the server holds
    #[arg(long, default_value_t = 0.8, requires = "soak")]
    load: f64,
    /// Also draws the rows: lag, and sessions admitted, over sessions asked for
    #[arg(long, value_name = "FILE.svg", conflicts_with_all = ["model", "soak"])]
    picture: Option<PathBuf>,
    /// Key of the server
    #[arg(long, env = "WAXWING_KEY", hide_env_values = true)]
    key: Option<String>,
    /// Process id of the server, if it is on this machine: adds its memory and processor time
    #[arg(long)]
    pid: Option<u32>,
    /// JSON instead of a table
    #[arg(long, conflicts_with = "csv")]
    json: bool,
    /// CSV instead of a table
    #[arg(long)]
    csv: bool,
}

pub(super) fn run(arguments: Arguments) -> Outcome {
    if let Some(directory) = &arguments.model {
        let layout = match (arguments.json, arguments.csv) {
            (true, _) => Layout::Json,
            (_, true) => Layout::Csv,
            _ => Layout::Table,
        };
        return steps::run(&Plan {
            directory,
            frame: arguments.frame_ms.map(Duration::from_millis),
            precision: arguments.precision,
            batches: &arguments.batch,
            threads: &arguments.threads,
            measured: Duration::try_from_secs_f64(arguments.seconds)
                .ok()
                .filter(|time| !time.is_zero()),
            layout,
        });
    }
    if arguments.sessions.is_empty() || arguments.sessions.contains(&0) {
        return Err(Failure::Usage(anyhow::anyhow!(
            "`--sessions` needs numbers above 0, such as 1,8,32"
        )));
    }
    let clips = arguments
        .audio
        .iter()
        .map(|path| read(path))
        .collect::<anyhow::Result<Vec<_>>>()?;
    let runtime = serve::runtime()?;
    let mut out = std::io::stdout().lock();
    if let Some(minutes) = arguments.soak {
        let soak = runtime.block_on(soak(&arguments, &clips, minutes))?;
        let text = if arguments.json {
            serde_json::to_string_pretty(&soak)? + "\n"
        } else if arguments.csv {
            soak.csv()
        } else {
            soak.table()
        };
        out.write_all(text.as_bytes())?;
        return Ok(out.flush()?);
    }
    let mut rows = Vec::new();
    for &sessions in &arguments.sessions {
        let of_all = runtime.block_on(measure(&arguments, &clips, sessions))?;
        if let Some(row) = of_all.first() {
            writeln!(
                std::io::stderr(),
                "{sessions} sessions: {} answered",
                row.sessions_done
            )?;
        }
        rows.extend(of_all);
    }
    if let Some(path) = &arguments.picture {
        std::fs::write(path, picture::draw(&rows))
            .with_context(|| format!("cannot write {}", path.display()))?;
    }
    let text = if arguments.json {
        report::json(&rows)?
    } else if arguments.csv {
        report::csv(&rows)
    } else {
        report::table(&rows)
    };
    out.write_all(text.as_bytes())?;
    Ok(out.flush()?)
}

fn target(arguments: &Arguments) -> Arc<Target> {
    Arc::new(Target {
        url: arguments.url.trim_end_matches('/').to_string(),
        key: arguments.key.clone(),
        chunk: Duration::from_millis(u64::from(arguments.chunk_ms)),
        pace: arguments.pace,
    })
}

/// How sessions speak, in turn.
fn manners(arguments: &Arguments) -> Vec<Manner> {
    let models: Vec<Option<String>> = match arguments.ask.as_slice() {
        [] => vec![None],
        ids => ids.iter().cloned().map(Some).collect(),
    };
    let of_rate = |&rate_hz: &u32| models.iter().map(move |model| (model.clone(), rate_hz));
    let pairs = arguments.rates.iter().flat_map(of_rate);
    pairs.map(|(model, rate_hz)| Manner { model, rate_hz }).collect()
}

async fn soak(arguments: &Arguments, clips: &[Vec<i16>], minutes: f64) -> anyhow::Result<Soak> {
    anyhow::ensure!(
        minutes.is_finite() && minutes > 0.0 && arguments.load.is_finite() && arguments.load > 0.0,
        "`--soak` and `--load` need numbers above 0, such as 60 and 0.8"
    );
    let target = target(arguments);
    let plan = soak::Plan {
        length: Duration::from_secs_f64(minutes * 60.0),
        connects: arguments.connects,
        sessions: soak::sessions_for(&target, arguments.load)?,
        manners: manners(arguments),
        pid: arguments.pid,
    };
    soak::run(target, clips, plan).await
}

/// Runs one number of sessions to their ends: a row of all, and where they are of several kinds one of each.
async fn measure(arguments: &Arguments, clips: &[Vec<i16>], sessions: usize) -> anyhow::Result<Vec<Row>> {
    let (target, manners) = (target(arguments), manners(arguments));
    // All of it first: nobody is to wait for another one's resampling.
    let said = (0..sessions)
        .map(|index| {
            let manner = manners[index % manners.len()].clone();
            Clip::new(&speech(clips, index, arguments.seconds), manner)
        })
        .collect::<anyhow::Result<Vec<Clip>>>()?;
    let before = arguments.pid.and_then(Process::read);
    let begun = std::time::Instant::now();
    let mut tasks = Vec::new();
    for (index, clip) in said.into_iter().enumerate() {
        let delay = Duration::try_from_secs_f64(arguments.spread * index as f64 / sessions as f64);
        let delay = delay.context("`--spread` needs a number of seconds from 0 on")?;
        tasks.push(tokio::spawn(client::run(Arc::clone(&target), clip, delay)));
    }
    let mut outcomes = Vec::new();
    for task in tasks {
        outcomes.push(task.await.context("a session panicked")?);
    }
    let (wall, after) = (begun.elapsed(), arguments.pid.and_then(Process::read));
    let mut rows = vec![Row::new(wall, &outcomes, before, after)];
    if manners.len() > 1 {
        for (first, manner) in manners.iter().enumerate().take(sessions) {
            let own = outcomes.iter().skip(first).step_by(manners.len());
            rows.push(Row::of(manner.to_string(), wall, own));
        }
    }
    Ok(rows)
}

/// The samples that a session says: all clips from its own first one on, repeated or cut to `seconds`.
fn speech(clips: &[Vec<i16>], index: usize, seconds: f64) -> Vec<i16> {
    let first = index % clips.len().max(1);
    let once: Vec<i16> = clips
        .iter()
        .cycle()
        .skip(first)
        .take(clips.len())
        .flatten()
        .copied()
        .collect();
    if seconds <= 0.0 || once.is_empty() {
        return once;
    }
    once.iter()
        .copied()
        .cycle()
        .take((seconds * f64::from(client::RATE_HZ)) as usize)
        .collect()
}

/// A file as 16 kHz mono.
fn read(path: &std::path::Path) -> anyhow::Result<Vec<i16>> {
    let name = || format!("cannot read {}", path.display());
    let file = std::fs::File::open(path).with_context(name)?;
    let mut audio =
        AudioFile::open(file, DecodeLimits::default(), ChannelSelection::Mix).with_context(name)?;
    let mut samples = Vec::new();
    while audio.next_block(&mut samples).with_context(name)? {}
    // Where the rates are equal it passes them through.
    let mut resampled = Vec::new();
    Resampler::new(audio.rate_hz(), client::RATE_HZ)?.push(&samples, &mut resampled);
    anyhow::ensure!(!resampled.is_empty(), "{} holds no audio", path.display());
    Ok(resampled.into_iter().map(client::in_16_bits).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sessions_begin_at_different_clips_and_last_as_told() {
        let clips = vec![vec![1; 4], vec![2; 2]];
        assert_eq!(speech(&clips, 0, 0.0), [1, 1, 1, 1, 2, 2]);
        assert_eq!(speech(&clips, 1, 0.0), [2, 2, 1, 1, 1, 1]);
        assert_eq!(speech(&clips, 0, 1.0).len(), 16_000);
    }
}
