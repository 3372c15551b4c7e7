//! The parameter table: every tensor's name, shape and place in the one arena that holds them all.
//!
//! Names and shapes are RecBole's, so that a state dict travels both ways; linear weights are `[out, in]`.

use crate::config::ModelConfig;
use std::ops::Range;

/// How a tensor begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Init {
    /// Normal with standard deviation `initializer_range`.
    Normal,
    /// All 0.
    Zeros,
    /// All 1.
    Ones,
}

/// One named tensor of the arena.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tensor {
    /// RecBole's name.
    pub name: String,
    /// Sizes, outermost first.
    pub shape: Vec<usize>,
    /// First element within the arena.
    pub offset: usize,
    /// How it begins.
    pub init: Init,
    /// Whether weight decay applies: not to layer norms and biases.
    pub decay: bool,
}

impl Tensor {
    /// Number of elements.
    pub fn len(&self) -> usize {
        self.shape.iter().product()
    }

    /// Whether it has no element.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Its elements within the arena.
    pub fn range(&self) -> Range<usize> {
        self.offset..self.offset + self.len()
    }
}

/// A scale and shift, each `[D]`.
#[derive(Clone, Debug)]
pub struct LayerNormParams {
    /// Scale.
    pub weight: Range<usize>,
    /// Shift.
    pub bias: Range<usize>,
}

/// A linear map `[out, in]` and its bias `[out]`.
#[derive(Clone, Debug)]
pub struct LinearParams {
    /// Weight.
    pub weight: Range<usize>,
    /// Bias.
    pub bias: Range<usize>,
}

/// Places of one encoder layer's tensors.
#[derive(Clone, Debug)]
pub struct LayerParams {
    /// Query, `[D, D]`.
    pub query: LinearParams,
    /// Key and value side by side, `[2D, D]`.
    pub key_value: LinearParams,
    /// Output projection, `[D, D]`.
    pub projection: LinearParams,
    /// Norm of the attention sublayer.
    pub attention_norm: LayerNormParams,
    /// First feed-forward map, `[F, D]`.
    pub ffn_in: LinearParams,
    /// Second feed-forward map, `[D, F]`.
    pub ffn_out: LinearParams,
    /// Norm of the feed-forward sublayer.
    pub ffn_norm: LayerNormParams,
}

/// The table and, for the passes, the places by role.
#[derive(Clone, Debug)]
pub struct ParameterTable {
    /// All tensors in arena order.
    pub tensors: Vec<Tensor>,
    /// `item_embedding.weight`, `[V + 2, D]`: PAD first, MASK last.
    pub item_embedding: Range<usize>,
    /// `position_embedding.weight`, `[L, D]`.
    pub position_embedding: Range<usize>,
    /// Norm after the embedding sum.
    pub embedding_norm: LayerNormParams,
    /// Encoder layers, first to last.
    pub layers: Vec<LayerParams>,
    /// `output_ffn`, `[D, D]`.
    pub head: LinearParams,
    /// `output_ln`.
    pub head_norm: LayerNormParams,
    /// `output_bias`, `[V + 1]`; entry 0 belongs to PAD and is not used.
    pub output_bias: Range<usize>,
    /// `output_weight`, `[V + 2, D]`, where the head is not tied to the item embedding.
    pub output_weight: Option<Range<usize>>,
    /// Elements in the arena.
    pub total: usize,
    /// Elements before the first tensor of the encoder: the tables whose size grows with `V`, and `output_bias`.
    pub dense_start: usize,
}

impl ParameterTable {
    /// Lays out the tensors of a model with `items` items.
    pub fn new(config: &ModelConfig, items: usize) -> Self {
        let (d, f) = (config.hidden_size, config.inner_size);
        let mut arena = ArenaBuilder::default();
        let item_embedding =
            arena.add("item_embedding.weight", &[items + 2, d], Init::Normal, true);
        let output_weight =
            (!config.tied).then(|| arena.add("output_weight", &[items + 2, d], Init::Normal, true));
        let output_bias = arena.add("output_bias", &[items + 1], Init::Zeros, false);
        let dense_start = arena.total;
        let position_embedding =
            arena.add("position_embedding.weight", &[config.max_len, d], Init::Normal, true);
        let embedding_norm = arena.layer_norm("LayerNorm", d);
        let layers = (0..config.n_layers).map(|i| arena.layer(i, d, f)).collect();
        let head = arena.linear("output_ffn", d, d);
        let head_norm = arena.layer_norm("output_ln", d);
        ParameterTable {
            item_embedding,
            position_embedding,
            embedding_norm,
            layers,
            head,
            head_norm,
            output_bias,
            output_weight,
            total: arena.total,
            dense_start,
            tensors: arena.tensors,
        }
    }

    /// The table the head multiplies by.
    pub fn output_table(&self) -> Range<usize> {
        self.output_weight.clone().unwrap_or_else(|| self.item_embedding.clone())
    }

    /// The tensor called `name`.
    pub fn find(&self, name: &str) -> Option<&Tensor> {
        self.tensors.iter().find(|tensor| tensor.name == name)
    }

    /// The tensor that holds arena element `index`.
    pub fn tensor_at(&self, index: usize) -> &Tensor {
        let next = self.tensors.partition_point(|tensor| tensor.offset <= index);
        &self.tensors[next - 1]
    }

    /// Number of elements for given sizes without laying anything out, for checks before allocation.
    pub fn count(config: &ModelConfig, items: usize) -> u128 {
        let [d, f, n, l] = [config.hidden_size, config.inner_size, config.n_layers, config.max_len]
            .map(|x| x as u128);
        let v = items as u128;
        let tables = if config.tied { 1 } else { 2 };
        let layer = 4 * d * d + 4 * d + 2 * d * f + f + d + 4 * d;
        tables * (v + 2) * d + (v + 1) + l * d + 2 * d + n * layer + d * d + d + 2 * d
    }
}

#[derive(Default)]
struct ArenaBuilder {
    tensors: Vec<Tensor>,
    total: usize,
}

impl ArenaBuilder {
    fn add(&mut self, name: &str, shape: &[usize], init: Init, decay: bool) -> Range<usize> {
        let tensor = Tensor {
            name: name.to_string(),
            shape: shape.to_vec(),
            offset: self.total,
            init,
            decay,
        };
        let range = tensor.range();
        self.total = range.end;
        self.tensors.push(tensor);
        range
    }

    fn linear(&mut self, name: &str, out: usize, input: usize) -> LinearParams {
        LinearParams {
            weight: self.add(&format!("{name}.weight"), &[out, input], Init::Normal, true),
            bias: self.add(&format!("{name}.bias"), &[out], Init::Zeros, false),
        }
    }

    fn layer_norm(&mut self, name: &str, d: usize) -> LayerNormParams {
        LayerNormParams {
            weight: self.add(&format!("{name}.weight"), &[d], Init::Ones, false),
            bias: self.add(&format!("{name}.bias"), &[d], Init::Zeros, false),
        }
    }

    fn layer(&mut self, index: usize, d: usize, f: usize) -> LayerParams {
        let attention = format!("trm_encoder.layer.{index}.multi_head_attention");
        let ffn = format!("trm_encoder.layer.{index}.feed_forward");
        // Weights side by side, then biases, so that one product reads several named tensors.
        let [query_w, key_w, value_w] = ["query", "key", "value"].map(|part| {
            self.add(&format!("{attention}.{part}.weight"), &[d, d], Init::Normal, true)
        });
        let [query_b, key_b, value_b] = ["query", "key", "value"]
            .map(|part| self.add(&format!("{attention}.{part}.bias"), &[d], Init::Zeros, false));
        LayerParams {
            query: LinearParams { weight: query_w, bias: query_b },
            key_value: LinearParams {
                weight: key_w.start..value_w.end,
                bias: key_b.start..value_b.end,
            },
            projection: self.linear(&format!("{attention}.dense"), d, d),
            attention_norm: self.layer_norm(&format!("{attention}.LayerNorm"), d),
            ffn_in: self.linear(&format!("{ffn}.dense_1"), f, d),
            ffn_out: self.linear(&format!("{ffn}.dense_2"), d, f),
            ffn_norm: self.layer_norm(&format!("{ffn}.LayerNorm"), d),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// RecBole's own count for ml-100k with four layers of width 64 and 1,682 items.
    #[test]
    fn counts_as_recbole_does() {
        let config = ModelConfig { n_layers: 4, n_heads: 4, ..ModelConfig::default() };
        let table = ParameterTable::new(&config, 1682);
        assert_eq!(table.total, 317_011);
        assert_eq!(ParameterTable::count(&config, 1682), 317_011);
        let last = table.tensors.last().unwrap();
        assert_eq!(last.range().end, table.total);
        for tensor in &table.tensors {
            assert_eq!(table.tensor_at(tensor.offset).name, tensor.name);
            assert_eq!(table.tensor_at(tensor.range().end - 1).name, tensor.name);
        }
    }

    #[test]
    fn the_count_needs_no_layout() {
        for tied in [true, false] {
            let config = ModelConfig { tied, inner_size: 48, ..ModelConfig::default() };
            let table = ParameterTable::new(&config, 77);
            assert_eq!(table.total as u128, ParameterTable::count(&config, 77));
        }
    }
}
