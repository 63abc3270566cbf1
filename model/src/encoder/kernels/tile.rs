//! Inner products of [`super::Linear`]: a few rows by one panel of packed weights, all sums in registers.
//!
//! Each output is summed in the same order whatever the number of rows, so a row does not depend on its neighbours by even a bit.

use super::lanes::{COLUMNS, Lanes, LanesWork, PanelRow};

/// What tiles add their sums to, and where.
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
    /// Takes the sums of rows from `first` on.
    #[inline(always)]
    pub(super) fn take<const N: usize>(&mut self, first: usize, sums: [[f32; COLUMNS]; N]) {
        let (bias, keeps) = (self.bias, self.keeps);
        for (index, mut total) in sums.into_iter().enumerate() {
            let row = &mut self.output[(first + index) * self.stride..][..self.columns];
            if let Some(bias) = bias {
                for (total, bias) in total.iter_mut().zip(bias) {
                    *total += bias;
                }
            }
            if let Ok(row) = <&mut [f32; COLUMNS]>::try_from(&mut *row) {
                if keeps {
                    for (total, there) in total.iter_mut().zip(&*row) {
                        *total += there;
                    }
                }
                *row = total;
            } else {
                for (there, total) in row.iter_mut().zip(total) {
                    *there = if keeps { total + *there } else { total };
                }
            }
        }
    }
}

/// Weights of two inputs for the columns of each panel, panel after panel: `of` says the one of an output and an input, and padding is 0.
pub(super) fn pack_pairs<T: Copy + Default, P>(
    outputs: usize,
    inputs: usize,
    of: impl Fn(usize, usize) -> T,
    pair: fn([[T; 2]; COLUMNS]) -> P,
) -> Vec<P> {
    let of = |output: usize, input: usize| {
        if output < outputs && input < inputs {
            of(output, input)
        } else {
            T::default()
        }
    };
    let pairs = inputs.div_ceil(2);
    let places = (0..outputs.div_ceil(COLUMNS)).flat_map(|panel| (0..pairs).map(move |index| (panel, index)));
    places
        .map(|(panel, index)| {
            pair(std::array::from_fn(|column| {
                let output = panel * COLUMNS + column;
                [of(output, 2 * index), of(output, 2 * index + 1)]
            }))
        })
        .collect()
}

/// Bytes of rounded inputs that pass all panels before the next: a part of the second-level cache.
const INPUT_BYTES: usize = 128 * 1024;

/// Where a layer of whole panels, each of all inputs, puts its products.
pub(super) struct Outputs<'a> {
    /// `(rows, width)`.
    pub(super) values: &'a mut [f32],
    pub(super) width: usize,
    /// For each panel.
    pub(super) bias: &'a [[f32; COLUMNS]],
    /// Whether to add to what is there.
    pub(super) keeps: bool,
}

impl Outputs<'_> {
    /// Has every panel multiplied with all rows, as many at a time as stay in the cache: `multiply` gets the first of them, their number and the panel.
    pub(super) fn by_panels(
        self,
        rows: usize,
        bytes_of_row: usize,
        mut multiply: impl FnMut(usize, usize, usize, Target<'_>),
    ) {
        let some = (INPUT_BYTES / bytes_of_row.max(1)).max(1);
        for begin in (0..rows).step_by(some) {
            for (panel, bias) in self.bias.iter().enumerate() {
                let column = panel * COLUMNS;
                let target = Target {
                    output: &mut self.values[begin * self.width + column..],
                    stride: self.width,
                    columns: COLUMNS.min(self.width - column),
                    keeps: self.keeps,
                    bias: Some(bias),
                };
                multiply(begin, some.min(rows - begin), panel, target);
            }
        }
    }
}

/// Work on a number of rows, a few at a time.
pub(super) trait TileWork {
    /// Does rows `first..first + N`. To be inlined always.
    fn tile<L: Lanes, const N: usize>(&mut self, lanes: L, first: usize);
}

/// First row and number of rows of each tile of at most so many: as even as can be, since a tile of one or two rows wastes the arithmetic
/// units.
#[inline(always)]
fn spread(rows: usize, most: usize) -> impl Iterator<Item = (usize, usize)> {
    let tiles = rows.div_ceil(most);
    (0..tiles).map(move |tile| {
        let begin = tile * rows / tiles;
        (begin, (tile + 1) * rows / tiles - begin)
    })
}

/// Does all rows in tiles of at most `most`, twelve or less.
#[inline(always)]
pub(super) fn in_tiles<L: Lanes>(lanes: L, rows: usize, most: usize, work: &mut impl TileWork) {
    for (first, count) in spread(rows, most) {
        match count {
            0 => {}
            1 => work.tile::<L, 1>(lanes, first),
            2 => work.tile::<L, 2>(lanes, first),
            3 => work.tile::<L, 3>(lanes, first),
            4 => work.tile::<L, 4>(lanes, first),
            5 => work.tile::<L, 5>(lanes, first),
            6 => work.tile::<L, 6>(lanes, first),
            // Compiled only where registers suffice for them.
            7 if L::ROWS > 6 => work.tile::<L, 7>(lanes, first),
            8 if L::ROWS > 6 => work.tile::<L, 8>(lanes, first),
            9 if L::ROWS > 6 => work.tile::<L, 9>(lanes, first),
            10 if L::ROWS > 6 => work.tile::<L, 10>(lanes, first),
            11 if L::ROWS > 6 => work.tile::<L, 11>(lanes, first),
            12 if L::ROWS > 6 => work.tile::<L, 12>(lanes, first),
            _ => unreachable!("a tile of more than {most} rows"),
        }
    }
}

/// Rows whose places the compiler does not know to be equally far from each other: it would keep the distance only and compute every
/// address again for every input.
#[inline(always)]
pub(super) fn apart<T, const N: usize>(rows: [&[T]; N]) -> [&[T]; N] {
    std::hint::black_box(rows)
}

/// All rows by one panel of floating-point weights.
pub(super) struct FloatPanel<'a> {
    /// The first row's first input.
    pub(super) input: &'a [f32],
    /// Values from one row to the next.
    pub(super) stride: usize,
    pub(super) rows: usize,
    /// One for each input.
    pub(super) weights: &'a [PanelRow],
    /// Weights that are needed next: fetched meanwhile.
    pub(super) soon: &'a [PanelRow],
    pub(super) target: Target<'a>,
}

impl LanesWork for FloatPanel<'_> {
    #[inline(always)]
    fn run<L: Lanes>(mut self, lanes: L) {
        let rows = self.rows;
        in_tiles(lanes, rows, L::ROWS, &mut self);
    }
}

impl TileWork for FloatPanel<'_> {
    #[inline(always)]
    fn tile<L: Lanes, const N: usize>(&mut self, lanes: L, first: usize) {
        let share = (self.soon.len() * N).div_ceil(self.rows - first);
        let (now, later) = self.soon.split_at(share.min(self.soon.len()));
        self.soon = later;
        for row in now {
            lanes.prefetch(row);
        }
        let inputs = self.weights.len();
        let rows = apart::<_, N>(std::array::from_fn(|row| {
            &self.input[(first + row) * self.stride..]
        }));
        // Slices of one length, so that no index below needs a check.
        let rows: [&[f32]; N] = std::array::from_fn(|row| &rows[row][..inputs]);
        let mut sums = [lanes.no_sums(); N];
        for input in 0..inputs {
            let weights = lanes.weights(&self.weights[input]);
            for (sums, row) in sums.iter_mut().zip(&rows) {
                *sums = lanes.add_product(*sums, row[input], weights);
            }
        }
        self.target.take(first, sums.map(|sums| lanes.store_sums(sums)));
    }
}
