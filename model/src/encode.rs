//! Features to encoder output, in files or in memory: how anyone checks an encoder against its original.
//!
//! Both modes take whole utterances. [`Mode::Whole`] runs the reference executor over the batch, with torchaudio's
//! treatment of unequal lengths; [`Mode::Streaming`] steps every item through a state cache, as the server does, in
//! batches that shrink as shorter items end.

use std::collections::BTreeMap;
use std::path::Path;

use candle_core::{DType, Device, Tensor};

use crate::architecture;
use crate::config::Config;
use crate::encoder::head::CtcHead;
use crate::encoder::{Geometry, OfflineEncoder, StateCache, StepRow, StreamingEncoder};
use crate::error::ModelError;
use crate::loader::{self, WEIGHTS_FILE, Weights};
use crate::model::CONFIG_FILE;
use crate::module;

/// Which executor encodes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// Whole utterances by the reference executor, in the weights' type.
    Whole,
    /// Segment by segment through the state cache, in `f32`. A short last segment is filled up with zero frames.
    Streaming,
}

/// What comes out of an encoder.
#[derive(Debug)]
pub struct Encoded {
    /// `(batch, output frames, dim)`. In [`Mode::Streaming`] frames past an item's length are zero.
    pub output: Tensor,
    /// `(batch, output frames, classes)`, for a model with a head.
    pub log_probs: Option<Tensor>,
    /// Output frames of each item.
    pub lengths: Vec<usize>,
}

impl Encoded {
    /// `output`, `lengths i64` and, where the model has a head, `log_probs`.
    ///
    /// # Errors
    /// [`ModelError::Tensor`].
    pub fn into_tensors(self) -> Result<BTreeMap<String, Tensor>, ModelError> {
        let lengths: Vec<i64> = self.lengths.iter().map(|&length| length as i64).collect();
        let mut tensors = BTreeMap::from([
            ("output".to_owned(), self.output),
            ("lengths".to_owned(), Tensor::new(lengths, &Device::Cpu)?),
        ]);
        tensors.extend(
            self.log_probs
                .map(|log_probs| ("log_probs".to_owned(), log_probs)),
        );
        Ok(tensors)
    }
}

/// A model directory's encoder, in both executors. Needs neither features nor tokens in the directory.
pub struct Encoder {
    geometry: Geometry,
    offline: Box<dyn OfflineEncoder>,
    streaming: Result<Box<dyn StreamingEncoder>, String>,
    head: Option<CtcHead>,
}

impl Encoder {
    /// Loads `config.json` and `model.safetensors` of a directory.
    ///
    /// # Errors
    /// [`ModelError::Read`], or [`ModelError::Invalid`] with every problem found.
    pub fn load(directory: &Path) -> Result<Self, ModelError> {
        let config = loader::read_text(&directory.join(CONFIG_FILE))?;
        Self::from_parts(&config, &loader::read_bytes(&directory.join(WEIGHTS_FILE))?)
    }

    /// As [`Encoder::load`], from the contents of the two files.
    ///
    /// # Errors
    /// [`ModelError::Invalid`] with every problem found.
    pub fn from_parts(config_json: &str, safetensors: &[u8]) -> Result<Self, ModelError> {
        let config = Config::from_json(config_json)?;
        let expected = architecture::expected_with(&config, module::classes(&config, safetensors));
        Self::new(&config, &Weights::from_safetensors(safetensors, &expected)?)
    }

    /// Builds both executors of a model.
    ///
    /// # Errors
    /// [`ModelError::Invalid`] for missing tensors, or for an architecture that is no encoder of features.
    pub fn new(config: &Config, weights: &Weights) -> Result<Self, ModelError> {
        let offline = architecture::offline_encoder(&config.encoder, weights)?;
        // The encoder's own output is wanted, of plain frames; the head is applied to it afterwards.
        let headless = Config {
            ctc: None,
            features: None,
            ..config.clone()
        };
        let streaming = match architecture::streaming_encoder(&headless, weights, &Device::Cpu) {
            Ok(encoder) => Ok(encoder),
            Err(ModelError::CannotStream { reason }) => Err(reason),
            Err(other) => return Err(other),
        };
        Ok(Self {
            geometry: offline.geometry().clone(),
            offline,
            streaming,
            head: config.ctc.as_ref().map(|_| CtcHead::new(weights)).transpose()?,
        })
    }

    /// What a step consumes and produces, without the head.
    pub fn geometry(&self) -> &Geometry {
        &self.geometry
    }

    /// Encodes `features (batch, frames + look-ahead, features)`, where the look-ahead is
    /// [`Geometry::lookahead_frames`]; `lengths` do not count it.
    ///
    /// # Errors
    /// [`ModelError::Input`] for shapes that do not fit, [`ModelError::CannotStream`] for a mode that the model lacks.
    pub fn encode(&self, features: &Tensor, lengths: &[usize], mode: Mode) -> Result<Encoded, ModelError> {
        let geometry = &self.geometry;
        let (batch, frames, width) = features
            .dims3()
            .map_err(|_| ModelError::input("features", "3 dimensions", features.rank()))?;
        if width != geometry.num_features {
            return Err(ModelError::input(
                "features",
                format!("frames of {} values", geometry.num_features),
                width,
            ));
        }
        let Some(frames) = frames
            .checked_sub(geometry.lookahead_frames)
            .filter(|&frames| frames > 0)
        else {
            let expected = format!("more than {} frames, the look-ahead", geometry.lookahead_frames);
            return Err(ModelError::input("features", expected, frames));
        };
        if lengths.len() != batch {
            return Err(ModelError::input(
                "lengths",
                format!("{batch} values"),
                lengths.len(),
            ));
        }
        if let Some(length) = lengths.iter().find(|&length| !(1..=frames).contains(length)) {
            return Err(ModelError::input(
                "lengths",
                format!("1 to {frames} frames, the look-ahead not counted"),
                length,
            ));
        }
        let (output, lengths) = match mode {
            Mode::Whole => self.offline.forward(features, lengths)?,
            Mode::Streaming => self.stream(features, frames, lengths)?,
        };
        let log_probs = match &self.head {
            Some(head) => Some(head.log_probs(&output)?),
            None => None,
        };
        Ok(Encoded {
            output,
            log_probs,
            lengths,
        })
    }

    fn stream(
        &self,
        features: &Tensor,
        frames: usize,
        lengths: &[usize],
    ) -> Result<(Tensor, Vec<usize>), ModelError> {
        let encoder = self
            .streaming
            .as_ref()
            .map_err(|reason| ModelError::CannotStream {
                reason: reason.clone(),
            })?;
        let geometry = encoder.geometry();
        let width = geometry.num_features;
        let features: Vec<Vec<f32>> = features
            .to_dtype(DType::F32)?
            .flatten_from(1)?
            .to_vec2()?
            .into_iter()
            .zip(lengths)
            .map(|(mut item, length)| {
                let num_steps = length.div_ceil(geometry.segment_frames);
                item.truncate((length + geometry.lookahead_frames) * width);
                item.resize(
                    (num_steps * geometry.segment_frames + geometry.lookahead_frames) * width,
                    0.0,
                );
                item
            })
            .collect();
        let output_frames = frames.div_ceil(geometry.subsampling);
        let output_len = output_frames * geometry.output_dim;
        let mut outputs = vec![0.0f32; lengths.len() * output_len];
        let mut states: Vec<StateCache> = lengths.iter().map(|_| encoder.new_state()).collect();
        let mut results: Vec<Vec<f32>> = vec![Vec::new(); lengths.len()];
        for step in 0..frames.div_ceil(geometry.segment_frames) {
            let begin = if step == 0 {
                0
            } else {
                step * geometry.segment_frames + geometry.lookahead_frames
            };
            let needed = geometry.frames_needed(step as u64);
            let mut rows: Vec<StepRow<'_>> = Vec::new();
            for (item, (state, output)) in states.iter_mut().zip(&mut results).enumerate() {
                output.clear();
                if step * geometry.segment_frames < lengths[item] {
                    let features = &features[item][begin * width..][..needed * width];
                    rows.push(StepRow {
                        state,
                        features,
                        output,
                    });
                }
            }
            encoder.step(&mut rows)?;
            for ((result, length), output) in results
                .iter()
                .zip(lengths)
                .zip(outputs.chunks_exact_mut(output_len))
            {
                let at = step * geometry.output_frames() * geometry.output_dim;
                let valid = length.div_ceil(geometry.subsampling) * geometry.output_dim;
                let count = result.len().min(valid.saturating_sub(at));
                output[at.min(output_len)..][..count].copy_from_slice(&result[..count]);
            }
        }
        let output = Tensor::from_vec(
            outputs,
            (lengths.len(), output_frames, geometry.output_dim),
            &Device::Cpu,
        )?;
        let lengths = lengths
            .iter()
            .map(|length| length.div_ceil(geometry.subsampling))
            .collect();
        Ok((output, lengths))
    }
}

/// Encodes one safetensors file into another with the model of a directory: `features` and `lengths i64` in, `output`,
/// `lengths i64` and, where the model has a head, `log_probs` out.
///
/// # Errors
/// [`ModelError::Read`] and [`ModelError::Invalid`] for the directory, [`ModelError::Input`] for tensors that are missing
/// or do not fit, [`ModelError::Tensor`] for a file that cannot be read or written.
pub fn encode_file(directory: &Path, features: &Path, mode: Mode, output: &Path) -> Result<(), ModelError> {
    let encoder = Encoder::load(directory)?;
    let tensors = candle_core::safetensors::load(features, &Device::Cpu)?
        .into_iter()
        .collect();
    let lengths = module::lengths(&tensors, "lengths")?;
    let encoded = encoder.encode(module::tensor(&tensors, "features")?, &lengths, mode)?;
    let tensors = encoded.into_tensors()?;
    Ok(candle_core::safetensors::save(
        &tensors.into_iter().collect(),
        output,
    )?)
}
