//! What a stream costs on this machine: measured before the first one is admitted, as it will be paid, while all workers do the same. Samples to log-probs are
//! timed in batches, with noise; log-probs to words, and the judgement at the end, with somebody who speaks without a pause, since a search has little to do where nothing is said.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use waxwing_frontend::container::{AudioFile, ContainerError, DecodeLimits};
use waxwing_frontend::pcm::ChannelSelection;
use waxwing_model::encoder::StepRow;

use super::Input;
use super::admission::{Admission, AdmissionLimits};
use super::core::{Core, Next};
use super::counters::Counters;
use super::memory::microphone;
use super::model::{StepFailed, StepModel};
use super::options::{EngineOptions, StreamRequest};
use super::queue::Class;
use super::slots::SlotPool;

/// Timed steps for each batch size, behind one that touches the memory: a server is to be ready within a second.
const REPEATS: usize = 1;
/// Twice the rows take at least this many times as long: says which batch need not be tried.
const DOUBLED: f64 = 1.6;
/// A step may take this part of a segment: longer ones would make rows late that arrive meanwhile.
const LONGEST_STEP: f64 = 0.25;
/// Steps that the measured sessions seem to have behind them: with full rings they cost most.
const AGED_STEPS: u64 = 1_000;
/// Rate of the noise: what most sound cards record, so that resampling is paid for.
const RATE_HZ: u32 = 48_000;
/// Rate of the speech, and how much of it is heard.
const SPEECH_RATE_HZ: u32 = 16_000;
const SPEECH_SECONDS: usize = 5;

/// What the warm-up found.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Warmth {
    /// Part of one worker that a live stream takes, at the best batch, while the other workers step, too.
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

/// Steps noise at growing batch sizes.
pub(super) fn measure(model: &Arc<dyn StepModel>, options: &EngineOptions) -> Result<Warmth, StepFailed> {
    if model.cannot_stream().is_some() {
        return measure_whole(model.as_ref());
    }
    let (workers, batch_limit) = (options.workers, options.batch_limit);
    let request = microphone(options, RATE_HZ);
    let geometry = model.geometry();
    let segment = model.output_frame_seconds() * geometry.output_frames() as f64;
    let largest = batch_limit.unwrap_or(options.largest_batch).max(1);
    let mut best: Option<Warmth> = None;
    let mut row_time = Duration::ZERO;
    let mut batch = 1;
    loop {
        let took = time_together(model, &request, workers, batch)?;
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
    let words = time_words(model, options)?;
    // Who sets the size knows why: a measurement on a busy machine does not change it.
    Ok(Warmth {
        cost: found.cost + words,
        batch_limit: batch_limit.unwrap_or(found.batch_limit).max(1),
        row_time: found.row_time + Duration::from_secs_f64(words * segment),
    })
}

/// Part of one worker that finding and judging the words of a live stream takes.
fn time_words(model: &Arc<dyn StepModel>, options: &EngineOptions) -> Result<f64, StepFailed> {
    let request = microphone(options, SPEECH_RATE_HZ);
    let speech = speech()?;
    let parts = together(options.workers, || time_words_of(model, &request, &speech))?;
    Ok(parts.iter().sum::<f64>() / parts.len().max(1) as f64)
}

/// The same, of one worker: what a whole stream of speech takes beside its steps.
fn time_words_of(
    model: &Arc<dyn StepModel>,
    request: &StreamRequest,
    speech: &Bytes,
) -> Result<f64, StepFailed> {
    let mut cores = fresh(model, 1, request)?;
    let Some(core) = cores.first_mut() else {
        return Ok(0.0);
    };
    let (mut took, mut events, mut at) = (Duration::ZERO, Vec::new(), 0);
    loop {
        let take = |units: u64| {
            let until = speech
                .len()
                .min(at + usize::try_from(units).unwrap_or(usize::MAX));
            let part = speech.slice(at..until);
            at = until;
            Some(if part.is_empty() {
                Input::Stop
            } else {
                Input::Audio(part)
            })
        };
        match core.advance(take, &mut events) {
            Next::Step => {
                let consumed = core.features_needed();
                model.step(&mut [core.row()])?;
                let started = Instant::now();
                core.stepped(consumed);
                core.find_all_words(&mut events);
                took += started.elapsed();
            }
            // What is over when the audio is.
            Next::Judge => {
                let started = Instant::now();
                core.judge(&mut events);
                took += started.elapsed();
            }
            Next::Words | Next::Park { .. } | Next::Finished | Next::Refused(..) => break,
        }
    }
    Ok(took.as_secs_f64() / core.audio_seconds().max(1e-3))
}

/// A model that cannot stream encodes a second of silence, to show that it can. It takes no part in the budget of speech.
fn measure_whole(model: &dyn StepModel) -> Result<Warmth, StepFailed> {
    let geometry = model.geometry();
    let frame_seconds = model.output_frame_seconds() / geometry.subsampling as f64;
    let frames = ((1.0 / frame_seconds) as usize).next_multiple_of(geometry.subsampling);
    let features = vec![0.0; (frames.max(1) + geometry.lookahead_frames) * geometry.num_features];
    let started = Instant::now();
    let encoded = catch_unwind(AssertUnwindSafe(|| model.encode_whole(&features)));
    encoded.unwrap_or_else(|_| Err(StepFailed("it panicked".into())))?;
    Ok(Warmth {
        cost: 0.0,
        batch_limit: 1,
        row_time: started.elapsed(),
    })
}

/// The mean duration of a step while every worker steps a batch of its own.
fn time_together(
    model: &Arc<dyn StepModel>,
    request: &StreamRequest,
    workers: usize,
    batch: usize,
) -> Result<Duration, StepFailed> {
    let took = together(workers, || time_step(model, request, batch))?;
    Ok(took.iter().sum::<Duration>() / u32::try_from(took.len().max(1)).unwrap_or(u32::MAX))
}

/// What every worker finds while all do the same.
fn together<T: Send>(
    workers: usize,
    work: impl Fn() -> Result<T, StepFailed> + Sync,
) -> Result<Vec<T>, StepFailed> {
    std::thread::scope(|scope| {
        let workers: Vec<_> = (0..workers).map(|_| scope.spawn(&work)).collect();
        workers
            .into_iter()
            .map(|worker| {
                worker
                    .join()
                    .unwrap_or_else(|_| Err(StepFailed("it panicked".into())))
            })
            .collect()
    })
}

/// The duration of one worker's step, of the fastest where several are timed.
fn time_step(
    model: &Arc<dyn StepModel>,
    request: &StreamRequest,
    batch: usize,
) -> Result<Duration, StepFailed> {
    let mut cores = fresh(model, batch, request)?;
    cores.iter_mut().for_each(|core| core.age(AGED_STEPS));
    let noise = noise();
    let mut fastest = Duration::MAX;
    for repeat in 0..=REPEATS {
        let mut events = Vec::new();
        let started = Instant::now();
        let mut consumed = Vec::with_capacity(batch);
        for core in &mut cores {
            let take = |units: u64| {
                let length = usize::try_from(units).unwrap_or(usize::MAX).min(noise.len());
                Some(Input::Audio(noise.slice(..length)))
            };
            // There is always more noise, so this ends with a complete segment.
            core.advance(take, &mut events);
            consumed.push(core.features_needed());
        }
        let mut rows: Vec<StepRow<'_>> = cores.iter_mut().map(Core::row).collect();
        model.step(&mut rows)?;
        drop(rows);
        let took = started.elapsed();
        // An utterance may have ended in the noise: until it is judged, nothing more is heard.
        for (core, consumed) in cores.iter_mut().zip(consumed) {
            core.stepped(consumed);
            core.find_all_words(&mut events);
        }
        // The first step touches memory for the first time.
        if repeat > 0 {
            fastest = fastest.min(took);
        }
    }
    Ok(fastest)
}

/// Streams that have heard nothing yet, in a pool of their own.
fn fresh(model: &Arc<dyn StepModel>, batch: usize, request: &StreamRequest) -> Result<Vec<Core>, StepFailed> {
    let counters = Arc::new(Counters::default());
    let admission = Admission::new(AdmissionLimits {
        workers: 1,
        live: batch,
        files: 0,
    });
    let pool = SlotPool::new(
        &[(Arc::clone(model), 0.0, batch)],
        admission,
        Arc::clone(&counters),
    );
    (0..batch)
        .map(|_| {
            let slot = pool
                .take(Instant::now(), 0, Class::Live)
                .map_err(|refusal| StepFailed(refusal.code.to_string()))?;
            let counters = Arc::clone(&counters);
            Core::new(Arc::clone(model), slot, counters, request, Duration::ZERO)
                .map_err(|error| StepFailed(error.to_string()))
        })
        .collect()
}

/// Two seconds of s16le noise, always the same: of silence some stages would make less work.
fn noise() -> Bytes {
    let mut random = 0x9E37_79B9_7F4A_7C15_u64;
    let samples = (0..2 * RATE_HZ).flat_map(|_| {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        ((random % 8_000) as i16 - 4_000).to_le_bytes()
    });
    samples.collect::<Vec<u8>>().into()
}

/// Some seconds of s16le speech, read from a book.
fn speech() -> Result<Bytes, StepFailed> {
    let unusable = |error: ContainerError| StepFailed(format!("its sample of speech: {error}"));
    let sample = include_bytes!("../../../web/sample.flac");
    let mut audio =
        AudioFile::from_bytes(sample, DecodeLimits::default(), ChannelSelection::Mix).map_err(unusable)?;
    debug_assert_eq!(audio.rate_hz(), SPEECH_RATE_HZ);
    let wanted = SPEECH_SECONDS * SPEECH_RATE_HZ as usize;
    let mut samples = Vec::new();
    while samples.len() < wanted && audio.next_block(&mut samples).map_err(unusable)? {}
    let in_16_bits = |sample: &f32| ((sample * 32_767.0) as i16).to_le_bytes();
    Ok(samples
        .iter()
        .take(wanted)
        .flat_map(in_16_bits)
        .collect::<Vec<u8>>()
        .into())
}
