//! Processors of the x86-64 kind.

use std::arch::x86_64::{__m128, __m128i, __m256, __m256i, __m512, __m512i};

use pulp::x86::{V3, V4};
use pulp::{NullaryFnOnce, cast};

use super::{BrainPair, ByteQuad, COLUMNS, LANES, Lanes, LanesWork, WholePair};

/// Work that the compiler inlines into a function of a processor's instructions.
pub(super) struct Inside<L, W> {
    pub(super) simd: L,
    pub(super) work: W,
}

impl<L: Lanes, W: LanesWork> NullaryFnOnce for Inside<L, W> {
    type Output = ();

    #[inline(always)]
    fn call(self) {
        self.work.run(self.simd);
    }
}

/// The part of [`Lanes`] that is the same wherever there is AVX2: everything of eight numbers.
macro_rules! eight_by_avx2 {
    ($simd:ident => $v3:expr) => {
        type Eight = __m256;

        #[inline(always)]
        fn splat(self, value: f32) -> __m256 {
            let $simd = self;
            $v3.avx._mm256_set1_ps(value)
        }

        #[inline(always)]
        fn load(self, values: &[f32; LANES]) -> __m256 {
            cast(*values)
        }

        #[inline(always)]
        fn store(self, values: __m256) -> [f32; LANES] {
            cast(values)
        }

        #[inline(always)]
        fn mul(self, a: __m256, b: __m256) -> __m256 {
            let $simd = self;
            $v3.avx._mm256_mul_ps(a, b)
        }

        #[inline(always)]
        fn div(self, a: __m256, b: __m256) -> __m256 {
            let $simd = self;
            $v3.avx._mm256_div_ps(a, b)
        }

        #[inline(always)]
        fn mul_add(self, a: __m256, b: __m256, c: __m256) -> __m256 {
            let $simd = self;
            $v3.fma._mm256_fmadd_ps(a, b, c)
        }

        #[inline(always)]
        fn between(self, least: f32, values: __m256, most: f32) -> __m256 {
            let $simd = self;
            let avx = $v3.avx;
            // These instructions give the second one if either is NaN.
            let values = avx._mm256_max_ps(avx._mm256_set1_ps(least), values);
            avx._mm256_min_ps(avx._mm256_set1_ps(most), values)
        }

        #[inline(always)]
        fn lesser(self, a: __m256, b: __m256) -> __m256 {
            let $simd = self;
            $v3.avx._mm256_min_ps(a, b)
        }

        #[inline(always)]
        fn greater(self, a: __m256, b: __m256) -> __m256 {
            let $simd = self;
            $v3.avx._mm256_max_ps(a, b)
        }

        #[inline(always)]
        fn shorts(self, [a, b]: [__m256; 2]) -> [i16; 2 * LANES] {
            let $simd = self;
            let (avx, avx2) = ($v3.avx, $v3.avx2);
            // Packing goes half by half of a register: a's and b's first four, then their last four. What is beyond 32 bits would become the least number.
            let most = avx._mm256_set1_ps(1e6);
            let (a, b) = (avx._mm256_min_ps(a, most), avx._mm256_min_ps(b, most));
            let mixed = avx2._mm256_packs_epi32(avx._mm256_cvtps_epi32(a), avx._mm256_cvtps_epi32(b));
            cast(avx2._mm256_permute4x64_epi64::<0b11_01_10_00>(mixed))
        }

        #[inline(always)]
        fn bytes(self, [a, b]: [__m256; 2], zero: i32) -> [u8; 2 * LANES] {
            let $simd = self;
            let (sse2, avx, avx2) = ($v3.sse2, $v3.avx, $v3.avx2);
            let zero = avx._mm256_set1_epi32(zero);
            let a = avx2._mm256_add_epi32(avx._mm256_cvtps_epi32(a), zero);
            let b = avx2._mm256_add_epi32(avx._mm256_cvtps_epi32(b), zero);
            let mixed = avx2._mm256_packs_epi32(a, b);
            let sorted = avx2._mm256_permute4x64_epi64::<0b11_01_10_00>(mixed);
            let [low, high]: [__m128i; 2] = cast(sorted);
            cast(sse2._mm_packus_epi16(low, high))
        }

        #[inline(always)]
        fn sums(self, [a, b, c, d]: [__m256; 4]) -> [f32; 4] {
            let $simd = self;
            let avx = $v3.avx;
            // In each half: a0+a2 b0+b2 a1+a3 b1+b3, then the four sums of the half side by side.
            let ab = avx._mm256_add_ps(avx._mm256_unpacklo_ps(a, b), avx._mm256_unpackhi_ps(a, b));
            let cd = avx._mm256_add_ps(avx._mm256_unpacklo_ps(c, d), avx._mm256_unpackhi_ps(c, d));
            let halves = avx._mm256_add_ps(
                avx._mm256_shuffle_ps::<0b01_00_01_00>(ab, cd),
                avx._mm256_shuffle_ps::<0b11_10_11_10>(ab, cd),
            );
            let low: __m128 = avx._mm256_castps256_ps128(halves);
            cast(
                $v3.sse
                    ._mm_add_ps(low, avx._mm256_extractf128_ps::<1>(halves)),
            )
        }
    };
}

/// Sums of floating-point products in two registers of AVX2.
///
/// Six rows by sixteen columns are twelve of the sixteen registers; two hold a row of the panel and one a broadcast input. On Zen 3 that
/// is 12 fused multiply-adds in 6 cycles for 8 loads, so the loads hide behind the arithmetic.
macro_rules! sums_by_avx2 {
    ($simd:ident => $v3:expr) => {
        const ROWS: usize = 6;
        const ROWS_OF_TWO: usize = 0;

        type Sums = [__m256; 2];
        type Weights = [__m256; 2];

        #[inline(always)]
        fn no_sums(self) -> [__m256; 2] {
            let $simd = self;
            [$v3.avx._mm256_setzero_ps(); 2]
        }

        #[inline(always)]
        fn columns(self, row: &[f32; COLUMNS]) -> [__m256; 2] {
            cast(*row)
        }

        #[inline(always)]
        fn add_product(self, sums: [__m256; 2], value: f32, weights: [__m256; 2]) -> [__m256; 2] {
            let $simd = self;
            let value = $v3.avx._mm256_set1_ps(value);
            [
                $v3.fma._mm256_fmadd_ps(value, weights[0], sums[0]),
                $v3.fma._mm256_fmadd_ps(value, weights[1], sums[1]),
            ]
        }

        #[inline(always)]
        fn store_sums(self, sums: [__m256; 2]) -> [f32; COLUMNS] {
            cast(sums)
        }

        type BrainWeights = [[__m256; 2]; 2];

        #[inline(always)]
        fn brain_weights(self, pair: &BrainPair) -> [[__m256; 2]; 2] {
            let $simd = self;
            let (avx, avx2) = ($v3.avx, $v3.avx2);
            let halves: [__m256i; 2] = cast(pair.0);
            let mask = avx._mm256_set1_epi32(0xffff_0000_u32 as i32);
            [
                [
                    cast(avx2._mm256_slli_epi32::<16>(halves[0])),
                    cast(avx2._mm256_slli_epi32::<16>(halves[1])),
                ],
                [
                    cast(avx2._mm256_and_si256(halves[0], mask)),
                    cast(avx2._mm256_and_si256(halves[1], mask)),
                ],
            ]
        }

        #[inline(always)]
        fn add_brain_products(self, sums: [__m256; 2], value: u32, weights: [[__m256; 2]; 2]) -> [__m256; 2] {
            let first = self.add_product(sums, f32::from_bits(value << 16), weights[0]);
            self.add_product(first, f32::from_bits(value & 0xffff_0000), weights[1])
        }

        type WholeSums = [__m256i; 2];

        #[inline(always)]
        fn no_whole_sums(self) -> [__m256i; 2] {
            let $simd = self;
            [$v3.avx._mm256_setzero_si256(); 2]
        }

        #[inline(always)]
        fn store_whole_sums(self, sums: [__m256i; 2]) -> [i32; COLUMNS] {
            cast(sums)
        }
    };
}

/// Sums in one register of AVX-512: twelve rows are enough products on the way for two units of four cycles each.
macro_rules! sums_by_avx512 {
    ($simd:ident => $v4:expr) => {
        const ROWS: usize = 12;
        const ROWS_OF_TWO: usize = 12;

        type Sums = __m512;
        type Weights = __m512;

        #[inline(always)]
        fn no_sums(self) -> __m512 {
            let $simd = self;
            $v4.avx512f._mm512_setzero_ps()
        }

        #[inline(always)]
        fn columns(self, row: &[f32; COLUMNS]) -> __m512 {
            cast(*row)
        }

        #[inline(always)]
        fn add_product(self, sums: __m512, value: f32, weights: __m512) -> __m512 {
            let $simd = self;
            let value = $v4.avx512f._mm512_set1_ps(value);
            $v4.avx512f._mm512_fmadd_ps(value, weights, sums)
        }

        #[inline(always)]
        fn store_sums(self, sums: __m512) -> [f32; COLUMNS] {
            cast(sums)
        }

        type WholeSums = __m512i;

        #[inline(always)]
        fn no_whole_sums(self) -> __m512i {
            let $simd = self;
            $v4.avx512f._mm512_setzero_si512()
        }

        #[inline(always)]
        fn store_whole_sums(self, sums: __m512i) -> [i32; COLUMNS] {
            cast(sums)
        }
    };
}

/// Products in bf16 by those of `f32`, where AVX-512 has no BF16.
macro_rules! brain_by_avx512 {
    ($simd:ident => $v4:expr) => {
        type BrainWeights = [__m512; 2];

        #[inline(always)]
        fn brain_weights(self, pair: &BrainPair) -> [__m512; 2] {
            let $simd = self;
            let avx512f = $v4.avx512f;
            let halves: __m512i = cast(pair.0);
            let mask = avx512f._mm512_set1_epi32(0xffff_0000_u32 as i32);
            [
                cast(avx512f._mm512_slli_epi32::<16>(halves)),
                cast(avx512f._mm512_and_si512(halves, mask)),
            ]
        }

        #[inline(always)]
        fn add_brain_products(self, sums: __m512, value: u32, weights: [__m512; 2]) -> __m512 {
            let first = self.add_product(sums, f32::from_bits(value << 16), weights[0]);
            self.add_product(first, f32::from_bits(value & 0xffff_0000), weights[1])
        }
    };
}

impl Lanes for V3 {
    eight_by_avx2!(simd => simd);
    sums_by_avx2!(simd => simd);

    type PairWeights = [__m256i; 2];

    #[inline(always)]
    fn pair_weights(self, pair: &WholePair) -> [__m256i; 2] {
        let [low, high]: [__m128i; 2] = cast(pair.0);
        [
            self.avx2._mm256_cvtepi8_epi16(low),
            self.avx2._mm256_cvtepi8_epi16(high),
        ]
    }

    #[inline(always)]
    fn add_pair_products(self, sums: [__m256i; 2], value: u32, weights: [__m256i; 2]) -> [__m256i; 2] {
        let (avx2, value) = (self.avx2, self.avx._mm256_set1_epi32(value.cast_signed()));
        [
            avx2._mm256_add_epi32(sums[0], avx2._mm256_madd_epi16(value, weights[0])),
            avx2._mm256_add_epi32(sums[1], avx2._mm256_madd_epi16(value, weights[1])),
        ]
    }

    /// Of each half of the columns the weights of even and of odd inputs, in 16 bits.
    type ByteWeights = [[__m256i; 2]; 2];

    #[inline(always)]
    fn byte_weights(self, quad: &ByteQuad) -> [[__m256i; 2]; 2] {
        let avx2 = self.avx2;
        let halves: [__m256i; 2] = cast(quad.0);
        [
            [
                avx2._mm256_srai_epi16::<8>(avx2._mm256_slli_epi16::<8>(halves[0])),
                avx2._mm256_srai_epi16::<8>(halves[0]),
            ],
            [
                avx2._mm256_srai_epi16::<8>(avx2._mm256_slli_epi16::<8>(halves[1])),
                avx2._mm256_srai_epi16::<8>(halves[1]),
            ],
        ]
    }

    // Products of bytes would not fit the 16 bits that AVX2 adds them in.
    #[inline(always)]
    fn add_byte_products(self, sums: [__m256i; 2], value: u32, weights: [[__m256i; 2]; 2]) -> [__m256i; 2] {
        let (avx, avx2) = (self.avx, self.avx2);
        let inputs = avx._mm256_set1_epi32(value.cast_signed());
        let even = avx2._mm256_and_si256(inputs, avx._mm256_set1_epi16(0xff));
        let odd = avx2._mm256_srli_epi16::<8>(inputs);
        let add = |sum, [of_even, of_odd]: [__m256i; 2]| {
            let products = avx2._mm256_add_epi32(
                avx2._mm256_madd_epi16(even, of_even),
                avx2._mm256_madd_epi16(odd, of_odd),
            );
            avx2._mm256_add_epi32(sum, products)
        };
        [add(sums[0], weights[0]), add(sums[1], weights[1])]
    }
}

impl Lanes for V4 {
    eight_by_avx2!(simd => simd);
    sums_by_avx512!(simd => simd);
    brain_by_avx512!(simd => simd);

    type PairWeights = __m512i;

    #[inline(always)]
    fn pair_weights(self, pair: &WholePair) -> __m512i {
        self.avx512bw._mm512_cvtepi8_epi16(cast(pair.0))
    }

    #[inline(always)]
    fn add_pair_products(self, sums: __m512i, value: u32, weights: __m512i) -> __m512i {
        let value = self.avx512f._mm512_set1_epi32(value.cast_signed());
        self.avx512f
            ._mm512_add_epi32(sums, self.avx512bw._mm512_madd_epi16(value, weights))
    }

    /// The weights of even and of odd inputs, in 16 bits.
    type ByteWeights = [__m512i; 2];

    #[inline(always)]
    fn byte_weights(self, quad: &ByteQuad) -> [__m512i; 2] {
        let avx512bw = self.avx512bw;
        let weights = cast(quad.0);
        [
            avx512bw._mm512_srai_epi16::<8>(avx512bw._mm512_slli_epi16::<8>(weights)),
            avx512bw._mm512_srai_epi16::<8>(weights),
        ]
    }

    #[inline(always)]
    fn add_byte_products(self, sums: __m512i, value: u32, weights: [__m512i; 2]) -> __m512i {
        let (avx512f, avx512bw) = (self.avx512f, self.avx512bw);
        let inputs = avx512f._mm512_set1_epi32(value.cast_signed());
        let even = avx512f._mm512_and_si512(inputs, avx512f._mm512_set1_epi16(0xff));
        let odd = avx512bw._mm512_srli_epi16::<8>(inputs);
        let products = avx512f._mm512_add_epi32(
            avx512bw._mm512_madd_epi16(even, weights[0]),
            avx512bw._mm512_madd_epi16(odd, weights[1]),
        );
        avx512f._mm512_add_epi32(sums, products)
    }
}

/// Proof that the processor has what [`V3`] stands for, and AVX-VNNI.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Avx2Vnni(V3);

/// Proof that the processor has what [`V4`] stands for, and AVX-512 VNNI.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Avx512Vnni(V4);

/// Proof that the processor has what [`Avx512Vnni`] stands for, and AVX-512 BF16.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Avx512Bf16(Avx512Vnni);

#[expect(
    unsafe_code,
    reason = "pulp has neither VNNI nor BF16; values of these types exist only where it was detected"
)]
mod beyond_pulp {
    use std::mem::transmute;

    use std::arch::x86_64::{
        __m256i, __m512bh, __m512i, _mm256_dpbusd_avx_epi32, _mm256_dpwssd_avx_epi32, _mm256_set1_epi32,
        _mm512_dpbf16_ps, _mm512_dpbusd_epi32, _mm512_dpwssd_epi32, _mm512_set1_epi32,
    };

    use super::{
        __m128, __m128i, __m256, __m512, Avx2Vnni, Avx512Bf16, Avx512Vnni, BrainPair, ByteQuad, COLUMNS,
        LANES, Lanes, LanesWork, V3, V4, WholePair, cast,
    };

    impl Avx2Vnni {
        pub(crate) fn detect() -> Option<Self> {
            let simd = V3::try_new()?;
            std::is_x86_feature_detected!("avxvnni").then_some(Self(simd))
        }

        pub(crate) fn run(self, work: impl LanesWork) {
            #[target_feature(enable = "avx2,fma,bmi1,bmi2,lzcnt,popcnt,avxvnni")]
            fn inside<W: LanesWork>(simd: Avx2Vnni, work: W) {
                work.run(simd);
            }
            // SAFETY: by `detect`.
            unsafe { inside(self, work) }
        }
    }

    impl Avx512Vnni {
        pub(crate) fn detect() -> Option<Self> {
            let simd = V4::try_new()?;
            std::is_x86_feature_detected!("avx512vnni").then_some(Self(simd))
        }

        pub(crate) fn run(self, work: impl LanesWork) {
            #[target_feature(
                enable = "avx2,fma,bmi1,bmi2,lzcnt,popcnt,avx512f,avx512bw,avx512cd,avx512dq,avx512vl,avx512vnni"
            )]
            fn inside<W: LanesWork>(simd: Avx512Vnni, work: W) {
                work.run(simd);
            }
            // SAFETY: by `detect`.
            unsafe { inside(self, work) }
        }
    }

    impl Lanes for Avx2Vnni {
        eight_by_avx2!(simd => simd.0);
        sums_by_avx2!(simd => simd.0);

        type PairWeights = [__m256i; 2];

        #[inline(always)]
        fn pair_weights(self, pair: &WholePair) -> [__m256i; 2] {
            let [low, high]: [__m128i; 2] = cast(pair.0);
            [
                self.0.avx2._mm256_cvtepi8_epi16(low),
                self.0.avx2._mm256_cvtepi8_epi16(high),
            ]
        }

        #[inline(always)]
        fn add_pair_products(self, sums: [__m256i; 2], value: u32, weights: [__m256i; 2]) -> [__m256i; 2] {
            // SAFETY: by `detect`.
            unsafe {
                let value = _mm256_set1_epi32(value.cast_signed());
                [
                    _mm256_dpwssd_avx_epi32(sums[0], value, weights[0]),
                    _mm256_dpwssd_avx_epi32(sums[1], value, weights[1]),
                ]
            }
        }

        type ByteWeights = [__m256i; 2];

        #[inline(always)]
        fn byte_weights(self, quad: &ByteQuad) -> [__m256i; 2] {
            cast(quad.0)
        }

        #[inline(always)]
        fn add_byte_products(self, sums: [__m256i; 2], value: u32, weights: [__m256i; 2]) -> [__m256i; 2] {
            // SAFETY: by `detect`.
            unsafe {
                let value = _mm256_set1_epi32(value.cast_signed());
                [
                    _mm256_dpbusd_avx_epi32(sums[0], value, weights[0]),
                    _mm256_dpbusd_avx_epi32(sums[1], value, weights[1]),
                ]
            }
        }
    }

    impl Lanes for Avx512Vnni {
        eight_by_avx2!(simd => simd.0);
        sums_by_avx512!(simd => simd.0);
        brain_by_avx512!(simd => simd.0);

        type PairWeights = __m512i;

        #[inline(always)]
        fn pair_weights(self, pair: &WholePair) -> __m512i {
            self.0.pair_weights(pair)
        }

        #[inline(always)]
        fn add_pair_products(self, sums: __m512i, value: u32, weights: __m512i) -> __m512i {
            // SAFETY: by `detect`.
            unsafe { _mm512_dpwssd_epi32(sums, _mm512_set1_epi32(value.cast_signed()), weights) }
        }

        type ByteWeights = __m512i;

        #[inline(always)]
        fn byte_weights(self, quad: &ByteQuad) -> __m512i {
            cast(quad.0)
        }

        #[inline(always)]
        fn add_byte_products(self, sums: __m512i, value: u32, weights: __m512i) -> __m512i {
            // SAFETY: by `detect`.
            unsafe { _mm512_dpbusd_epi32(sums, _mm512_set1_epi32(value.cast_signed()), weights) }
        }
    }

    impl Avx512Bf16 {
        pub(crate) fn detect() -> Option<Self> {
            let simd = Avx512Vnni::detect()?;
            std::is_x86_feature_detected!("avx512bf16").then_some(Self(simd))
        }

        pub(crate) fn run(self, work: impl LanesWork) {
            #[target_feature(
                enable = "avx2,fma,bmi1,bmi2,lzcnt,popcnt,avx512f,avx512bw,avx512cd,avx512dq,avx512vl,avx512vnni,avx512bf16"
            )]
            fn inside<W: LanesWork>(simd: Avx512Bf16, work: W) {
                work.run(simd);
            }
            // SAFETY: by `detect`.
            unsafe { inside(self, work) }
        }
    }

    impl Lanes for Avx512Bf16 {
        eight_by_avx2!(simd => simd.0.0);
        sums_by_avx512!(simd => simd.0.0);

        type BrainWeights = __m512i;

        #[inline(always)]
        fn brain_weights(self, pair: &BrainPair) -> __m512i {
            cast(pair.0)
        }

        #[inline(always)]
        fn add_brain_products(self, sums: __m512, value: u32, weights: __m512i) -> __m512 {
            // SAFETY: by `detect`; any bits are numbers in bf16.
            unsafe {
                let value: __m512bh = transmute(_mm512_set1_epi32(value.cast_signed()));
                _mm512_dpbf16_ps(sums, value, transmute::<__m512i, __m512bh>(weights))
            }
        }

        type PairWeights = __m512i;

        #[inline(always)]
        fn pair_weights(self, pair: &WholePair) -> __m512i {
            self.0.pair_weights(pair)
        }

        #[inline(always)]
        fn add_pair_products(self, sums: __m512i, value: u32, weights: __m512i) -> __m512i {
            self.0.add_pair_products(sums, value, weights)
        }

        type ByteWeights = __m512i;

        #[inline(always)]
        fn byte_weights(self, quad: &ByteQuad) -> __m512i {
            self.0.byte_weights(quad)
        }

        #[inline(always)]
        fn add_byte_products(self, sums: __m512i, value: u32, weights: __m512i) -> __m512i {
            self.0.add_byte_products(sums, value, weights)
        }
    }
}
