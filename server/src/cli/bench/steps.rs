//! `waxwing bench --model DIR`: the encoder alone, at mixed session ages, in real-time streams and in percent of this machine's
//! matrix-product peak.

use std::fmt::Write as _;
use std::path::Path;
use std::time::Duration;

use serde::Serialize;
use waxwing_model::bench::{self, Subject};
use waxwing_model::precision::Precision;

use super::super::{Failure, Outcome};

/// Time that each batch size is measured for, if nothing else is said.
const MEASURED: Duration = Duration::from_secs(1);

/// What is measured, and how.
pub(super) struct Plan<'a> {
    /// Directory of the model.
    pub(super) directory: &'a Path,
    /// Duration of a frame, for a model that does not say it.
    pub(super) frame: Option<Duration>,
    /// Numbers of its products.
    pub(super) precision: Precision,
    /// Sessions in a step.
    pub(super) batches: &'a [usize],
    /// Numbers of threads.
    pub(super) threads: &'a [usize],
    /// Time for each row; none: a second.
    pub(super) measured: Option<Duration>,
    /// How the rows are written.
    pub(super) layout: Layout,
}

/// How the rows are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Layout {
    Table,
    Json,
    Csv,
}

/// One number of threads with one batch size.
#[derive(Debug, Clone, PartialEq, Serialize)]
struct Row {
    model: String,
    threads: usize,
    batch: usize,
    step_ms: f64,
    streams: f64,
    streams_undisturbed: f64,
    /// Multiply-adds per second that these threads reach together in a product that fits the cache.
    peak: f64,
    /// Undisturbed streams in those of one thread with the same batch, if that was measured, too.
    times_one_thread: Option<f64>,
    percent_of_peak: f64,
}

/// Measures every batch size with every number of threads and writes one row for each.
pub(super) fn run(plan: &Plan<'_>) -> Outcome {
    let (batches, threads) = (plan.batches, plan.threads);
    if batches.is_empty() || batches.contains(&0) || threads.is_empty() || threads.contains(&0) {
        return Err(Failure::Usage(anyhow::anyhow!(
            "`--batch` and `--threads` need numbers above 0, such as 1,8,32"
        )));
    }
    let subject = Subject::load(plan.directory, plan.frame, plan.precision)?;
    let measured_for = plan.measured.unwrap_or(MEASURED);
    let mut rows: Vec<Row> = Vec::new();
    let mut peaks = Vec::new();
    for &threads in threads {
        let peak = bench::peak(threads);
        peaks.push((threads, peak));
        for &batch in batches {
            let measured = bench::measure(&subject, batch, threads, measured_for, peak)?;
            let one = match rows.iter().find(|row| row.threads == 1 && row.batch == batch) {
                Some(row) => Some(row.streams_undisturbed),
                None => (threads == 1).then_some(measured.streams_undisturbed),
            };
            rows.push(Row {
                model: subject.id().into(),
                threads,
                batch,
                step_ms: rounded(measured.step.as_secs_f64() * 1e3, 2),
                streams: rounded(measured.streams, 1),
                streams_undisturbed: rounded(measured.streams_undisturbed, 1),
                times_one_thread: one.map(|one| rounded(measured.streams_undisturbed / one, 2)),
                percent_of_peak: rounded(measured.percent_of_peak, 1),
                peak: peak.round(),
            });
        }
    }
    let text = match plan.layout {
        Layout::Json => serde_json::to_string(&rows)? + "\n",
        Layout::Csv => csv(&rows),
        Layout::Table => table(&subject, &peaks, &rows),
    };
    use std::io::Write as _;
    let mut out = std::io::stdout().lock();
    out.write_all(text.as_bytes())?;
    Ok(out.flush()?)
}

fn rounded(value: f64, digits: i32) -> f64 {
    let scale = 10_f64.powi(digits);
    (value * scale).round() / scale
}

fn csv(rows: &[Row]) -> String {
    let mut text =
        "model,threads,batch,step_ms,streams,streams_undisturbed,times_one_thread,percent_of_peak,peak\n"
            .to_string();
    for row in rows {
        let times = row.times_one_thread.map(|times| times.to_string());
        // Writing to a string cannot fail.
        let _ = writeln!(
            text,
            "{},{},{},{},{},{},{},{},{}",
            row.model,
            row.threads,
            row.batch,
            row.step_ms,
            row.streams,
            row.streams_undisturbed,
            times.unwrap_or_default(),
            row.percent_of_peak,
            row.peak
        );
    }
    text
}

fn table(subject: &Subject, peaks: &[(usize, f64)], rows: &[Row]) -> String {
    let products = subject.products_per_step() as f64 / 1e6;
    let mut text = format!("{}: {products:.0} M multiply-adds a step\n", subject.id());
    for (threads, peak) in peaks {
        // Writing to a string cannot fail.
        let _ = writeln!(
            text,
            "{threads} threads: matrix-product peak {:.1} G multiply-adds/s",
            peak / 1e9
        );
    }
    text.push_str("threads   batch   step ms   streams   undisturbed   × one thread   % of peak\n");
    for row in rows {
        let times = row
            .times_one_thread
            .map_or_else(|| "-".into(), |times| format!("{times:.2}"));
        let _ = writeln!(
            text,
            "{:7} {:7} {:9.2} {:9.1} {:13.1} {times:>14} {:11.0}",
            row.threads, row.batch, row.step_ms, row.streams, row.streams_undisturbed, row.percent_of_peak
        );
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn csv_has_as_many_cells_as_names_and_leaves_unknown_ones_empty() {
        let row = Row {
            model: "m".into(),
            threads: 2,
            batch: 8,
            step_ms: 1.25,
            streams: 40.0,
            streams_undisturbed: 44.4,
            times_one_thread: None,
            percent_of_peak: 71.0,
            peak: 4e10,
        };
        let text = csv(&[row]);
        let columns: Vec<usize> = text.lines().map(|line| line.split(',').count()).collect();
        assert_eq!(columns, [9, 9]);
        assert!(text.ends_with("m,2,8,1.25,40,44.4,,71,40000000000\n"), "{text}");
    }
}
