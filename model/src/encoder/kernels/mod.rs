//! Row-wise arithmetic of the serving path, on plain `f32` slices, single-threaded.
//!
//! Products with weights go to [`Linear`], whose weights are packed once; the element-wise loops are written so that the
//! compiler turns them into vector instructions, AVX2's where the processor has them. No function mixes rows: a NaN stays
//! in the row that it came in.

mod attention;
mod brain;
mod elementwise;
mod float;
mod lanes;
mod linear;
mod packed;
mod product;
mod quantised;
mod tile;

pub(crate) use attention::{Mixture, Rows, Scores};
pub(crate) use elementwise::{Norm, activate, log_softmax_rows, sigmoid, softmax_rows, tanh};
pub(crate) use lanes::Instructions;
pub(crate) use linear::Linear;
pub(crate) use product::{Matrix, product};

/// Runs a loop, compiled for AVX2 where the processor has it: twice the width of the baseline's registers.
#[inline(always)]
#[expect(
    unsafe_code,
    reason = "calling code compiled for instructions that were detected"
)]
pub(crate) fn vectorised<R>(work: impl FnOnce() -> R) -> R {
    #[cfg(target_arch = "x86_64")]
    {
        #[target_feature(enable = "avx2,fma")]
        fn with_avx2<R>(work: impl FnOnce() -> R) -> R {
            work()
        }
        if std::is_x86_feature_detected!("avx2") && std::is_x86_feature_detected!("fma") {
            // SAFETY: both features have just been detected.
            return unsafe { with_avx2(work) };
        }
    }
    work()
}
