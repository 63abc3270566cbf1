//! Audio files with what is said in them, and what a model hears: shared by the examples.

use std::collections::HashMap;
use std::error::Error;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::time::Instant;

use candle_core::{Device, Tensor};

use waxwing_frontend::container::{AudioFile, DecodeLimits};
use waxwing_frontend::pcm::ChannelSelection;
use waxwing_frontend::{Frontend, FrontendConfig};
use waxwing_model::encoder::StepRow;
use waxwing_model::model::Model;
use waxwing_model::transcript::TranscriberOptions;

/// What is said in a file.
#[allow(dead_code, reason = "not every example needs all of it")]
pub(crate) struct Clip {
    pub(crate) reference: String,
    pub(crate) rate_hz: u32,
    pub(crate) samples: Vec<f32>,
}

impl Clip {
    /// All clips of a list, or of a directory's `text.tsv`: a file name beside the list, its ending `.flac` or `.wav` where the list has none, a tab, and
    /// what is said in it. Comments begin with `#`, and further columns are not read.
    #[allow(dead_code, reason = "not every example needs all of it")]
    pub(crate) fn read_all(list: &Path) -> Result<Vec<Self>, Box<dyn Error>> {
        let list = list_of(list);
        let text = fs::read_to_string(&list).map_err(|error| format!("{}: {error}", list.display()))?;
        let directory = list.parent().unwrap_or(Path::new("."));
        text.lines()
            .filter(|line| !line.is_empty() && !line.starts_with('#'))
            .map(|line| {
                let mut columns = line.split('\t');
                let (Some(file), Some(reference)) = (columns.next(), columns.next()) else {
                    return Err(format!("{}: no tab in `{line}`", list.display()).into());
                };
                let mut path = directory.join(file);
                for ending in ["flac", "wav"] {
                    if !path.exists() {
                        path = directory.join(format!("{file}.{ending}"));
                    }
                }
                Self::read(&path, reference).map_err(|error| format!("{file}: {error}").into())
            })
            .collect()
    }

    /// One audio file.
    pub(crate) fn read(path: &Path, reference: &str) -> Result<Self, Box<dyn Error>> {
        let mut audio = AudioFile::open(File::open(path)?, DecodeLimits::default(), ChannelSelection::Mix)?;
        let mut samples = Vec::new();
        while audio.next_block(&mut samples)? {}
        Ok(Self {
            reference: reference.to_owned(),
            rate_hz: audio.rate_hz(),
            samples,
        })
    }

    #[allow(dead_code, reason = "not every example needs all of it")]
    pub(crate) fn seconds(&self) -> f64 {
        self.samples.len() as f64 / f64::from(self.rate_hz)
    }

    /// The model's log-probs `(frames, classes) f32`, step by step as in a session; `silence_seconds` of zeros follow the
    /// clip, so that its last sound gets through all delays.
    pub(crate) fn hear(&self, model: &Model, silence_seconds: usize) -> Result<Vec<f32>, Box<dyn Error>> {
        let mut frontend = Frontend::new(FrontendConfig {
            input_rate_hz: self.rate_hz,
            model_rate_hz: model.sample_rate_hz(),
            features: model.features().clone(),
        })?;
        let mut samples = self.samples.clone();
        samples.extend(std::iter::repeat_n(0.0, silence_seconds * self.rate_hz as usize));
        let mut rest = samples.as_slice();
        let mut state = model.new_state();
        let (mut features, mut log_probs, mut steps) = (Vec::new(), Vec::new(), 0);
        loop {
            let needed = frontend.samples_needed_for(model.geometry().frames_needed(steps) as u64);
            let Some((now, later)) = rest.split_at_checked(usize::try_from(needed)?) else {
                return Ok(log_probs);
            };
            rest = later;
            features.clear();
            frontend.push(now, &mut features);
            let mut heard = Vec::new();
            model.step(&mut [StepRow {
                state: &mut state,
                features: &features,
                output: &mut heard,
            }])?;
            log_probs.extend(heard);
            steps += 1;
        }
    }
}

fn list_of(path: &Path) -> PathBuf {
    if path.is_dir() {
        path.join("text.tsv")
    } else {
        path.to_owned()
    }
}

/// Some clips, and what a model hears in them.
#[allow(dead_code, reason = "not every example needs all of it")]
pub(crate) struct Heard {
    pub(crate) name: String,
    pub(crate) clips: Vec<Clip>,
    /// Of each clip `(frames, classes) f32`.
    pub(crate) log_probs: Vec<Vec<f32>>,
    /// With the silence behind each clip.
    pub(crate) audio_seconds: f64,
}

#[allow(dead_code, reason = "not every example needs all of it")]
impl Heard {
    /// Runs the encoder over all clips, on all cores; or reads what it heard before from the directory `kept`, where that was written by the same weights for the same list.
    pub(crate) fn read(
        model: &Model,
        model_directory: &Path,
        list: &Path,
        kept: Option<&Path>,
        silence_seconds: usize,
    ) -> Result<Self, Box<dyn Error>> {
        let clips = Clip::read_all(list)?;
        let sum = |sum: u64, bytes: &[u8]| -> u64 {
            // FNV-1a.
            bytes.iter().fold(sum, |sum, &byte| {
                (sum ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
            })
        };
        let weights = fs::read(model_directory.join("model.safetensors"))?;
        let key = sum(sum(0xcbf2_9ce4_8422_2325, &weights), &fs::read(list_of(list))?);
        let file = kept.map(|directory| directory.join(format!("{key:016x}-{silence_seconds}.safetensors")));
        let log_probs = match &file {
            Some(file) if file.exists() => {
                let tensors = candle_core::safetensors::load(file, &Device::Cpu)?;
                let of = |index: usize| tensors.get(&index.to_string()).ok_or("a clip is missing");
                (0..clips.len())
                    .map(|index| Ok(of(index)?.to_vec1()?))
                    .collect::<Result<Vec<Vec<f32>>, Box<dyn Error>>>()?
            }
            _ => {
                let log_probs = hear_all(model, &clips, silence_seconds)?;
                if let Some(file) = &file {
                    let tensors = log_probs.iter().enumerate().map(|(index, values)| {
                        let tensor = Tensor::from_slice(values, values.len(), &Device::Cpu)?;
                        Ok((index.to_string(), tensor))
                    });
                    let tensors = tensors.collect::<Result<HashMap<_, _>, candle_core::Error>>()?;
                    candle_core::safetensors::save(&tensors, file)?;
                }
                log_probs
            }
        };
        Ok(Self {
            name: list.display().to_string(),
            audio_seconds: clips
                .iter()
                .map(|clip| clip.seconds() + silence_seconds as f64)
                .sum(),
            clips,
            log_probs,
        })
    }
}

#[allow(dead_code, reason = "not every example needs all of it")]
fn hear_all(model: &Model, clips: &[Clip], silence_seconds: usize) -> Result<Vec<Vec<f32>>, Box<dyn Error>> {
    let threads = std::thread::available_parallelism()?.get();
    let share = clips.len().div_ceil(threads).max(1);
    std::thread::scope(|scope| {
        let hear = |clips: &[Clip]| -> Result<Vec<Vec<f32>>, String> {
            let heard = clips.iter().map(|clip| {
                clip.hear(model, silence_seconds)
                    .map_err(|error| error.to_string())
            });
            heard.collect()
        };
        let running: Vec<_> = clips
            .chunks(share)
            .map(|clips| scope.spawn(move || hear(clips)))
            .collect();
        let mut all = Vec::new();
        for thread in running {
            all.extend(thread.join().map_err(|_| "a thread panicked")??);
        }
        Ok(all)
    })
}

/// Times what one thread does, in its own time on a core where the system counts that (Linux), else in that of the clock on the wall.
#[allow(dead_code, reason = "not every example needs all of it")]
pub(crate) struct Stopwatch {
    on_core: Option<f64>,
    begin: Instant,
}

#[allow(dead_code, reason = "not every example needs all of it")]
impl Stopwatch {
    pub(crate) fn start() -> Self {
        Self {
            on_core: seconds_on_core(),
            begin: Instant::now(),
        }
    }

    pub(crate) fn seconds(&self) -> f64 {
        match (self.on_core, seconds_on_core()) {
            (Some(begin), Some(now)) => now - begin,
            _ => self.begin.elapsed().as_secs_f64(),
        }
    }
}

fn seconds_on_core() -> Option<f64> {
    let text = fs::read_to_string("/proc/thread-self/schedstat").ok()?;
    let nanoseconds: u64 = text.split_whitespace().next()?.parse().ok()?;
    Some(nanoseconds as f64 / 1e9)
}

/// Output frames that are handed over at once when stability is measured.
const STRIDE: usize = 4;

/// For each word that became stable before its final, and for each final's remaining words: frames since its end.
#[allow(dead_code, reason = "not every example needs all of it")]
pub(crate) fn stability(model: &Model, log_probs: &[f32], options: &TranscriberOptions) -> Vec<f64> {
    let width = model.geometry().output_dim;
    let mut transcriber = model.transcriber(options.clone());
    let (mut delays, mut known, mut finals) = (Vec::new(), 0, Vec::new());
    for frames in log_probs.chunks(STRIDE * width) {
        transcriber.accept(frames, &mut finals);
        let now = transcriber.frames_seen() as f64;
        for last in finals.drain(..) {
            delays.extend(last.words.iter().skip(known).map(|word| now - word.end as f64));
            known = 0;
        }
        if let Some(partial) = transcriber.partial() {
            let stable = partial.words.get(known..partial.stable_words).unwrap_or_default();
            delays.extend(stable.iter().map(|word| now - word.end as f64));
            known = known.max(partial.stable_words);
        }
    }
    delays
}
