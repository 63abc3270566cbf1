//! Whisper's audio encoder over one utterance: all its frames at once, each of which sees all others.
//!
//! Two convolutions, sinusoidal positions, pre-norm Transformer layers (Radford et al. 2022, section 2.2; `AudioEncoder` in `whisper/model.py` of
//! openai-whisper, MIT), but for the last norm, which belongs to the [text decoder](crate::text_decoder) behind it. The original always
//! reads 30 s, most of them silence. This one reads what was said and half a second of silence, which its decoder was trained to understand: it costs what is said.
//!
//! Its features are those of the streaming front end, so nothing is computed twice; what lies more than eight decades below the utterance's
//! loudest value is raised to that, as Whisper's own features are.

mod config;

use crate::config::Activation;
use crate::encoder::emformer::sinusoids;
use crate::encoder::kernels::{Linear, Matrix, activate, product, softmax_rows};
use crate::encoder::scratch::ScratchPool;
use crate::error::ModelError;
use crate::loader::{WEIGHTS_FILE, Weights};
use crate::pauses::pause;
use crate::precision::Precision;
use crate::transformer::{FeedForward, Heads, Parts, SelfAttention};

use config::{layer, name};

pub use config::{UtteranceEncoderConfig, expected_tensors};

/// Feature frames for one output frame.
pub const SUBSAMPLING: usize = 2;

/// Silence behind the utterance, in output frames: half a second.
pub const PADDING_FRAMES: usize = 25;

/// Feature frames that a convolution sees.
const TAPS: usize = 3;

/// Features are `(log10(power) + 4) / 4`: eight decades.
const RANGE: f32 = 2.0;

/// Queries that attend together: their scores stay in the cache.
const GROUP_ROWS: usize = 96;

struct Layer {
    attention: SelfAttention,
    ffn: FeedForward,
}

/// An encoder of whole utterances: weights only, shared by all threads.
pub struct UtteranceEncoder {
    config: UtteranceEncoderConfig,
    num_features: usize,
    /// The feature of no power at all.
    silence: f32,
    conv1: Linear,
    conv2: Linear,
    /// `(max_frames, dim)`.
    positions: Vec<f32>,
    layers: Vec<Layer>,
    scratch: ScratchPool<Scratch>,
}

/// Buffers of a call, kept for later ones.
#[derive(Default)]
struct Scratch {
    /// Frames of the utterance and of the silence around it.
    frames: Vec<f32>,
    taps: Vec<f32>,
    hidden: Vec<f32>,
    normed: Vec<f32>,
    projected: Vec<f32>,
    scores: Vec<f32>,
    attended: Vec<f32>,
}

impl UtteranceEncoder {
    /// Builds an encoder over frames of `num_features` log-mel values, of which `silence` is the lowest there is, from the tensors of
    /// [`expected_tensors`] and the shared ones. Products with the layers' weights are computed as `precision` says, the convolutions in `f32`.
    ///
    /// # Errors
    /// [`ModelError::Invalid`] for sizes that contradict each other, and for tensors that are missing.
    pub fn new(
        config: &UtteranceEncoderConfig,
        num_features: usize,
        silence: f32,
        weights: &Weights,
        precision: Precision,
    ) -> Result<Self, ModelError> {
        let mut problems = Vec::new();
        config.problems(&mut |holds, problem| {
            if !holds {
                problems.push(format!("config.json: {problem}"));
            }
        });
        for (name, shape) in expected_tensors(num_features, config) {
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
        if !problems.is_empty() {
            return Err(ModelError::Invalid { problems });
        }
        let dim = config.dim;
        let is_shared = config.shared_layers > 0;
        let stem = if is_shared { "stem.".into() } else { name("") };
        let convolution = |of: &str, inputs: usize| -> Result<Linear, ModelError> {
            // (outputs, inputs, taps) → (outputs, taps · inputs): three frames side by side are one row.
            let weight = weights.tensor(&format!("{stem}{of}.weight"))?;
            let weight: Vec<f32> = weight
                .transpose(1, 2)?
                .contiguous()?
                .to_dtype(candle_core::DType::F32)?
                .flatten_all()?
                .to_vec1()?;
            let bias = weights.values(&format!("{stem}{of}.bias"))?;
            Ok(Linear::new(&weight, bias, TAPS * inputs))
        };
        let heads = Heads::new(dim, config.num_heads);
        let layers = (0..config.num_layers).map(|index| {
            let is_shared = index < config.shared_layers;
            let parts = Parts {
                weights,
                prefix: if is_shared {
                    format!("emformer_layers.{index}.")
                } else {
                    layer(index)
                },
                is_emformer: is_shared,
                precision,
            };
            Ok(Layer {
                attention: SelfAttention::new(&parts, &heads)?,
                ffn: FeedForward::new(&parts, dim)?,
            })
        });
        Ok(Self {
            conv1: convolution("conv1", num_features)?,
            conv2: convolution("conv2", dim)?,
            positions: sinusoids(config.max_frames, dim)
                .into_iter()
                .map(|value| value as f32)
                .collect(),
            layers: layers.collect::<Result<_, ModelError>>()?,
            config: config.clone(),
            num_features,
            silence,
            scratch: ScratchPool::default(),
        })
    }

    /// Its sizes.
    pub fn config(&self) -> &UtteranceEncoderConfig {
        &self.config
    }

    /// Values of the features that one output frame advances by.
    pub fn values_per_frame(&self) -> usize {
        SUBSAMPLING * self.num_features
    }

    /// Multiply-adds of an utterance of so many output frames.
    pub fn products(&self, frames: usize) -> u64 {
        let frames = (frames + PADDING_FRAMES) as u64;
        let attention = 2 * frames * self.config.dim as u64;
        let layers = self
            .layers
            .iter()
            .map(|layer| layer.attention.products() + layer.ffn.products() + attention);
        frames
            * (layers.sum::<u64>()
                + SUBSAMPLING as u64 * self.conv1.products() as u64
                + self.conv2.products() as u64)
    }

    /// `(output frames · 2, features) f32` of an utterance into `(output frames + 25, dim) f32`, the silence behind it included. Values
    /// behind the last whole output frame are not read. Nothing for an utterance without a frame, or of more frames than there are positions.
    pub fn encode(&self, features: &[f32]) -> Vec<f32> {
        self.encode_watched(features, &mut |_, _| {})
    }

    /// As [`encode`](Self::encode), and shows what stands behind each layer, `(output frames + 25, dim)`, to `watch`.
    pub fn encode_watched(&self, features: &[f32], watch: &mut dyn FnMut(usize, &[f32])) -> Vec<f32> {
        let spoken = features.len() / self.values_per_frame();
        let rows = spoken + PADDING_FRAMES;
        if spoken == 0 || rows > self.config.max_frames {
            return Vec::new();
        }
        self.scratch.with(|scratch| {
            let mut stream = self.convolve(&features[..spoken * self.values_per_frame()], rows, scratch);
            let dim = self.config.dim;
            scratch.normed.resize(rows * dim, 0.0);
            scratch.attended.resize(rows * dim, 0.0);
            for (index, layer) in self.layers.iter().enumerate() {
                pause();
                self.attend(layer, rows, &mut stream, scratch);
                pause();
                layer
                    .ffn
                    .apply(rows, &mut stream, &mut scratch.normed, &mut scratch.hidden);
                watch(index, &stream);
            }
            stream
        })
    }

    /// The convolutions, and the positions: `(rows, dim)`.
    fn convolve(&self, features: &[f32], rows: usize, scratch: &mut Scratch) -> Vec<f32> {
        let (num_features, dim) = (self.num_features, self.config.dim);
        let loudest = features.iter().copied().fold(self.silence, f32::max);
        let lowest = loudest - RANGE;
        // Zeros in front, as the convolution's padding is; behind, the frame that the last window still sees.
        let frames = &mut scratch.frames;
        frames.clear();
        frames.resize(num_features, 0.0);
        frames.extend(features.iter().map(|value| value.max(lowest)));
        frames.resize(
            (1 + SUBSAMPLING * rows + 1) * num_features,
            self.silence.max(lowest),
        );
        windows(&mut scratch.taps, frames, num_features, 1);
        let count = SUBSAMPLING * rows;
        let hidden = &mut scratch.hidden;
        hidden.clear();
        hidden.resize((1 + count) * dim, 0.0);
        self.conv1.apply(count, &scratch.taps, &mut hidden[dim..]);
        activate(&mut hidden[dim..], Activation::Gelu);
        windows(&mut scratch.taps, hidden, dim, SUBSAMPLING);
        let mut stream = vec![0.0; rows * dim];
        self.conv2.apply(rows, &scratch.taps, &mut stream);
        activate(&mut stream, Activation::Gelu);
        for (value, position) in stream.iter_mut().zip(&self.positions) {
            *value += position;
        }
        stream
    }

    fn attend(&self, layer: &Layer, rows: usize, stream: &mut [f32], scratch: &mut Scratch) {
        let dim = self.config.dim;
        let stride = 3 * dim;
        layer.attention.norm.apply(stream, &mut scratch.normed);
        scratch.projected.resize(rows * stride, 0.0);
        layer
            .attention
            .query_key_value
            .apply(rows, &scratch.normed, &mut scratch.projected);
        // Many keys, all in one place: the blocked product is twice as fast here as the kernels for a few.
        let head_dim = dim / self.config.num_heads;
        for head in (0..dim).step_by(head_dim) {
            let part = |begin: usize| Matrix::rows(&scratch.projected[begin + head..], stride);
            let (keys, values) = (part(dim), part(2 * dim));
            for begin in (0..rows).step_by(GROUP_ROWS) {
                let count = GROUP_ROWS.min(rows - begin);
                let scores = &mut scratch.scores;
                scores.resize(count * rows, 0.0);
                let queries = part(begin * stride);
                product(
                    (count, rows, head_dim),
                    scores,
                    rows,
                    queries,
                    keys.transposed(),
                    false,
                );
                softmax_rows(scores, rows);
                let attended = &mut scratch.attended[begin * dim + head..];
                product(
                    (count, head_dim, rows),
                    attended,
                    dim,
                    Matrix::rows(scores, rows),
                    values,
                    false,
                );
            }
        }
        layer.attention.out.apply_adding(rows, &scratch.attended, stream);
    }
}

/// Every window of three frames, `stride` apart, each as one row.
fn windows(rows: &mut Vec<f32>, frames: &[f32], width: usize, stride: usize) {
    rows.clear();
    for window in frames.windows(TAPS * width).step_by(stride * width) {
        rows.extend_from_slice(window);
    }
}
