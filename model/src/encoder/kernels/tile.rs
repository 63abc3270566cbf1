//! Work on rows, a few at a time: as many as the sums of fit the registers.

use super::lanes::Lanes;

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
