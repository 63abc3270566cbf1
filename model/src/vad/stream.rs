//! Sound in, beginnings and ends of speech out.

use std::path::Path;

use candle_core::Device;
use waxwing_frontend::features::FeatureConfig;
use waxwing_frontend::{Frontend, FrontendConfig};

use crate::architecture;
use crate::config::Config;
use crate::encoder::{StateCache, StepRow, StreamingEncoder};
use crate::error::ModelError;
use crate::loader::{self, WEIGHTS_FILE, Weights};
use crate::model::CONFIG_FILE;

use super::{SpeechDetector, SpeechEvent, VadConfig};

/// A voice-activity model: weights and settings, shared by all streams.
pub struct VadModel {
    encoder: Box<dyn StreamingEncoder>,
    features: FeatureConfig,
    sample_rate_hz: u32,
    config: VadConfig,
}

impl VadModel {
    /// Loads `config.json` and `model.safetensors` of a directory.
    ///
    /// # Errors
    /// [`ModelError::Read`], or [`ModelError::Invalid`] with every problem found.
    pub fn load(directory: &Path) -> Result<Self, ModelError> {
        let config = loader::read_text(&directory.join(CONFIG_FILE))?;
        Self::from_parts(&config, &loader::read_bytes(&directory.join(WEIGHTS_FILE))?)
    }

    /// As [`VadModel::load`], from the contents of the two files.
    ///
    /// # Errors
    /// [`ModelError::Invalid`] with every problem found.
    pub fn from_parts(config_json: &str, safetensors: &[u8]) -> Result<Self, ModelError> {
        let config = Config::from_json(config_json)?;
        let expected = architecture::encoder_tensors(&config.encoder);
        Self::new(&config, &Weights::from_safetensors(safetensors, &expected)?)
    }

    /// Builds it of a configuration and its weights.
    ///
    /// # Errors
    /// [`ModelError::Invalid`] with every problem found.
    pub fn new(config: &Config, weights: &Weights) -> Result<Self, ModelError> {
        let mut problems = Vec::new();
        let mut require = |holds: bool, problem: String| {
            if !holds {
                problems.push(format!("{CONFIG_FILE}: {problem}"));
            }
        };
        require(
            config.ctc.is_none(),
            "ctc: a voice-activity model has no CTC head".into(),
        );
        require(
            config.vad.is_some(),
            "vad: missing, a voice-activity model needs it".into(),
        );
        require(
            config.features.is_some(),
            "features: missing, a voice-activity model needs them".into(),
        );
        if let (Some(features), Some(geometry)) = (&config.features, architecture::geometry(&config.encoder))
        {
            require(
                features.num_features() == geometry.num_features,
                format!(
                    "encoder.input_dim: expected {} (the size of a feature frame), found {}",
                    features.num_features(),
                    geometry.num_features
                ),
            );
            if let Err(error) = features.extractor(config.sample_rate) {
                require(false, format!("features: {error}"));
            }
        }
        let (Some(vad), Some(features), true) =
            (config.vad.clone(), config.features.clone(), problems.is_empty())
        else {
            return Err(ModelError::Invalid { problems });
        };
        Ok(Self {
            encoder: architecture::streaming_encoder(config, weights, &Device::Cpu)?,
            features,
            sample_rate_hz: config.sample_rate,
            config: vad,
        })
    }

    /// Rate that its features are made at.
    pub fn sample_rate_hz(&self) -> u32 {
        self.sample_rate_hz
    }

    /// How it decides.
    pub fn config(&self) -> &VadConfig {
        &self.config
    }

    /// The encoder, whose outputs are class probabilities.
    pub fn encoder(&self) -> &dyn StreamingEncoder {
        self.encoder.as_ref()
    }

    /// How sound becomes its features.
    pub fn features(&self) -> &FeatureConfig {
        &self.features
    }

    /// Begins a stream of sound at `input_rate_hz`, with other settings of the decision than the model's where given.
    ///
    /// # Errors
    /// [`ModelError::Input`] for a rate or for settings that cannot be taken.
    pub fn stream(&self, input_rate_hz: u32, config: Option<VadConfig>) -> Result<VadStream<'_>, ModelError> {
        let config = config.unwrap_or_else(|| self.config.clone());
        let mut first = None;
        config.problems(self.encoder.geometry().output_dim, &mut |holds, problem| {
            if !holds && first.is_none() {
                first = Some(problem);
            }
        });
        if let Some(problem) = first {
            return Err(ModelError::input("vad", "usable settings", problem));
        }
        let frontend = Frontend::new(FrontendConfig {
            input_rate_hz,
            model_rate_hz: self.sample_rate_hz,
            features: self.features.clone(),
        })
        .map_err(|error| ModelError::input("vad", "usable sound", error))?;
        Ok(VadStream {
            model: self,
            frontend,
            features: Vec::new(),
            state: self.encoder.new_state(),
            output: Vec::new(),
            detector: SpeechDetector::new(config),
        })
    }
}

/// One stream of sound. How it is cut into pushes does not matter.
pub struct VadStream<'a> {
    model: &'a VadModel,
    frontend: Frontend,
    /// Frames that wait for a whole step; less than a segment and the look-ahead between calls.
    features: Vec<f32>,
    state: StateCache,
    output: Vec<f32>,
    detector: SpeechDetector,
}

impl VadStream<'_> {
    /// Takes mono samples and appends what they decide to `events`.
    ///
    /// # Errors
    /// As [`StreamingEncoder::step`].
    pub fn push(&mut self, samples: &[f32], events: &mut Vec<SpeechEvent>) -> Result<(), ModelError> {
        self.frontend.push(samples, &mut self.features);
        self.step(None, events)
    }

    /// Brings every sample through the delays by silence, ends an open segment with the last frame, and is as new.
    ///
    /// # Errors
    /// As [`StreamingEncoder::step`].
    pub fn finish(&mut self, events: &mut Vec<SpeechEvent>) -> Result<(), ModelError> {
        let frames = self.whole_frames();
        let geometry = self.model.encoder.geometry();
        let steps = frames.div_ceil(geometry.segment_frames as u64);
        let needed = steps * geometry.segment_frames as u64 + geometry.lookahead_frames as u64;
        let missing = needed.saturating_sub(self.frontend.frames_emitted());
        let silence = self.frontend.samples_needed_for(missing);
        self.frontend.push_silence(silence, &mut self.features);
        self.step(Some(frames), events)?;
        self.frontend.reset();
        self.features.clear();
        self.model.encoder.reset(&mut self.state);
        self.detector.reset();
        Ok(())
    }

    /// Whether speech has begun and not ended.
    pub fn is_speaking(&self) -> bool {
        self.detector.is_speaking()
    }

    /// Frames that lie wholly in the samples so far: what the original counts.
    fn whole_frames(&self) -> u64 {
        let FeatureConfig::KaldiFbank(bank) = &self.model.features else {
            return self.frontend.frames_emitted();
        };
        let rate = self.model.sample_rate_hz;
        let samples = self.frontend.samples_received() as f64 * f64::from(rate)
            / f64::from(self.frontend.config().input_rate_hz);
        let length = f64::from(rate) * f64::from(bank.frame_length_ms) / 1_000.0;
        if samples < length {
            return 0;
        }
        1 + ((samples - length) / bank.frame_shift_samples(rate) as f64) as u64
    }

    /// Runs every step that the features allow; `last` is the number of frames that the stream has, once that is known.
    fn step(&mut self, last: Option<u64>, events: &mut Vec<SpeechEvent>) -> Result<(), ModelError> {
        let encoder = &self.model.encoder;
        let geometry = encoder.geometry();
        let mut begin = 0;
        loop {
            let needed = geometry.frames_needed(self.state.steps) * geometry.num_features;
            let Some(features) = self.features.get(begin..begin + needed) else {
                break;
            };
            begin += needed;
            encoder.step(&mut [StepRow {
                state: &mut self.state,
                features,
                output: &mut self.output,
            }])?;
            for posteriors in self.output.chunks_exact(geometry.output_dim) {
                match last {
                    Some(last) if self.detector.frames() >= last => {}
                    Some(last) if self.detector.frames() + 1 == last => {
                        self.detector.push_last(posteriors, events);
                    }
                    _ => self.detector.push(posteriors, events),
                }
            }
        }
        self.features.drain(..begin);
        Ok(())
    }
}
