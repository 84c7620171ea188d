//! How a request's tokens are split over blocks of the grid: a pure function, the same as the kernels' (`kernels/mla/work.cuh`).

/// Tokens that a step of the kernels takes.
pub const BLOCK: usize = 64;
/// Rows (query token, head) of a tile.
pub const ROWS: usize = 64;

/// Which splits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SplitRule {
    /// Every so many tokens (a multiple of 64, at least 64): a request's splits, and so its bits, depend on its own length
    /// alone.
    Fixed(usize),
    /// As short as the grid can take at once, by all lengths of the batch: fastest, and a request's bits depend on its batch
    /// mates.
    Fill,
}

/// A request as the planner sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Extent {
    /// Query tokens.
    pub queries: usize,
    /// Cached tokens.
    pub length: usize,
}

/// A piece of work: a tile of rows (or a pair of tiles) of a request against a range of its blocks of 64 tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Item {
    /// Which request.
    pub request: usize,
    /// Which tile or pair of tiles.
    pub tile: usize,
    /// Which split, of how many.
    pub split: (usize, usize),
    /// First block, and the one after the last.
    pub blocks: (usize, usize),
}

/// Tiles of a request: `rows_per_item` is 64, or 128 for pairs.
fn tiles(e: Extent, heads: usize, rows_per_item: usize) -> usize {
    (e.queries * heads).div_ceil(rows_per_item)
}

fn splits(e: Extent, split_blocks: usize) -> usize {
    e.length.div_ceil(BLOCK).div_ceil(split_blocks).max(1)
}

/// Blocks of a split. For [`SplitRule::Fill`] the least number with which all items fit `workers` once; the whole capacity where
/// none does, so that nothing is split.
pub fn split_blocks(
    rule: SplitRule,
    requests: &[Extent],
    heads: usize,
    rows_per_item: usize,
    capacity: usize,
    workers: usize,
) -> usize {
    if let SplitRule::Fixed(tokens) = rule {
        return tokens.div_ceil(BLOCK).max(1);
    }
    let (mut low, mut high) = (1, capacity.div_ceil(BLOCK).max(1));
    while low < high {
        let middle = low + (high - low) / 2;
        let total: usize = requests
            .iter()
            .map(|e| tiles(*e, heads, rows_per_item) * splits(*e, middle))
            .sum();
        if total <= workers {
            high = middle;
        } else {
            low = middle + 1;
        }
    }
    high
}

/// All items in the order in which workers take them.
pub fn items(
    requests: &[Extent],
    heads: usize,
    rows_per_item: usize,
    split_blocks: usize,
) -> Vec<Item> {
    let split_blocks = split_blocks.max(1);
    let mut all = Vec::new();
    for (request, e) in requests.iter().enumerate() {
        let (n, blocks) = (splits(*e, split_blocks), e.length.div_ceil(BLOCK));
        for split in 0..n {
            for tile in 0..tiles(*e, heads, rows_per_item) {
                let first = split * split_blocks;
                all.push(Item {
                    request,
                    tile,
                    split: (split, n),
                    blocks: (first, (first + split_blocks).min(blocks)),
                });
            }
        }
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    fn extents(lengths: &[usize]) -> Vec<Extent> {
        lengths
            .iter()
            .map(|&length| Extent { queries: 1, length })
            .collect()
    }

    #[test]
    fn every_block_of_every_tile_once() {
        let requests = [(1, 0), (2, 1), (3, 64), (1, 65), (0, 500), (5, 1000)]
            .map(|(queries, length)| Extent { queries, length });
        for heads in [1, 16, 64, 96, 128] {
            for rows in [64, 128] {
                for blocks in [1, 2, 7, 100] {
                    let all = items(&requests, heads, rows, blocks);
                    for (r, e) in requests.iter().enumerate() {
                        for tile in 0..tiles(*e, heads, rows) {
                            let mine: Vec<_> = all
                                .iter()
                                .filter(|i| i.request == r && i.tile == tile)
                                .collect();
                            assert_eq!(mine.len(), mine[0].split.1);
                            let mut at = 0;
                            for (s, i) in mine.iter().enumerate() {
                                assert_eq!((i.split.0, i.blocks.0), (s, at));
                                assert!(
                                    i.blocks.1 - i.blocks.0 <= blocks
                                        && (i.blocks.1 > i.blocks.0 || e.length == 0)
                                );
                                at = i.blocks.1;
                            }
                            assert_eq!(at, e.length.div_ceil(BLOCK));
                        }
                    }
                }
            }
        }
    }

    #[test]
    fn filling_takes_the_shortest_split_that_fits() {
        let r = extents(&[4096, 100, 0, 2048]);
        let count = |b| items(&r, 16, 64, b).len();
        for workers in [4, 5, 8, 33, 132] {
            let b = split_blocks(SplitRule::Fill, &r, 16, 64, 8192, workers);
            assert!(count(b) <= workers, "{workers}");
            assert!(b == 1 || count(b - 1) > workers, "{workers}");
        }
        // More requests than workers: nothing is split.
        let b = split_blocks(SplitRule::Fill, &r, 16, 64, 8192, 3);
        assert_eq!((b, count(b)), (128, 4));
    }

    #[test]
    fn fixed_splits_ignore_the_batch() {
        let alone = items(&extents(&[1000]), 16, 64, 4);
        let among = items(&extents(&[77, 1000, 0, 5000]), 16, 64, 4);
        let mine: Vec<_> = among
            .iter()
            .filter(|i| i.request == 1)
            .map(|i| (i.split, i.blocks))
            .collect();
        assert_eq!(
            mine,
            alone
                .iter()
                .map(|i| (i.split, i.blocks))
                .collect::<Vec<_>>()
        );
    }
}
