//! A voice-activity model on named tensors.

use std::collections::BTreeMap;

use candle_core::{DType, Device, Tensor};

use crate::architecture;
use crate::config::Config;
use crate::encoder::Module;
use crate::error::ModelError;
use crate::loader::Weights;
use crate::module::tensor;

use super::{SpeechDetector, SpeechEvent, VadConfig, VadModel};

/// Takes `samples (samples) f32` in ±1 at the model's rate, or at `sample_rate (1) i64`, and gives `segments (segments, 2) i64`: where
/// speech begins and ends, in milliseconds.
///
/// Takes also what its network takes, `input (batch, frames, features)`, and gives what that gives; for a batch of one with
/// `segments`.
pub struct VadModule {
    network: Box<dyn Module>,
    config: VadConfig,
    /// Without `features` in the configuration there is only the network.
    model: Option<VadModel>,
}

impl VadModule {
    /// Puts the decision of a configuration with `vad` behind its network.
    ///
    /// # Errors
    /// [`ModelError::Invalid`] for settings that make no sense.
    pub fn new(
        network: Box<dyn Module>,
        decision: &VadConfig,
        config: &Config,
        weights: &Weights,
    ) -> Result<Self, ModelError> {
        let has_sound = config.features.is_some()
            && config.ctc.is_none()
            && architecture::cannot_stream(&config.encoder).is_none();
        Ok(Self {
            network,
            config: decision.clone(),
            model: has_sound.then(|| VadModel::new(config, weights)).transpose()?,
        })
    }

    fn hear(
        &self,
        samples: &Tensor,
        inputs: &BTreeMap<String, Tensor>,
    ) -> Result<Vec<SpeechEvent>, ModelError> {
        let Some(model) = &self.model else {
            return Err(ModelError::input(
                "samples",
                "a causal model whose config.json has `features` and no `ctc`",
                "another",
            ));
        };
        if samples.rank() != 1 {
            return Err(ModelError::input("samples", "1 dimension", samples.rank()));
        }
        let rate = match inputs.contains_key("sample_rate") {
            true => {
                let rate = tensor(inputs, "sample_rate")?.flatten_all()?;
                let rate: Vec<i64> = rate.to_dtype(DType::I64)?.to_vec1()?;
                let rate = rate.first().copied().unwrap_or(0);
                u32::try_from(rate).map_err(|_| ModelError::input("sample_rate", "a rate in Hz", rate))?
            }
            false => model.sample_rate_hz(),
        };
        let samples: Vec<f32> = samples.to_dtype(DType::F32)?.to_vec1()?;
        let mut stream = model.stream(rate, None)?;
        let mut events = Vec::new();
        stream.push(&samples, &mut events)?;
        stream.finish(&mut events)?;
        Ok(events)
    }

    /// Of probabilities `(frames, classes)`.
    fn decide(&self, posteriors: &Tensor) -> Result<Vec<SpeechEvent>, ModelError> {
        let frames: Vec<Vec<f32>> = posteriors.to_dtype(DType::F32)?.to_vec2()?;
        let mut detector = SpeechDetector::new(self.config.clone());
        let mut events = Vec::new();
        if let Some((last, frames)) = frames.split_last() {
            for posteriors in frames {
                detector.push(posteriors, &mut events);
            }
            detector.push_last(last, &mut events);
        }
        Ok(events)
    }
}

impl Module for VadModule {
    fn run(&self, inputs: &BTreeMap<String, Tensor>) -> Result<BTreeMap<String, Tensor>, ModelError> {
        if let Some(samples) = inputs.get("samples") {
            let segments = segments(&self.hear(samples, inputs)?)?;
            return Ok(BTreeMap::from([("segments".to_owned(), segments)]));
        }
        let mut outputs = self.network.run(inputs)?;
        if let Some(output) = outputs
            .get("output")
            .filter(|output| output.dim(0).ok() == Some(1))
        {
            let segments = segments(&self.decide(&output.squeeze(0)?)?)?;
            outputs.insert("segments".to_owned(), segments);
        }
        Ok(outputs)
    }
}

/// Every beginning with its end, `(segments, 2) i64`.
fn segments(events: &[SpeechEvent]) -> Result<Tensor, ModelError> {
    let mut times: Vec<i64> = Vec::new();
    for event in events {
        let (SpeechEvent::Start(time) | SpeechEvent::End(time)) = event;
        times.push(i64::try_from(*time).unwrap_or(i64::MAX));
    }
    // The end of the sound ends an open segment.
    let count = times.len() / 2;
    times.truncate(2 * count);
    Ok(Tensor::from_vec(times, (count, 2), &Device::Cpu)?)
}
