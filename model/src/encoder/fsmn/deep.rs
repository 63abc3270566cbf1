//! Constructor of the networks of the papers, as `config.json` holds it, and its program.

use serde::{Deserialize, Serialize};

use crate::config::{Activation, require_sizes};

use super::config::{default_segment_length, default_stride, require_span};
use super::program::{Operation, Program, Taps, Window};

/// The networks of the papers in one form: compact FSMN, Deep-FSMN, pyramidal FSMN.
///
/// Layer *l* computes `f = act(linear(x))` (with a layer norm behind it where set), `p = project(f)`,
/// `m_t = p_t + Σ a_i ⊙ p_{t − s₁ i} + Σ c_j ⊙ p_{t + s₂ j}` with i from 0 and j from 1, and adds what an earlier memory gave
/// where a skip is set. Behind the last memory stand `output_layers` of `act(linear(x))` and the output layer.
/// In front of the first layer may stand a [`Stem`], and with `input_norm` every layer has its norm in front, as the layers of a transformer do.
///
/// * Compact FSMN (Zhang et al. 2016): no skips, `projection_bias`.
/// * Deep-FSMN (Zhang et al. 2018, arXiv:1803.05030; Kaldi's `DeepFsmn` and ModelScope's): each layer skips from the one before.
/// * Pyramidal FSMN (Yang et al. 2018, arXiv:1810.11352): orders grow with depth, skips only where they change.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DeepFsmnConfig {
    /// Values of one input frame.
    pub input_dim: usize,
    /// Convolutions inside of the input frames.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stem: Option<Stem>,
    /// The layers, from the input or the stem on.
    pub layers: Vec<DeepFsmnLayer>,
    /// Whether `project` adds a bias, as in the compact FSMN.
    #[serde(default)]
    pub projection_bias: bool,
    /// Whether a layer norm follows the activation of every memory layer.
    #[serde(default)]
    pub layer_norm: bool,
    /// Whether a layer norm stands in front of every memory layer, beside its skip, and one behind the last.
    #[serde(default)]
    pub input_norm: bool,
    /// Values behind each of the plain layers that follow the memories.
    #[serde(default)]
    pub output_layers: Vec<usize>,
    /// Values of one output frame. Left out, the network ends before `output`, whose place a CTC head takes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub output_dim: Option<usize>,
    /// Everywhere.
    #[serde(default)]
    pub activation: Activation,
    /// Frames that one step advances by when the model is served; changes no result.
    #[serde(default = "default_segment_length")]
    pub segment_length: usize,
}

/// Convolutions over the frames that stand side by side in one input frame (`features.lfr`), each `act(convolution(x))`, and a weighted
/// sum of what the last one gives: a frame again. They see nothing outside of the input frame, so there is nothing to remember.
///
/// With seven frames and the two convolutions of Whisper's encoder (three taps, strides 1 and 2) it is that encoder's stem.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Stem {
    /// Frames side by side; divides `input_dim`.
    pub frames: usize,
    /// From the input on, at least one. Weights are `(dim, taps · values)`: of each tap all values, one tap behind the other.
    pub convolutions: Vec<StemConvolution>,
}

/// One convolution of a [`Stem`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StemConvolution {
    /// Frames that it sees at once.
    pub taps: usize,
    /// Frames from one output to the next.
    pub stride: usize,
    /// Values of an output.
    pub dim: usize,
}

impl Stem {
    /// Values of a frame behind it.
    fn output_dim(&self) -> usize {
        self.convolutions.last().map_or(0, |last| last.dim)
    }

    fn problems(&self, input_dim: usize, require: &mut dyn FnMut(bool, String)) {
        require_sizes(
            require,
            1,
            &[
                ("stem.frames", self.frames),
                ("stem.convolutions", self.convolutions.len()),
            ],
        );
        require(
            self.frames == 0 || input_dim.is_multiple_of(self.frames),
            format!(
                "encoder.stem.frames: expected a divisor of input_dim ({input_dim}), found {}",
                self.frames
            ),
        );
        let mut parts = self.frames;
        for (index, convolution) in self.convolutions.iter().enumerate() {
            let name = |field: &str| format!("stem.convolutions.{index}.{field}");
            for (field, size) in [
                ("taps", convolution.taps),
                ("stride", convolution.stride),
                ("dim", convolution.dim),
            ] {
                require_sizes(require, 1, &[(&name(field), size)]);
            }
            require(
                convolution.taps <= parts,
                format!(
                    "encoder.{}: expected at most the {parts} frames that are left, found {}",
                    name("taps"),
                    convolution.taps
                ),
            );
            parts = parts.saturating_sub(convolution.taps) / convolution.stride.max(1) + 1;
        }
    }

    fn push(&self, program: &mut Program, input_dim: usize, activation: Activation) {
        let (mut width, mut parts) = (input_dim / self.frames, self.frames);
        for (index, convolution) in self.convolutions.iter().enumerate() {
            let window = Window {
                width,
                parts,
                taps: convolution.taps,
                stride: convolution.stride,
            };
            parts = window.runs().count();
            program.push(Operation::Windows { window });
            program.linear_of_parts(
                &format!("stem.convolutions.{index}"),
                true,
                window.taps * width,
                convolution.dim,
                parts,
            );
            program.push(Operation::Activation(activation));
            width = convolution.dim;
        }
        program.push(Operation::Join {
            name: "stem.joined".into(),
            rows: parts,
            width,
        });
        program.mark("stem".into());
    }
}

/// One memory layer of a [`DeepFsmnConfig`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DeepFsmnLayer {
    /// Values of a frame behind the first linear part.
    pub hidden_dim: usize,
    /// Values of a frame behind the projection.
    pub memory_dim: usize,
    /// Which of them the memory holds.
    #[serde(default)]
    pub memory_on: MemoryOn,
    /// Taps on the current frame and back: N₁ + 1 of the papers.
    pub left_order: usize,
    /// Taps ahead: N₂ of the papers.
    #[serde(default)]
    pub right_order: usize,
    /// Frames from one tap back to the next, s₁.
    #[serde(default = "default_stride")]
    pub left_stride: usize,
    /// Frames from one tap ahead to the next, s₂.
    #[serde(default = "default_stride")]
    pub right_stride: usize,
    /// What is added to the memory's output: 0 what the first layer hears, k the output of memory layer k, counted from 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub skip_from: Option<usize>,
}

/// Where the memory of a [`DeepFsmnLayer`] stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum MemoryOn {
    /// On `p = project(act(linear(x)))`, as in the papers.
    #[default]
    Projected,
    /// On `h = linear(x)`, without an activation, and `project` behind it: the directions that the layer remembers are fewer than those it
    /// adds to, as the values of an attention head are.
    Hidden,
}

impl DeepFsmnConfig {
    /// Values of a frame that the first layer hears.
    fn first_dim(&self) -> usize {
        self.stem.as_ref().map_or(self.input_dim, Stem::output_dim)
    }

    /// Values of a frame that a skip can start from: the input, then each layer's output.
    fn width_of(&self, source: usize) -> Option<usize> {
        match source.checked_sub(1) {
            None => Some(self.first_dim()),
            Some(layer) => self.layers.get(layer).map(|layer| layer.memory_dim),
        }
    }

    /// Reports what does not make sense through `require`.
    pub fn problems(&self, require: &mut dyn FnMut(bool, String)) {
        require_sizes(
            require,
            1,
            &[
                ("input_dim", self.input_dim),
                ("layers", self.layers.len()),
                ("output_dim", self.output_dim.unwrap_or(1)),
                ("segment_length", self.segment_length),
            ],
        );
        if let Some(stem) = &self.stem {
            stem.problems(self.input_dim, require);
        }
        for (index, &size) in self.output_layers.iter().enumerate() {
            require_sizes(require, 1, &[(&format!("output_layers.{index}"), size)]);
        }
        for (index, layer) in self.layers.iter().enumerate() {
            let name = |field: &str| format!("layers.{index}.{field}");
            for (field, size) in [
                ("hidden_dim", layer.hidden_dim),
                ("memory_dim", layer.memory_dim),
                ("left_order", layer.left_order),
                ("left_stride", layer.left_stride),
                ("right_stride", layer.right_stride),
            ] {
                require_sizes(require, 1, &[(&name(field), size)]);
            }
            let back = layer.left_order.saturating_mul(layer.left_stride);
            let ahead = layer.right_order.saturating_mul(layer.right_stride);
            require_span(&name("left_order · left_stride"), back, require);
            require_span(&name("right_order · right_stride"), ahead, require);
            if let Some(source) = layer.skip_from {
                let found = self.width_of(source).filter(|_| source <= index);
                require(
                    found == Some(layer.memory_dim),
                    format!(
                        "encoder.{}: expected an earlier output of memory_dim ({}) values, found {}",
                        name("skip_from"),
                        layer.memory_dim,
                        found.map_or("no earlier output".into(), |width| format!("one of {width}")),
                    ),
                );
            }
        }
    }

    /// The network.
    pub fn program(&self) -> Program {
        let mut program = Program::new(self.input_dim, self.segment_length);
        let keep = |program: &mut Program, source: usize| {
            for (target, layer) in self.layers.iter().enumerate() {
                if layer.skip_from == Some(source) {
                    program.push(Operation::Keep { slot: target });
                }
            }
        };
        if let Some(stem) = &self.stem {
            stem.push(&mut program, self.input_dim, self.activation);
        }
        let mut width = self.first_dim();
        keep(&mut program, 0);
        for (index, layer) in self.layers.iter().enumerate() {
            let name = |kind: &str| format!("layers.{index}.{kind}");
            if self.input_norm {
                program.push(Operation::Norm {
                    name: name("input_norm"),
                    width,
                });
            }
            program.linear(&name("linear"), true, width, layer.hidden_dim);
            if layer.memory_on == MemoryOn::Projected {
                program.push(Operation::Activation(self.activation));
            }
            if self.layer_norm {
                program.push(Operation::Norm {
                    name: name("norm"),
                    width: layer.hidden_dim,
                });
            }
            let remember = |width| Operation::Memory {
                taps: Taps::Convolution {
                    left: Some((name("conv1.weight"), layer.left_order)),
                    right: (layer.right_order > 0).then(|| (name("conv2.weight"), layer.right_order)),
                    left_stride: layer.left_stride,
                    right_stride: layer.right_stride,
                },
                width,
                beside: false,
            };
            if layer.memory_on == MemoryOn::Hidden {
                program.push(remember(layer.hidden_dim));
            }
            program.linear(
                &name("project"),
                self.projection_bias,
                layer.hidden_dim,
                layer.memory_dim,
            );
            if layer.memory_on == MemoryOn::Projected {
                program.push(remember(layer.memory_dim));
            }
            if layer.skip_from.is_some() {
                program.push(Operation::Add { slot: index });
            }
            program.mark(format!("memories.{index}"));
            keep(&mut program, index + 1);
            width = layer.memory_dim;
        }
        if self.input_norm {
            program.push(Operation::Norm {
                name: "norm".into(),
                width,
            });
        }
        for (index, &outputs) in self.output_layers.iter().enumerate() {
            program.linear(&format!("output_layers.{index}"), true, width, outputs);
            program.push(Operation::Activation(self.activation));
            width = outputs;
        }
        if let Some(outputs) = self.output_dim {
            program.linear("output", true, width, outputs);
        }
        program
    }
}
