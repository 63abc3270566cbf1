//! The reference executor: Candle operations over whole utterances, in the weights' type, on any device.

use candle_core::{D, DType, Device, Tensor};
use candle_nn::ops::softmax;

use crate::encoder::{Geometry, OfflineEncoder};
use crate::error::ModelError;
use crate::loader::Weights;

use super::SanmConfig;

struct Affine {
    weight: Tensor,
    bias: Tensor,
}

impl Affine {
    fn load(weights: &Weights, name: &str, device: &Device) -> Result<Self, ModelError> {
        Ok(Self {
            weight: weights.tensor(&format!("{name}.weight"))?.to_device(device)?,
            bias: weights.tensor(&format!("{name}.bias"))?.to_device(device)?,
        })
    }

    fn linear(&self, x: &Tensor) -> candle_core::Result<Tensor> {
        x.broadcast_matmul(&self.weight.t()?)?.broadcast_add(&self.bias)
    }

    fn norm(&self, x: &Tensor, epsilon: f64) -> candle_core::Result<Tensor> {
        let centred = x.broadcast_sub(&x.mean_keepdim(D::Minus1)?)?;
        let deviation = (centred.sqr()?.mean_keepdim(D::Minus1)? + epsilon)?.sqrt()?;
        centred
            .broadcast_div(&deviation)?
            .broadcast_mul(&self.weight)?
            .broadcast_add(&self.bias)
    }
}

struct Layer {
    query_key_value: Affine,
    out: Affine,
    /// `(dim, 1, taps)`.
    memory: Tensor,
    expand: Affine,
    contract: Affine,
    norm1: Affine,
    norm2: Affine,
    has_residual: bool,
}

/// Weights as Candle tensors.
pub struct Reference {
    config: SanmConfig,
    geometry: Geometry,
    dtype: DType,
    device: Device,
    layers: Vec<Layer>,
    after_norm: Affine,
    tp_norm: Option<Affine>,
    /// `(1, queries, features)`.
    queries: Option<Tensor>,
}

/// Keys and values of one layer's earlier chunks, `(batch, heads, kept, head dim)`.
type Kept = Option<(Tensor, Tensor)>;

impl Reference {
    /// Copies the weights to a device, keeping their type.
    ///
    /// # Errors
    /// [`ModelError::Invalid`] when a tensor of [`SanmConfig::expected_tensors`] is missing.
    pub fn new(config: &SanmConfig, weights: &Weights, device: &Device) -> Result<Self, ModelError> {
        let load = |name: &str| Affine::load(weights, name, device);
        let layer = |(name, inputs): (String, usize)| -> Result<Layer, ModelError> {
            let load = |part: &str| load(&format!("{name}.{part}"));
            let memory = weights.tensor(&format!("{name}.self_attn.fsmn_block.weight"))?;
            Ok(Layer {
                query_key_value: load("self_attn.linear_q_k_v")?,
                out: load("self_attn.linear_out")?,
                memory: memory.to_device(device)?,
                expand: load("feed_forward.w_1")?,
                contract: load("feed_forward.w_2")?,
                norm1: load("norm1")?,
                norm2: load("norm2")?,
                has_residual: inputs == config.output_size,
            })
        };
        let queries = if config.queries.is_empty() {
            None
        } else {
            let rows: Vec<u32> = config.queries.iter().map(|&row| row as u32).collect();
            let table = weights.tensor("embed.weight")?;
            let rows = table.index_select(&Tensor::new(rows, table.device())?, 0)?;
            Some(rows.unsqueeze(0)?.to_device(device)?)
        };
        Ok(Self {
            geometry: config.geometry(),
            dtype: weights.dtype(),
            device: device.clone(),
            layers: config.layers().into_iter().map(layer).collect::<Result<_, _>>()?,
            after_norm: load("after_norm")?,
            tp_norm: config.tp_norm.then(|| load("tp_norm")).transpose()?,
            queries,
            config: config.clone(),
        })
    }

    /// Runs `input (batch, frames, features)` with its `lengths`, as the original does: queries in front, their outputs too. In
    /// chunks, the last frames of the input are those that the last chunk looks ahead to, and have no output.
    ///
    /// # Errors
    /// [`ModelError::Input`] for shapes that do not fit.
    pub fn run(&self, input: &Tensor, lengths: &[usize]) -> Result<Tensor, ModelError> {
        let dims = input.dims().to_vec();
        let least = self.geometry.lookahead_frames + 1;
        if dims.len() != 3 || dims[1] < least || dims[2] != self.config.input_size {
            let expected = format!(
                "(batch, frames, {}) with {least} frames or more",
                self.config.input_size
            );
            return Err(ModelError::input("input", expected, format!("{dims:?}")));
        }
        if lengths.len() != dims[0] || lengths.iter().any(|&length| length > dims[1]) {
            let expected = format!("{} values of at most {}", dims[0], dims[1]);
            return Err(ModelError::input("lengths", expected, format!("{lengths:?}")));
        }
        let input = input.to_dtype(self.dtype)?;
        match self.config.chunk {
            Some(_) => Ok(self.run_chunks(&input)?),
            None => Ok(self.run_whole(&input, lengths)?),
        }
    }

    fn run_whole(&self, input: &Tensor, lengths: &[usize]) -> candle_core::Result<Tensor> {
        let (input, queries) = match &self.queries {
            Some(queries) => {
                let (_, count, width) = queries.dims3()?;
                let queries = queries.broadcast_as((input.dim(0)?, count, width))?;
                (Tensor::cat(&[&queries.contiguous()?, input], 1)?, count)
            }
            None => (input.clone(), 0),
        };
        let frames = input.dim(1)?;
        let mask: Vec<u8> = lengths
            .iter()
            .flat_map(|length| (0..frames).map(move |frame| u8::from(frame < length + queries)))
            .collect();
        let mask = Tensor::from_vec(mask, (lengths.len(), frames), &self.device)?;
        let mut x = self.embed(&input, 0)?;
        for (index, layer) in self.layers.iter().enumerate() {
            x = self.layer(layer, &x, Some(&mask), &mut None, None)?;
            x = self.norm_behind(index, x)?;
        }
        Ok(x)
    }

    /// FunASR's `forward_chunk` over and over, where the first chunk finds nothing before it and what it looks ahead to.
    fn run_chunks(&self, input: &Tensor) -> candle_core::Result<Tensor> {
        let Some(chunk) = self.config.chunk else {
            candle_core::bail!("the configuration has no chunks");
        };
        let [before, frames, after] = chunk.size;
        let (batch, length, width) = input.dims3()?;
        let count = length - after;
        let missing = count.next_multiple_of(frames) - count;
        let embedded = self.embed(&input.pad_with_zeros(1, 0, missing)?, 0)?;
        let nothing = Tensor::zeros((batch, before, width), self.dtype, &self.device)?;
        let embedded = Tensor::cat(&[&nothing, &embedded], 1)?;
        let mut kept: Vec<Kept> = self.layers.iter().map(|_| None).collect();
        let mut outputs = Vec::new();
        for begin in (0..count).step_by(frames) {
            let mut x = embedded.narrow(1, begin, chunk.window())?;
            for (index, layer) in self.layers.iter().enumerate() {
                x = self.layer(layer, &x, None, &mut kept[index], Some(chunk))?;
                x = self.norm_behind(index, x)?;
            }
            outputs.push(x.narrow(1, before, frames)?);
        }
        Tensor::cat(&outputs, 1)?.narrow(1, 0, count)
    }

    /// The norms that stand between and behind the layers.
    fn norm_behind(&self, index: usize, x: Tensor) -> candle_core::Result<Tensor> {
        let mut x = x;
        if index + 1 == self.config.num_blocks {
            x = self.after_norm.norm(&x, self.config.norm_epsilon)?;
        }
        if index + 1 == self.layers.len()
            && let Some(norm) = &self.tp_norm
        {
            x = norm.norm(&x, self.config.norm_epsilon)?;
        }
        Ok(x)
    }

    /// Scales the input by √width and adds positions from `first` on.
    fn embed(&self, input: &Tensor, first: u64) -> candle_core::Result<Tensor> {
        let (_, frames, width) = input.dims3()?;
        let mut positions = vec![0.0f64; frames * width];
        for (frame, row) in positions.chunks_exact_mut(width).enumerate() {
            self.config
                .write_position(first + frame as u64, |index, value| row[index] = value);
        }
        let positions = Tensor::from_vec(positions, (1, frames, width), &self.device)?;
        (input * (self.config.output_size as f64).sqrt())?.broadcast_add(&positions.to_dtype(self.dtype)?)
    }

    fn layer(
        &self,
        layer: &Layer,
        x: &Tensor,
        mask: Option<&Tensor>,
        kept: &mut Kept,
        chunk: Option<super::ChunkConfig>,
    ) -> candle_core::Result<Tensor> {
        let attended = self.attend(
            layer,
            &layer.norm1.norm(x, self.config.norm_epsilon)?,
            mask,
            kept,
            chunk,
        )?;
        let x = if layer.has_residual {
            (x + attended)?
        } else {
            attended
        };
        let hidden = layer
            .expand
            .linear(&layer.norm2.norm(&x, self.config.norm_epsilon)?)?
            .relu()?;
        x + layer.contract.linear(&hidden)?
    }

    fn attend(
        &self,
        layer: &Layer,
        x: &Tensor,
        mask: Option<&Tensor>,
        kept: &mut Kept,
        chunk: Option<super::ChunkConfig>,
    ) -> candle_core::Result<Tensor> {
        let (batch, frames, _) = x.dims3()?;
        let (dim, heads) = (self.config.output_size, self.config.attention_heads);
        let projected = layer.query_key_value.linear(x)?;
        let value_frames = projected.narrow(2, 2 * dim, dim)?.contiguous()?;
        let split = |part: usize| -> candle_core::Result<Tensor> {
            projected
                .narrow(2, part * dim, dim)?
                .reshape((batch, frames, heads, dim / heads))?
                .transpose(1, 2)?
                .contiguous()
        };
        let query = (split(0)? * ((dim / heads) as f64).powf(-0.5))?;
        let (mut key, mut value) = (split(1)?, split(2)?);
        if let Some(chunk) = chunk.filter(|chunk| chunk.look_back > 0) {
            let own = |tensor: &Tensor| tensor.narrow(2, 0, frames - chunk.size[2]);
            let (own_key, own_value) = (own(&key)?, own(&value)?);
            *kept = Some(match kept.take() {
                None => (own_key, own_value),
                Some((old_key, old_value)) => {
                    key = Tensor::cat(&[&old_key, &key], 2)?;
                    value = Tensor::cat(&[&old_value, &value], 2)?;
                    let most = chunk.look_back * chunk.size[1];
                    let last = |old: &Tensor, own: &Tensor| -> candle_core::Result<Tensor> {
                        let all = Tensor::cat(&[old, own], 2)?;
                        let rows = all.dim(2)?;
                        all.narrow(2, rows.saturating_sub(most), rows.min(most))?
                            .contiguous()
                    };
                    (last(&old_key, &own_key)?, last(&old_value, &own_value)?)
                }
            });
        }
        let scores = query.matmul(&key.t()?)?;
        let weights = match mask {
            None => softmax(&scores, D::Minus1)?,
            Some(mask) => {
                let hidden = mask
                    .eq(0u8)?
                    .reshape((batch, 1, 1, frames))?
                    .broadcast_as(scores.shape())?;
                let never =
                    Tensor::full(f64::NEG_INFINITY, scores.shape(), &self.device)?.to_dtype(self.dtype)?;
                let weights = softmax(&hidden.where_cond(&never, &scores)?, D::Minus1)?;
                hidden.where_cond(&weights.zeros_like()?, &weights)?
            }
        };
        let attended = weights
            .matmul(&value.contiguous()?)?
            .transpose(1, 2)?
            .reshape((batch, frames, dim))?;
        layer.out.linear(&attended)? + self.remember(layer, &value_frames, mask)?
    }

    /// The memory beside the attention: a convolution over the values, with the values themselves.
    fn remember(&self, layer: &Layer, values: &Tensor, mask: Option<&Tensor>) -> candle_core::Result<Tensor> {
        let mask = mask
            .map(|mask| mask.to_dtype(self.dtype)?.unsqueeze(2))
            .transpose()?;
        let masked = |x: Tensor| match &mask {
            Some(mask) => x.broadcast_mul(mask),
            None => Ok(x),
        };
        let values = masked(values.clone())?;
        let frames = values.dim(1)?;
        let (before, after) = self.config.memory_reach();
        let padded = values.pad_with_zeros(1, before, after)?;
        let mut memory = values.clone();
        for tap in 0..self.config.kernel_size {
            let coefficients = layer.memory.narrow(2, tap, 1)?.flatten_all()?;
            memory = (memory + padded.narrow(1, tap, frames)?.broadcast_mul(&coefficients)?)?;
        }
        masked(memory)
    }
}

impl OfflineEncoder for Reference {
    fn geometry(&self) -> &Geometry {
        &self.geometry
    }

    /// The utterance's frames, without those of the queries. A chunk that reaches past an item's look-ahead sees zeros there.
    fn forward(&self, features: &Tensor, lengths: &[usize]) -> Result<(Tensor, Vec<usize>), ModelError> {
        let output = if self.config.chunk.is_some() {
            let (batch, frames, _) = features.dims3()?;
            let lookahead = self.geometry.lookahead_frames;
            let heard: Vec<f64> = lengths
                .iter()
                .flat_map(|length| {
                    (0..frames).map(move |frame| f64::from(u8::from(frame < length + lookahead)))
                })
                .collect();
            let heard = Tensor::from_vec(heard, (batch, frames, 1), features.device())?;
            let features = features.to_dtype(self.dtype)?;
            self.run(&features.broadcast_mul(&heard.to_dtype(self.dtype)?)?, lengths)?
        } else {
            self.run(features, lengths)?
        };
        let queries = self.config.queries.len();
        let output = output
            .narrow(1, queries, output.dim(1)? - queries)?
            .contiguous()?;
        Ok((output, lengths.to_vec()))
    }
}
