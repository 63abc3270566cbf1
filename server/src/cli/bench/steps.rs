//! `waxwing bench --model DIR`: the encoder alone, at mixed session ages, in real-time streams and in percent of this machine's
//! matrix-product peak.

use std::fmt::Write as _;
use std::path::Path;
use std::time::Duration;

use waxwing_model::{Model, bench};

use super::super::{Failure, Outcome};

/// Time that each batch size is measured for.
const MEASURED: Duration = Duration::from_secs(1);

/// Measures every batch size and writes one row for each.
pub(super) fn run(
    directory: &Path,
    batches: &[usize],
    threads: usize,
    as_csv: bool,
    as_json: bool,
) -> Outcome {
    if batches.is_empty() || batches.contains(&0) || threads == 0 {
        return Err(Failure::Usage(anyhow::anyhow!(
            "`--batch` and `--threads` need numbers above 0"
        )));
    }
    let model = Model::load(directory)?;
    let peak = bench::peak(threads);
    let mut rows = Vec::new();
    for &batch in batches {
        rows.push(bench::measure(&model, batch, threads, MEASURED, peak)?);
    }
    let mut text = String::new();
    if as_json {
        let rows: Vec<_> = rows
            .iter()
            .map(|row| {
                serde_json::json!({
                    "model": model.id(), "threads": row.threads, "batch": row.batch,
                    "step_ms": row.step.as_secs_f64() * 1e3, "streams": row.streams,
                    "streams_undisturbed": row.streams_undisturbed, "percent_of_peak": row.percent_of_peak,
                })
            })
            .collect();
        writeln!(text, "{}", serde_json::Value::from(rows))?;
    } else {
        if as_csv {
            writeln!(
                text,
                "model,threads,batch,step_ms,streams,streams_undisturbed,percent_of_peak"
            )?;
        } else {
            let products = model.products_per_step() as f64 / 1e6;
            writeln!(text, "{}: {products:.0} M multiply-adds a step", model.id())?;
            writeln!(
                text,
                "{threads} threads, matrix-product peak {:.1} G multiply-adds/s",
                peak / 1e9
            )?;
            writeln!(text, "batch   step ms   streams   undisturbed   % of peak")?;
        }
        for row in &rows {
            let step = row.step.as_secs_f64() * 1e3;
            let (streams, undisturbed, percent) = (row.streams, row.streams_undisturbed, row.percent_of_peak);
            if as_csv {
                let id = model.id();
                let batch = row.batch;
                writeln!(
                    text,
                    "{id},{threads},{batch},{step:.2},{streams:.1},{undisturbed:.1},{percent:.0}"
                )?;
            } else {
                let batch = row.batch;
                writeln!(
                    text,
                    "{batch:5} {step:9.2} {streams:9.1} {undisturbed:13.1} {percent:11.0}"
                )?;
            }
        }
    }
    use std::io::Write as _;
    let mut out = std::io::stdout().lock();
    out.write_all(text.as_bytes())?;
    Ok(out.flush()?)
}
