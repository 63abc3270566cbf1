//! Audio files with what is said in them, and what a model hears: shared by the examples.

use std::error::Error;
use std::fs::{self, File};
use std::path::Path;

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
    /// All clips of a directory's `text.tsv`: a file name, a tab, and what is said in it.
    #[allow(dead_code, reason = "not every example needs all of it")]
    pub(crate) fn read_all(directory: &Path) -> Result<Vec<Self>, Box<dyn Error>> {
        let manifest = fs::read_to_string(directory.join("text.tsv"))?;
        manifest
            .lines()
            .filter(|line| !line.is_empty())
            .map(|line| {
                let (file, reference) = line
                    .split_once('\t')
                    .ok_or_else(|| format!("text.tsv: no tab in `{line}`"))?;
                Self::read(&directory.join(file), reference)
                    .map_err(|error| format!("{file}: {error}").into())
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

/// Output frames that are handed over at once when stability is measured.
const STRIDE: usize = 4;

/// For each word that became stable before its final, and for each final's remaining words: frames since its end.
#[allow(dead_code, reason = "not every example needs all of it")]
pub(crate) fn stability(model: &Model, log_probs: &[f32], options: &TranscriberOptions) -> Vec<f64> {
    let classes = model.tokens().len();
    let mut transcriber = model.transcriber(options.clone());
    let (mut delays, mut known, mut finals) = (Vec::new(), 0, Vec::new());
    for frames in log_probs.chunks(STRIDE * classes) {
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
