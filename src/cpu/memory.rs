//! How much memory the engine takes: for any sizes, before anything is allocated.

use super::engine::{LANES, lane_tokens};
use super::{attention, ffn, rank, sequences, streamed_softmax, tiles};
use crate::config::ModelConfig;
use crate::model::params::ParameterTable;

/// Bytes of an `f32`.
const F32: u128 = 4;

/// Bytes for weights, moments, gradients and the lanes' own gradients: 16 a parameter, and 4 a lane for
/// each parameter whose number does not grow with `V`.
pub fn model_bytes(model: &ModelConfig, items: usize) -> u128 {
    let all = ParameterTable::count(model, items);
    let tables = if model.tied { 1 } else { 2 };
    let sparse = tables * (items as u128 + 2) * model.hidden_size as u128 + items as u128 + 1;
    4 * F32 * all + F32 * LANES as u128 * (all - sparse)
}

/// The largest batch that a run works on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BatchSizes {
    /// Tokens.
    pub tokens: u128,
    /// Tokens of its longest sequence.
    pub longest: usize,
}

/// Bytes for the activations, gradients and buffers of a batch to learn from, by the tensors that the passes keep.
pub fn batch_bytes(model: &ModelConfig, items: usize, threads: usize, batch: BatchSizes) -> u128 {
    let [d, f, threads] = [model.hidden_size, model.inner_size, threads].map(|size| size as u128);
    let ffn_rows = batch.tokens.min((LANES * ffn::CHUNK) as u128);
    let of_thread = 2 * d * f + attention::scratch_len(batch.longest, model.hidden_size);
    F32 * (activations(model, batch) + 2 * ffn_rows * f + threads * of_thread)
        + F32 * (tile_elements(items, batch.tokens, d) + threads * score_elements(items))
}

/// Bytes for a batch that is only answered: the head's output, and the activations of one lane a thread.
pub fn answer_bytes(model: &ModelConfig, threads: usize, batch: BatchSizes) -> u128 {
    let [d, f, threads] = [model.hidden_size, model.inner_size, threads].map(|size| size as u128);
    // A lane ends where a sequence does.
    let tokens = batch.tokens.min(lane_tokens(batch.tokens) + batch.longest as u128);
    let lane = BatchSizes { tokens, ..batch };
    let ffn_rows = tokens.min(ffn::CHUNK as u128);
    let attention = attention::scratch_len(batch.longest, model.hidden_size);
    let of_thread = activations(model, lane) + 2 * ffn_rows * f + 2 * d * f + attention;
    F32 * (batch.tokens * d + threads * of_thread)
}

/// Elements of activations and their gradients.
fn activations(model: &ModelConfig, batch: BatchSizes) -> u128 {
    let [d, f, h, n] = [model.hidden_size, model.inner_size, model.n_heads, model.n_layers]
        .map(|size| size as u128);
    // q, k, v, context, middle, output and two norms with their outputs; u; probabilities. What stands in the place of k
    // and v takes no more.
    let layer = 10 * d + f + h * sequences::row_len(batch.longest) as u128;
    // Embedding 2, head 3, gradients 7, token and row gradients 2, head rows 1, buffers 3. Gradients and buffers are a
    // thread's, so that few threads take less.
    let once = 18 * d;
    batch.tokens * (n * layer + once)
}

/// Most elements that an item softmax with up to `rows` rows of `width` channels keeps between its passes.
fn tile_elements(items: usize, rows: u128, width: u128) -> u128 {
    if streamed_softmax::is_due(items) {
        return streamed_softmax::kept(rows, width) + tiles::MOST_ELEMENTS as u128;
    }
    let padded = items.next_multiple_of(tiles::TILE_ITEMS) as u128;
    let all = rows.saturating_add(tiles::TILE_ROWS as u128).saturating_mul(padded);
    let spans = tiles::SPANS as u128 * rows.min(tiles::TILE_ROWS as u128);
    let shares = spans.saturating_add(rows.saturating_mul(2)).saturating_mul(width);
    all.min((tiles::MOST_ELEMENTS as u128).max(8 * padded)).saturating_add(shares)
}

/// Most scores that a thread holds when it ranks.
fn score_elements(items: usize) -> u128 {
    (rank::rows_at_once(items) as u128).saturating_mul(items as u128)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scores_take_no_more_than_their_budget() {
        assert_eq!(tile_elements(100, 36, 64), (36 + 192) * 256 + (48 + 2) * 36 * 64);
        let shares = (48 * 192 + (2 << 20)) * 64;
        assert_eq!(tile_elements(80_000, 1 << 20, 64), (8 << 20) + shares);
        // Whatever the number of items: 16 spans, the rows once more, and the tiles of a sampled loss.
        assert_eq!(tile_elements(1 << 27, 9, 64), 9 * (16 * 66 + 64) + (8 << 20));
        assert_eq!((score_elements(100), score_elements(1 << 30)), (3200, 1 << 30));
    }

    /// Lanes of 512 tokens and the longest sequence, however many tokens a batch has.
    #[test]
    fn answers_keep_one_lane_a_thread() {
        let model = ModelConfig::default();
        let bytes =
            |threads, tokens| answer_bytes(&model, threads, BatchSizes { tokens, longest: 50 });
        let lane = bytes(2, 600) - bytes(1, 600);
        assert_eq!(bytes(3, 600) - bytes(2, 600), lane);
        assert_eq!(bytes(2, 30_000) - bytes(1, 30_000), lane);
        let one = batch_bytes(&model, 10, 1, BatchSizes { tokens: 562, longest: 50 });
        assert!(lane < one, "{lane} and {one}");
    }

    #[test]
    fn wide_and_long_models_take_what_their_buffers_take() {
        let model = |inner_size| ModelConfig { inner_size, ..ModelConfig::default() };
        let bytes = |inner_size, tokens, longest| {
            batch_bytes(&model(inner_size), 10, 1, BatchSizes { tokens, longest })
        };
        // 16 lanes of 192 rows, two buffers each, u of every layer, and the transposes of two weights.
        let wide = bytes(1_000_000, 10_000, 1) - bytes(0, 10_000, 1);
        assert_eq!(wide, 4 * 1_000_000 * (2 * 3072 + 2 * 10_000 + 2 * 64));
        // Probabilities of each layer and head, rows of whole vectors; a tile's weights and score gradients, and
        // the keys and values of a head.
        let long = bytes(1, 4096, 4090) - bytes(1, 4096, 0);
        assert_eq!(long, 4 * 4096 * (4096 * 2 * 2 + 2 * 54 + 2 * 64));
    }
}
