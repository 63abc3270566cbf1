//! Processors of the x86-64 kind.

use std::arch::x86_64::{__m128, __m128i, __m256, __m256i, __m512, __m512i};

use pulp::x86::{V3, V4};
use pulp::{NullaryFnOnce, cast};

use super::{BrainPair, COLUMNS, LANES, Lanes, LanesWork, PanelPair, PanelRow};

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

        #[inline(always)]
        fn prefetch<T>(self, what: &T) {
            let $simd = self;
            $v3.sse
                ._mm_prefetch::<{ std::arch::x86_64::_MM_HINT_T0 }>(std::ptr::from_ref(what).cast());
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

        type Sums = [__m256; 2];
        type Weights = [__m256; 2];

        #[inline(always)]
        fn no_sums(self) -> [__m256; 2] {
            let $simd = self;
            [$v3.avx._mm256_setzero_ps(); 2]
        }

        #[inline(always)]
        fn weights(self, row: &PanelRow) -> [__m256; 2] {
            cast(row.0)
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
        type WholeWeights = [__m256i; 2];

        #[inline(always)]
        fn no_whole_sums(self) -> [__m256i; 2] {
            let $simd = self;
            [$v3.avx._mm256_setzero_si256(); 2]
        }

        #[inline(always)]
        fn whole_weights(self, pair: &PanelPair) -> [__m256i; 2] {
            let $simd = self;
            let [low, high]: [__m128i; 2] = cast(pair.0);
            [
                $v3.avx2._mm256_cvtepi8_epi16(low),
                $v3.avx2._mm256_cvtepi8_epi16(high),
            ]
        }

        #[inline(always)]
        fn scaled(self, sums: [__m256i; 2], scale: f32, scales: &[f32; COLUMNS]) -> [f32; COLUMNS] {
            let $simd = self;
            let avx = $v3.avx;
            let (scale, scales): (_, [__m256; 2]) = (avx._mm256_set1_ps(scale), cast(*scales));
            cast([
                avx._mm256_mul_ps(
                    avx._mm256_cvtepi32_ps(sums[0]),
                    avx._mm256_mul_ps(scale, scales[0]),
                ),
                avx._mm256_mul_ps(
                    avx._mm256_cvtepi32_ps(sums[1]),
                    avx._mm256_mul_ps(scale, scales[1]),
                ),
            ])
        }
    };
}

/// Sums in one register of AVX-512: twelve rows are enough products on the way for two units of four cycles each.
macro_rules! sums_by_avx512 {
    ($simd:ident => $v4:expr) => {
        const ROWS: usize = 12;

        type Sums = __m512;
        type Weights = __m512;

        #[inline(always)]
        fn no_sums(self) -> __m512 {
            let $simd = self;
            $v4.avx512f._mm512_setzero_ps()
        }

        #[inline(always)]
        fn weights(self, row: &PanelRow) -> __m512 {
            cast(row.0)
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
        type WholeWeights = __m512i;

        #[inline(always)]
        fn no_whole_sums(self) -> __m512i {
            let $simd = self;
            $v4.avx512f._mm512_setzero_si512()
        }

        #[inline(always)]
        fn whole_weights(self, pair: &PanelPair) -> __m512i {
            let $simd = self;
            $v4.avx512bw._mm512_cvtepi8_epi16(cast(pair.0))
        }

        #[inline(always)]
        fn scaled(self, sums: __m512i, scale: f32, scales: &[f32; COLUMNS]) -> [f32; COLUMNS] {
            let $simd = self;
            let avx512f = $v4.avx512f;
            let scales = avx512f._mm512_mul_ps(avx512f._mm512_set1_ps(scale), cast(*scales));
            cast(avx512f._mm512_mul_ps(avx512f._mm512_cvtepi32_ps(sums), scales))
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

    #[inline(always)]
    fn add_whole_products(self, sums: [__m256i; 2], value: i32, weights: [__m256i; 2]) -> [__m256i; 2] {
        let (avx2, value) = (self.avx2, self.avx._mm256_set1_epi32(value));
        [
            avx2._mm256_add_epi32(sums[0], avx2._mm256_madd_epi16(value, weights[0])),
            avx2._mm256_add_epi32(sums[1], avx2._mm256_madd_epi16(value, weights[1])),
        ]
    }
}

impl Lanes for V4 {
    eight_by_avx2!(simd => simd);
    sums_by_avx512!(simd => simd);
    brain_by_avx512!(simd => simd);

    #[inline(always)]
    fn add_whole_products(self, sums: __m512i, value: i32, weights: __m512i) -> __m512i {
        let products = self
            .avx512bw
            ._mm512_madd_epi16(self.avx512f._mm512_set1_epi32(value), weights);
        self.avx512f._mm512_add_epi32(sums, products)
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
        __m256i, __m512bh, __m512i, _mm256_dpwssd_avx_epi32, _mm256_set1_epi32, _mm512_dpbf16_ps,
        _mm512_dpwssd_epi32, _mm512_set1_epi32,
    };

    use super::{
        __m128, __m128i, __m256, __m512, Avx2Vnni, Avx512Bf16, Avx512Vnni, BrainPair, COLUMNS, LANES, Lanes,
        LanesWork, PanelPair, PanelRow, V3, V4, cast,
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

        #[inline(always)]
        fn add_whole_products(self, sums: [__m256i; 2], value: i32, weights: [__m256i; 2]) -> [__m256i; 2] {
            // SAFETY: by `detect`.
            unsafe {
                let value = _mm256_set1_epi32(value);
                [
                    _mm256_dpwssd_avx_epi32(sums[0], value, weights[0]),
                    _mm256_dpwssd_avx_epi32(sums[1], value, weights[1]),
                ]
            }
        }
    }

    impl Lanes for Avx512Vnni {
        eight_by_avx2!(simd => simd.0);
        sums_by_avx512!(simd => simd.0);
        brain_by_avx512!(simd => simd.0);

        #[inline(always)]
        fn add_whole_products(self, sums: __m512i, value: i32, weights: __m512i) -> __m512i {
            // SAFETY: by `detect`.
            unsafe { _mm512_dpwssd_epi32(sums, _mm512_set1_epi32(value), weights) }
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

        #[inline(always)]
        fn add_whole_products(self, sums: __m512i, value: i32, weights: __m512i) -> __m512i {
            self.0.add_whole_products(sums, value, weights)
        }
    }
}
