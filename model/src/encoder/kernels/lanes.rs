//! What the kernels ask of a processor, and the kinds of processor that they are compiled for.
//!
//! A kernel is written once, as [`LanesWork`] over any [`Lanes`]; [`Instructions::run`] runs the copy of it that was compiled for what
//! the machine was found to have. Whole numbers are exact everywhere, so there every kind of processor gives the same bits.

#[cfg(target_arch = "x86_64")]
mod x86;

use std::sync::OnceLock;

#[cfg(target_arch = "x86_64")]
use pulp::x86::{V3, V4};

#[cfg(target_arch = "x86_64")]
use self::x86::{Avx2Vnni, Avx512Bf16, Avx512Vnni};

/// Numbers of the registers that row-wise loops use.
pub(crate) const LANES: usize = 8;

/// Columns of a panel of weights.
pub(super) const COLUMNS: usize = 16;

/// One input's weights in a panel, on a cache line of its own.
#[derive(Debug, Clone, Copy)]
#[repr(align(64))]
pub(crate) struct PanelRow(pub(super) [f32; COLUMNS]);

/// Weights of two inputs for the columns of a panel: column 0's two, column 1's two, …
#[derive(Debug, Clone, Copy)]
#[repr(align(32))]
pub(crate) struct PanelPair(pub(super) [[i8; 2]; COLUMNS]);

/// Weights of two inputs for the columns of a panel, in bf16: the upper halves of the bits of `f32`.
#[derive(Debug, Clone, Copy)]
#[repr(align(64))]
pub(crate) struct BrainPair(pub(crate) [[u16; 2]; COLUMNS]);

/// What a processor does with eight numbers, and with a panel's sixteen.
pub(crate) trait Lanes: Copy {
    /// Most rows of a tile: with more, the sums would not fit the registers.
    const ROWS: usize;

    /// Eight numbers.
    type Eight: Copy;
    fn splat(self, value: f32) -> Self::Eight;
    fn load(self, values: &[f32; LANES]) -> Self::Eight;
    fn store(self, values: Self::Eight) -> [f32; LANES];
    fn mul(self, a: Self::Eight, b: Self::Eight) -> Self::Eight;
    fn div(self, a: Self::Eight, b: Self::Eight) -> Self::Eight;
    /// a · b + c.
    fn mul_add(self, a: Self::Eight, b: Self::Eight, c: Self::Eight) -> Self::Eight;
    /// `values` where they are between the bounds, else the nearer bound; NaN stays NaN.
    fn between(self, least: f32, values: Self::Eight, most: f32) -> Self::Eight;
    /// The sum of each.
    fn sums(self, fours: [Self::Eight; 4]) -> [f32; 4];

    /// A sum for each column of a panel.
    type Sums: Copy;
    /// An input's weights.
    type Weights: Copy;
    fn no_sums(self) -> Self::Sums;
    fn weights(self, row: &PanelRow) -> Self::Weights;
    /// sums + value · weights.
    fn add_product(self, sums: Self::Sums, value: f32, weights: Self::Weights) -> Self::Sums;
    fn store_sums(self, sums: Self::Sums) -> [f32; COLUMNS];

    /// Two inputs' weights in bf16.
    type BrainWeights: Copy;
    fn brain_weights(self, pair: &BrainPair) -> Self::BrainWeights;
    /// Adds both products of a pair in bf16: `value` has the first input in its low half, the second in its high half.
    fn add_brain_products(self, sums: Self::Sums, value: u32, weights: Self::BrainWeights) -> Self::Sums;

    /// A whole sum for each column of a panel.
    type WholeSums: Copy;
    /// Two inputs' whole weights.
    type WholeWeights: Copy;
    fn no_whole_sums(self) -> Self::WholeSums;
    fn whole_weights(self, pair: &PanelPair) -> Self::WholeWeights;
    /// Adds both products of a pair: `value` has the first input in its low half, the second in its high half, 16 bits with a sign each.
    fn add_whole_products(
        self,
        sums: Self::WholeSums,
        value: i32,
        weights: Self::WholeWeights,
    ) -> Self::WholeSums;
    /// sums · (scale · scales), rounded as written.
    fn scaled(self, sums: Self::WholeSums, scale: f32, scales: &[f32; COLUMNS]) -> [f32; COLUMNS];

    /// Asks for memory that is needed soon.
    fn prefetch<T>(self, what: &T);
}

/// Work that is compiled for each kind of processor.
pub(crate) trait LanesWork {
    /// Does it. To be inlined always.
    fn run<L: Lanes>(self, lanes: L);
}

/// A kind of processor.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Instructions {
    /// AVX-512 with VNNI and BF16: products in bf16 are added two at a time.
    #[cfg(target_arch = "x86_64")]
    Avx512Bf16(Avx512Bf16),
    /// AVX-512 with VNNI: whole products are added as they are made.
    #[cfg(target_arch = "x86_64")]
    Avx512Vnni(Avx512Vnni),
    /// AVX-512 F, BW, CD, DQ and VL.
    #[cfg(target_arch = "x86_64")]
    Avx512(V4),
    /// AVX2, FMA and AVX-VNNI.
    #[cfg(target_arch = "x86_64")]
    Avx2Vnni(Avx2Vnni),
    /// AVX2 and FMA.
    #[cfg(target_arch = "x86_64")]
    Avx2(V3),
    /// Whatever the compiler makes of plain loops.
    Plain,
}

impl Instructions {
    /// The best that the processor has.
    pub(crate) fn detect() -> Self {
        static FOUND: OnceLock<Instructions> = OnceLock::new();
        *FOUND.get_or_init(|| Self::all().next().unwrap_or(Self::Plain))
    }

    /// All that the processor has, the best first.
    pub(super) fn all() -> impl Iterator<Item = Self> {
        #[cfg(target_arch = "x86_64")]
        let vector = [
            Avx512Bf16::detect().map(Self::Avx512Bf16),
            Avx512Vnni::detect().map(Self::Avx512Vnni),
            V4::try_new().map(Self::Avx512),
            Avx2Vnni::detect().map(Self::Avx2Vnni),
            V3::try_new().map(Self::Avx2),
        ];
        #[cfg(not(target_arch = "x86_64"))]
        let vector: [Option<Self>; 0] = [];
        vector.into_iter().flatten().chain([Self::Plain])
    }

    /// Does work with these instructions.
    pub(crate) fn run(self, work: impl LanesWork) {
        match self {
            #[cfg(target_arch = "x86_64")]
            Self::Avx512Bf16(simd) => simd.run(work),
            #[cfg(target_arch = "x86_64")]
            Self::Avx512Vnni(simd) => simd.run(work),
            #[cfg(target_arch = "x86_64")]
            Self::Avx512(simd) => simd.vectorize(x86::Inside { simd, work }),
            #[cfg(target_arch = "x86_64")]
            Self::Avx2Vnni(simd) => simd.run(work),
            #[cfg(target_arch = "x86_64")]
            Self::Avx2(simd) => simd.vectorize(x86::Inside { simd, work }),
            Self::Plain => work.run(Plain),
        }
    }
}

#[derive(Debug, Clone, Copy)]
struct Plain;

impl Lanes for Plain {
    const ROWS: usize = 6;

    type Eight = [f32; LANES];

    fn splat(self, value: f32) -> [f32; LANES] {
        [value; LANES]
    }

    fn load(self, values: &[f32; LANES]) -> [f32; LANES] {
        *values
    }

    fn store(self, values: [f32; LANES]) -> [f32; LANES] {
        values
    }

    fn mul(self, a: [f32; LANES], b: [f32; LANES]) -> [f32; LANES] {
        std::array::from_fn(|lane| a[lane] * b[lane])
    }

    fn div(self, a: [f32; LANES], b: [f32; LANES]) -> [f32; LANES] {
        std::array::from_fn(|lane| a[lane] / b[lane])
    }

    fn mul_add(self, a: [f32; LANES], b: [f32; LANES], c: [f32; LANES]) -> [f32; LANES] {
        std::array::from_fn(|lane| a[lane] * b[lane] + c[lane])
    }

    fn between(self, least: f32, values: [f32; LANES], most: f32) -> [f32; LANES] {
        values.map(|value| {
            // Comparisons, because `max` and `min` would turn NaN into a number.
            if value < least {
                least
            } else if value > most {
                most
            } else {
                value
            }
        })
    }

    fn sums(self, fours: [[f32; LANES]; 4]) -> [f32; 4] {
        fours.map(|eight| eight.iter().sum())
    }

    type Sums = [f32; COLUMNS];
    type Weights = [f32; COLUMNS];

    fn no_sums(self) -> [f32; COLUMNS] {
        [0.0; COLUMNS]
    }

    fn weights(self, row: &PanelRow) -> [f32; COLUMNS] {
        row.0
    }

    fn add_product(self, sums: [f32; COLUMNS], value: f32, weights: [f32; COLUMNS]) -> [f32; COLUMNS] {
        std::array::from_fn(|column| sums[column] + value * weights[column])
    }

    fn store_sums(self, sums: [f32; COLUMNS]) -> [f32; COLUMNS] {
        sums
    }

    type BrainWeights = [[u16; 2]; COLUMNS];

    fn brain_weights(self, pair: &BrainPair) -> [[u16; 2]; COLUMNS] {
        pair.0
    }

    fn add_brain_products(
        self,
        sums: [f32; COLUMNS],
        value: u32,
        weights: [[u16; 2]; COLUMNS],
    ) -> [f32; COLUMNS] {
        let wide = |half: u16| f32::from_bits(u32::from(half) << 16);
        let (low, high) = (f32::from_bits(value << 16), f32::from_bits(value & 0xffff_0000));
        std::array::from_fn(|column| {
            let [first, second] = weights[column].map(wide);
            sums[column] + low * first + high * second
        })
    }

    type WholeSums = [i32; COLUMNS];
    type WholeWeights = [[i8; 2]; COLUMNS];

    fn no_whole_sums(self) -> [i32; COLUMNS] {
        [0; COLUMNS]
    }

    fn whole_weights(self, pair: &PanelPair) -> [[i8; 2]; COLUMNS] {
        pair.0
    }

    fn add_whole_products(
        self,
        sums: [i32; COLUMNS],
        value: i32,
        weights: [[i8; 2]; COLUMNS],
    ) -> [i32; COLUMNS] {
        let (low, high) = (i32::from(value as i16), value >> 16);
        std::array::from_fn(|column| {
            let [first, second] = weights[column];
            sums[column] + low * i32::from(first) + high * i32::from(second)
        })
    }

    fn scaled(self, sums: [i32; COLUMNS], scale: f32, scales: &[f32; COLUMNS]) -> [f32; COLUMNS] {
        std::array::from_fn(|column| sums[column] as f32 * (scale * scales[column]))
    }

    fn prefetch<T>(self, _: &T) {}
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every operation on the same numbers.
    #[derive(Debug, Default, PartialEq)]
    struct Found {
        rows: usize,
        eights: Vec<[f32; LANES]>,
        sums: [f32; 4],
        panel: [f32; COLUMNS],
        brain: [f32; COLUMNS],
        whole: [f32; COLUMNS],
    }

    impl LanesWork for &mut Found {
        fn run<L: Lanes>(self, lanes: L) {
            let (a, b) = (
                [1.5, -2.0, 0.0, 3.0, -4.5, 5.0, f32::NAN, f32::INFINITY],
                [2.0, 4.0, 8.0, -1.0, 0.5, 0.25, 1.0, 2.0],
            );
            let (x, y) = (lanes.load(&a), lanes.load(&b));
            let eights = [
                lanes.mul(x, y),
                lanes.div(x, y),
                lanes.mul_add(x, y, lanes.splat(0.5)),
                lanes.between(-3.0, x, 4.0),
            ];
            self.eights = eights.into_iter().map(|eight| lanes.store(eight)).collect();
            let whole: [f32; LANES] = std::array::from_fn(|lane| lane as f32);
            let eight = lanes.load(&whole);
            self.sums = lanes.sums([eight, lanes.mul(eight, lanes.splat(2.0)), y, lanes.splat(-1.0)]);
            let row = PanelRow(std::array::from_fn(|column| column as f32 - 7.0));
            let once = lanes.add_product(lanes.no_sums(), 3.0, lanes.weights(&row));
            self.panel = lanes.store_sums(lanes.add_product(once, -0.5, lanes.weights(&row)));
            // 1.5 and −2, times 1 and a whole number of seven bits: exact in bf16.
            let pair = BrainPair(std::array::from_fn(|column| {
                [0x3f80, ((column as f32).to_bits() >> 16) as u16]
            }));
            let weights = lanes.brain_weights(&pair);
            let once = lanes.add_brain_products(lanes.no_sums(), 0xc000_3fc0, weights);
            self.brain = lanes.store_sums(lanes.add_brain_products(once, 0x3f80_0000, weights));
            let pair = PanelPair(std::array::from_fn(|column| {
                [column as i8 * 8 - 120, 127 - column as i8]
            }));
            let (low, high) = (-2047, 1999);
            let value = (low & 0xffff) | (high << 16);
            let weights = lanes.whole_weights(&pair);
            let once = lanes.add_whole_products(lanes.no_whole_sums(), value, weights);
            let twice = lanes.add_whole_products(once, 0x0001_0001, weights);
            let scales = std::array::from_fn(|column| 0.3 + column as f32);
            self.whole = lanes.scaled(twice, 0.7, &scales);
            lanes.prefetch(&row);
            self.rows = L::ROWS;
        }
    }

    #[test]
    fn every_kind_of_processor_computes_the_same() {
        let mut expected = Found::default();
        Instructions::Plain.run(&mut expected);
        assert_eq!(expected.sums, [28.0, 56.0, 16.75, -8.0]);
        assert_eq!(
            expected.whole[0],
            (-2047 * -120 + 1999 * 127 - 120 + 127) as f32 * (0.7 * 0.3),
            "the low half first"
        );
        assert_eq!(expected.brain[..3], [1.5, 0.5, -0.5]);
        for instructions in Instructions::all() {
            let mut found = Found::default();
            instructions.run(&mut found);
            println!("{instructions:?}: tiles of {} rows", found.rows);
            assert!(found.rows > 0);
            // NaN is not equal to itself, so numbers are compared by their bits.
            let bits = |eights: &[[f32; LANES]]| -> Vec<[u32; LANES]> {
                let bits = |value: f32| if value.is_nan() { 1 } else { value.to_bits() };
                eights.iter().map(|eight| eight.map(bits)).collect()
            };
            assert_eq!(bits(&found.eights), bits(&expected.eights), "{instructions:?}");
            assert_eq!(found.sums, expected.sums, "{instructions:?}");
            assert_eq!(found.panel, expected.panel, "{instructions:?}");
            assert_eq!(found.brain, expected.brain, "{instructions:?}");
            assert_eq!(found.whole, expected.whole, "{instructions:?}");
        }
    }
}
