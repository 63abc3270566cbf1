//! What a second listener's encoder hears of phones: two or so layers with a memory over the neighbouring frames, and a CTC head.
//!
//! The encoder stays as it was trained, and phones are heard in its middle as well as at its end; so the head reads a weighted mean of what stands behind each layer. Its layers are those
//! of a Deep-FSMN (Zhang et al., "Deep-FSMN for Large Vocabulary Continuous Speech Recognition", ICASSP 2018), with the memory on the hidden values and looking as far ahead as back.

use candle_core::DType;
use serde::{Deserialize, Serialize};

use crate::config::{Activation, require_sizes_of};
use crate::encoder::kernels::{Linear, Norm, activate, softmax_rows, vectorised};
use crate::error::ModelError;
use crate::loader::{Expected, Weights};
use crate::pauses::pause;
use crate::precision::Precision;
use crate::transformer::{Parts, affine};

/// What the names of its tensors begin with.
const PREFIX: &str = "phone_head.";

/// Beyond all sizes that make sense, far below what would make products of sizes overflow.
const MOST: usize = 1 << 16;

/// Sizes of a phone head.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PhoneHeadConfig {
    /// Layers with a memory.
    pub num_layers: usize,
    /// Their width.
    pub hidden_dim: usize,
    /// Frames that a memory sees on each side.
    pub order: usize,
    /// What a natural log-probability of the phones counts beside one of what the text decoder would write.
    pub weight: f32,
}

impl PhoneHeadConfig {
    /// Reports everything that contradicts itself.
    pub fn problems(&self, require: &mut dyn FnMut(bool, String)) {
        let sizes = [
            ("num_layers", self.num_layers, 0),
            ("hidden_dim", self.hidden_dim, 1),
            ("order", self.order, 0),
        ];
        require_sizes_of("phone_head", MOST, &sizes, require);
        require(
            (0.0..=10.0).contains(&self.weight),
            format!("phone_head.weight: expected 0 to 10, found {}", self.weight),
        );
    }
}

/// Every tensor of a phone head of so many classes behind an encoder of some width and number of layers, with its shape.
pub fn expected_tensors(
    (dim, encoder_layers): (usize, usize),
    classes: usize,
    config: &PhoneHeadConfig,
) -> Vec<Expected> {
    let hidden = config.hidden_dim;
    let name = |own: &str| format!("{PREFIX}{own}");
    let mut expected = vec![(name("mix"), vec![encoder_layers])];
    for layer in 0..config.num_layers {
        let part = |own: &str| name(&format!("layers.{layer}.{own}"));
        expected.extend(affine(&part("norm"), dim, None));
        expected.extend(affine(&part("linear"), hidden, Some(dim)));
        expected.push((part("memory.weight"), vec![hidden, 1, 2 * config.order + 1]));
        expected.extend(affine(&part("project"), dim, Some(hidden)));
    }
    expected.extend(affine(&name("norm"), dim, None));
    expected.extend(affine(&name("out"), classes, Some(dim)));
    expected
}

struct Layer {
    norm: Norm,
    linear: Linear,
    /// `(2 · order + 1, hidden)`, the oldest frame first.
    memory: Vec<f32>,
    project: Linear,
}

/// What a head has read of an encoder's layers, and room for more.
#[derive(Default)]
pub struct Read {
    sum: Vec<f32>,
    levelled: Vec<f32>,
}

/// A phone head: weights only, shared by all threads.
pub struct PhoneHead {
    dim: usize,
    hidden_dim: usize,
    order: usize,
    weight: f64,
    /// Of each layer of the encoder, the share in what is read.
    mix: Vec<f32>,
    /// Brings what stands behind all layers to one scale.
    level: Norm,
    layers: Vec<Layer>,
    norm: Norm,
    out: Linear,
}

impl PhoneHead {
    /// Builds a head from the tensors of [`expected_tensors`].
    ///
    /// # Errors
    /// [`ModelError::Invalid`] for tensors that are missing.
    pub fn new(
        dim: usize,
        config: &PhoneHeadConfig,
        weights: &Weights,
        precision: Precision,
    ) -> Result<Self, ModelError> {
        let parts = |prefix: String| Parts {
            weights,
            prefix,
            is_emformer: false,
            precision,
        };
        let hidden_dim = config.hidden_dim;
        let layers = (0..config.num_layers).map(|index| {
            let prefix = format!("{PREFIX}layers.{index}.");
            let taps = weights.tensor(&format!("{prefix}memory.weight"))?;
            let taps = taps.flatten_from(1)?.t()?.to_dtype(DType::F32)?;
            let parts = parts(prefix);
            Ok(Layer {
                norm: parts.norm("norm")?,
                linear: parts.linear("linear", dim)?,
                memory: taps.flatten_all()?.to_vec1()?,
                project: parts.linear("project", hidden_dim)?,
            })
        });
        let whole = parts(PREFIX.into());
        Ok(Self {
            dim,
            hidden_dim,
            order: config.order,
            weight: f64::from(config.weight),
            mix: weights.values(&format!("{PREFIX}mix"))?,
            level: Norm::new(vec![1.0; dim], vec![0.0; dim]),
            layers: layers.collect::<Result<_, ModelError>>()?,
            norm: whole.norm("norm")?,
            out: whole.linear("out", dim)?,
        })
    }

    /// What a natural log-probability of the phones counts beside one of what the text decoder would write.
    pub fn weight(&self) -> f64 {
        self.weight
    }

    /// Adds what stands behind a layer of the encoder, `(frames, dim) f32`, to what is read, which begins empty.
    pub fn read(&self, layer: usize, encoded: &[f32], read: &mut Read) {
        let share = self.mix.get(layer).copied().unwrap_or_default();
        read.levelled.resize(encoded.len(), 0.0);
        read.sum.resize(encoded.len(), 0.0);
        self.level.apply(encoded, &mut read.levelled);
        for (sum, value) in read.sum.iter_mut().zip(&read.levelled) {
            *sum += share * value;
        }
    }

    /// The probabilities of the phones, `(frames, classes) f32`, in what was read of all layers.
    pub fn probabilities(&self, read: Read) -> Vec<f32> {
        let Read {
            sum: mut stream,
            levelled: mut normed,
        } = read;
        let frames = stream.len() / self.dim;
        let mut hidden = vec![0.0; frames * self.hidden_dim];
        let mut remembered = Vec::new();
        for layer in &self.layers {
            pause();
            layer.norm.apply(&stream, &mut normed);
            layer.linear.apply(frames, &normed, &mut hidden);
            remembered.clone_from(&hidden);
            add_neighbours(
                &layer.memory,
                self.order,
                self.hidden_dim,
                &hidden,
                &mut remembered,
            );
            activate(&mut remembered, Activation::Gelu);
            layer.project.apply_adding(frames, &remembered, &mut stream);
        }
        self.norm.apply(&stream, &mut normed);
        let classes = self.out.outputs();
        let mut probabilities = vec![0.0; frames * classes];
        self.out.apply(frames, &normed, &mut probabilities);
        softmax_rows(&mut probabilities, classes);
        probabilities
    }
}

vectorised! {
    /// Adds to each frame its neighbours, `order` on each side, weighted by `memory (2 order + 1, dim)`; there are none beyond the first and the last.
    fn add_neighbours(memory: &[f32], order: usize, dim: usize, hidden: &[f32], remembered: &mut [f32]) {
        for (tap, weights) in memory.chunks_exact(dim).enumerate() {
            let (later, earlier) = (tap.saturating_sub(order), order.saturating_sub(tap));
            let seen = hidden.chunks_exact(dim).skip(later);
            for (sum, seen) in remembered.chunks_exact_mut(dim).skip(earlier).zip(seen) {
                for ((sum, value), weight) in sum.iter_mut().zip(seen).zip(weights) {
                    *sum += value * weight;
                }
            }
        }
    }
}
