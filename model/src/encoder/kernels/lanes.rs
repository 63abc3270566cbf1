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

/// Whole weights of two inputs for the columns of a panel: column 0's two, column 1's two, …
#[derive(Debug, Clone, Copy)]
#[repr(align(32))]
pub(crate) struct WholePair(pub(super) [[i8; 2]; COLUMNS]);

/// Whole weights of four inputs for the columns of a panel: column 0's four, column 1's four, …
#[derive(Debug, Clone, Copy)]
#[repr(align(64))]
pub(crate) struct ByteQuad(pub(super) [[i8; 4]; COLUMNS]);

/// Weights of two inputs for the columns of a panel, in bf16: the upper halves of the bits of `f32`.
#[derive(Debug, Clone, Copy)]
#[repr(align(64))]
pub(crate) struct BrainPair(pub(crate) [[u16; 2]; COLUMNS]);

/// What a processor does with eight numbers, and with a panel's sixteen.
pub(crate) trait Lanes: Copy {
    /// Most rows of a tile of one panel: with more, the sums would not fit the registers.
    const ROWS: usize;
    /// Most rows of a tile of two panels; 0 where one after the other is better.
    const ROWS_OF_TWO: usize;

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
    /// The lesser of each two.
    fn lesser(self, a: Self::Eight, b: Self::Eight) -> Self::Eight;
    /// The greater of each two.
    fn greater(self, a: Self::Eight, b: Self::Eight) -> Self::Eight;
    /// The nearest whole numbers, of two the even one; those beyond 16 bits as the nearest.
    fn shorts(self, halves: [Self::Eight; 2]) -> [i16; 2 * LANES];
    /// The nearest whole numbers, of two the even one, and `zero`: as bytes, those beyond as the nearest byte.
    fn bytes(self, halves: [Self::Eight; 2], zero: i32) -> [u8; 2 * LANES];
    /// The sum of each.
    fn sums(self, fours: [Self::Eight; 4]) -> [f32; 4];

    /// A sum for each column of a panel.
    type Sums: Copy;
    /// A number for each column of a panel.
    type Weights: Copy;
    fn no_sums(self) -> Self::Sums;
    fn columns(self, row: &[f32; COLUMNS]) -> Self::Weights;
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
    fn no_whole_sums(self) -> Self::WholeSums;
    /// Two inputs' whole weights.
    type PairWeights: Copy;
    fn pair_weights(self, pair: &WholePair) -> Self::PairWeights;
    /// Adds both products of a pair: `value` has the first input in its low half, the second in its high half, 16 bits with a sign each.
    fn add_pair_products(
        self,
        sums: Self::WholeSums,
        value: u32,
        weights: Self::PairWeights,
    ) -> Self::WholeSums;
    /// Four inputs' whole weights.
    type ByteWeights: Copy;
    fn byte_weights(self, quad: &ByteQuad) -> Self::ByteWeights;
    /// Adds four products: `value` has the inputs in its bytes, without signs, the first in the lowest.
    fn add_byte_products(
        self,
        sums: Self::WholeSums,
        value: u32,
        weights: Self::ByteWeights,
    ) -> Self::WholeSums;
    fn store_whole_sums(self, sums: Self::WholeSums) -> [i32; COLUMNS];
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
    const ROWS_OF_TWO: usize = 0;

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

    fn lesser(self, a: [f32; LANES], b: [f32; LANES]) -> [f32; LANES] {
        std::array::from_fn(|lane| a[lane].min(b[lane]))
    }

    fn greater(self, a: [f32; LANES], b: [f32; LANES]) -> [f32; LANES] {
        std::array::from_fn(|lane| a[lane].max(b[lane]))
    }

    fn shorts(self, halves: [[f32; LANES]; 2]) -> [i16; 2 * LANES] {
        // A conversion takes the nearest where a number is beyond.
        std::array::from_fn(|index| halves[index / LANES][index % LANES].round_ties_even() as i16)
    }

    fn bytes(self, halves: [[f32; LANES]; 2], zero: i32) -> [u8; 2 * LANES] {
        std::array::from_fn(|index| {
            let value = halves[index / LANES][index % LANES];
            (value.round_ties_even() as i32)
                .saturating_add(zero)
                .clamp(0, 255) as u8
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

    fn columns(self, row: &[f32; COLUMNS]) -> [f32; COLUMNS] {
        *row
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
    type PairWeights = [[i8; 2]; COLUMNS];

    fn no_whole_sums(self) -> [i32; COLUMNS] {
        [0; COLUMNS]
    }

    fn pair_weights(self, pair: &WholePair) -> [[i8; 2]; COLUMNS] {
        pair.0
    }

    fn add_pair_products(
        self,
        sums: [i32; COLUMNS],
        value: u32,
        weights: [[i8; 2]; COLUMNS],
    ) -> [i32; COLUMNS] {
        let (low, high) = (i32::from(value as i16), value.cast_signed() >> 16);
        std::array::from_fn(|column| {
            let [first, second] = weights[column];
            sums[column] + low * i32::from(first) + high * i32::from(second)
        })
    }

    type ByteWeights = [[i8; 4]; COLUMNS];

    fn byte_weights(self, quad: &ByteQuad) -> [[i8; 4]; COLUMNS] {
        quad.0
    }

    fn add_byte_products(
        self,
        sums: [i32; COLUMNS],
        value: u32,
        weights: [[i8; 4]; COLUMNS],
    ) -> [i32; COLUMNS] {
        let inputs = value.to_le_bytes();
        std::array::from_fn(|column| {
            let products = inputs.iter().zip(weights[column]);
            sums[column] + products.map(|(&x, w)| i32::from(x) * i32::from(w)).sum::<i32>()
        })
    }

    fn store_whole_sums(self, sums: [i32; COLUMNS]) -> [i32; COLUMNS] {
        sums
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every operation on the same numbers.
    #[derive(Debug, Default, PartialEq)]
    struct Found {
        rows: (usize, usize),
        eights: Vec<[f32; LANES]>,
        bytes: [u8; 2 * LANES],
        sums: [f32; 4],
        panel: [f32; COLUMNS],
        brain: [f32; COLUMNS],
        shorts: [i16; 2 * LANES],
        pairs: [i32; COLUMNS],
        whole: [i32; COLUMNS],
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
                lanes.lesser(y, lanes.splat(1.5)),
                lanes.greater(y, lanes.splat(1.5)),
            ];
            let near = lanes.load(&[-300.0, -7.5, -6.5, 0.5, 1.5, 2.49, 200.6, 9e4]);
            self.shorts = lanes.shorts([near, lanes.mul(near, lanes.splat(0.1))]);
            self.bytes = lanes.bytes([near, lanes.mul(near, lanes.splat(-0.01))], 7);
            self.eights = eights.into_iter().map(|eight| lanes.store(eight)).collect();
            let whole: [f32; LANES] = std::array::from_fn(|lane| lane as f32);
            let eight = lanes.load(&whole);
            self.sums = lanes.sums([eight, lanes.mul(eight, lanes.splat(2.0)), y, lanes.splat(-1.0)]);
            let row = PanelRow(std::array::from_fn(|column| column as f32 - 7.0));
            let once = lanes.add_product(lanes.no_sums(), 3.0, lanes.columns(&row.0));
            self.panel = lanes.store_sums(lanes.add_product(once, -0.5, lanes.columns(&row.0)));
            // 1.5 and −2, times 1 and a whole number of seven bits: exact in bf16.
            let pair = BrainPair(std::array::from_fn(|column| {
                [0x3f80, ((column as f32).to_bits() >> 16) as u16]
            }));
            let weights = lanes.brain_weights(&pair);
            let once = lanes.add_brain_products(lanes.no_sums(), 0xc000_3fc0, weights);
            self.brain = lanes.store_sums(lanes.add_brain_products(once, 0x3f80_0000, weights));
            let pair = WholePair(std::array::from_fn(|column| {
                [column as i8 * 8 - 120, 127 - column as i8]
            }));
            let weights = lanes.pair_weights(&pair);
            let once = lanes.add_pair_products(lanes.no_whole_sums(), 0x7fff_8001, weights);
            self.pairs = lanes.store_whole_sums(lanes.add_pair_products(once, 0x0001_0001, weights));
            let quad = ByteQuad(std::array::from_fn(|column| {
                [column as i8 * 8 - 120, 127 - column as i8, -127, 127]
            }));
            let weights = lanes.byte_weights(&quad);
            let once = lanes.add_byte_products(lanes.no_whole_sums(), 0x0203_fffe, weights);
            self.whole = lanes.store_whole_sums(lanes.add_byte_products(once, 0xffff_0180, weights));
            self.rows = (L::ROWS, L::ROWS_OF_TWO);
        }
    }

    #[test]
    fn every_kind_of_processor_computes_the_same() {
        let mut expected = Found::default();
        Instructions::Plain.run(&mut expected);
        assert_eq!(expected.shorts[..8], [-300, -8, -6, 0, 2, 2, 201, 32_767]);
        assert_eq!(
            expected.pairs[0],
            32_767 * 120 + 32_767 * 127 - 120 + 127,
            "the low half first"
        );
        assert_eq!(expected.bytes[..8], [0, 0, 1, 7, 9, 9, 208, 255]);
        assert_eq!(expected.sums, [28.0, 56.0, 16.75, -8.0]);
        assert_eq!(
            expected.whole[0],
            254 * -120 + 255 * 127 - 3 * 127 + 2 * 127 + 128 * -120 + 127,
            "the lowest byte first"
        );
        assert_eq!(expected.brain[..3], [1.5, 0.5, -0.5]);
        for instructions in Instructions::all() {
            let mut found = Found::default();
            instructions.run(&mut found);
            println!("{instructions:?}: tiles of {:?} rows", found.rows);
            assert!(found.rows.0 > 0);
            // NaN is not equal to itself, so numbers are compared by their bits.
            let bits = |eights: &[[f32; LANES]]| -> Vec<[u32; LANES]> {
                let bits = |value: f32| if value.is_nan() { 1 } else { value.to_bits() };
                eights.iter().map(|eight| eight.map(bits)).collect()
            };
            assert_eq!(bits(&found.eights), bits(&expected.eights), "{instructions:?}");
            assert_eq!(found.shorts, expected.shorts, "{instructions:?}");
            assert_eq!(found.pairs, expected.pairs, "{instructions:?}");
            assert_eq!(found.bytes, expected.bytes, "{instructions:?}");
            assert_eq!(found.sums, expected.sums, "{instructions:?}");
            assert_eq!(found.panel, expected.panel, "{instructions:?}");
            assert_eq!(found.brain, expected.brain, "{instructions:?}");
            assert_eq!(found.whole, expected.whole, "{instructions:?}");
        }
    }
}
