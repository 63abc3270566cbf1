//! Norms, softmaxes and activations of rows, in loops that the compiler turns into vector instructions.

use super::lanes::{Instructions, LANES, Lanes, LanesWork};
use crate::config::Activation;

/// Layer norm with its scale and offset.
pub(crate) struct Norm {
    weight: Vec<f32>,
    bias: Vec<f32>,
    epsilon: f32,
}

impl Norm {
    pub(crate) fn new(weight: Vec<f32>, bias: Vec<f32>) -> Self {
        Self {
            weight,
            bias,
            epsilon: crate::encoder::emformer::NORM_EPSILON as f32,
        }
    }

    /// With another number added to variances before their root.
    pub(crate) fn with_epsilon(self, epsilon: f32) -> Self {
        Self { epsilon, ..self }
    }

    /// Writes the norm of each row of `input` to the same row of `output`.
    pub(crate) fn apply(&self, input: &[f32], output: &mut [f32]) {
        norm_rows(self, input, output);
    }

    /// Norms each row in place.
    pub(crate) fn apply_in_place(&self, values: &mut [f32]) {
        norm_rows_in_place(self, values);
    }
}

vectorised! {
    fn norm_rows(norm: &Norm, input: &[f32], output: &mut [f32]) {
        let dim = norm.weight.len();
        for (from, to) in input.chunks_exact(dim).zip(output.chunks_exact_mut(dim)) {
            let (mean, scale) = mean_and_scale(from, norm.epsilon);
            for (((to, &from), &weight), &bias) in to.iter_mut().zip(from).zip(&norm.weight).zip(&norm.bias) {
                *to = (from - mean) * scale * weight + bias;
            }
        }
    }
}

vectorised! {
    fn norm_rows_in_place(norm: &Norm, values: &mut [f32]) {
        for row in values.chunks_exact_mut(norm.weight.len()) {
            let (mean, scale) = mean_and_scale(row, norm.epsilon);
            for ((value, &weight), &bias) in row.iter_mut().zip(&norm.weight).zip(&norm.bias) {
                *value = (*value - mean) * scale * weight + bias;
            }
        }
    }
}

#[inline(always)]
fn mean_and_scale(row: &[f32], epsilon: f32) -> (f32, f32) {
    let count = row.len() as f32;
    let mean = sum(row, |value| value) / count;
    let variance = sum(row, |value| (value - mean) * (value - mean)) / count;
    (mean, 1.0 / (variance + epsilon).sqrt())
}

/// In partial sums of as many lanes as a vector register has, which the compiler may not introduce by itself.
#[inline(always)]
fn sum(row: &[f32], term: impl Fn(f32) -> f32) -> f32 {
    let mut lanes = [0.0f32; LANES];
    let (chunks, rest) = row.as_chunks::<LANES>();
    for chunk in chunks {
        for (lane, &value) in lanes.iter_mut().zip(chunk) {
            *lane += term(value);
        }
    }
    lanes.iter().sum::<f32>() + rest.iter().map(|&value| term(value)).sum::<f32>()
}

#[inline(always)]
fn maximum(row: &[f32]) -> f32 {
    let mut lanes = [f32::NEG_INFINITY; LANES];
    let (chunks, rest) = row.as_chunks::<LANES>();
    for chunk in chunks {
        for (lane, &value) in lanes.iter_mut().zip(chunk) {
            *lane = if value > *lane { value } else { *lane };
        }
    }
    lanes.iter().chain(rest).fold(
        f32::NEG_INFINITY,
        |most, &value| if value > most { value } else { most },
    )
}

vectorised! {
    /// Softmax of each row in place. A row that holds a NaN becomes NaN.
    pub(crate) fn softmax_rows(values: &mut [f32], columns: usize) {
        for row in values.chunks_exact_mut(columns) {
            let most = maximum(row);
            for value in row.iter_mut() {
                *value = exp(*value - most);
            }
            let scale = 1.0 / sum(row, |value| value);
            for value in row.iter_mut() {
                *value *= scale;
            }
        }
    }
}

vectorised! {
    /// Log-softmax of each row in place.
    pub(crate) fn log_softmax_rows(values: &mut [f32], columns: usize) {
        for row in values.chunks_exact_mut(columns) {
            let most = maximum(row);
            let total = sum(row, |value| exp(value - most));
            let offset = most + total.ln();
            for value in row.iter_mut() {
                *value -= offset;
            }
        }
    }
}

/// Applies an activation in place.
pub(crate) fn activate(values: &mut [f32], activation: Activation) {
    match activation {
        Activation::Relu => relu(values),
        Activation::Gelu => Instructions::detect().run(Gelu(values)),
        Activation::Silu => silu(values),
    }
}

vectorised! {
    fn relu(values: &mut [f32]) {
        for value in values {
            // Written so that a NaN stays one.
            *value = if *value < 0.0 { 0.0 } else { *value };
        }
    }
}

vectorised! {
    fn silu(values: &mut [f32]) {
        for value in values {
            *value /= 1.0 + exp(-*value);
        }
    }
}

/// e^x within 2 units in the last place; 0 and about 2e38 beyond the range of `f32`; NaN stays NaN.
///
/// By 2^n · e^r with |r| ≤ ln 2 / 2 and a polynomial of Cephes' `expf` for e^r.
#[inline(always)]
fn exp(x: f32) -> f32 {
    // Adding 1.5 · 2^23 rounds to an integer and leaves it in the low bits.
    const ROUND: f32 = 12_582_912.0;
    const LN_2_HIGH: f32 = 0.693_359_4;
    const LN_2_LOW: f32 = -2.121_944_4e-4;
    // Comparisons, because `clamp` and `max` would turn NaN into a number here and there.
    let bounded = if x < -87.3 { -87.3 } else { x };
    let bounded = if bounded > 88.0 { 88.0 } else { bounded };
    let rounded = bounded * std::f32::consts::LOG2_E + ROUND;
    let n = rounded - ROUND;
    let r = (bounded - n * LN_2_HIGH) - n * LN_2_LOW;
    let mut p = 1.987_569_1e-4;
    p = p * r + 1.398_2e-3;
    p = p * r + 8.333_452e-3;
    p = p * r + 4.166_579_6e-2;
    p = p * r + 1.666_666_5e-1;
    p = p * r + 0.5;
    let e_to_r = p * (r * r) + r + 1.0;
    let power = f32::from_bits((rounded.to_bits() << 23).wrapping_add(1.0f32.to_bits()));
    let result = e_to_r * power;
    if x < -87.3 { 0.0 } else { result }
}

/// 1 / (1 + e^−x), absolute error below 2e-7; NaN stays NaN.
#[inline(always)]
pub(crate) fn sigmoid(x: f32) -> f32 {
    1.0 / (1.0 + exp(-x))
}

/// Hyperbolic tangent, absolute error below 3e-7; NaN stays NaN.
#[inline(always)]
pub(crate) fn tanh(x: f32) -> f32 {
    1.0 - 2.0 / (1.0 + exp(2.0 * x))
}

/// x Φ(x) in place, absolute error below 2e-7 max(1, |x|); NaN stays NaN.
///
/// Φ(x) − ½ is an odd function: x P(x²) / Q(x²), fitted by iterated least squares to 2e-8 for |x| ≤ 5.5. Beyond, Φ differs from 0 or 1 by less than that.
struct Gelu<'a>(&'a mut [f32]);

const GELU_LIMIT: f32 = 5.5;
/// Coefficients of P, the highest first.
const GELU_P: [f32; 7] = [
    1.117_574_6e-10,
    -2.208_227_7e-8,
    3.241_043e-6,
    1.703_726e-4,
    4.509_156e-3,
    3.592_211e-2,
    0.398_942_14,
];
/// Coefficients of Q, the highest first.
const GELU_Q: [f32; 5] = [6.232_603e-5, 1.830_635_9e-3, 2.909_143e-2, 0.256_707_97, 1.0];

impl LanesWork for Gelu<'_> {
    #[inline(always)]
    fn run<L: Lanes>(self, lanes: L) {
        let (chunks, rest) = self.0.as_chunks_mut::<LANES>();
        for chunk in chunks {
            *chunk = lanes.store(gelu(lanes, lanes.load(chunk)));
        }
        let mut padded = [0.0; LANES];
        padded[..rest.len()].copy_from_slice(rest);
        let last = lanes.store(gelu(lanes, lanes.load(&padded)));
        rest.copy_from_slice(&last[..rest.len()]);
    }
}

#[inline(always)]
fn gelu<L: Lanes>(lanes: L, x: L::Eight) -> L::Eight {
    let near = lanes.between(-GELU_LIMIT, x, GELU_LIMIT);
    let square = lanes.mul(near, near);
    let (mut p, mut q) = (lanes.splat(GELU_P[0]), lanes.splat(GELU_Q[0]));
    for coefficient in &GELU_P[1..] {
        p = lanes.mul_add(p, square, lanes.splat(*coefficient));
    }
    for coefficient in &GELU_Q[1..] {
        q = lanes.mul_add(q, square, lanes.splat(*coefficient));
    }
    let beyond_half = lanes.div(lanes.mul(near, p), q);
    lanes.mul_add(x, beyond_half, lanes.mul(x, lanes.splat(0.5)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn range() -> impl Iterator<Item = f32> {
        (-40_000..=40_000).map(|step| step as f32 * 2.5e-3)
    }

    #[test]
    fn exp_is_within_three_units_of_the_last_place() {
        for x in range().filter(|x| x.abs() < 87.0) {
            let expected = f64::from(x).exp();
            assert!(
                ((f64::from(exp(x)) - expected) / expected).abs() < 3.0 * f64::from(f32::EPSILON),
                "{x}"
            );
        }
        assert_eq!(exp(-1e8), 0.0);
        assert_eq!(exp(f32::NEG_INFINITY), 0.0);
        assert_eq!(exp(0.0), 1.0);
        assert!(exp(f32::NAN).is_nan());
    }

    #[test]
    fn gelu_equals_the_exact_one() {
        let values: Vec<f32> = range().filter(|x| x.abs() < 20.0).collect();
        let exact = candle_core::Tensor::new(values.as_slice(), &candle_core::Device::Cpu)
            .and_then(|t| t.to_dtype(candle_core::DType::F64)?.gelu_erf()?.to_vec1::<f64>())
            .unwrap();
        for instructions in Instructions::all() {
            let mut found = values.clone();
            instructions.run(Gelu(&mut found));
            for ((&x, found), exact) in values.iter().zip(found).zip(&exact) {
                assert!(
                    (f64::from(found) - exact).abs() < 2.5e-7 * f64::from(x.abs().max(1.0)),
                    "{x}: {found} {exact} {instructions:?}"
                );
            }
            let mut odd = [1.0, f32::NAN, 1e30, -1e30, 0.0, 2.0, 3.0, -3.0, 0.5];
            instructions.run(Gelu(&mut odd));
            assert!(odd[1].is_nan());
            assert!(odd[2] >= 0.999e30 && odd[3].abs() <= 1e24, "{odd:?}");
            assert!((odd[8] - 0.345_731_2).abs() < 1e-6, "{odd:?}");
        }
    }

    #[test]
    fn sigmoid_and_tanh_equal_the_exact_ones() {
        for x in range() {
            let exact = f64::from(x);
            assert!(
                (f64::from(sigmoid(x)) - 1.0 / (1.0 + (-exact).exp())).abs() < 2e-7,
                "{x}"
            );
            assert!((f64::from(tanh(x)) - exact.tanh()).abs() < 3e-7, "{x}");
        }
        assert!(sigmoid(f32::NAN).is_nan() && tanh(f32::NAN).is_nan());
    }

    #[test]
    fn softmax_shares_one_among_a_row_and_keeps_nan_in_its_own() {
        let mut values: Vec<f32> = (0..33).map(|i| (i % 11) as f32 - 5.0).collect();
        values[12] = f32::NAN;
        softmax_rows(&mut values, 11);
        for row in [0..11, 22..33] {
            assert!((values[row].iter().sum::<f32>() - 1.0).abs() < 1e-6);
        }
        assert!(values[11..22].iter().all(|value| value.is_nan()));
    }
}
