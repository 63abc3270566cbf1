//! Row-wise arithmetic of the serving path, on plain `f32` slices, single-threaded.
//!
//! Products with weights go to [`Linear`], whose weights are packed once; the element-wise loops are written so that the
//! compiler turns them into vector instructions, AVX2's where the processor has them. No function mixes rows: a NaN stays
//! in the row that it came in.

/// A function of loops that is compiled twice, and run as the processor can: with AVX2 registers have twice the width of the baseline's.
///
/// A macro, because only what is inlined is compiled for what its caller may use: a closure with two callers is not, and would stay at the baseline unnoticed.
macro_rules! vectorised {
    ($(#[$attribute:meta])* $visibility:vis fn $name:ident($($argument:ident: $kind:ty),* $(,)?) $(-> $result:ty)? $body:block) => {
        $(#[$attribute])*
        #[cfg_attr(
            target_arch = "x86_64",
            expect(unsafe_code, reason = "calling code compiled for instructions that were detected")
        )]
        $visibility fn $name($($argument: $kind),*) $(-> $result)? {
            #[inline(always)]
            fn work($($argument: $kind),*) $(-> $result)? $body

            #[cfg(target_arch = "x86_64")]
            {
                #[target_feature(enable = "avx2,fma")]
                fn with_avx2($($argument: $kind),*) $(-> $result)? {
                    work($($argument),*)
                }
                if std::is_x86_feature_detected!("avx2") && std::is_x86_feature_detected!("fma") {
                    // SAFETY: both features have just been detected.
                    return unsafe { with_avx2($($argument),*) };
                }
            }
            work($($argument),*)
        }
    };
}

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
pub(crate) use vectorised;
