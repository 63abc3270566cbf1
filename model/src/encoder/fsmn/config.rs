//! Constructors of d5555's and FunASR's families, as `config.json` holds them, and their programs.

use serde::{Deserialize, Serialize};

use crate::config::{Activation, require_sizes};

use super::program::{Factor, Layout, Operation, Program, Taps};

/// Most frames on one side of a memory.
const MAX_SPAN: usize = 1 << 14;

pub(super) fn default_segment_length() -> usize {
    10
}

pub(super) fn require_span(name: &str, span: usize, require: &mut dyn FnMut(bool, String)) {
    require(
        span <= MAX_SPAN,
        format!("encoder.{name}: expected at most {MAX_SPAN} frames, found {span}"),
    );
}

/// `FSMN(...)` of d5555/FSMN: a stack of one of its four cells, and two linear layers. Names are its constructor's.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CellStackConfig {
    /// Frames back, and ahead when bidirectional, that a cell remembers; 0 for none.
    pub memory_size: usize,
    /// Values of one input frame.
    pub input_size: usize,
    /// Values of one frame behind a cell.
    pub hidden_size: usize,
    /// Values of one output frame. Left out, the network ends before `linear2`, whose place a CTC head takes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub output_size: Option<usize>,
    /// Number of cells.
    pub n_layers: usize,
    /// Which cell.
    #[serde(alias = "fsmncell")]
    pub cell: Cell,
    /// Values between the two linear layers.
    pub d_ff: usize,
    /// Behind every norm and between the two linear layers.
    #[serde(default)]
    pub activation: Activation,
    /// Whether a cell sees as many frames ahead as back. Such a model waits for `memory_size · n_layers` frames.
    #[serde(default)]
    pub bidirectional: bool,
    /// Rows of a `cvfsmn`'s table; other cells have one layout only.
    #[serde(default)]
    pub table: TableRows,
    /// Used while training only; kept so that a constructor's arguments can be written down whole.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub drop: Option<f64>,
    /// Frames that one step advances by when the model is served; changes no result.
    #[serde(default = "default_segment_length")]
    pub segment_length: usize,
}

/// The four cells.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Cell {
    /// Scalar: each remembered frame is weighted by its lag, as the original computes it.
    SFsmn,
    /// Vectorised: a learned vector for each lag.
    VFsmn,
    /// Compact scalar: the memory stands between two projections.
    CsFsmn,
    /// Compact vectorised.
    CvFsmn,
}

/// Layout of a `cvfsmn`'s table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum TableRows {
    /// N + 2 rows, the last one for the current frame and always 1: the repository's present state.
    #[default]
    #[serde(rename = "n_plus_2")]
    NPlus2,
    /// N + 1 rows, the row of lag 1 serving the current frame too: the state that the repository's description
    /// documents (up to commit 172dd9e).
    #[serde(rename = "n_plus_1")]
    NPlus1,
}

impl CellStackConfig {
    /// The layout that a table of `rows` rows has, if there is one for this memory size.
    pub fn table_of_rows(&self, rows: usize) -> Option<TableRows> {
        match rows.checked_sub(self.memory_size)? {
            2 => Some(TableRows::NPlus2),
            1 => Some(TableRows::NPlus1),
            _ => None,
        }
    }

    /// Reports what does not make sense through `require`.
    pub fn problems(&self, require: &mut dyn FnMut(bool, String)) {
        require_sizes(
            require,
            1,
            &[
                ("input_size", self.input_size),
                ("hidden_size", self.hidden_size),
                ("output_size", self.output_size.unwrap_or(1)),
                ("n_layers", self.n_layers),
                ("d_ff", self.d_ff),
                ("segment_length", self.segment_length),
            ],
        );
        require_span("memory_size", self.memory_size, require);
        require(
            self.table == TableRows::NPlus2 || self.cell == Cell::CvFsmn,
            "encoder.table: n_plus_1 is a layout of cvfsmn only".into(),
        );
        require(
            self.table == TableRows::NPlus2 || self.memory_size > 0,
            "encoder.memory_size: expected at least 1 with the table n_plus_1, found 0".into(),
        );
    }

    /// The network.
    pub fn program(&self) -> Program {
        let mut program = Program::new(self.input_size, self.segment_length);
        for layer in 0..self.n_layers {
            self.push_cell(&mut program, layer);
            program.mark(format!("cells.{layer}"));
            program.push(Operation::Norm {
                name: "norm1".into(),
                width: self.hidden_size,
            });
            program.push(Operation::Activation(self.activation));
        }
        program.linear("linear1", true, self.hidden_size, self.d_ff);
        program.push(Operation::Activation(self.activation));
        if let Some(outputs) = self.output_size {
            program.linear("linear2", true, self.d_ff, outputs);
        }
        program
    }

    fn push_cell(&self, program: &mut Program, layer: usize) {
        let name = |kind: &str| format!("fsmn_layers.{layer}.{kind}");
        let inputs = if layer == 0 {
            self.input_size
        } else {
            self.hidden_size
        };
        let hidden = self.hidden_size;
        let factor = |kind: &str, inputs: usize| Factor {
            name: name(kind),
            layout: Layout::InputsOutputs,
            inputs,
        };
        let is_compact = matches!(self.cell, Cell::CsFsmn | Cell::CvFsmn);
        let width = if is_compact { hidden } else { inputs };
        let table = |rows: usize| Taps::Table {
            name: name("embeddings_table"),
            rows,
            size: self.memory_size,
            bidirectional: self.bidirectional,
        };
        let taps = match self.cell {
            Cell::SFsmn | Cell::CsFsmn => Taps::Lags {
                size: self.memory_size,
                bidirectional: self.bidirectional,
                current: is_compact,
            },
            Cell::VFsmn => table(self.memory_size + 1),
            Cell::CvFsmn => match self.table {
                TableRows::NPlus2 => table(self.memory_size + 2),
                TableRows::NPlus1 => Taps::TableOfDocumentation {
                    name: name("embeddings_table"),
                    size: self.memory_size,
                    bidirectional: self.bidirectional,
                },
            },
        };
        if is_compact {
            program.push(Operation::Linear {
                factors: vec![factor("_W1", inputs)],
                bias: Some(name("_bias1")),
                outputs: hidden,
                rows: 1,
            });
        }
        program.push(Operation::Memory {
            taps,
            width,
            beside: !is_compact,
        });
        let (factors, bias) = if is_compact {
            (vec![factor("_W2", hidden)], "_bias2")
        } else {
            (vec![factor("_W1", inputs), factor("_W2", inputs)], "_bias")
        };
        program.push(Operation::Linear {
            factors,
            bias: Some(name(bias)),
            outputs: hidden,
            rows: 1,
        });
    }
}

/// `FSMN(...)` of FunASR: the encoder of FSMN-VAD and of its keyword spotters. Names are its constructor's.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FunasrFsmnConfig {
    /// Values of one input frame.
    pub input_dim: usize,
    /// Values behind the first linear layer.
    pub input_affine_dim: usize,
    /// Number of blocks.
    pub fsmn_layers: usize,
    /// Values of a frame between blocks.
    pub linear_dim: usize,
    /// Values of a frame in a block's memory.
    pub proj_dim: usize,
    /// Taps on the current frame and back.
    pub lorder: usize,
    /// Taps ahead.
    #[serde(default)]
    pub rorder: usize,
    /// Frames from one tap back to the next.
    #[serde(default = "default_stride")]
    pub lstride: usize,
    /// Frames from one tap ahead to the next.
    #[serde(default)]
    pub rstride: usize,
    /// Values behind the last but one linear layer.
    pub output_affine_dim: usize,
    /// Values of one output frame. Left out, the network ends before `out_linear2`, whose place a CTC head takes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub output_dim: Option<usize>,
    /// Whether the outputs are probabilities.
    #[serde(default = "default_use_softmax")]
    pub use_softmax: bool,
    /// Frames that one step advances by when the model is served; changes no result.
    #[serde(default = "default_segment_length")]
    pub segment_length: usize,
}

pub(super) fn default_stride() -> usize {
    1
}

fn default_use_softmax() -> bool {
    true
}

impl FunasrFsmnConfig {
    /// Reports what does not make sense through `require`.
    pub fn problems(&self, require: &mut dyn FnMut(bool, String)) {
        require_sizes(
            require,
            1,
            &[
                ("input_dim", self.input_dim),
                ("input_affine_dim", self.input_affine_dim),
                ("fsmn_layers", self.fsmn_layers),
                ("linear_dim", self.linear_dim),
                ("proj_dim", self.proj_dim),
                ("lorder", self.lorder),
                ("lstride", self.lstride),
                ("output_affine_dim", self.output_affine_dim),
                ("output_dim", self.output_dim.unwrap_or(1)),
                ("segment_length", self.segment_length),
            ],
        );
        let ahead = self.rorder.saturating_mul(self.rstride);
        require_span(
            "lorder · lstride",
            self.lorder.saturating_mul(self.lstride),
            require,
        );
        require_span("rorder · rstride", ahead, require);
        require(
            self.rorder == 0 || self.rstride > 0,
            format!(
                "encoder.rstride: expected at least 1 with rorder {}, found 0",
                self.rorder
            ),
        );
    }

    /// The network.
    pub fn program(&self) -> Program {
        let mut program = Program::new(self.input_dim, self.segment_length);
        program.linear("in_linear1.linear", true, self.input_dim, self.input_affine_dim);
        program.linear("in_linear2.linear", true, self.input_affine_dim, self.linear_dim);
        program.push(Operation::Activation(Activation::Relu));
        for layer in 0..self.fsmn_layers {
            let name = |kind: &str| format!("fsmn.{layer}.{kind}");
            program.linear(&name("linear.linear"), false, self.linear_dim, self.proj_dim);
            program.push(Operation::Memory {
                taps: Taps::Convolution {
                    left: Some((name("fsmn_block.conv_left.weight"), self.lorder)),
                    right: (self.rorder > 0).then(|| (name("fsmn_block.conv_right.weight"), self.rorder)),
                    left_stride: self.lstride,
                    right_stride: self.rstride,
                },
                width: self.proj_dim,
                beside: false,
            });
            program.linear(&name("affine.linear"), true, self.proj_dim, self.linear_dim);
            program.push(Operation::Activation(Activation::Relu));
            program.mark(format!("blocks.{layer}"));
        }
        program.linear(
            "out_linear1.linear",
            true,
            self.linear_dim,
            self.output_affine_dim,
        );
        if let Some(outputs) = self.output_dim {
            program.linear("out_linear2.linear", true, self.output_affine_dim, outputs);
            if self.use_softmax {
                program.push(Operation::Softmax);
            }
        }
        program
    }
}
