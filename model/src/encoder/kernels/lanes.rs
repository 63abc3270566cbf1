//! Eight numbers at once, for loops that the compiler does not turn into vector instructions by itself.

#[cfg(target_arch = "x86_64")]
use std::arch::x86_64::__m256;

#[cfg(target_arch = "x86_64")]
use pulp::x86::V3;
#[cfg(target_arch = "x86_64")]
use pulp::{NullaryFnOnce, cast};

use super::tile::Instructions;

/// Numbers of a register.
pub(crate) const LANES: usize = 8;

/// What a processor does with eight numbers.
pub(crate) trait Lanes: Copy {
    /// Eight numbers.
    type Eight: Copy;
    fn splat(self, value: f32) -> Self::Eight;
    fn load(self, values: &[f32; LANES]) -> Self::Eight;
    fn store(self, values: Self::Eight) -> [f32; LANES];
    /// a · b + c.
    fn mul_add(self, a: Self::Eight, b: Self::Eight, c: Self::Eight) -> Self::Eight;
}

/// Work that is compiled for each kind of processor.
pub(crate) trait LanesWork {
    /// Does it. To be inlined always.
    fn run<L: Lanes>(self, lanes: L);
}

impl Instructions {
    /// Does work with the best instructions there are.
    pub(crate) fn run(self, work: impl LanesWork) {
        match self {
            #[cfg(target_arch = "x86_64")]
            Self::Avx2(simd) => simd.vectorize(OnAvx2 { simd, work }),
            Self::Plain => work.run(Plain),
        }
    }
}

#[cfg(target_arch = "x86_64")]
struct OnAvx2<W> {
    simd: V3,
    work: W,
}

#[cfg(target_arch = "x86_64")]
impl<W: LanesWork> NullaryFnOnce for OnAvx2<W> {
    type Output = ();

    #[inline(always)]
    fn call(self) {
        self.work.run(self.simd);
    }
}

#[cfg(target_arch = "x86_64")]
impl Lanes for V3 {
    type Eight = __m256;

    #[inline(always)]
    fn splat(self, value: f32) -> __m256 {
        self.avx._mm256_set1_ps(value)
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
    fn mul_add(self, a: __m256, b: __m256, c: __m256) -> __m256 {
        self.fma._mm256_fmadd_ps(a, b, c)
    }
}

#[derive(Debug, Clone, Copy)]
struct Plain;

impl Lanes for Plain {
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

    fn mul_add(self, a: [f32; LANES], b: [f32; LANES], c: [f32; LANES]) -> [f32; LANES] {
        std::array::from_fn(|lane| a[lane] * b[lane] + c[lane])
    }
}
