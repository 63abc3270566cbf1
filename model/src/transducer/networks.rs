//! Predictor and joiner on plain slices, for the search: all hypotheses of a call in one matrix product.

use std::sync::Arc;

use super::config::RnntConfig;
use crate::encoder::kernels::{Linear, log_softmax_rows};
use crate::error::ModelError;
use crate::loader::Weights;

const NORM_EPSILON: f32 = 1e-5;

/// Layer norm with its own epsilon: the LSTM's differs from that of other norms.
struct Norm {
    weight: Vec<f32>,
    bias: Vec<f32>,
    epsilon: f32,
}

impl Norm {
    fn load(weights: &Weights, name: &str, epsilon: f32) -> Result<Self, ModelError> {
        Ok(Self {
            weight: weights.values(&format!("{name}.weight"))?,
            bias: weights.values(&format!("{name}.bias"))?,
            epsilon,
        })
    }

    fn apply(&self, values: &mut [f32]) {
        let count = self.weight.len() as f32;
        for row in values.chunks_exact_mut(self.weight.len()) {
            let mean = row.iter().sum::<f32>() / count;
            let variance = row
                .iter()
                .map(|value| (value - mean) * (value - mean))
                .sum::<f32>()
                / count;
            let scale = 1.0 / (variance + self.epsilon).sqrt();
            for ((value, weight), bias) in row.iter_mut().zip(&self.weight).zip(&self.bias) {
                *value = (*value - mean) * scale * weight + bias;
            }
        }
    }
}

struct Lstm {
    from_input: Linear,
    from_hidden: Linear,
    norms: Option<(Norm, Norm)>,
}

/// What the predictor says after some tokens, and what it remembers of them.
#[derive(Debug, Clone, PartialEq)]
pub struct Prediction {
    /// `(encoding) f32`.
    output: Vec<f32>,
    /// For each layer `h (hidden)` and `c (hidden)`.
    state: Vec<f32>,
}

impl Prediction {
    /// `(encoding) f32`: what the joiner takes.
    pub fn output(&self) -> &[f32] {
        &self.output
    }

    /// Bytes on the heap.
    pub(crate) fn heap_bytes(&self) -> usize {
        (self.output.capacity() + self.state.capacity()) * size_of::<f32>()
    }
}

/// The predictor and the joiner of an RNN-T, shared by all sessions.
pub struct Networks {
    config: RnntConfig,
    /// `(classes, hidden)`, each row already normed.
    embedding: Vec<f32>,
    layers: Vec<Lstm>,
    linear: Linear,
    output_norm: Norm,
    joiner: Linear,
}

impl std::fmt::Debug for Networks {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Networks")
            .field("config", &self.config)
            .finish_non_exhaustive()
    }
}

impl Networks {
    /// Takes the weights as `f32`.
    ///
    /// # Errors
    /// [`ModelError::Invalid`] when a tensor of [`super::expected_tensors`] is missing.
    pub fn new(config: &RnntConfig, weights: &Weights) -> Result<Self, ModelError> {
        let hidden = config.symbol_embedding_dim;
        let epsilon = config.lstm_layer_norm_epsilon as f32;
        let linear = |name: &str, inputs: usize| -> Result<Linear, ModelError> {
            let weight = weights.values(&format!("{name}.weight"))?;
            Ok(Linear::new(
                &weight,
                weights.values(&format!("{name}.bias"))?,
                inputs,
            ))
        };
        let lstm = |layer: usize| -> Result<Lstm, ModelError> {
            let prefix = format!("predictor.lstm_layers.{layer}");
            let gates = |kind: &str, bias: Vec<f32>| -> Result<Linear, ModelError> {
                let weight = weights.values(&format!("{prefix}.{kind}.weight"))?;
                Ok(Linear::new(&weight, bias, hidden))
            };
            let zeros = || vec![0.0; 4 * hidden];
            Ok(if config.lstm_layer_norm {
                Lstm {
                    from_input: gates("x2g", zeros())?,
                    from_hidden: gates("p2g", zeros())?,
                    norms: Some((
                        Norm::load(weights, &format!("{prefix}.g_norm"), epsilon)?,
                        Norm::load(weights, &format!("{prefix}.c_norm"), epsilon)?,
                    )),
                }
            } else {
                Lstm {
                    from_input: gates("x2g", weights.values(&format!("{prefix}.x2g.bias"))?)?,
                    from_hidden: gates("p2g", zeros())?,
                    norms: None,
                }
            })
        };
        let mut embedding = weights.values("predictor.embedding.weight")?;
        Norm::load(weights, "predictor.input_layer_norm", NORM_EPSILON)?.apply(&mut embedding);
        Ok(Self {
            embedding,
            layers: (0..config.num_lstm_layers).map(lstm).collect::<Result<_, _>>()?,
            linear: linear("predictor.linear", hidden)?,
            output_norm: Norm::load(weights, "predictor.output_layer_norm", NORM_EPSILON)?,
            joiner: linear("joiner.linear", config.encoding_dim)?,
            config: config.clone(),
        })
    }

    /// The model's sizes and how it is searched.
    pub fn config(&self) -> &RnntConfig {
        &self.config
    }

    /// What the predictor says before any token.
    pub fn beginning(&self) -> Arc<Prediction> {
        let state = vec![0.0; 2 * self.config.num_lstm_layers * self.config.symbol_embedding_dim];
        let none = Prediction {
            output: Vec::new(),
            state,
        };
        let mut predictions = self.predict(&[(self.config.blank(), &none)]);
        Arc::new(predictions.pop().unwrap_or(none))
    }

    /// Advances each prediction by a token, which is a class.
    pub(super) fn predict(&self, rows: &[(u32, &Prediction)]) -> Vec<Prediction> {
        let hidden = self.config.symbol_embedding_dim;
        let (encoding, count) = (self.config.encoding_dim, rows.len());
        let mut x: Vec<f32> = Vec::with_capacity(count * hidden);
        for &(token, _) in rows {
            x.extend_from_slice(&self.embedding[token as usize * hidden..][..hidden]);
        }
        let mut predictions: Vec<Prediction> = rows
            .iter()
            .map(|(_, before)| Prediction {
                output: Vec::with_capacity(encoding),
                state: before.state.clone(),
            })
            .collect();
        let mut gates = vec![0.0; count * 4 * hidden];
        let mut before = vec![0.0; count * hidden];
        for (index, layer) in self.layers.iter().enumerate() {
            for (before, prediction) in before.chunks_exact_mut(hidden).zip(&predictions) {
                before.copy_from_slice(&prediction.state[2 * index * hidden..][..hidden]);
            }
            layer.from_input.apply(count, &x, &mut gates);
            layer.from_hidden.apply_adding(count, &before, &mut gates);
            if let Some((norm, _)) = &layer.norms {
                norm.apply(&mut gates);
            }
            for ((gates, prediction), x) in gates
                .chunks_exact(4 * hidden)
                .zip(&mut predictions)
                .zip(x.chunks_exact_mut(hidden))
            {
                let (h, c) = prediction.state[2 * index * hidden..][..2 * hidden].split_at_mut(hidden);
                for (unit, c) in c.iter_mut().enumerate() {
                    let gate = |kind: usize| gates[kind * hidden + unit];
                    *c = sigmoid(gate(1)) * *c + sigmoid(gate(0)) * gate(2).tanh();
                }
                // The normed cell is what the original carries on.
                if let Some((_, norm)) = &layer.norms {
                    norm.apply(c);
                }
                for ((unit, h), c) in h.iter_mut().enumerate().zip(c.iter()) {
                    *h = sigmoid(gates[3 * hidden + unit]) * c.tanh();
                }
                x.copy_from_slice(h);
            }
        }
        let mut outputs = vec![0.0; count * encoding];
        self.linear.apply(count, &x, &mut outputs);
        self.output_norm.apply(&mut outputs);
        for (prediction, output) in predictions.iter_mut().zip(outputs.chunks_exact(encoding)) {
            prediction.output.extend_from_slice(output);
        }
        predictions
    }

    /// Log-probs of the next token, `(predictions, classes) f32`, for one encoder frame `(encoding) f32`.
    pub(super) fn join<'a>(
        &self,
        frame: &[f32],
        predictions: impl Iterator<Item = &'a Prediction>,
    ) -> Vec<f32> {
        let mut joint = Vec::new();
        for prediction in predictions {
            joint.extend(frame.iter().zip(&prediction.output).map(|(source, target)| {
                let sum = source + target;
                // Written so that a NaN stays one.
                if sum < 0.0 { 0.0 } else { sum }
            }));
        }
        let count = joint.len() / self.config.encoding_dim;
        let mut scores = vec![0.0; count * self.config.num_symbols];
        self.joiner.apply(count, &joint, &mut scores);
        if self.config.search.temperature != 1.0 {
            scores
                .iter_mut()
                .for_each(|score| *score /= self.config.search.temperature);
        }
        log_softmax_rows(&mut scores, self.config.num_symbols);
        scores
    }
}

fn sigmoid(x: f32) -> f32 {
    1.0 / (1.0 + (-x).exp())
}
