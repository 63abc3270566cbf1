//! Linear layers whose weights are packed when a model is loaded.
//!
//! A general product packs both factors each time. For the few rows of a step that costs more than the product itself:
//! with 40 rows and 512 inputs the `gemm` crate reaches a third of what it reaches with 400. Here the weights lie in the
//! order in which they are read, sixteen columns of up to [`DEPTH`] inputs after another, so that a piece stays in the
//! innermost cache while all rows pass it and the next one is fetched meanwhile.

use std::cell::RefCell;

use super::brain::{Brain, BrainRows};
use super::lanes::{COLUMNS, Instructions, PanelRow};
use super::quantised::{MOST_INPUTS, Quantised, QuantisedRows};
use super::tile::{FloatPanel, Outputs, Target};
use crate::precision::Precision;

/// Inputs of a piece: 16 KiB of weights, half of the innermost cache of common processors.
const DEPTH: usize = 256;

/// Rows from which on the next piece is fetched while this one is used; with fewer, fetching is all that a product does.
const FETCH_AHEAD: usize = 24;

thread_local! {
    /// Rounded inputs, kept from product to product so that a step at work allocates nothing.
    static ROUNDED: RefCell<QuantisedRows> = RefCell::default();
    static HALVED: RefCell<BrainRows> = RefCell::default();
}

enum Weight {
    /// For each block of [`DEPTH`] inputs, for each panel of [`COLUMNS`] outputs: a row for each input.
    Float(Vec<PanelRow>),
    Whole(Quantised),
    Brain(Brain),
}

/// `x · weight + bias`.
pub(crate) struct Linear {
    weight: Weight,
    /// Filled up with zeros to whole panels.
    bias: Vec<[f32; COLUMNS]>,
    inputs: usize,
    outputs: usize,
    instructions: Instructions,
}

impl Linear {
    /// From PyTorch's layout, `(outputs, inputs)`, in `f32`.
    pub(crate) fn new(weight: &[f32], bias: Vec<f32>, inputs: usize) -> Self {
        Self::with_precision(weight, bias, inputs, Precision::F32)
    }

    /// From PyTorch's layout, `(outputs, inputs)`, computed as `precision` says.
    pub(crate) fn with_precision(
        weight: &[f32],
        bias: Vec<f32>,
        inputs: usize,
        precision: Precision,
    ) -> Self {
        let outputs = bias.len();
        let column = |panel: usize, column: usize| bias.get(panel * COLUMNS + column).copied().unwrap_or(0.0);
        Self {
            weight: match precision {
                // A layer of more inputs could overflow; none is that wide.
                Precision::Int8 if inputs <= MOST_INPUTS => Weight::Whole(Quantised::new(weight, inputs)),
                Precision::Bf16 => Weight::Brain(Brain::new(weight, inputs)),
                Precision::Int8 | Precision::F32 => Weight::Float(pack(weight, outputs, inputs)),
            },
            bias: (0..outputs.div_ceil(COLUMNS))
                .map(|panel| std::array::from_fn(|index| column(panel, index)))
                .collect(),
            inputs,
            outputs,
            instructions: Instructions::detect(),
        }
    }

    pub(crate) fn outputs(&self) -> usize {
        self.outputs
    }

    /// Multiplications for one row.
    pub(crate) fn products(&self) -> usize {
        self.inputs * self.outputs
    }

    /// Writes `(rows, outputs)` for `input (rows, inputs)`, whatever is there.
    pub(crate) fn apply(&self, rows: usize, input: &[f32], output: &mut [f32]) {
        self.multiply(rows, input, output, false);
    }

    /// Adds `(rows, outputs)` to `output` for `input (rows, inputs)`.
    pub(crate) fn apply_adding(&self, rows: usize, input: &[f32], output: &mut [f32]) {
        self.multiply(rows, input, output, true);
    }

    fn multiply(&self, rows: usize, input: &[f32], output: &mut [f32], adding: bool) {
        if rows == 0 {
            return;
        }
        let (input, output) = (&input[..rows * self.inputs], &mut output[..rows * self.outputs]);
        let outputs = |values| Outputs {
            values,
            width: self.outputs,
            bias: &self.bias,
            keeps: adding,
        };
        match &self.weight {
            Weight::Float(weight) => self.multiply_floats(weight, rows, input, output, adding),
            Weight::Brain(weight) => HALVED.with_borrow_mut(|scratch| {
                weight.multiply(self.instructions, input, outputs(output), scratch);
            }),
            Weight::Whole(weight) => ROUNDED.with_borrow_mut(|scratch| {
                weight.multiply(self.instructions, input, outputs(output), scratch);
            }),
        }
    }

    fn multiply_floats(
        &self,
        weight: &[PanelRow],
        rows: usize,
        input: &[f32],
        output: &mut [f32],
        adding: bool,
    ) {
        let (inputs, outputs) = (self.inputs, self.outputs);
        let mut later = weight;
        for begin in (0..inputs).step_by(DEPTH) {
            let depth = DEPTH.min(inputs - begin);
            for (panel, bias) in self.bias.iter().enumerate() {
                let (weights, rest) = later.split_at(depth);
                later = rest;
                let soon = if rows >= FETCH_AHEAD {
                    &rest[..depth.min(rest.len())]
                } else {
                    &[]
                };
                let column = panel * COLUMNS;
                self.instructions.run(FloatPanel {
                    input: &input[begin..],
                    stride: inputs,
                    rows,
                    weights,
                    soon,
                    target: Target {
                        output: &mut output[column..],
                        stride: outputs,
                        columns: COLUMNS.min(outputs - column),
                        keeps: adding || begin > 0,
                        bias: (begin == 0).then_some(bias),
                    },
                });
            }
        }
    }
}

/// Reorders `(outputs, inputs)` into panels.
fn pack(weight: &[f32], outputs: usize, inputs: usize) -> Vec<PanelRow> {
    let panels = outputs.div_ceil(COLUMNS);
    let mut packed = Vec::with_capacity(panels * inputs);
    for begin in (0..inputs).step_by(DEPTH) {
        let end = inputs.min(begin + DEPTH);
        for panel in 0..panels {
            packed.extend((begin..end).map(|input| {
                PanelRow(std::array::from_fn(|column| {
                    let output = panel * COLUMNS + column;
                    if output < outputs {
                        weight[output * inputs + input]
                    } else {
                        0.0
                    }
                }))
            }));
        }
    }
    packed
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Numbers in −1..1.
    fn noise(seed: u64, count: usize) -> Vec<f32> {
        let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
        (0..count)
            .map(|_| {
                state ^= state << 13;
                state ^= state >> 7;
                state ^= state << 17;
                (state >> 40) as f32 / (1u64 << 23) as f32 - 1.0
            })
            .collect()
    }

    fn exact(weight: &[f32], bias: &[f32], inputs: usize, row: &[f32]) -> Vec<f64> {
        bias.iter()
            .zip(weight.chunks(inputs))
            .map(|(&bias, weight)| {
                let products = weight.iter().zip(row).map(|(&w, &x)| f64::from(w) * f64::from(x));
                f64::from(bias) + products.sum::<f64>()
            })
            .collect()
    }

    #[test]
    fn equals_the_exact_product_for_every_shape_on_every_path() {
        for (inputs, outputs) in [
            (1, 1),
            (7, 5),
            (16, 16),
            (33, 47),
            (256, 16),
            (257, 20),
            (600, 33),
        ] {
            let (weight, bias) = (noise(1, inputs * outputs), noise(2, outputs));
            let mut linear = Linear::new(&weight, bias.clone(), inputs);
            for instructions in Instructions::all() {
                linear.instructions = instructions;
                for rows in [0, 1, 2, 3, 4, 5, 6, 7, 11, 25] {
                    let input = noise(3, rows * inputs);
                    let before = noise(4, rows * outputs);
                    let (mut written, mut added) = (vec![f32::NAN; rows * outputs], before.clone());
                    linear.apply(rows, &input, &mut written);
                    linear.apply_adding(rows, &input, &mut added);
                    for row in 0..rows {
                        let exact = exact(&weight, &bias, inputs, &input[row * inputs..][..inputs]);
                        for (output, exact) in exact.into_iter().enumerate() {
                            let at = row * outputs + output;
                            let near = |found: f32, exact: f64| (f64::from(found) - exact).abs() < 5e-5;
                            assert!(near(written[at], exact), "{inputs} {outputs} {rows}");
                            assert!(near(added[at], exact + f64::from(before[at])));
                        }
                    }
                }
            }
        }
    }

    #[test]
    fn whole_numbers_are_exact_on_every_path_and_near_the_float_product() {
        for (inputs, outputs) in [(1, 1), (7, 5), (16, 16), (33, 47), (600, 33)] {
            let (weight, bias) = (noise(1, inputs * outputs), noise(2, outputs));
            let mut linear = Linear::with_precision(&weight, bias.clone(), inputs, Precision::Int8);
            for rows in 1..=25 {
                let input = noise(3, rows * inputs);
                let before = noise(4, rows * outputs);
                let mut apply = |instructions| {
                    linear.instructions = instructions;
                    let mut output = before.clone();
                    linear.apply_adding(rows, &input, &mut output);
                    output
                };
                let fast = apply(Instructions::detect());
                for instructions in Instructions::all() {
                    assert_eq!(
                        apply(instructions),
                        fast,
                        "{inputs} {outputs} {rows} {instructions:?}"
                    );
                }
                for row in 0..rows {
                    let exact = exact(&weight, &bias, inputs, &input[row * inputs..][..inputs]);
                    for (output, exact) in exact.into_iter().enumerate() {
                        let at = row * outputs + output;
                        // A weight is off by half a 127th at most, mostly in random directions.
                        let bound = 0.5 / 127.0 * (inputs as f64).sqrt() * 2.0 + 2e-3;
                        let off = (f64::from(fast[at] - before[at]) - exact).abs();
                        assert!(off < bound, "{inputs} {outputs}: {off}");
                    }
                }
            }
        }
    }

    #[test]
    fn bf16_is_near_the_float_product_on_every_path() {
        for (inputs, outputs) in [(1, 1), (7, 5), (16, 16), (33, 47), (600, 33)] {
            let (weight, bias) = (noise(1, inputs * outputs), noise(2, outputs));
            // What is left is the rounding of sums.
            let halved = |values: &[f32]| -> Vec<f32> {
                values
                    .iter()
                    .map(|&value| half::bf16::from_f32(value).to_f32())
                    .collect()
            };
            let kept = halved(&weight);
            let mut linear = Linear::with_precision(&weight, bias.clone(), inputs, Precision::Bf16);
            for instructions in Instructions::all() {
                linear.instructions = instructions;
                for rows in 1..=25 {
                    let input = noise(3, rows * inputs);
                    let before = noise(4, rows * outputs);
                    let mut found = before.clone();
                    linear.apply_adding(rows, &input, &mut found);
                    for row in 0..rows {
                        let exact = exact(&kept, &bias, inputs, &halved(&input[row * inputs..][..inputs]));
                        for (output, exact) in exact.into_iter().enumerate() {
                            let at = row * outputs + output;
                            let off = (f64::from(found[at] - before[at]) - exact).abs();
                            assert!(off < 5e-5, "{inputs} {outputs} {rows} {instructions:?}: {off}");
                        }
                    }
                }
            }
        }
    }

    #[test]
    fn the_widest_layer_of_whole_numbers_does_not_overflow() {
        let inputs = MOST_INPUTS;
        let linear = Linear::with_precision(&vec![1.0; inputs], vec![0.0], inputs, Precision::Int8);
        let mut output = [0.0];
        linear.apply(1, &vec![1.0; inputs], &mut output);
        assert!((output[0] - inputs as f32).abs() < 1e-2, "{}", output[0]);
    }

    #[test]
    fn a_row_is_the_same_to_the_bit_in_any_company_and_keeps_its_nan() {
        let (inputs, outputs, rows) = (300, 40, 13);
        for precision in [Precision::F32, Precision::Int8, Precision::Bf16] {
            let (weight, bias) = (noise(1, inputs * outputs), noise(2, outputs));
            let linear = Linear::with_precision(&weight, bias, inputs, precision);
            let mut input = noise(3, rows * inputs);
            let mut alone = vec![0.0; rows * outputs];
            for (row, output) in input.chunks(inputs).zip(alone.chunks_mut(outputs)) {
                linear.apply(1, row, output);
            }
            input[4 * inputs + 7] = f32::NAN;
            let mut together = vec![0.0; rows * outputs];
            linear.apply(rows, &input, &mut together);
            for (row, (together, alone)) in together.chunks(outputs).zip(alone.chunks(outputs)).enumerate() {
                if row == 4 {
                    assert!(together.iter().all(|value| value.is_nan()));
                } else {
                    assert_eq!(together, alone);
                }
            }
        }
    }
}
