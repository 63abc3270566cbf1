//! The reference executor: Candle operations in the weights' type.

use candle_core::{D, DType, Device, Tensor};
use candle_nn::ops::sigmoid;

use super::config::RnntConfig;
use super::geometry;
use crate::encoder::emformer::{self, LayerState};
use crate::encoder::{Geometry, OfflineEncoder};
use crate::error::ModelError;
use crate::loader::Weights;

/// PyTorch's default for norms outside of the LSTM.
const NORM_EPSILON: f64 = 1e-5;

/// Weight and, where there is one, bias.
struct Affine {
    weight: Tensor,
    bias: Option<Tensor>,
}

impl Affine {
    fn load(weights: &Weights, name: &str, has_bias: bool) -> Result<Self, ModelError> {
        Ok(Self {
            weight: weights.tensor(&format!("{name}.weight"))?,
            bias: has_bias
                .then(|| weights.tensor(&format!("{name}.bias")))
                .transpose()?,
        })
    }

    fn linear(&self, x: &Tensor) -> candle_core::Result<Tensor> {
        let x = x.broadcast_matmul(&self.weight.t()?)?;
        match &self.bias {
            Some(bias) => x.broadcast_add(bias),
            None => Ok(x),
        }
    }

    fn norm(&self, x: &Tensor, epsilon: f64) -> candle_core::Result<Tensor> {
        let centred = x.broadcast_sub(&x.mean_keepdim(D::Minus1)?)?;
        let deviation = (centred.sqr()?.mean_keepdim(D::Minus1)? + epsilon)?.sqrt()?;
        let x = centred.broadcast_div(&deviation)?.broadcast_mul(&self.weight)?;
        match &self.bias {
            Some(bias) => x.broadcast_add(bias),
            None => Ok(x),
        }
    }
}

struct Lstm {
    x2g: Affine,
    p2g: Affine,
    norms: Option<(Affine, Affine)>,
}

/// What the predictor remembers of the tokens so far: for each layer `h` and `c`, `(batch, hidden)`.
pub type TokenState = Vec<(Tensor, Tensor)>;

/// All three networks of an RNN-T.
pub struct Reference {
    config: RnntConfig,
    geometry: Geometry,
    dtype: DType,
    input_linear: Affine,
    transformer: emformer::Reference,
    output_linear: Affine,
    layer_norm: Affine,
    embedding: Tensor,
    input_layer_norm: Affine,
    lstm_layers: Vec<Lstm>,
    linear: Affine,
    output_layer_norm: Affine,
    joiner: Affine,
}

impl Reference {
    /// Takes the weights in their type.
    ///
    /// # Errors
    /// [`ModelError::Invalid`] when a tensor of [`super::expected_tensors`] is missing.
    pub fn new(config: &RnntConfig, weights: &Weights) -> Result<Self, ModelError> {
        let load = |name: &str| Affine::load(weights, name, true);
        let lstm = |layer: usize| -> Result<Lstm, ModelError> {
            let prefix = format!("predictor.lstm_layers.{layer}");
            Ok(Lstm {
                x2g: Affine::load(weights, &format!("{prefix}.x2g"), !config.lstm_layer_norm)?,
                p2g: Affine::load(weights, &format!("{prefix}.p2g"), false)?,
                norms: if config.lstm_layer_norm {
                    Some((
                        load(&format!("{prefix}.g_norm"))?,
                        load(&format!("{prefix}.c_norm"))?,
                    ))
                } else {
                    None
                },
            })
        };
        Ok(Self {
            geometry: geometry(config),
            dtype: weights.dtype(),
            input_linear: Affine::load(weights, "transcriber.input_linear", false)?,
            transformer: emformer::Reference::new(
                &config.emformer(),
                &weights.under("transcriber.transformer."),
                &Device::Cpu,
            )?,
            output_linear: load("transcriber.output_linear")?,
            layer_norm: load("transcriber.layer_norm")?,
            embedding: weights.tensor("predictor.embedding.weight")?,
            input_layer_norm: load("predictor.input_layer_norm")?,
            lstm_layers: (0..config.num_lstm_layers).map(lstm).collect::<Result<_, _>>()?,
            linear: load("predictor.linear")?,
            output_layer_norm: load("predictor.output_layer_norm")?,
            joiner: load("joiner.linear")?,
            config: config.clone(),
        })
    }

    /// Type of the weights and of all results.
    pub fn dtype(&self) -> DType {
        self.dtype
    }

    /// `transcribe`: `(batch, T + R, features)` → `(batch, T / stride, encoding)`; `lengths` without the right context
    /// become theirs divided by the stride, rounded down. Frames that fill no group of the stride are dropped.
    ///
    /// # Errors
    /// [`ModelError::Input`] for shapes that do not fit.
    pub fn transcribe(
        &self,
        features: &Tensor,
        lengths: &[usize],
    ) -> Result<(Tensor, Vec<usize>), ModelError> {
        let reduced = self.reduce(features)?;
        let lengths: Vec<usize> = lengths
            .iter()
            .map(|length| length / self.config.time_reduction_stride)
            .collect();
        Ok((
            self.finish(&self.transformer.forward(&reduced, &lengths)?)?,
            lengths,
        ))
    }

    /// `transcribe_streaming`: one window `(batch, L + R, features)`, further frames that fill no group dropped. `lengths`
    /// count the right context. `states` are empty at the beginning.
    ///
    /// # Errors
    /// [`ModelError::Input`] for shapes that do not fit.
    pub fn transcribe_streaming(
        &self,
        window: &Tensor,
        lengths: &[usize],
        states: &mut Vec<LayerState>,
    ) -> Result<(Tensor, Vec<usize>), ModelError> {
        let reduced = self.reduce(window)?;
        let lengths: Vec<usize> = lengths
            .iter()
            .map(|length| length / self.config.time_reduction_stride)
            .collect();
        let (encoded, lengths) = self.transformer.infer(&reduced, &lengths, states)?;
        Ok((self.finish(&encoded)?, lengths))
    }

    /// `predict`: `(batch, tokens) u32` → `(batch, tokens, encoding)`. `state` is empty at the beginning.
    ///
    /// # Errors
    /// [`ModelError::Input`] for a token that is no class.
    pub fn predict(&self, tokens: &[Vec<u32>], state: &mut TokenState) -> Result<Tensor, ModelError> {
        let (batch, count) = (tokens.len(), tokens.first().map_or(0, Vec::len));
        if batch == 0 || count == 0 || tokens.iter().any(|item| item.len() != count) {
            return Err(ModelError::input(
                "tokens",
                "at least one token an item, as many in each",
                format!("{:?} tokens", tokens.iter().map(Vec::len).collect::<Vec<_>>()),
            ));
        }
        let flat: Vec<u32> = tokens.concat();
        let classes = self.config.num_symbols;
        if let Some(token) = flat.iter().find(|&&token| token as usize >= classes) {
            return Err(ModelError::input(
                "tokens",
                format!("classes below {classes}"),
                token,
            ));
        }
        let hidden = self.config.symbol_embedding_dim;
        if state.is_empty() {
            let zeros = Tensor::zeros((batch, hidden), self.dtype, &Device::Cpu)?;
            *state = vec![(zeros.clone(), zeros); self.lstm_layers.len()];
        }
        let index = Tensor::new(flat, &Device::Cpu)?;
        let embedded = self
            .embedding
            .index_select(&index, 0)?
            .reshape((batch, count, hidden))?;
        let mut x = self.input_layer_norm.norm(&embedded, NORM_EPSILON)?;
        for (layer, state) in self.lstm_layers.iter().zip(state.iter_mut()) {
            x = self.run_lstm(layer, &x, state)?;
        }
        Ok(self
            .output_layer_norm
            .norm(&self.linear.linear(&x)?, NORM_EPSILON)?)
    }

    /// `join`: `(batch, T, encoding)` and `(batch, U, encoding)` → `(batch, T, U, classes)`, raw scores.
    ///
    /// # Errors
    /// [`ModelError::Tensor`] for shapes that do not fit.
    pub fn join(&self, source: &Tensor, target: &Tensor) -> Result<Tensor, ModelError> {
        let joint = source
            .unsqueeze(2)?
            .broadcast_add(&target.unsqueeze(1)?)?
            .relu()?;
        Ok(self.joiner.linear(&joint)?)
    }

    fn run_lstm(
        &self,
        layer: &Lstm,
        x: &Tensor,
        (h, c): &mut (Tensor, Tensor),
    ) -> Result<Tensor, ModelError> {
        let hidden = self.config.symbol_embedding_dim;
        let epsilon = self.config.lstm_layer_norm_epsilon;
        let mut outputs = Vec::new();
        for step in 0..x.dim(1)? {
            let x = x.narrow(1, step, 1)?.squeeze(1)?.contiguous()?;
            let mut gates = (layer.x2g.linear(&x)? + layer.p2g.linear(h)?)?;
            if let Some((norm, _)) = &layer.norms {
                gates = norm.norm(&gates, epsilon)?;
            }
            let gate = |index: usize| gates.narrow(1, index * hidden, hidden);
            let kept = (sigmoid(&gate(1)?)? * &*c)?;
            *c = (kept + (sigmoid(&gate(0)?)? * gate(2)?.tanh()?)?)?;
            if let Some((_, norm)) = &layer.norms {
                *c = norm.norm(c, epsilon)?;
            }
            *h = (sigmoid(&gate(3)?)? * c.tanh()?)?;
            outputs.push(h.clone());
        }
        Ok(Tensor::stack(&outputs, 1)?)
    }

    fn reduce(&self, features: &Tensor) -> Result<Tensor, ModelError> {
        let (batch, frames, width) = features.dims3()?;
        if width != self.config.input_dim {
            return Err(ModelError::input(
                "features",
                format!("frames of {} values", self.config.input_dim),
                width,
            ));
        }
        let stride = self.config.time_reduction_stride;
        let groups = frames / stride;
        let x = features.to_dtype(self.dtype)?.narrow(1, 0, groups * stride)?;
        let x = self.input_linear.linear(&x.contiguous()?)?;
        Ok(x.reshape((batch, groups, stride * self.config.time_reduction_input_dim))?)
    }

    fn finish(&self, encoded: &Tensor) -> Result<Tensor, ModelError> {
        Ok(self
            .layer_norm
            .norm(&self.output_linear.linear(&encoded.contiguous()?)?, NORM_EPSILON)?)
    }
}

impl OfflineEncoder for Reference {
    fn geometry(&self) -> &Geometry {
        &self.geometry
    }

    fn forward(&self, features: &Tensor, lengths: &[usize]) -> Result<(Tensor, Vec<usize>), ModelError> {
        self.transcribe(features, lengths)
    }
}
