//! Audio files with what is said in them, and what a model hears: shared by the examples.

use std::error::Error;
use std::fs::{self, File};
use std::path::Path;

use waxwing_frontend::container::{AudioFile, DecodeLimits};
use waxwing_frontend::pcm::ChannelSelection;
use waxwing_frontend::{Frontend, FrontendConfig};
use waxwing_model::encoder::StepRow;
use waxwing_model::model::Model;

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
