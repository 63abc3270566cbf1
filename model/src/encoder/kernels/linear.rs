//! Linear layers whose weights are packed when a model is loaded.
//!
//! A general product packs both factors each time. For the few rows of a step that costs more than the product itself:
//! with 40 rows and 512 inputs the `gemm` crate reaches a third of what it reaches with 400. Here the weights lie in the
//! order in which they are read ([`super::packed`]).

use std::cell::RefCell;

use super::brain::{self, Brain};
use super::float::Float;
use super::lanes::{COLUMNS, Instructions};
use super::packed::{Packed, Target, Words};
use super::quantised::{self, Bytes, Pairs};
use crate::precision::Precision;

thread_local! {
    static WORDS: RefCell<Words> = RefCell::default();
}

enum Weight {
    Float(Packed<Float>),
    Pairs(Packed<Pairs>),
    Bytes(Packed<Bytes>),
    Brain(Packed<Brain>),
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
        let at = |output: usize, input: usize| weight[output * inputs + input];
        let column = |panel: usize, column: usize| bias.get(panel * COLUMNS + column).copied().unwrap_or(0.0);
        Self {
            weight: match precision {
                Precision::Int8 => Weight::Pairs(quantised::pack(weight, inputs)),
                Precision::W8A8 => Weight::Bytes(quantised::pack(weight, inputs)),
                Precision::Bf16 => {
                    let half = |output: usize, input: usize| brain::rounded(at(output, input)) as u16;
                    Weight::Brain(Packed::new(outputs, inputs, half, |_, _| ()))
                }
                Precision::F32 => Weight::Float(Packed::new(outputs, inputs, at, |_, _| ())),
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
        let input = &input[..rows * self.inputs];
        let target = Target {
            output: &mut output[..rows * self.outputs],
            bias: &self.bias,
            keeps: adding,
        };
        WORDS.with_borrow_mut(|words| match &self.weight {
            Weight::Float(weight) => weight.multiply(self.instructions, input, target, words),
            Weight::Brain(weight) => weight.multiply(self.instructions, input, target, words),
            Weight::Pairs(weight) => weight.multiply(self.instructions, input, target, words),
            Weight::Bytes(weight) => weight.multiply(self.instructions, input, target, words),
        });
    }
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

    /// Inputs and outputs that fill panels, chunks and blocks of the narrow kinds, fall short of them, and leave every kind of rest.
    const SHAPES: [(usize, usize); 8] = [
        (1, 1),
        (7, 5),
        (15, 3),
        (16, 16),
        (29, 20),
        (33, 47),
        (47, 16),
        (600, 33),
    ];

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
        // What an input is off by at most, of values below 1.
        for (precision, input_off) in [
            (Precision::Int8, 0.5 / 32_767.0),
            (Precision::W8A8, 0.5 * 2.0 / 255.0),
        ] {
            for (inputs, outputs) in SHAPES {
                let (weight, bias) = (noise(1, inputs * outputs), noise(2, outputs));
                let mut linear = Linear::with_precision(&weight, bias.clone(), inputs, precision);
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
                            // Weights and inputs are off in random directions, mostly.
                            let bound = (0.5 / 127.0 + input_off) * (inputs as f64).sqrt() * 2.0 + 2e-3;
                            let off = (f64::from(fast[at] - before[at]) - exact).abs();
                            assert!(off < bound, "{precision} {inputs} {outputs}: {off}");
                        }
                    }
                }
            }
        }
    }

    #[test]
    fn the_greatest_numbers_of_a_block_do_not_overflow() {
        for (precision, sign) in [
            (Precision::Int8, 1.0),
            (Precision::Int8, -1.0),
            (Precision::W8A8, 1.0),
            (Precision::W8A8, -1.0),
        ] {
            let inputs = 8192;
            let linear = Linear::with_precision(&vec![1.0; inputs], vec![0.0], inputs, precision);
            let mut output = [0.0];
            linear.apply(1, &vec![sign; inputs], &mut output);
            assert!(
                (output[0] - sign * inputs as f32).abs() < 1e-2,
                "{precision}: {}",
                output[0]
            );
        }
    }

    #[test]
    fn inputs_of_eight_bits_are_rounded_block_by_block() {
        // A great number in the second block of 256 does not spoil the first.
        let mut input = vec![0.01; 512];
        let linear = Linear::with_precision(&vec![1.0; 512], vec![0.0], 512, Precision::W8A8);
        input[511] = 1000.0;
        input[256..511].fill(0.0);
        let mut output = [0.0];
        linear.apply(1, &input, &mut output);
        assert!((output[0] - 1002.56).abs() < 1e-2, "{}", output[0]);
    }

    #[test]
    fn bf16_is_near_the_float_product_on_every_path() {
        for (inputs, outputs) in SHAPES {
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
    fn a_row_is_the_same_to_the_bit_in_any_company_and_keeps_its_nan() {
        let (inputs, outputs, rows) = (300, 40, 13);
        for precision in [Precision::F32, Precision::Int8, Precision::W8A8, Precision::Bf16] {
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
