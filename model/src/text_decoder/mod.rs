//! Whisper's text decoder over an encoder's frames: scores texts of a finished utterance, and finds its own.
//!
//! A pre-norm Transformer decoder with cross-attention (Radford et al. 2022, section 2.2; `TextDecoder` in `whisper/model.py`
//! of openai-whisper, MIT), with its encoder's last norm in front and a vocabulary of its own. It sees an utterance
//! whole, so it stands behind a recogniser that streams, as the second pass over what that one has heard.
//!
//! What is read of the frames, [`Memory`], can grow while they come. Texts are read as one tree: what several of them, or
//! several hypotheses of a search, have in common is computed once, and no keys or values are ever copied from one to
//! another. The rows of a product are all texts' tokens, and each row is the same to the bit in any company.

mod config;
mod layers;
mod score;
mod search;
mod vocabulary;

use std::sync::Arc;

use crate::encoder::kernels::{Linear, Norm};
use crate::encoder::scratch::ScratchPool;
use crate::error::ModelError;
use crate::loader::{WEIGHTS_FILE, Weights};
use crate::pauses::pause;
use crate::precision::Precision;
use crate::transformer::{Heads, Parts};

use config::name;
use layers::{Layer, Scratch};

pub use config::{TextDecoderConfig, expected_tensors};
pub use search::MOST_BEAM_WIDTH;
pub use vocabulary::{
    SPECIAL_NAMES, TextVocabulary, TextVocabularyError, TextVocabularyProblem, VOCABULARY_FILE,
};

/// Rows that pass through the layers together, so that they stay in the cache.
const GROUP_ROWS: usize = 160;

/// A text decoder: weights only, shared by all threads.
pub struct TextDecoder {
    config: TextDecoderConfig,
    dim: usize,
    vocabulary: Arc<TextVocabulary>,
    input_norm: Norm,
    layers: Vec<Layer>,
    norm: Norm,
    /// `(classes, dim)`.
    embedding: Vec<f32>,
    /// `(max_tokens, dim)`.
    positions: Vec<f32>,
    /// The embedding again, as the layer that gives the classes.
    classes: Linear,
    heads: Heads,
    scratch: ScratchPool<Scratch>,
}

/// An utterance as the decoder sees it: keys and values of its frames for the cross-attention of every layer.
#[derive(Debug, Clone, Default)]
pub struct Memory {
    frames: usize,
    /// For each layer `(frames, 2 · dim)`: keys and values side by side.
    layers: Vec<Vec<f32>>,
}

impl Memory {
    /// Frames that it holds.
    pub fn frames(&self) -> usize {
        self.frames
    }
}

impl TextDecoder {
    /// Builds a decoder for frames of `dim` values from the tensors of [`expected_tensors`]. All its products with weights
    /// are computed as `precision` says.
    ///
    /// # Errors
    /// [`ModelError::Invalid`] for sizes that contradict each other, and naming every tensor that is missing or of another
    /// shape.
    pub fn new(
        config: &TextDecoderConfig,
        dim: usize,
        vocabulary: Arc<TextVocabulary>,
        weights: &Weights,
        precision: Precision,
    ) -> Result<Self, ModelError> {
        check(config, dim, vocabulary.len(), weights)?;
        let norm = |of: &str| norm(weights, of);
        let embedding = weights.values(&name("embedding.weight"))?;
        let heads = Heads::new(dim, config.num_heads);
        let layers = (0..config.num_layers).map(|index| {
            let parts = Parts {
                weights,
                prefix: name(&format!("layers.{index}.")),
                is_emformer: false,
                precision,
            };
            Layer::new(&heads, dim, &parts)
        });
        Ok(Self {
            layers: layers.collect::<Result<_, _>>()?,
            input_norm: norm("input_norm")?,
            norm: norm("norm")?,
            classes: Linear::with_precision(&embedding, vec![0.0; vocabulary.len()], dim, precision),
            embedding,
            positions: weights.values(&name("positions"))?,
            config: config.clone(),
            dim,
            vocabulary,
            heads,
            scratch: ScratchPool::default(),
        })
    }

    /// Its sizes.
    pub fn config(&self) -> &TextDecoderConfig {
        &self.config
    }

    /// What its ids spell.
    pub fn vocabulary(&self) -> &Arc<TextVocabulary> {
        &self.vocabulary
    }

    /// Reads an utterance: `encoded (frames, dim) f32`, what the encoder gave for it, before any head. Values behind the
    /// last whole frame are not read.
    pub fn memory(&self, encoded: &[f32]) -> Memory {
        let mut memory = Memory::default();
        self.extend(&mut memory, encoded);
        memory
    }

    /// Reads further frames of an utterance; as [`memory`](Self::memory) of all its frames at once, to the bit, in whatever
    /// pieces they come. A memory that another decoder has begun, of other sizes, stays as it is.
    pub fn extend(&self, memory: &mut Memory, encoded: &[f32]) {
        let width = 2 * self.dim;
        if memory.frames == 0 {
            memory.layers.resize_with(self.layers.len(), Vec::new);
        } else if self.frames_of(memory) == 0 {
            return;
        }
        self.scratch.with(|scratch| {
            for group in encoded.chunks(GROUP_ROWS * self.dim) {
                pause();
                let rows = group.len() / self.dim;
                let normed = &mut scratch.normed;
                normed.resize(rows * self.dim, 0.0);
                self.input_norm.apply(&group[..rows * self.dim], normed);
                for (layer, held) in self.layers.iter().zip(&mut memory.layers) {
                    let begin = memory.frames * width;
                    held.resize(begin + rows * width, 0.0);
                    layer.remember(rows, normed, &mut held[begin..]);
                }
                memory.frames += rows;
            }
        });
    }

    /// Multiply-adds that a frame costs in [`memory`](Self::memory).
    pub fn products_per_frame(&self) -> u64 {
        self.layers.iter().map(Layer::products_per_frame).sum()
    }

    /// Multiply-adds that a token costs in [`score`](Self::score) and [`search`](Self::search) over a memory of so many
    /// frames, the choice among the classes included. Tokens of a search are those of all its hypotheses; what texts begin
    /// with in common costs once. Attention to the text itself, little for texts of ordinary length, is not counted.
    pub fn products_per_token(&self, frames: usize) -> u64 {
        let attention = 2 * (frames as u64) * (self.dim as u64);
        let layers = self
            .layers
            .iter()
            .map(|layer| layer.products_per_token() + attention);
        layers.sum::<u64>() + self.classes.products() as u64
    }

    /// Bytes of a memory of so many frames.
    pub fn memory_bytes(&self, frames: usize) -> usize {
        let each = self.layers.len() * 2 * self.dim * size_of::<f32>();
        frames.saturating_mul(each)
    }

    /// Frames that can be read; none of a memory that is another decoder's.
    fn frames_of(&self, memory: &Memory) -> usize {
        let len = memory.frames * 2 * self.dim;
        let fits =
            memory.layers.len() == self.layers.len() && memory.layers.iter().all(|held| held.len() == len);
        if fits { memory.frames } else { 0 }
    }
}

/// A norm by its name within the decoder.
fn norm(weights: &Weights, of: &str) -> Result<Norm, ModelError> {
    Ok(Norm::new(
        weights.values(&name(&format!("{of}.weight")))?,
        weights.values(&name(&format!("{of}.bias")))?,
    ))
}

/// Nothing that follows looks at a shape again.
fn check(
    config: &TextDecoderConfig,
    dim: usize,
    classes: usize,
    weights: &Weights,
) -> Result<(), ModelError> {
    let mut problems = Vec::new();
    config.problems(dim, &mut |holds, problem| {
        if !holds {
            problems.push(format!("config.json: {problem}"));
        }
    });
    if problems.is_empty() {
        for (name, shape) in expected_tensors(dim, classes, config) {
            match weights.tensor(&name) {
                Ok(tensor) if tensor.dims() == shape => {}
                Ok(tensor) => problems.push(format!(
                    "{WEIGHTS_FILE}: {name}: expected shape {shape:?}, found {:?}",
                    tensor.dims()
                )),
                Err(_) => problems.push(format!(
                    "{WEIGHTS_FILE}: {name}: missing, expected shape {shape:?}"
                )),
            }
        }
    }
    if problems.is_empty() {
        Ok(())
    } else {
        Err(ModelError::Invalid { problems })
    }
}
