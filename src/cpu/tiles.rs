//! How losses over items are cut into tiles of items by rows ([`super::item_softmax`] says why).

use super::gemm::{Matrix, transpose};
use std::ops::Range;

/// Most rows of a tile. A tile of 192 KiB stays in the second-level cache between its product and its
/// exponentials; larger ones make the products of the gradients deeper, smaller ones pack operands more often.
pub const TILE_ROWS: usize = 192;
/// Items of a tile.
pub const TILE_ITEMS: usize = 256;
/// Tiles have a multiple of so many rows where they are cut, so that none of their vectors is short.
const EVEN_ROWS: usize = 16;
/// Columns of a tile are its rows, filled up to a multiple of this with rows of zeros.
pub(super) const EVEN_COLUMNS: usize = 8;
/// Spans of tiles that a chunk is cut into, or a few more: enough for as many threads.
pub const SPANS: usize = 48;
/// Elements that the tiles of one chunk may take: 32 MiB, or eight rows of them where that is more. Each further chunk reads and writes
/// the table's gradient once more, which is little beside its products.
pub const MOST_ELEMENTS: usize = 8 << 20;

/// The rows of a tile as the right operand of its product: `[D, columns]`, zeros beyond the last row.
#[derive(Default)]
pub struct TileRows {
    values: Vec<f32>,
    columns: usize,
}

impl TileRows {
    /// Takes `rows [rows, D]` in.
    pub fn fill(&mut self, rows: &[f32], d: usize) {
        self.columns = (rows.len() / d).next_multiple_of(EVEN_COLUMNS);
        if self.columns * d == rows.len() {
            transpose(rows, d, &mut self.values);
        } else {
            let zeros = vec![0.0; self.columns * d - rows.len()];
            transpose(&[rows, &zeros].concat(), d, &mut self.values);
        }
    }

    /// Rows and zeros.
    pub(super) fn columns(&self) -> usize {
        self.columns
    }

    /// `[D, columns]`
    pub(super) fn matrix(&self) -> Matrix<'_> {
        Matrix::new(&self.values, self.values.len() / self.columns, self.columns)
    }
}

/// How rows and items are cut into tiles; depends on `P` and `V` alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tiling {
    /// Items, `V`.
    items: usize,
    /// Rows of a tile.
    tile_rows: usize,
    /// Rows of a chunk, a multiple of `tile_rows`.
    pub chunk_rows: usize,
}

impl Tiling {
    /// For `rows` rows and `items` items.
    pub fn new(rows: usize, items: usize) -> Self {
        let padded = items.div_ceil(TILE_ITEMS) * TILE_ITEMS;
        let even = |rows: usize| rows / EVEN_COLUMNS * EVEN_COLUMNS;
        let most = even(MOST_ELEMENTS / padded).max(EVEN_COLUMNS);
        // Chunks and tiles of the same height, so that none leaves a thread with little to do.
        let of_chunk = rows.div_ceil(rows.div_ceil(most).max(1)).max(1);
        let tiles = of_chunk.div_ceil(TILE_ROWS);
        let tile_rows =
            of_chunk.div_ceil(tiles).next_multiple_of(EVEN_ROWS).min(even(most / tiles));
        let chunk_rows = tiles * tile_rows;
        Tiling { items, tile_rows, chunk_rows }
    }

    /// Elements of a tile.
    pub fn tile_len(&self) -> usize {
        self.tile_rows * TILE_ITEMS
    }

    /// Rows of a tile.
    pub fn tile_rows(&self) -> usize {
        self.tile_rows
    }

    /// Blocks of items.
    pub fn item_blocks(&self) -> usize {
        self.items.div_ceil(TILE_ITEMS)
    }

    /// Items of block `block`, from 0.
    pub fn block_items(&self, block: usize) -> Range<usize> {
        block * TILE_ITEMS..((block + 1) * TILE_ITEMS).min(self.items)
    }

    /// Item blocks of a span, of which the last may have fewer.
    pub fn span_blocks(&self) -> usize {
        let row_blocks = self.chunk_rows / self.tile_rows;
        self.item_blocks().div_ceil(SPANS.div_ceil(row_blocks))
    }

    /// Spans of a row block.
    pub fn spans(&self) -> usize {
        self.item_blocks().div_ceil(self.span_blocks())
    }
}

/// A chunk of rows and the tiles made of it: tile (row block i, item block j) is number i · item_blocks + j.
#[derive(Clone, Copy)]
pub struct Chunk<'a> {
    /// Cut of the whole problem.
    pub tiling: Tiling,
    /// The chunk's rows.
    pub rows: (usize, usize),
    /// e^(logit - m), tile by tile.
    pub tiles: &'a [f32],
    /// Factor of each tile's rows, `tile_rows` a tile.
    pub factors: &'a [f32],
    /// Gradients `[tile_rows, D]` of the rows by each span: span k of row block i is number i · spans + k.
    pub shares: &'a [f32],
}

impl Chunk<'_> {
    /// Blocks of rows.
    pub(super) fn row_blocks(&self) -> usize {
        (self.rows.1 - self.rows.0).div_ceil(self.tiling.tile_rows)
    }

    /// Rows of block `block`, within the whole problem.
    pub(super) fn block_rows(&self, block: usize) -> Range<usize> {
        let start = self.rows.0 + block * self.tiling.tile_rows;
        start..(start + self.tiling.tile_rows).min(self.rows.1)
    }

    /// Tile of a row block and an item block.
    pub(super) fn tile(&self, row_block: usize, item_block: usize) -> &[f32] {
        let number = row_block * self.tiling.item_blocks() + item_block;
        &self.tiles[number * self.tiling.tile_len()..][..self.tiling.tile_len()]
    }

    /// Factors of its rows.
    pub(super) fn factors(&self, row_block: usize, item_block: usize) -> &[f32] {
        let number = row_block * self.tiling.item_blocks() + item_block;
        &self.factors[number * self.tiling.tile_rows..][..self.tiling.tile_rows]
    }
}

/// What one span of a row block's tiles writes.
pub struct Span<'a> {
    /// The tiles.
    pub tiles: &'a mut [f32],
    /// Maxima of each tile's rows, over its own logits and those of the tiles before.
    pub maxima: &'a mut [f32],
    /// Sums of each tile's rows.
    pub sums: &'a mut [f32],
    /// The rows' gradient.
    pub share: &'a mut [f32],
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tiles_stay_within_their_budget() {
        for (rows, items) in
            [(1, 1), (1000, 1682), (3300, 3416), (1300, 26_744), (9, 1 << 20), (5, 1 << 27)]
        {
            let tiling = Tiling::new(rows, items);
            let chunk = tiling.chunk_rows.min(rows.next_multiple_of(tiling.tile_rows));
            let padded = tiling.item_blocks() * TILE_ITEMS;
            assert!(
                chunk * padded <= MOST_ELEMENTS.max(EVEN_COLUMNS * padded),
                "{rows} x {items}: {tiling:?}"
            );
            assert_eq!(tiling.chunk_rows % tiling.tile_rows, 0);
            assert_eq!(tiling.block_items(tiling.item_blocks() - 1).end, items);
        }
    }

    /// No tile, and no chunk, is left with a few rows while others are full.
    #[test]
    fn tiles_are_even() {
        for (rows, items) in
            [(1054, 1682), (350, 12_101), (1300, 26_744), (193, 100), (97, 60_000), (2760, 3416)]
        {
            let tiling = Tiling::new(rows, items);
            let height = tiling.tile_rows();
            let chunks = rows.div_ceil(tiling.chunk_rows);
            let of_last = rows - (chunks - 1) * tiling.chunk_rows;
            let of_last_tile = of_last - (of_last.div_ceil(height) - 1) * height;
            let tiles = rows.div_ceil(height);
            assert!(of_last_tile + EVEN_ROWS * tiles > height, "{rows} x {items}: {tiling:?}");
            assert!(height <= TILE_ROWS && height.is_multiple_of(EVEN_COLUMNS), "{tiling:?}");
            let (spans, tiles) = (tiling.spans(), tiling.chunk_rows / height);
            assert!(spans * tiling.span_blocks() >= tiling.item_blocks(), "{tiling:?}");
            assert!((spans - 1) * tiling.span_blocks() < tiling.item_blocks(), "{tiling:?}");
            assert!(spans * tiles <= SPANS + tiles, "{tiling:?}");
        }
    }
}
