//! Prints how many real-time streams a model directory holds: `bench_step [DIRECTORY [THREADS]]`.

#![expect(clippy::print_stdout, reason = "the table is what this program is for")]

use std::path::PathBuf;
use std::time::Duration;

use waxwing_model::{Model, ModelError, bench};

fn main() -> Result<(), ModelError> {
    let mut arguments = std::env::args().skip(1);
    let directory = arguments.next().map_or_else(
        || PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/pretrained/en-emformer")),
        PathBuf::from,
    );
    let threads = arguments.next().and_then(|count| count.parse().ok()).unwrap_or(2);
    let model = Model::load(&directory)?;
    println!(
        "{}: {:.0} M multiply-adds a step",
        model.id(),
        model.products_per_step() as f64 / 1e6
    );
    let mut single = (0.0, 0.0);
    for threads in 1..=threads {
        let peak = bench::peak(threads);
        println!(
            "{threads} threads, matrix-product peak {:.1} G multiply-adds/s",
            peak / 1e9
        );
        for batch in [1, 8, 32] {
            let measured = bench::measure(&model, batch, threads, Duration::from_secs(1), peak)?;
            println!(
                "batch {batch:3}: step {:8.2} ms ({:8.2} ms of processor time), {:6.1} streams in real time \
                 ({:6.1} undisturbed), {:3.0} % of peak",
                measured.step.as_secs_f64() * 1e3,
                measured.step_processor_time.as_secs_f64() * 1e3,
                measured.streams,
                measured.streams_undisturbed,
                measured.percent_of_peak
            );
            if batch == 8 && threads == 1 {
                single = (measured.streams, measured.streams_undisturbed);
            } else if batch == 8 {
                println!(
                    "           {threads} threads do {:.2} × one ({:.2} × undisturbed)",
                    measured.streams / single.0,
                    measured.streams_undisturbed / single.1
                );
            }
        }
    }
    Ok(())
}
