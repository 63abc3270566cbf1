//! What many sessions felt, as a table, JSON or CSV.

use std::fmt::Write;
use std::time::Duration;

use serde::Serialize;

use super::client::{self, Felt};

/// To hundredths.
pub(super) fn rounded(value: f64) -> f64 {
    (value * 100.0).round() / 100.0
}

/// Percentiles in milliseconds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
pub(super) struct Percentiles {
    pub(super) p50: f64,
    pub(super) p95: f64,
    pub(super) p99: f64,
}

impl Percentiles {
    pub(super) fn of(mut durations: Vec<Duration>) -> Self {
        durations.sort_unstable();
        // Nearest rank: a figure that some sample had.
        let rank = |share: f64| {
            let index = ((durations.len() as f64 * share).ceil() as usize).saturating_sub(1);
            durations
                .get(index)
                .map_or(0.0, |duration| (duration.as_secs_f64() * 10_000.0).round() / 10.0)
        };
        Self {
            p50: rank(0.50),
            p95: rank(0.95),
            p99: rank(0.99),
        }
    }
}

/// What the server holds and has used.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Process {
    rss_kib: u64,
    cpu_seconds: f64,
    pub(super) file_descriptors: usize,
}

impl Process {
    /// Reads /proc; `None` where there is none.
    pub(super) fn read(pid: u32) -> Option<Self> {
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
        let line = status.lines().find(|line| line.starts_with("VmRSS:"))?;
        let rss_kib = line.split_whitespace().nth(1)?.parse().ok()?;
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        // The name in brackets may hold spaces; user and system time are the 12th and 13th field after it.
        let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
        let ticks: u64 = fields.get(11)?.parse::<u64>().ok()? + fields.get(12)?.parse::<u64>().ok()?;
        // Linux counts in hundredths of a second for every program, whatever the kernel's own clock.
        Some(Self {
            rss_kib,
            cpu_seconds: ticks as f64 / 100.0,
            file_descriptors: std::fs::read_dir(format!("/proc/{pid}/fd")).ok()?.count(),
        })
    }

    pub(super) fn rss_mib(self) -> f64 {
        rounded(self.rss_kib as f64 / 1024.0)
    }

    /// Cores that were busy since `before`.
    pub(super) fn cores_since(self, before: Self, wall: Duration) -> f64 {
        rounded((self.cpu_seconds - before.cpu_seconds) / wall.as_secs_f64().max(1e-9))
    }
}

/// One number of sessions.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(super) struct Row {
    /// Which of them, where they are not all.
    pub(super) kind: Option<String>,
    /// At the same time.
    pub(super) sessions: usize,
    /// That ended with `done`.
    pub(super) sessions_done: usize,
    /// That the server had no room for.
    pub(super) sessions_refused: usize,
    /// Why others did not, the first few.
    failures: Vec<String>,
    audio_seconds: f64,
    wall_seconds: f64,
    pub(super) lag_ms: Percentiles,
    word_delay_ms: Percentiles,
    final_after_end_ms: Percentiles,
    /// Percent of all lags.
    misses_percent: f64,
    words: usize,
    rss_mib: Option<f64>,
    /// Cores that the server kept busy.
    cpu_cores: Option<f64>,
}

impl Row {
    /// Sums up all sessions.
    pub(super) fn new(
        wall: Duration,
        outcomes: &[anyhow::Result<Felt>],
        before: Option<Process>,
        after: Option<Process>,
    ) -> Self {
        Self {
            kind: None,
            rss_mib: after.map(Process::rss_mib),
            cpu_cores: before
                .zip(after)
                .map(|(before, after)| after.cores_since(before, wall)),
            ..Self::of(String::new(), wall, outcomes.iter())
        }
    }

    /// Sums up those of one kind.
    pub(super) fn of<'a>(
        kind: String,
        wall: Duration,
        outcomes: impl Iterator<Item = &'a anyhow::Result<Felt>>,
    ) -> Self {
        let (mut failures, mut felt, mut refused, mut sessions) = (Vec::new(), Vec::new(), 0, 0);
        for outcome in outcomes {
            sessions += 1;
            match outcome {
                Ok(outcome) => felt.push(outcome),
                Err(error) if client::is_refusal(error) => refused += 1,
                Err(error) if failures.len() < 3 => failures.push(format!("{error:#}")),
                Err(_) => {}
            }
        }
        let lags: Vec<Duration> = felt.iter().flat_map(|felt| felt.lags.iter().copied()).collect();
        let misses: usize = felt.iter().map(|felt| felt.misses).sum();
        Self {
            kind: Some(kind),
            sessions,
            sessions_done: felt.len(),
            sessions_refused: refused,
            failures,
            audio_seconds: rounded(felt.iter().map(|felt| felt.audio_seconds).sum()),
            wall_seconds: rounded(wall.as_secs_f64()),
            misses_percent: rounded(100.0 * misses as f64 / lags.len().max(1) as f64),
            lag_ms: Percentiles::of(lags),
            word_delay_ms: Percentiles::of(
                felt.iter()
                    .flat_map(|felt| felt.word_delays.iter().copied())
                    .collect(),
            ),
            final_after_end_ms: Percentiles::of(felt.iter().map(|felt| felt.final_after_end).collect()),
            words: felt.iter().map(|felt| felt.words).sum(),
            rss_mib: None,
            cpu_cores: None,
        }
    }

    fn cells(&self) -> Vec<String> {
        let optional = |value: Option<f64>| value.map_or_else(|| "-".into(), |value| value.to_string());
        let three = |percentiles: Percentiles| {
            [percentiles.p50, percentiles.p95, percentiles.p99].map(|value| value.to_string())
        };
        let mut cells = vec![
            self.sessions.to_string(),
            self.sessions_done.to_string(),
            self.sessions_refused.to_string(),
            self.audio_seconds.to_string(),
            self.wall_seconds.to_string(),
        ];
        cells.extend(three(self.lag_ms));
        cells.extend(three(self.word_delay_ms));
        cells.extend(three(self.final_after_end_ms));
        cells.extend([
            self.misses_percent.to_string(),
            self.words.to_string(),
            optional(self.rss_mib),
            optional(self.cpu_cores),
            self.kind.clone().unwrap_or_else(|| "all".into()),
        ]);
        cells
    }
}

/// Names of the columns.
const COLUMNS: [&str; 19] = [
    "sessions",
    "done",
    "refused",
    "audio s",
    "wall s",
    "lag p50",
    "p95",
    "p99",
    "word p50",
    "p95",
    "p99",
    "final p50",
    "p95",
    "p99",
    "miss %",
    "words",
    "rss MiB",
    "cores",
    "of",
];

/// Names of the same columns for programs.
const KEYS: &str = "sessions,done,refused,audio_s,wall_s,lag_p50_ms,lag_p95_ms,lag_p99_ms,word_delay_p50_ms,word_delay_p95_ms,word_delay_p99_ms,\
    final_after_end_p50_ms,final_after_end_p95_ms,final_after_end_p99_ms,misses_percent,words,rss_mib,cpu_cores,kind";

/// For people; times in milliseconds.
pub(super) fn table(rows: &[Row]) -> String {
    let cells: Vec<Vec<String>> = rows.iter().map(Row::cells).collect();
    let mut text = aligned(&COLUMNS, &cells);
    for row in rows {
        for failure in &row.failures {
            // Writing to a string cannot fail.
            let _ = writeln!(text, "{} sessions: {failure}", row.sessions);
        }
    }
    text
}

/// Columns under their names, to the right.
pub(super) fn aligned(columns: &[&str], rows: &[Vec<String>]) -> String {
    let widths: Vec<usize> = columns
        .iter()
        .enumerate()
        .map(|(column, name)| {
            rows.iter()
                .filter_map(|row| row.get(column))
                .map(String::len)
                .chain([name.len()])
                .max()
                .unwrap_or(0)
        })
        .collect();
    let mut text = String::new();
    let mut line = |cells: &mut dyn Iterator<Item = &str>| {
        let padded: Vec<String> = cells
            .zip(&widths)
            .map(|(cell, width)| format!("{cell:>width$}"))
            .collect();
        // Writing to a string cannot fail.
        let _ = writeln!(text, "{}", padded.join("  "));
    };
    line(&mut columns.iter().copied());
    for row in rows {
        line(&mut row.iter().map(String::as_str));
    }
    text
}

/// For programs, an array.
pub(super) fn json(rows: &[Row]) -> anyhow::Result<String> {
    Ok(serde_json::to_string_pretty(rows)? + "\n")
}

/// For spreadsheets.
pub(super) fn csv(rows: &[Row]) -> String {
    let mut text = format!("{KEYS}\n");
    for row in rows {
        // Writing to a string cannot fail.
        let _ = writeln!(text, "{}", row.cells().join(","));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_figures_that_occurred() {
        let durations = (1..=100).rev().map(Duration::from_millis).collect();
        assert_eq!(
            Percentiles::of(durations),
            Percentiles {
                p50: 50.0,
                p95: 95.0,
                p99: 99.0
            }
        );
        assert_eq!(
            Percentiles::of(vec![Duration::from_millis(7)]),
            Percentiles {
                p50: 7.0,
                p95: 7.0,
                p99: 7.0
            }
        );
        assert_eq!(Percentiles::of(vec![]), Percentiles::default());
    }

    #[test]
    fn failures_are_counted_and_shown() {
        let felt = Felt {
            lags: vec![Duration::from_millis(5); 4],
            misses: 1,
            ..Felt::default()
        };
        let outcomes = [Ok(felt), Err(anyhow::anyhow!("refused"))];
        let row = Row::new(Duration::from_secs(1), &outcomes, None, None);
        assert_eq!(
            (row.sessions, row.sessions_done, row.misses_percent),
            (2, 1, 25.0)
        );
        assert!(table(std::slice::from_ref(&row)).ends_with("2 sessions: refused\n"));
        let csv = csv(&[row]);
        let columns: Vec<usize> = csv.lines().map(|line| line.split(',').count()).collect();
        assert_eq!(columns, [COLUMNS.len(), COLUMNS.len()]);
    }

    #[test]
    fn this_process_can_be_read() {
        let process = Process::read(std::process::id()).unwrap();
        assert!(process.rss_kib > 0 && process.cpu_seconds >= 0.0 && process.file_descriptors > 0);
    }
}
