//! The inner product of [`super::Linear`]: a few rows by one panel of packed weights, all sums in registers.
//!
//! Six rows by sixteen columns are twelve of AVX2's sixteen registers; two hold a row of the panel and one a broadcast
//! input. On Zen 3 that is 12 fused multiply-adds in 6 cycles for 8 loads, so the loads hide behind the arithmetic. Each
//! output is summed in the same order whatever the number of rows, so a row does not depend on its neighbours by even a bit.

#[cfg(target_arch = "x86_64")]
use pulp::x86::V3;

/// Columns of a panel.
pub(super) const COLUMNS: usize = 16;
/// Most rows of a tile.
pub(super) const ROWS: usize = 6;

/// One input's weights in a panel, on a cache line of its own.
#[derive(Debug, Clone, Copy)]
#[repr(align(64))]
pub(super) struct PanelRow(pub(super) [f32; COLUMNS]);

/// What a tile adds its sums to, and where.
pub(super) struct Target<'a> {
    /// The first row's first column.
    pub(super) output: &'a mut [f32],
    /// Values from one row to the next.
    pub(super) stride: usize,
    /// Columns that are there; the others are padding.
    pub(super) columns: usize,
    /// Whether to add to what is there.
    pub(super) keeps: bool,
    /// Added, too.
    pub(super) bias: Option<&'a [f32; COLUMNS]>,
}

impl Target<'_> {
    #[inline(always)]
    pub(super) fn take<const N: usize>(self, sums: &[[f32; COLUMNS]; N]) {
        let Self {
            output,
            stride,
            columns,
            keeps,
            bias,
        } = self;
        let total = |sums: &[f32; COLUMNS], there: &[f32; COLUMNS]| {
            let mut total = *sums;
            if let Some(bias) = bias {
                total
                    .iter_mut()
                    .zip(bias)
                    .for_each(|(total, bias)| *total += bias);
            }
            if keeps {
                total
                    .iter_mut()
                    .zip(there)
                    .for_each(|(total, there)| *total += there);
            }
            total
        };
        for (index, sums) in sums.iter().enumerate() {
            let row = &mut output[index * stride..][..columns];
            if let Ok(row) = <&mut [f32; COLUMNS]>::try_from(&mut *row) {
                *row = total(sums, row);
            } else {
                let mut padded = [0.0; COLUMNS];
                padded[..row.len()].copy_from_slice(row);
                row.copy_from_slice(&total(sums, &padded)[..row.len()]);
            }
        }
    }
}

/// How tiles are computed on this processor.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Instructions {
    /// AVX2 and FMA.
    #[cfg(target_arch = "x86_64")]
    Avx2(V3),
    /// Whatever the compiler makes of plain loops.
    Plain,
}

impl Instructions {
    /// The best that the processor has.
    pub(crate) fn detect() -> Self {
        #[cfg(target_arch = "x86_64")]
        if let Some(simd) = V3::try_new() {
            return Self::Avx2(simd);
        }
        Self::Plain
    }

    /// Multiplies 1 to [`ROWS`] rows of `panel.len()` inputs each by a panel. `row` gives a row.
    pub(super) fn multiply<'a>(
        self,
        rows: usize,
        row: impl Fn(usize) -> &'a [f32],
        panel: &[PanelRow],
        target: Target<'_>,
    ) {
        match rows {
            1 => self.tile::<1>(std::array::from_fn(row), panel, target),
            2 => self.tile::<2>(std::array::from_fn(row), panel, target),
            3 => self.tile::<3>(std::array::from_fn(row), panel, target),
            4 => self.tile::<4>(std::array::from_fn(row), panel, target),
            5 => self.tile::<5>(std::array::from_fn(row), panel, target),
            _ => self.tile::<ROWS>(std::array::from_fn(row), panel, target),
        }
    }

    fn tile<const N: usize>(self, rows: [&[f32]; N], panel: &[PanelRow], target: Target<'_>) {
        match self {
            #[cfg(target_arch = "x86_64")]
            Self::Avx2(simd) => simd.vectorize(avx2::Tile {
                simd,
                rows,
                panel,
                target,
            }),
            Self::Plain => plain(rows, panel, target),
        }
    }

    /// Asks for weights that are needed soon.
    pub(super) fn prefetch(self, weights: &[PanelRow]) {
        match self {
            #[cfg(target_arch = "x86_64")]
            Self::Avx2(simd) => {
                for row in weights {
                    simd.sse
                        ._mm_prefetch::<{ std::arch::x86_64::_MM_HINT_T0 }>(std::ptr::from_ref(row).cast());
                }
            }
            Self::Plain => {}
        }
    }
}

fn plain<const N: usize>(rows: [&[f32]; N], panel: &[PanelRow], target: Target<'_>) {
    let mut sums = [[0.0f32; COLUMNS]; N];
    for (input, PanelRow(weights)) in panel.iter().enumerate() {
        for (sums, row) in sums.iter_mut().zip(&rows) {
            let value = row[input];
            sums.iter_mut()
                .zip(weights)
                .for_each(|(sum, weight)| *sum += value * weight);
        }
    }
    target.take(&sums);
}

#[cfg(target_arch = "x86_64")]
mod avx2 {
    use std::arch::x86_64::__m256;

    use pulp::x86::V3;
    use pulp::{NullaryFnOnce, cast};

    use super::{COLUMNS, PanelRow, Target};

    pub(super) struct Tile<'a, const N: usize> {
        pub(super) simd: V3,
        pub(super) rows: [&'a [f32]; N],
        pub(super) panel: &'a [PanelRow],
        pub(super) target: Target<'a>,
    }

    impl<const N: usize> NullaryFnOnce for Tile<'_, N> {
        type Output = ();

        #[inline(always)]
        fn call(self) {
            let Self {
                simd,
                rows,
                panel,
                target,
            } = self;
            let inputs = panel.len();
            // Slices of one length, so that no index below needs a check.
            let rows: [&[f32]; N] = std::array::from_fn(|row| &rows[row][..inputs]);
            let mut sums = [[simd.avx._mm256_setzero_ps(); 2]; N];
            for input in 0..inputs {
                let [low, high]: [__m256; 2] = cast(panel[input].0);
                for (sums, row) in sums.iter_mut().zip(&rows) {
                    let value = simd.avx._mm256_broadcast_ss(&row[input]);
                    sums[0] = simd.fma._mm256_fmadd_ps(value, low, sums[0]);
                    sums[1] = simd.fma._mm256_fmadd_ps(value, high, sums[1]);
                }
            }
            target.take(&sums.map(|sums| -> [f32; COLUMNS] { cast(sums) }));
        }
    }
}
