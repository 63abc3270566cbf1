//! What a step costs on this machine: measured before the first stream is admitted.

use std::time::{Duration, Instant};

use waxwing_model::encoder::{StateCache, StepRow};

use super::model::{StepFailed, StepModel};

/// Largest batch that is tried.
const LARGEST_BATCH: usize = 16;
/// Timed steps for each batch size, behind one that touches the memory: a server is to be ready within a second.
const REPEATS: usize = 1;
/// Twice the rows take at least this many times as long: says which batch need not be tried.
const DOUBLED: f64 = 1.6;
/// A step may take this part of a segment: longer ones would make rows late that arrive meanwhile.
const LONGEST_STEP: f64 = 0.25;

/// What the warm-up found.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Warmth {
    /// Part of one worker that a live stream takes, at the best batch.
    pub(super) cost: f64,
    /// Rows of one step that serve best.
    pub(super) batch_limit: usize,
    /// Time for one row in a batch of its own.
    pub(super) row_time: Duration,
}

impl Warmth {
    /// Rows that fit into a duration, at least one.
    pub(super) fn rows_within(&self, turn: Duration) -> usize {
        (turn.as_secs_f64() / self.row_time.as_secs_f64().max(1e-6)) as usize
    }
}

/// Steps silence at growing batch sizes.
pub(super) fn measure(model: &dyn StepModel, batch_limit: Option<usize>) -> Result<Warmth, StepFailed> {
    let geometry = model.geometry();
    let segment = model.output_frame_seconds() * geometry.output_frames() as f64;
    let largest = batch_limit.unwrap_or(LARGEST_BATCH).max(1);
    let mut best: Option<Warmth> = None;
    let mut row_time = Duration::ZERO;
    let mut batch = 1;
    loop {
        let took = time_step(model, batch)?;
        if batch == 1 {
            row_time = took;
        }
        let cost = took.as_secs_f64() / batch as f64 / segment;
        let too_long = batch > 1 && took.as_secs_f64() > LONGEST_STEP * segment;
        if !too_long && best.is_none_or(|found| cost < found.cost) {
            best = Some(Warmth {
                cost,
                batch_limit: batch,
                row_time,
            });
        }
        let next_too_long = DOUBLED * took.as_secs_f64() > LONGEST_STEP * segment;
        if too_long || next_too_long || batch == largest {
            break;
        }
        batch = (2 * batch).min(largest);
    }
    let found = best.unwrap_or(Warmth {
        cost: 1.0,
        batch_limit: 1,
        row_time,
    });
    // Who sets the size knows why: a measurement on a busy machine does not change it.
    Ok(Warmth {
        batch_limit: batch_limit.unwrap_or(found.batch_limit).max(1),
        ..found
    })
}

/// The duration of a step, of the fastest where several are timed.
fn time_step(model: &dyn StepModel, batch: usize) -> Result<Duration, StepFailed> {
    let geometry = model.geometry();
    let silence = vec![0.0; geometry.frames_needed(0) * geometry.num_features];
    let mut states: Vec<StateCache> = (0..batch).map(|_| model.new_state()).collect();
    let mut outputs: Vec<Vec<f32>> = vec![Vec::new(); batch];
    let mut fastest = Duration::MAX;
    for repeat in 0..=REPEATS {
        let mut rows: Vec<StepRow<'_>> = Vec::with_capacity(batch);
        for (state, output) in states.iter_mut().zip(&mut outputs) {
            let needed = geometry.frames_needed(state.steps) * geometry.num_features;
            let features = silence.get(..needed).unwrap_or(&silence);
            rows.push(StepRow {
                state,
                features,
                output,
            });
        }
        let started = Instant::now();
        model.step(&mut rows)?;
        // The first step touches memory for the first time.
        if repeat > 0 {
            fastest = fastest.min(started.elapsed());
        }
    }
    Ok(fastest)
}
