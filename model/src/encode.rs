//! Features to encoder output, in files or in memory: how anyone checks an encoder against its original.
//!
//! Both modes take whole utterances. [`Mode::Whole`] runs the reference executor over the batch, with torchaudio's
//! treatment of unequal lengths; [`Mode::Streaming`] steps every item through a state cache, as the server does, in
//! batches that shrink as shorter items end.

use std::collections::HashMap;
use std::path::Path;

use candle_core::{DType, Device, Tensor};

use crate::config::Config;
use crate::encoder::emformer::{self, Emformer, Reference};
use crate::encoder::{Geometry, StateCache, StepRow, StreamingEncoder};
use crate::error::ModelError;
use crate::loader::{self, WEIGHTS_FILE, Weights};
use crate::model::CONFIG_FILE;

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

/// A model directory's encoder, in both executors. Needs neither features nor tokens in the directory.
pub struct Encoder {
    geometry: Geometry,
    reference: Reference,
    streaming: Emformer,
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
        let mut config = Config::from_json(config_json)?;
        let classes = config
            .ctc
            .as_ref()
            .and_then(|_| Weights::shape_of(safetensors, "head.weight")?.first().copied());
        let weights = Weights::from_safetensors(safetensors, &emformer::expected_tensors(&config, classes))?;
        let reference = Reference::new(&config, &weights, &Device::Cpu)?;
        // The encoder's own output is wanted; the head is applied to it afterwards.
        config.ctc = None;
        let streaming = Emformer::new(&config, &weights)?;
        Ok(Self {
            geometry: streaming.geometry().clone(),
            reference,
            streaming,
        })
    }

    /// What a step consumes and produces, without the head.
    pub fn geometry(&self) -> &Geometry {
        &self.geometry
    }

    /// Encodes `features (batch, frames + look-ahead, features)`, where the look-ahead is
    /// [`Geometry::lookahead_frames`]; `lengths` do not count it. A stem that halves the frame rate rounds up.
    ///
    /// # Errors
    /// [`ModelError::Input`] for shapes that do not fit.
    pub fn encode(&self, features: &Tensor, lengths: &[usize], mode: Mode) -> Result<Encoded, ModelError> {
        let geometry = &self.geometry;
        let (batch, frames, width) = features
            .dims3()
            .map_err(|_| input("features", "3 dimensions", features.rank()))?;
        if width != geometry.num_features {
            return Err(input(
                "features",
                &format!("frames of {} values", geometry.num_features),
                width,
            ));
        }
        let Some(frames) = frames
            .checked_sub(geometry.lookahead_frames)
            .filter(|&frames| frames > 0)
        else {
            let expected = format!("more than {} frames, the look-ahead", geometry.lookahead_frames);
            return Err(input("features", &expected, frames));
        };
        if lengths.len() != batch {
            return Err(input("lengths", &format!("{batch} values"), lengths.len()));
        }
        if let Some(length) = lengths.iter().find(|&&length| length > frames) {
            return Err(input("lengths", &format!("at most {frames} frames"), length));
        }
        let output_lengths: Vec<usize> = lengths
            .iter()
            .map(|length| length.div_ceil(geometry.subsampling))
            .collect();
        let output = match mode {
            Mode::Whole => {
                let features = features.to_dtype(self.reference.dtype())?;
                let missing = frames.next_multiple_of(geometry.subsampling) - frames;
                let features = features.pad_with_zeros(1, 0, missing)?;
                self.reference
                    .forward(&self.reference.embed(&features)?, &output_lengths)?
            }
            Mode::Streaming => self.stream(features, frames, lengths)?,
        };
        let log_probs = self
            .reference
            .log_probs(&output.to_dtype(self.reference.dtype())?)?;
        Ok(Encoded {
            output,
            log_probs,
            lengths: output_lengths,
        })
    }

    fn stream(&self, features: &Tensor, frames: usize, lengths: &[usize]) -> Result<Tensor, ModelError> {
        let geometry = &self.geometry;
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
        let mut states: Vec<StateCache> = lengths.iter().map(|_| self.streaming.new_state()).collect();
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
            self.streaming.step(&mut rows)?;
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
        Ok(Tensor::from_vec(
            outputs,
            (lengths.len(), output_frames, geometry.output_dim),
            &Device::Cpu,
        )?)
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
    let tensors = candle_core::safetensors::load(features, &Device::Cpu)?;
    let tensor = |name: &'static str| {
        tensors
            .get(name)
            .ok_or_else(|| input(name, "a tensor of that name", "none"))
    };
    let lengths = tensor("lengths")?;
    if lengths.rank() != 1 {
        return Err(input("lengths", "1 dimension", lengths.rank()));
    }
    let lengths: Vec<i64> = lengths.to_dtype(DType::I64)?.to_vec1()?;
    let lengths: Vec<usize> = lengths
        .into_iter()
        .map(|length| usize::try_from(length).map_err(|_| input("lengths", "no negative value", length)))
        .collect::<Result<_, _>>()?;
    let encoded = encoder.encode(tensor("features")?, &lengths, mode)?;
    let lengths: Vec<i64> = encoded.lengths.iter().map(|&length| length as i64).collect();
    let mut tensors = HashMap::from([
        ("output", encoded.output),
        ("lengths", Tensor::new(lengths, &Device::Cpu)?),
    ]);
    tensors.extend(encoded.log_probs.map(|log_probs| ("log_probs", log_probs)));
    Ok(candle_core::safetensors::save(&tensors, output)?)
}

fn input(name: &'static str, expected: &str, actual: impl ToString) -> ModelError {
    ModelError::Input {
        name,
        expected: expected.to_owned(),
        actual: actual.to_string(),
    }
}
