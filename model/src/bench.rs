//! How many real-time streams an encoder holds on this machine, and how near it comes to what the machine can multiply.

use std::path::Path;
use std::sync::Barrier;
use std::time::{Duration, Instant};

use crate::architecture;
use crate::config::Config;
use crate::device::Device;
use crate::encoder::kernels::{Linear, Matrix, product};
use crate::encoder::{StateCache, StepRow, StreamingEncoder};
use crate::error::ModelError;
use crate::loader::{self, WEIGHTS_FILE, Weights};
use crate::model::CONFIG_FILE;
use crate::module::classes;
use crate::precision::Precision;

/// Sessions in a measured batch have heard 0 to this many segments less one: some have empty rings, some full ones.
const AGES: u64 = 8;

/// One batch size, measured.
#[derive(Debug, Clone, PartialEq)]
pub struct Measurement {
    /// Sessions in one step.
    pub batch: usize,
    /// Threads that stepped at once, each a batch of its own.
    pub threads: usize,
    /// Mean duration of one step of one thread, by the wall clock.
    pub step: Duration,
    /// Mean processor time of one step: what its duration is when nothing else runs on the machine.
    pub step_processor_time: Duration,
    /// Sessions that all threads together held in real time, by the wall clock.
    pub streams: f64,
    /// Sessions that all threads together hold in real time when nothing else runs: by processor time.
    pub streams_undisturbed: f64,
    /// Rate of multiply-adds in matrix products, in percent of [`peak`] with as many threads, both by processor time.
    pub percent_of_peak: f64,
}

/// What is measured: the streaming encoder of a model directory, with its head if it has one. Needs no tokens.
pub struct Subject {
    id: String,
    encoder: Box<dyn StreamingEncoder>,
    segment: Duration,
}

impl Subject {
    /// Loads `config.json` and `model.safetensors` of a directory. `frame` is the duration of one of the encoder's input
    /// frames, for a model that does not say it by its `features`.
    ///
    /// # Errors
    /// [`ModelError::Read`], [`ModelError::Invalid`] with every problem found, also when nothing tells the duration of a frame,
    /// and [`ModelError::CannotStream`].
    pub fn load(directory: &Path, frame: Option<Duration>, precision: Precision) -> Result<Self, ModelError> {
        let config = Config::from_json(&loader::read_text(&directory.join(CONFIG_FILE))?)?;
        let file = loader::read_bytes(&directory.join(WEIGHTS_FILE))?;
        let classes = classes(&config, &file);
        let weights = Weights::from_safetensors(&file, &architecture::expected_with(&config, classes))?;
        let own_frame = config.features.as_ref().map(|features| {
            let shift = features.frame_shift_samples(config.sample_rate) as f64;
            Duration::from_secs_f64(shift / f64::from(config.sample_rate))
        });
        let Some(frame) = own_frame.or(frame) else {
            return Err(ModelError::Invalid {
                problems: vec![format!(
                    "{CONFIG_FILE}: features: missing, so nothing tells how long a frame is; give it (`--frame-ms`)"
                )],
            });
        };
        let encoder = architecture::streaming_encoder_in(&config, &weights, &Device::Cpu, precision)?;
        let frames = u32::try_from(encoder.geometry().segment_frames).unwrap_or(u32::MAX);
        Ok(Self {
            id: config.id,
            segment: frame.saturating_mul(frames),
            encoder,
        })
    }

    /// The model's name.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// Multiply-adds in the matrix products of one session's step, its left context full.
    pub fn products_per_step(&self) -> u64 {
        self.encoder.products_per_step()
    }
}

/// Processor time of the calling thread, where the system tells it (Linux, to the scheduler's tick); else the time that
/// has passed.
fn processor_time(begin: Instant) -> Duration {
    let scheduled = std::fs::read_to_string("/proc/thread-self/schedstat").ok();
    let nanoseconds = scheduled.and_then(|text| text.split_whitespace().next()?.parse().ok());
    nanoseconds.map_or_else(|| begin.elapsed(), Duration::from_nanos)
}

/// Multiply-adds per second of processor time that `threads` threads reach together in a product of two square matrices that fit the
/// cache: the best of several runs of the two routines at hand, the `gemm` crate's and the encoders' own.
pub fn peak(threads: usize) -> f64 {
    const SIZE: usize = 384;
    const PRODUCTS: usize = 100;
    let best = together(threads, |barrier| {
        let factor = vec![0.5f32; SIZE * SIZE];
        let (mut general_output, mut own_output) = (vec![0.0f32; SIZE * SIZE], vec![0.0f32; SIZE * SIZE]);
        let linear = Linear::new(&factor, vec![0.0; SIZE], SIZE);
        let mut general = || {
            let matrix = Matrix::rows(&factor, SIZE);
            product(
                (SIZE, SIZE, SIZE),
                &mut general_output,
                SIZE,
                matrix,
                matrix,
                false,
            );
        };
        let mut own = || linear.apply(SIZE, &factor, &mut own_output);
        let routines: [&mut dyn FnMut(); 2] = [&mut general, &mut own];
        barrier.wait();
        let origin = Instant::now();
        let mut best = Duration::MAX;
        for routine in routines {
            for _ in 0..3 {
                let begin = processor_time(origin);
                (0..PRODUCTS).for_each(|_| routine());
                best = best.min(processor_time(origin).saturating_sub(begin));
            }
        }
        best
    });
    let products = (PRODUCTS * SIZE * SIZE * SIZE) as f64;
    best.iter().map(|time| products / time.as_secs_f64()).sum()
}

/// Measures one batch size for about `duration`, with `threads` threads that share the model. Sessions have mixed ages.
///
/// # Errors
/// As [`StreamingEncoder::step`].
pub fn measure(
    subject: &Subject,
    batch: usize,
    threads: usize,
    duration: Duration,
    peak: f64,
) -> Result<Measurement, ModelError> {
    let runs = together(
        threads,
        |barrier| -> Result<(u32, Duration, Duration), ModelError> {
            let mut sessions: Vec<(StateCache, Vec<f32>)> = (0..batch)
                .map(|_| (subject.encoder.new_state(), Vec::new()))
                .collect();
            let geometry = subject.encoder.geometry();
            // A slow wave in the range of log-mel features; the values do not change what is computed.
            let count = geometry.frames_needed(0) * geometry.num_features;
            let features: Vec<f32> = (0..count)
                .map(|index| (index as f32 * 0.01).sin() * 0.5)
                .collect();
            for (index, (state, output)) in sessions.iter_mut().enumerate() {
                for _ in 0..index as u64 % AGES {
                    step(subject, &features, [(&mut *state, &mut *output)])?;
                }
            }
            step(
                subject,
                &features,
                sessions.iter_mut().map(|(state, output)| (state, output)),
            )?;
            barrier.wait();
            let begin = Instant::now();
            let processor_begin = processor_time(begin);
            let mut steps = 0;
            while begin.elapsed() < duration || steps == 0 {
                step(
                    subject,
                    &features,
                    sessions.iter_mut().map(|(state, output)| (state, output)),
                )?;
                steps += 1;
            }
            Ok((
                steps,
                begin.elapsed(),
                processor_time(begin).saturating_sub(processor_begin),
            ))
        },
    );
    let runs = runs.into_iter().collect::<Result<Vec<_>, _>>()?;
    let rate = |time: fn(&(u32, Duration, Duration)) -> Duration| -> f64 {
        runs.iter()
            .map(|run| f64::from(run.0) / time(run).as_secs_f64().max(1e-9))
            .sum()
    };
    let (steps, steps_undisturbed) = (rate(|run| run.1), rate(|run| run.2));
    let seconds = subject.segment.as_secs_f64() * batch as f64;
    let products = subject.products_per_step() as f64 * batch as f64;
    Ok(Measurement {
        batch,
        threads,
        step: Duration::from_secs_f64(runs.len() as f64 / steps),
        step_processor_time: Duration::from_secs_f64(runs.len() as f64 / steps_undisturbed),
        streams: steps * seconds,
        streams_undisturbed: steps_undisturbed * seconds,
        percent_of_peak: 100.0 * steps_undisturbed * products / peak,
    })
}

fn step<'a>(
    subject: &Subject,
    features: &[f32],
    sessions: impl IntoIterator<Item = (&'a mut StateCache, &'a mut Vec<f32>)>,
) -> Result<(), ModelError> {
    let geometry = subject.encoder.geometry();
    let mut rows: Vec<StepRow<'_>> = sessions
        .into_iter()
        .map(|(state, output)| {
            let needed = geometry.frames_needed(state.steps) * geometry.num_features;
            StepRow {
                features: &features[..needed],
                state,
                output,
            }
        })
        .collect();
    subject.encoder.step(&mut rows)
}

/// Runs the same work on several threads, which may wait for one another before they measure.
fn together<T: Send>(threads: usize, work: impl Fn(&Barrier) -> T + Sync) -> Vec<T> {
    let barrier = Barrier::new(threads);
    std::thread::scope(|scope| {
        let workers: Vec<_> = (0..threads).map(|_| scope.spawn(|| work(&barrier))).collect();
        workers
            .into_iter()
            .map(|worker| {
                worker
                    .join()
                    .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
            })
            .collect()
    })
}
