//! What an FSMN computes, as a list of operations: the one description that both executors run and that says which tensors
//! a file must hold. Everything but the memories works frame by frame.

use candle_core::DType;

use crate::config::Activation;
use crate::encoder::Geometry;
use crate::error::ModelError;
use crate::loader::{Expected, Weights};

/// A network of the room.
#[derive(Debug, Clone)]
pub struct Program {
    input_dim: usize,
    segment_length: usize,
    operations: Vec<Operation>,
    /// Names of values worth showing, and the number of operations before them.
    marks: Vec<(usize, String)>,
}

/// One operation on the current frames.
#[derive(Debug, Clone)]
pub(super) enum Operation {
    /// Product with the factors, one below the other, plus a bias: of a frame, or of each of its `rows` equal parts.
    Linear {
        factors: Vec<Factor>,
        bias: Option<String>,
        outputs: usize,
        rows: usize,
    },
    /// Parts of a frame to overlapping runs of `taps` parts, `stride` apart, one behind the other.
    Windows {
        window: Window,
    },
    /// The sum of a frame's parts, each weighted by a row of `(rows, width)`.
    Join {
        name: String,
        rows: usize,
        width: usize,
    },
    /// Sum over the taps; put beside the frame itself where `beside`, else in its place.
    Memory {
        taps: Taps,
        width: usize,
        beside: bool,
    },
    /// Layer norm; several may share a name.
    Norm {
        name: String,
        width: usize,
    },
    Activation(Activation),
    /// Remembers the current frames for the [`Operation::Add`] of the same slot.
    Keep {
        slot: usize,
    },
    Add {
        slot: usize,
    },
    Softmax,
}

/// How a frame of several parts is cut.
#[derive(Debug, Clone, Copy)]
pub(super) struct Window {
    /// Values of a part.
    pub(super) width: usize,
    /// Parts of a frame.
    pub(super) parts: usize,
    /// Parts side by side in a run.
    pub(super) taps: usize,
    /// Parts from one run to the next.
    pub(super) stride: usize,
}

impl Window {
    /// Where the runs of a frame lie, in values.
    pub(super) fn runs(self) -> impl Iterator<Item = std::ops::Range<usize>> {
        let Self {
            width,
            parts,
            taps,
            stride,
        } = self;
        (0..(parts + 1).saturating_sub(taps))
            .step_by(stride)
            .map(move |begin| begin * width..(begin + taps) * width)
    }
}

/// A weight matrix.
#[derive(Debug, Clone)]
pub(super) struct Factor {
    pub(super) name: String,
    pub(super) layout: Layout,
    pub(super) inputs: usize,
}

/// Which index of a weight matrix comes first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Layout {
    /// PyTorch's `Linear`.
    OutputsInputs,
    /// d5555's cells.
    InputsOutputs,
}

/// The coefficients of a memory.
#[derive(Debug, Clone)]
pub(super) enum Taps {
    /// Each lag from 1 to `size` weighs as much as its number; the current frame 1 where `current`, else nothing.
    Lags {
        size: usize,
        bidirectional: bool,
        current: bool,
    },
    /// Row k is lag k. Row 0 counts as 0 and a row `size + 1` as 1 for the current frame, whatever they hold: the original
    /// overwrites both in every call.
    Table {
        name: String,
        rows: usize,
        size: usize,
        bidirectional: bool,
    },
    /// As [`Taps::Table`] with `size + 1` rows, of which row 1 serves the current frame too.
    TableOfDocumentation {
        name: String,
        size: usize,
        bidirectional: bool,
    },
    /// Kernels `(width, 1, order, 1)` of convolutions, so the left one ends with the current frame, to which the frame
    /// itself is added.
    Convolution {
        left: Option<(String, usize)>,
        right: Option<(String, usize)>,
        left_stride: usize,
        right_stride: usize,
    },
}

/// One tap, ready to use.
#[derive(Debug, Clone)]
pub(super) struct Tap {
    /// Frames from the current one; negative is back.
    pub(super) offset: isize,
    /// A coefficient for each value of a frame.
    pub(super) coefficients: Vec<f64>,
}

impl Taps {
    /// Frames back and ahead that it reaches.
    pub(super) fn reach(&self) -> (usize, usize) {
        match self {
            Self::Lags {
                size, bidirectional, ..
            }
            | Self::Table {
                size, bidirectional, ..
            }
            | Self::TableOfDocumentation {
                size, bidirectional, ..
            } => (*size, if *bidirectional { *size } else { 0 }),
            Self::Convolution {
                left,
                right,
                left_stride,
                right_stride,
            } => {
                let order = |side: &Option<(String, usize)>| side.as_ref().map_or(0, |(_, order)| *order);
                (
                    order(left).saturating_sub(1) * left_stride,
                    order(right) * right_stride,
                )
            }
        }
    }

    fn expected(&self, width: usize) -> Vec<Expected> {
        match self {
            Self::Lags { .. } => Vec::new(),
            Self::Table { name, rows, .. } => vec![(name.clone(), vec![*rows, width])],
            Self::TableOfDocumentation { name, size, .. } => vec![(name.clone(), vec![size + 1, width])],
            Self::Convolution { left, right, .. } => left
                .iter()
                .chain(right)
                .map(|(name, order)| (name.clone(), vec![width, 1, *order, 1]))
                .collect(),
        }
    }

    /// The taps with their coefficients, each offset once.
    pub(super) fn resolve(&self, weights: &Weights, width: usize) -> Result<Vec<Tap>, ModelError> {
        let values = |name: &str| -> Result<Vec<f64>, ModelError> {
            Ok(weights
                .tensor(name)?
                .to_dtype(DType::F64)?
                .flatten_all()?
                .to_vec1()?)
        };
        let mut taps = Vec::new();
        let mut both = |size: usize, bidirectional: bool, coefficients: &dyn Fn(usize) -> Vec<f64>| {
            for lag in 1..=size {
                taps.push(Tap {
                    offset: -(lag as isize),
                    coefficients: coefficients(lag),
                });
                if bidirectional {
                    taps.push(Tap {
                        offset: lag as isize,
                        coefficients: coefficients(lag),
                    });
                }
            }
        };
        match self {
            Self::Lags {
                size,
                bidirectional,
                current,
            } => {
                both(*size, *bidirectional, &|lag| vec![lag as f64; width]);
                if *current {
                    taps.push(Tap {
                        offset: 0,
                        coefficients: vec![1.0; width],
                    });
                }
            }
            Self::Table {
                name,
                rows,
                size,
                bidirectional,
            } => {
                let table = values(name)?;
                both(*size, *bidirectional, &|lag| {
                    table[lag * width..][..width].to_vec()
                });
                if *rows > size + 1 {
                    taps.push(Tap {
                        offset: 0,
                        coefficients: vec![1.0; width],
                    });
                }
            }
            Self::TableOfDocumentation {
                name,
                size,
                bidirectional,
            } => {
                let table = values(name)?;
                both(*size, *bidirectional, &|lag| {
                    table[lag * width..][..width].to_vec()
                });
                taps.push(Tap {
                    offset: 0,
                    coefficients: table[width..][..width].to_vec(),
                });
            }
            Self::Convolution {
                left,
                right,
                left_stride,
                right_stride,
            } => {
                let mut current = vec![1.0; width];
                for ((name, order), is_left) in left
                    .iter()
                    .map(|side| (side, true))
                    .chain(right.iter().map(|side| (side, false)))
                {
                    let kernel = values(name)?;
                    for index in 0..*order {
                        let coefficients: Vec<f64> = (0..width)
                            .map(|channel| kernel[channel * order + index])
                            .collect();
                        let offset = if is_left {
                            -(((order - 1 - index) * left_stride) as isize)
                        } else {
                            ((index + 1) * right_stride) as isize
                        };
                        if offset == 0 {
                            current
                                .iter_mut()
                                .zip(coefficients)
                                .for_each(|(sum, value)| *sum += value);
                        } else {
                            taps.push(Tap { offset, coefficients });
                        }
                    }
                }
                taps.push(Tap {
                    offset: 0,
                    coefficients: current,
                });
            }
        }
        Ok(taps)
    }
}

impl Program {
    pub(super) fn new(input_dim: usize, segment_length: usize) -> Self {
        Self {
            input_dim,
            segment_length,
            operations: Vec::new(),
            marks: Vec::new(),
        }
    }

    pub(super) fn push(&mut self, operation: Operation) {
        self.operations.push(operation);
    }

    /// A linear layer in PyTorch's layout.
    pub(super) fn linear(&mut self, name: &str, bias: bool, inputs: usize, outputs: usize) {
        self.linear_of_parts(name, bias, inputs, outputs, 1);
    }

    /// A linear layer in PyTorch's layout, of each of a frame's `rows` parts.
    pub(super) fn linear_of_parts(
        &mut self,
        name: &str,
        bias: bool,
        inputs: usize,
        outputs: usize,
        rows: usize,
    ) {
        self.push(Operation::Linear {
            factors: vec![Factor {
                name: format!("{name}.weight"),
                layout: Layout::OutputsInputs,
                inputs,
            }],
            bias: bias.then(|| format!("{name}.bias")),
            outputs,
            rows,
        });
    }

    /// Names the current value.
    pub(super) fn mark(&mut self, name: String) {
        self.marks.push((self.operations.len(), name));
    }

    pub(super) fn operations(&self) -> &[Operation] {
        &self.operations
    }

    /// Names given to the value behind `done` operations.
    pub(super) fn marks_at(&self, done: usize) -> impl Iterator<Item = &str> {
        self.marks
            .iter()
            .filter(move |(at, _)| *at == done)
            .map(|(_, name)| name.as_str())
    }

    /// Values of one output frame.
    pub fn output_dim(&self) -> usize {
        let outputs = self
            .operations
            .iter()
            .rev()
            .find_map(|operation| match operation {
                Operation::Linear { outputs, .. } => Some(*outputs),
                _ => None,
            });
        outputs.unwrap_or(self.input_dim)
    }

    /// Frames ahead that the last output frame needs: the sum over the memories.
    pub fn lookahead_frames(&self) -> usize {
        self.operations.iter().map(Operation::ahead).sum()
    }

    /// What a step consumes and produces.
    pub fn geometry(&self) -> Geometry {
        Geometry {
            num_features: self.input_dim,
            segment_frames: self.segment_length,
            lookahead_frames: self.lookahead_frames(),
            subsampling: 1,
            output_dim: self.output_dim(),
        }
    }

    /// Every tensor that a model file must hold, with its shape.
    pub fn expected_tensors(&self) -> Vec<Expected> {
        let mut expected: Vec<Expected> = Vec::new();
        let mut add = |entry: Expected| {
            if !expected.contains(&entry) {
                expected.push(entry);
            }
        };
        for operation in &self.operations {
            match operation {
                Operation::Linear {
                    factors,
                    bias,
                    outputs,
                    ..
                } => {
                    for factor in factors {
                        let shape = match factor.layout {
                            Layout::OutputsInputs => vec![*outputs, factor.inputs],
                            Layout::InputsOutputs => vec![factor.inputs, *outputs],
                        };
                        add((factor.name.clone(), shape));
                    }
                    if let Some(bias) = bias {
                        add((bias.clone(), vec![*outputs]));
                    }
                }
                Operation::Memory { taps, width, .. } => taps.expected(*width).into_iter().for_each(&mut add),
                Operation::Norm { name, width } => {
                    add((format!("{name}.weight"), vec![*width]));
                    add((format!("{name}.bias"), vec![*width]));
                }
                Operation::Join { name, rows, width } => add((format!("{name}.weight"), vec![*rows, *width])),
                Operation::Activation(_)
                | Operation::Windows { .. }
                | Operation::Keep { .. }
                | Operation::Add { .. }
                | Operation::Softmax => {}
            }
        }
        expected
    }

    /// Multiply-adds in the matrix products of one session's step.
    pub fn products_per_step(&self) -> u64 {
        let a_frame: usize = self
            .operations
            .iter()
            .map(|operation| match operation {
                Operation::Linear {
                    factors,
                    outputs,
                    rows,
                    ..
                } => factors.iter().map(|factor| factor.inputs).sum::<usize>() * outputs * rows,
                _ => 0,
            })
            .sum();
        (a_frame * self.segment_length) as u64
    }
}

impl Operation {
    /// Frames ahead that it needs.
    pub(super) fn ahead(&self) -> usize {
        match self {
            Self::Memory { taps, .. } => taps.reach().1,
            _ => 0,
        }
    }
}
