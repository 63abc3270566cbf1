//! `waxwing check-config` and `waxwing doctor`: what would go wrong, before it does.

use std::io::Write;
use std::net::SocketAddr;
use std::sync::Arc;

use clap::ArgMatches;
use waxwing_model::Model;
use waxwing_model::device::Device;

use super::{Failure, Outcome, serve, settings};
use crate::engine::{EngineOptions, SessionBytes, microphone};
use crate::{catalog, server};

/// Says that the settings are good, or everything that is wrong with them.
pub(super) fn check_config(matches: &ArgMatches) -> Outcome {
    settings::read(matches)?;
    let mut out = std::io::stdout().lock();
    writeln!(out, "the settings are good")?;
    Ok(out.flush()?)
}

/// Looks at the machine, the port and the models.
pub(super) fn doctor(matches: &ArgMatches) -> Outcome {
    let config = settings::read(matches)?;
    let mut report = Report::default();
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let options = serve::engine_options(&config, &Device::Cpu);
    report.good("cores", format!("{cores}, {} workers", options.workers));
    report.good("processor", instructions());
    match free_memory_mib() {
        Some(mib) => report.good("memory", format!("{mib} MiB free")),
        None => report.good("memory", "unknown on this system".into()),
    }
    report.good(
        "device",
        match crate::device::describe() {
            Ok(device) => device,
            Err(reason) => format!("the CPU ({reason:#})"),
        },
    );
    match catalog::load_in(&config.models, &Device::Cpu, config.precision) {
        Ok(models) => {
            for model in models {
                let options = serve::engine_options_for(&config, &Device::Cpu, &[Arc::clone(&model)]);
                let what = match model.cannot_stream() {
                    None => session_bytes(&model, &options)?,
                    Some(reason) => format!(
                        "for whole recordings of at most {} s: {reason}",
                        options.whole_limit.as_secs()
                    ),
                };
                report.good("model", format!("{}, {what}", model.id()));
            }
        }
        Err(error) => report.bad("model", format!("{error:#}")),
    }
    let address = SocketAddr::new(config.host, config.port);
    let runtime = serve::runtime()?;
    match runtime.block_on(async { server::bind(address) }) {
        Ok(_) => report.good("port", format!("{address} is free")),
        Err(error) => report.bad("port", format!("{error:#}")),
    }
    match open_files() {
        Some(limit) if limit < config.limits.connections as u64 + 64 => {
            report.bad(
                "files",
                format!(
                    "only {limit} may be open, and `max_connections` is {}\n\nhint: `ulimit -n {}`",
                    config.limits.connections,
                    config.limits.connections + 64
                ),
            );
        }
        Some(limit) => report.good("files", format!("{limit} may be open")),
        None => report.good("files", "unknown on this system".into()),
    }
    report.print()
}

/// What a session may hold, as `/metrics` publishes it.
fn session_bytes(model: &Model, options: &EngineOptions) -> anyhow::Result<String> {
    let [at_16, at_48] =
        [16_000, 48_000].map(|rate| SessionBytes::of(model, options, &microphone(options, rate)));
    let (at_16, at_48) = (at_16?, at_48?);
    Ok(format!(
        "a session holds {} KiB before its audio, at most {} KiB at 16 kHz and {} KiB at 48 kHz",
        at_16.idle / 1024,
        at_16.most / 1024,
        at_48.most / 1024
    ))
}

#[derive(Debug, Default)]
struct Report {
    lines: Vec<(bool, &'static str, String)>,
}

impl Report {
    fn good(&mut self, subject: &'static str, what: String) {
        self.lines.push((true, subject, what));
    }

    fn bad(&mut self, subject: &'static str, what: String) {
        self.lines.push((false, subject, what));
    }

    fn print(&self) -> Outcome {
        let mut out = std::io::stdout().lock();
        for (good, subject, what) in &self.lines {
            writeln!(out, "{}  {subject:<10} {what}", if *good { "ok " } else { "BAD" })?;
        }
        out.flush()?;
        match self.lines.iter().filter(|(good, ..)| !good).count() {
            0 => Ok(()),
            bad => Err(Failure::Failed(anyhow::anyhow!(
                "{bad} of {} checks failed",
                self.lines.len()
            ))),
        }
    }
}

fn instructions() -> String {
    #[cfg(target_arch = "x86_64")]
    let found = [
        ("avx2", std::arch::is_x86_feature_detected!("avx2")),
        ("fma", std::arch::is_x86_feature_detected!("fma")),
        ("f16c", std::arch::is_x86_feature_detected!("f16c")),
        ("avx512f", std::arch::is_x86_feature_detected!("avx512f")),
    ];
    #[cfg(not(target_arch = "x86_64"))]
    let found: [(&str, bool); 0] = [];
    let names: Vec<&str> = found
        .iter()
        .filter(|(_, has)| *has)
        .map(|(name, _)| *name)
        .collect();
    format!("{} {}", std::env::consts::ARCH, names.join(" "))
        .trim_end()
        .into()
}

fn free_memory_mib() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/meminfo").ok()?;
    let line = text.lines().find(|line| line.starts_with("MemAvailable:"))?;
    let kib: u64 = line.split_whitespace().nth(1)?.parse().ok()?;
    Some(kib / 1024)
}

fn open_files() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/self/limits").ok()?;
    let line = text.lines().find(|line| line.starts_with("Max open files"))?;
    line.split_whitespace().nth(3)?.parse().ok()
}
