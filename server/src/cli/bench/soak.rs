//! `waxwing bench --soak MINUTES`: mixed traffic for a long time, and whether memory, descriptors or latency grow with it.
//!
//! Connections arrive evenly and are of three kinds: most speak at real-time pace and stop, some vanish in mid-word without a goodbye, some post a
//! file. Their lengths are spread so that on the average as many live sessions are open as were asked for (Little's law: arrivals a second × mean length).

use std::io::Write as _;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail};
use serde::Serialize;
use tokio::sync::mpsc;
use tokio::task::spawn_blocking;
use tokio::time::{Instant, interval_at, sleep_until};

use super::client::{self, Clip, Felt, Manner, Target};
use super::report::{Percentiles, Process, aligned, rounded};
use crate::cli::http;

/// What is asked for.
#[derive(Debug, Clone)]
pub(super) struct Plan {
    pub(super) length: Duration,
    /// Connections in all.
    pub(super) connects: usize,
    /// Live sessions open at the same time, on the average.
    pub(super) sessions: f64,
    /// How the visitors speak, in turn; not empty.
    pub(super) manners: Vec<Manner>,
    pub(super) pid: Option<u32>,
}

/// One connection in ten vanishes.
const VANISHING: f64 = 0.10;
/// One in twenty is a file.
const POSTED: f64 = 0.05;
/// Part of the run that is left out of the slopes: buffers grow to their largest use and the allocator settles.
const WARM_UP: f64 = 1.0 / 6.0;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Speaks,
    Vanishes,
    Posts,
}

/// What one connection does, and for how many seconds of audio.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Visit {
    kind: Kind,
    seconds: f64,
}

impl Plan {
    /// The visit of connection `index`. Multiples of irrational numbers fall evenly into [0, 1), in an order without a pattern and the same in every run.
    fn visit(&self, index: usize) -> Visit {
        let spread = |step: f64| ((index as f64 + 1.0) * step).fract();
        let kind = match spread(std::f64::consts::SQRT_2) {
            share if share < VANISHING => Kind::Vanishes,
            share if share < VANISHING + POSTED => Kind::Posts,
            _ => Kind::Speaks,
        };
        let live = self.connects as f64 * (1.0 - POSTED);
        let mean = self.sessions * self.length.as_secs_f64() / live.max(1.0);
        Visit {
            kind,
            // From a tenth of the mean to nearly twice the mean.
            seconds: mean * (0.1 + 1.8 * spread(1.618_033_988_749_895)),
        }
    }

    fn arrival(&self, index: usize) -> Duration {
        self.length.mul_f64(index as f64 / self.connects.max(1) as f64)
    }
}

/// How a visit ended.
#[derive(Debug)]
enum Ended {
    Spoken(Felt),
    Vanished,
    Posted,
    Refused,
    Failed(String),
}

/// What happened between two looks at the server.
#[derive(Debug, Default)]
struct Window {
    begun: usize,
    vanished: usize,
    posted: usize,
    refused: usize,
    failed: usize,
    felt: Vec<Felt>,
}

impl Window {
    fn is_empty(&self) -> bool {
        self.begun + self.vanished + self.posted + self.refused + self.failed + self.felt.len() == 0
    }

    fn note(&mut self, ended: Ended) -> Option<String> {
        match ended {
            Ended::Spoken(felt) => self.felt.push(felt),
            Ended::Vanished => self.vanished += 1,
            Ended::Posted => self.posted += 1,
            Ended::Refused => self.refused += 1,
            Ended::Failed(why) => {
                self.failed += 1;
                return Some(why);
            }
        }
        None
    }
}

/// One look at the server.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(super) struct Row {
    minutes: f64,
    connects: usize,
    spoken: usize,
    vanished: usize,
    posted: usize,
    refused: usize,
    failed: usize,
    lag_ms: Percentiles,
    final_after_end_ms: Percentiles,
    misses_percent: f64,
    rss_mib: Option<f64>,
    file_descriptors: Option<usize>,
    cpu_cores: Option<f64>,
}

const COLUMNS: [&str; 15] = [
    "minute",
    "connects",
    "spoken",
    "vanished",
    "posted",
    "refused",
    "failed",
    "lag p50",
    "p95",
    "p99",
    "final p99",
    "miss %",
    "rss MiB",
    "fds",
    "cores",
];

/// A straight line through a figure over time.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(super) struct Slope {
    figure: &'static str,
    /// At the middle of the run.
    level: f64,
    per_hour: f64,
    /// Two standard errors of the slope.
    uncertainty: f64,
}

impl Slope {
    /// Least squares; `None` for fewer than three points.
    fn of(figure: &'static str, points: &[(f64, f64)]) -> Option<Self> {
        let count = points.len() as f64;
        if points.len() < 3 {
            return None;
        }
        let mean = |value: fn(&(f64, f64)) -> f64| points.iter().map(value).sum::<f64>() / count;
        let (time, level) = (mean(|point| point.0), mean(|point| point.1));
        let spread: f64 = points.iter().map(|point| (point.0 - time).powi(2)).sum();
        let joint: f64 = points
            .iter()
            .map(|point| (point.0 - time) * (point.1 - level))
            .sum();
        if spread <= 0.0 {
            return None;
        }
        let slope = joint / spread;
        let residual: f64 = points
            .iter()
            .map(|point| (point.1 - level - slope * (point.0 - time)).powi(2))
            .sum();
        Some(Self {
            figure,
            level: rounded(level),
            per_hour: rounded(slope),
            uncertainty: rounded(2.0 * (residual / (count - 2.0) / spread).sqrt()),
        })
    }
}

/// The whole run.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(super) struct Soak {
    rows: Vec<Row>,
    /// Over the rows behind the warm-up.
    slopes: Vec<Slope>,
    /// After the last visitor has left.
    rss_mib_at_rest: Option<f64>,
    file_descriptors_at_rest: Option<usize>,
    /// Why visits failed, the first few.
    failures: Vec<String>,
}

/// Live sessions that are `load` of what the server holds, by its `/ready`.
pub(super) fn sessions_for(target: &Target, load: f64) -> anyhow::Result<f64> {
    let answer = http::exchange(
        authority(&target.url)?,
        "GET /ready HTTP/1.1",
        &[],
        Duration::from_secs(10),
    )?;
    let slots = serde_json::from_str::<serde_json::Value>(&answer.body)
        .ok()
        .and_then(|body| body.get("slots")?.as_f64());
    Ok(slots.context("the server's /ready names no slots")? * load)
}

/// Runs the plan, printing a line to stderr at every look.
pub(super) async fn run(target: Arc<Target>, clips: &[Vec<i16>], plan: Plan) -> anyhow::Result<Soak> {
    if clips.is_empty() || plan.connects == 0 || plan.sessions < 1.0 {
        bail!(
            "a soak needs audio, connections and at least one session at a time, not {:.2}",
            plan.sessions
        );
    }
    let begun = Instant::now();
    let every = Duration::from_secs(60).min(plan.length.div_f64(6.0));
    let mut looks = interval_at(begun + every, every);
    let (ended, mut endings) = mpsc::unbounded_channel();
    let (mut index, mut window, mut rows, mut failures) = (0, Window::default(), Vec::new(), Vec::new());
    let mut look = (begun, plan.pid.and_then(Process::read));
    let mut open = 0_usize;
    while index < plan.connects || open > 0 {
        tokio::select! {
            () = sleep_until(begun + plan.arrival(index)), if index < plan.connects => {
                let visit = plan.visit(index);
                let samples = super::speech(clips, index, visit.seconds);
                let manner = plan.manners[index % plan.manners.len()].clone();
                let (target, ended) = (Arc::clone(&target), ended.clone());
                tokio::spawn(async move {
                    // The run waits for this message; it is over only when all are in.
                    let _ = ended.send(pay(target, visit.kind, samples, manner).await);
                });
                index += 1;
                window.begun += 1;
                open += 1;
            }
            Some(ending) = endings.recv() => {
                open -= 1;
                failures.extend(window.note(ending).filter(|_| failures.len() < 5));
            }
            _ = looks.tick() => {
                let now = (Instant::now(), plan.pid.and_then(Process::read));
                let row = row(begun, std::mem::take(&mut window), look, now);
                look = now;
                writeln!(std::io::stderr(), "{}", row.cells().join("  "))?;
                rows.push(row);
            }
        }
    }
    if !window.is_empty() {
        rows.push(row(
            begun,
            window,
            look,
            (Instant::now(), plan.pid.and_then(Process::read)),
        ));
    }
    // Sockets that vanished are noticed, and their slots are free again, well within this.
    tokio::time::sleep(Duration::from_secs(2)).await;
    let rest = plan.pid.and_then(Process::read);
    Ok(Soak {
        slopes: slopes(&rows),
        rows,
        rss_mib_at_rest: rest.map(Process::rss_mib),
        file_descriptors_at_rest: rest.map(|rest| rest.file_descriptors),
        failures,
    })
}

/// One visit from its first byte to its end.
async fn pay(target: Arc<Target>, kind: Kind, samples: Vec<i16>, manner: Manner) -> Ended {
    let outcome = async {
        // Resampling must not hold up those who are speaking.
        let clip = spawn_blocking(move || Clip::new(&samples, manner)).await??;
        match kind {
            Kind::Speaks => client::run(target, clip, Duration::ZERO).await.map(Ended::Spoken),
            Kind::Vanishes => client::vanish(&target, clip).await.map(|()| Ended::Vanished),
            Kind::Posts => spawn_blocking(move || post(&target, &clip)).await?,
        }
    };
    match outcome.await {
        Ok(ended) => ended,
        Err(error) if client::is_refusal(&error) => Ended::Refused,
        Err(error) => Ended::Failed(format!("{error:#}")),
    }
}

/// Posts the samples as a wav file.
fn post(target: &Target, clip: &Clip) -> anyhow::Result<Ended> {
    const BOUNDARY: &str = "waxwing-soak-boundary";
    let mut body = format!(
        "--{BOUNDARY}\r\nContent-Disposition: form-data; name=\"file\"; filename=\"soak.wav\"\r\nContent-Type: audio/wav\r\n\r\n"
    )
    .into_bytes();
    body.extend(wav(&clip.samples, clip.manner.rate_hz));
    if let Some(model) = &clip.manner.model {
        write!(
            body,
            "\r\n--{BOUNDARY}\r\nContent-Disposition: form-data; name=\"model\"\r\n\r\n{model}"
        )?;
    }
    write!(body, "\r\n--{BOUNDARY}--\r\n")?;
    let mut head = format!(
        "POST /v1/audio/transcriptions HTTP/1.1\r\nContent-Type: multipart/form-data; boundary={BOUNDARY}"
    );
    if let Some(key) = &target.key {
        head.push_str("\r\nAuthorization: Bearer ");
        head.push_str(key);
    }
    let answer = http::exchange(authority(&target.url)?, &head, &body, Duration::from_secs(120))?;
    match answer.status {
        200 => Ok(Ended::Posted),
        503 => Ok(Ended::Refused),
        status => bail!("a file was answered {status}: {}", answer.body.trim()),
    }
}

/// 16-bit mono RIFF.
fn wav(samples: &[i16], rate_hz: u32) -> Vec<u8> {
    let bytes = samples.len() as u32 * 2;
    let mut file = Vec::with_capacity(samples.len() * 2 + 44);
    file.extend(b"RIFF");
    file.extend((36 + bytes).to_le_bytes());
    file.extend(b"WAVEfmt ");
    file.extend(16_u32.to_le_bytes());
    file.extend([1_u16, 1].into_iter().flat_map(u16::to_le_bytes));
    file.extend([rate_hz, rate_hz * 2].into_iter().flat_map(u32::to_le_bytes));
    file.extend([2_u16, 16].into_iter().flat_map(u16::to_le_bytes));
    file.extend(b"data");
    file.extend(bytes.to_le_bytes());
    file.extend(samples.iter().flat_map(|sample| sample.to_le_bytes()));
    file
}

/// `host:port` of `ws://host:port/…`.
fn authority(url: &str) -> anyhow::Result<&str> {
    url.strip_prefix("ws://")
        .and_then(|rest| rest.split('/').next())
        .filter(|authority| authority.contains(':'))
        .with_context(|| format!("a soak needs a URL of the form ws://host:port, not `{url}`"))
}

/// When the server was looked at, and what it held.
type Look = (Instant, Option<Process>);

fn row(begun: Instant, window: Window, before: Look, now: Look) -> Row {
    let lags: Vec<Duration> = window
        .felt
        .iter()
        .flat_map(|felt| felt.lags.iter().copied())
        .collect();
    let misses: usize = window.felt.iter().map(|felt| felt.misses).sum();
    Row {
        minutes: rounded(now.0.duration_since(begun).as_secs_f64() / 60.0),
        connects: window.begun,
        spoken: window.felt.len(),
        vanished: window.vanished,
        posted: window.posted,
        refused: window.refused,
        failed: window.failed,
        misses_percent: rounded(100.0 * misses as f64 / lags.len().max(1) as f64),
        lag_ms: Percentiles::of(lags),
        final_after_end_ms: Percentiles::of(window.felt.iter().map(|felt| felt.final_after_end).collect()),
        rss_mib: now.1.map(Process::rss_mib),
        file_descriptors: now.1.map(|process| process.file_descriptors),
        cpu_cores: before
            .1
            .zip(now.1)
            .map(|(earlier, later)| later.cores_since(earlier, now.0.duration_since(before.0))),
    }
}

fn slopes(rows: &[Row]) -> Vec<Slope> {
    let settled = rows
        .get((rows.len() as f64 * WARM_UP).ceil() as usize..)
        .unwrap_or_default();
    let line = |figure, value: fn(&Row) -> Option<f64>| {
        let points: Vec<(f64, f64)> = settled
            .iter()
            .filter_map(|row| Some((row.minutes / 60.0, value(row)?)))
            .collect();
        Slope::of(figure, &points)
    };
    [
        line("rss MiB", |row| row.rss_mib),
        line("file descriptors", |row| {
            row.file_descriptors.map(|count| count as f64)
        }),
        line("lag p50 ms", |row| Some(row.lag_ms.p50)),
        line("lag p99 ms", |row| Some(row.lag_ms.p99)),
        line("final p99 ms", |row| Some(row.final_after_end_ms.p99)),
    ]
    .into_iter()
    .flatten()
    .collect()
}

impl Row {
    fn cells(&self) -> Vec<String> {
        let optional = |value: Option<f64>| value.map_or_else(|| "-".into(), |value| value.to_string());
        let mut cells: Vec<String> = vec![self.minutes.to_string()];
        cells.extend(
            [
                self.connects,
                self.spoken,
                self.vanished,
                self.posted,
                self.refused,
                self.failed,
            ]
            .map(|count| count.to_string()),
        );
        cells.extend(
            [
                self.lag_ms.p50,
                self.lag_ms.p95,
                self.lag_ms.p99,
                self.final_after_end_ms.p99,
                self.misses_percent,
            ]
            .map(|value| value.to_string()),
        );
        cells.extend([
            optional(self.rss_mib),
            optional(self.file_descriptors.map(|count| count as f64)),
            optional(self.cpu_cores),
        ]);
        cells
    }
}

impl Soak {
    /// For people.
    pub(super) fn table(&self) -> String {
        let cells: Vec<Vec<String>> = self.rows.iter().map(Row::cells).collect();
        let mut text = aligned(&COLUMNS, &cells);
        let slopes: Vec<Vec<String>> = self
            .slopes
            .iter()
            .map(|slope| {
                vec![
                    slope.figure.to_owned(),
                    slope.level.to_string(),
                    slope.per_hour.to_string(),
                    slope.uncertainty.to_string(),
                ]
            })
            .collect();
        text.push('\n');
        text.push_str(&aligned(&["figure", "level", "an hour", "± 2 s.e."], &slopes));
        if let Some((rss, descriptors)) = self.rss_mib_at_rest.zip(self.file_descriptors_at_rest) {
            text.push_str(&format!("\nat rest: {rss} MiB, {descriptors} file descriptors\n"));
        }
        for failure in &self.failures {
            text.push_str(&format!("failed: {failure}\n"));
        }
        text
    }

    /// For spreadsheets: the rows.
    pub(super) fn csv(&self) -> String {
        let names = "minutes,connects,spoken,vanished,posted,refused,failed,lag_p50_ms,lag_p95_ms,lag_p99_ms,final_after_end_p99_ms,misses_percent,\
            rss_mib,file_descriptors,cpu_cores";
        let lines = self.rows.iter().map(|row| row.cells().join(","));
        std::iter::once(names.to_owned())
            .chain(lines)
            .map(|line| line + "\n")
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLAN: Plan = Plan {
        length: Duration::from_secs(3600),
        connects: 10_000,
        sessions: 40.0,
        manners: Vec::new(),
        pid: None,
    };

    #[test]
    fn visits_are_of_all_kinds_and_fill_the_sessions_asked_for() {
        let visits: Vec<Visit> = (0..PLAN.connects).map(|index| PLAN.visit(index)).collect();
        let share = |kind| visits.iter().filter(|visit| visit.kind == kind).count();
        assert!(
            (995..=1005).contains(&share(Kind::Vanishes)),
            "{}",
            share(Kind::Vanishes)
        );
        assert!(
            (495..=505).contains(&share(Kind::Posts)),
            "{}",
            share(Kind::Posts)
        );
        let live: f64 = visits
            .iter()
            .filter(|visit| visit.kind != Kind::Posts)
            .map(|visit| visit.seconds)
            .sum();
        let open = live / PLAN.length.as_secs_f64();
        assert!((open - 40.0).abs() < 0.5, "{open} open at once");
        assert!(visits.iter().all(|visit| visit.seconds > 1.0));
        assert_eq!(PLAN.arrival(5000), Duration::from_secs(1800));
    }

    #[test]
    fn a_slope_is_told_from_noise() {
        let noise = |index: usize| if index.is_multiple_of(2) { 1.0 } else { -1.0 };
        let points = |growth: f64| -> Vec<(f64, f64)> {
            (0..60)
                .map(|index| {
                    let hours = index as f64 / 60.0;
                    (hours, 100.0 + growth * hours + noise(index))
                })
                .collect()
        };
        let flat = Slope::of("rss MiB", &points(0.0)).unwrap();
        assert!(flat.per_hour.abs() < flat.uncertainty, "{flat:?}");
        let growing = Slope::of("rss MiB", &points(10.0)).unwrap();
        assert!(
            (growing.per_hour - 10.0).abs() < growing.uncertainty,
            "{growing:?}"
        );
        assert!(growing.uncertainty < 1.0, "{growing:?}");
        assert_eq!(Slope::of("rss MiB", &points(0.0)[..2]), None);
    }

    #[test]
    fn the_warm_up_is_left_out() {
        let look = (Instant::now(), None);
        let rows: Vec<Row> = (1..=12)
            .map(|minute| Row {
                minutes: f64::from(minute),
                rss_mib: Some(if minute <= 2 { 0.0 } else { 170.0 }),
                ..row(look.0, Window::default(), look, look)
            })
            .collect();
        let rss = slopes(&rows)
            .into_iter()
            .find(|slope| slope.figure == "rss MiB")
            .unwrap();
        assert_eq!((rss.level, rss.per_hour), (170.0, 0.0));
    }

    #[test]
    fn a_wav_file_is_one_and_only_plain_addresses_are_taken() {
        let file = wav(&[1, -2], 16_000);
        assert_eq!(file.len(), 48);
        let audio = waxwing_frontend::container::AudioFile::open(
            std::io::Cursor::new(file),
            waxwing_frontend::container::DecodeLimits::default(),
            waxwing_frontend::pcm::ChannelSelection::Mix,
        );
        assert_eq!(audio.unwrap().rate_hz(), 16_000);
        assert_eq!(
            authority("ws://127.0.0.1:8080/v1/stream").unwrap(),
            "127.0.0.1:8080"
        );
        assert!(
            authority("wss://example.org")
                .unwrap_err()
                .to_string()
                .contains("ws://host:port")
        );
    }

    #[test]
    fn failures_are_counted_and_their_reasons_kept() {
        let mut window = Window::default();
        assert_eq!(window.note(Ended::Refused), None);
        assert_eq!(window.note(Ended::Failed("broken".into())), Some("broken".into()));
        assert_eq!((window.refused, window.failed), (1, 1));
    }
}
