//! FLOPs and bytes of the CPU engine's operations over a whole step, counted from the shapes of its batch.

use crate::bench::roofline::Shape;

/// Bytes of a number.
const F32: f64 = 4.0;

/// What an operation does in one step, over all layers.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Work {
    /// Its name.
    pub operation: &'static str,
    /// Floating-point operations of matrix products.
    pub flops: f64,
    /// Bytes read from and written to memory, each tensor once.
    pub bytes: f64,
}

/// What lanes have whose last layer does without keys and values.
#[derive(Clone, Copy, Default)]
pub struct Absorbed {
    /// Tokens.
    pub tokens: f64,
    /// Rows that are read.
    pub rows: f64,
    /// Pairs of such a row and a token of its sequence.
    pub pairs: f64,
}

/// Of all operations; `segments` is the number of distinct items among the tokens.
pub fn of(shape: &Shape, segments: usize, absorbed: Absorbed) -> Vec<Work> {
    let Shape { tokens: t, rows: p, width: d, items: v, parameters, .. } = *shape;
    let td = t * d;
    let mut all = vec![work("embedding", 0.0, 4.0 * td), work("embedding_backward", 0.0, 4.0 * td)];
    for layer in 0..shape.layers {
        let last = layer + 1 == shape.layers;
        let mut own =
            [of_attention(shape, last.then_some(absorbed)), of_rows(shape, last)].concat();
        if last && absorbed.tokens > 0.0 {
            own.extend(of_absorbed(shape, absorbed));
        }
        for own in own {
            match all.iter_mut().find(|work| work.operation == own.operation) {
                Some(work) => {
                    work.flops += own.flops;
                    work.bytes += own.bytes;
                }
                None => all.push(own),
            }
        }
    }
    let (pd, vd) = (p * d, v * d);
    all.extend([
        work("head", 2.0 * pd * d, 4.0 * pd + d * d),
        work("head_backward", 4.0 * pd * d, 5.0 * pd + 2.0 * d * d),
        // Logits, and the gradients of rows and of the table.
        work("item_softmax", 6.0 * pd * v, 2.0 * pd + 2.0 * vd + 2.0 * v),
        work("embedding_scatter", 0.0, td + 2.0 * segments as f64 * d),
        work("layernorm", 0.0, 3.0 * td),
        work("layernorm_backward", 0.0, 3.0 * td),
        // Gradient, weight and both moments are read, all but the gradient written.
        work("adamw", 0.0, 7.0 * parameters),
        work("gradient_norm", 0.0, parameters),
        work("rank", 2.0 * pd * v, pd + vd),
        work("top_k", 2.0 * pd * v, pd + vd),
    ]);
    all
}

/// From a layer's input to its context; of the last layer, what is not `absorbed` there.
fn of_attention(shape: &Shape, absorbed: Option<Absorbed>) -> [Work; 4] {
    let Shape { width: d, heads, .. } = *shape;
    let (t, q, pairs) = match absorbed {
        Some(Absorbed { tokens, rows, pairs }) => {
            (shape.tokens - tokens, shape.rows - rows, shape.row_pairs - pairs)
        }
        None => (shape.tokens, shape.tokens, shape.pairs),
    };
    let (td, qd, weights) = (t * d, q * d, 3.0 * d * d);
    let maps = 2.0 * qd * d + 4.0 * td * d;
    [
        work("qkv", maps, 3.0 * td + qd + weights),
        work("qkv_backward", 2.0 * maps, 4.0 * td + 2.0 * qd + 2.0 * weights),
        // The probabilities are kept.
        work("attention", 4.0 * pairs * d, 2.0 * qd + 2.0 * td + pairs * heads),
        work("attention_backward", 8.0 * pairs * d, 3.0 * qd + 4.0 * td + pairs * heads),
    ]
}

/// The same of the last layer, keys and values absorbed.
fn of_absorbed(shape: &Shape, absorbed: Absorbed) -> [Work; 2] {
    let Shape { width: d, heads, .. } = *shape;
    let Absorbed { tokens: t, rows: p, pairs } = absorbed;
    let (td, pd, weights) = (t * d, p * d, 3.0 * d * d);
    // Queries, Wkᵀ q and Wv Σ w x; scores and Σ w x, in D channels a head.
    let flops = 6.0 * pd * d + 4.0 * pairs * heads * d;
    let kept = 2.0 * pd * heads + pairs * heads;
    [
        work("absorbed_attention", flops, td + 2.0 * pd + kept + weights),
        work(
            "absorbed_attention_backward",
            2.0 * flops,
            2.0 * td + 3.0 * pd + kept + 2.0 * weights,
        ),
    ]
}

/// From a layer's context to its output.
fn of_rows(shape: &Shape, last: bool) -> [Work; 4] {
    let Shape { width: d, inner: f, .. } = *shape;
    let q = if last { shape.rows } else { shape.tokens };
    let (qd, qf) = (q * d, q * f);
    [
        work("projection", 2.0 * qd * d, 4.0 * qd + d * d),
        work("projection_backward", 4.0 * qd * d, 5.0 * qd + 2.0 * d * d),
        work("ffn", 4.0 * qd * f, 3.0 * qd + qf + 2.0 * d * f),
        work("ffn_backward", 8.0 * qd * f, 4.0 * qd + qf + 4.0 * d * f),
    ]
}

fn work(operation: &'static str, flops: f64, elements: f64) -> Work {
    Work { operation, flops, bytes: F32 * elements }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::train::flops_a_token;
    use crate::bench::workload::Workload;

    /// Whatever trains adds up to the FLOPs that `train` counts, and the gradients of the head's output; fewer are enough
    /// where keys and values are absorbed.
    #[test]
    fn products_add_up_to_the_needed_ones() {
        let workload = Workload { users: 300, ..Workload::preset("A").unwrap() };
        let shape = Shape::of(&workload).unwrap();
        let trains = |work: &&Work| !["rank", "top_k"].contains(&work.operation);
        let all = Absorbed { tokens: shape.tokens, rows: shape.rows, pairs: shape.row_pairs };
        let [flops, absorbed] = [Absorbed::default(), all].map(|absorbed| -> f64 {
            of(&shape, 1, absorbed).iter().filter(trains).map(|work| work.flops).sum()
        });
        let (r, l) = (shape.rows / shape.tokens, shape.pairs / shape.tokens);
        let needed = shape.tokens * flops_a_token(&workload, workload.items, r, l);
        // The last layer's pairs are counted one by one here, and as a mean there.
        assert!((flops / needed - 1.0).abs() < 0.02, "{flops:e} {needed:e}");
        assert!((0.92..0.96).contains(&(absorbed / flops)), "{absorbed:e} {flops:e}");
    }
}
