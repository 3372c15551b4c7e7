//! From a layer's input to the context of some of its tokens, and back, without keys and values.

use super::attention::{Parameters, bounds};
use super::{LinearCase, attention_dropout};
use crate::util::fixture::{Case, Results, hold};
use b4r::cpu::absorbed_attention::{Gradients, Kept, Scratch, backward, forward, parts_len};
use b4r::cpu::attention;
use b4r::cpu::lane::Rows;
use b4r::cpu::sequences::Sequences;

fn cpu(case: &Case<Parameters>) -> Results {
    let Parameters { heads, lengths, layer, causal, dropout } = &case.parameters;
    let [_, width] = *case.shape("x") else { panic!("x is a matrix") };
    let rows = case.integers("rows");
    let (cu_seqlens, cu_queries) = bounds(lengths, rows);
    let sequences = Sequences {
        cu_seqlens: &cu_seqlens,
        cu_queries: &cu_queries,
        rows: Rows::Selected(rows),
        first: 0,
        heads: *heads,
        width,
        causal: *causal,
        absorbed: true,
    };
    let dropout = attention_dropout(dropout, *layer);
    let (x, d_context) = (case.input("x"), case.input("upstream"));
    let (mut query, mut key_value) =
        (LinearCase::new(case, "query"), LinearCase::new(case, "key_value"));
    let (query_map, d_query) = query.split();
    let (key_value_map, d_key_value) = key_value.split();
    // Every element is written: what was there before must not matter.
    let before = |len: usize| vec![f32::NAN; len];
    let (mut q, mut parts) = (before(d_context.len()), before(parts_len(&sequences)));
    let (mut d_q, mut d_parts) = (q.clone(), parts.clone());
    let (mut context, mut d_x) = (q.clone(), before(x.len()));
    let mut probabilities = before(sequences.probability_count());
    let (attention, gathered) = (&mut attention::Scratch::default(), &mut Vec::new());
    forward(
        &sequences,
        dropout.as_ref(),
        &query_map,
        &key_value_map,
        &x,
        Scratch { attention: &mut *attention, gathered: &mut *gathered },
        Kept { q: &mut q, parts: &mut parts, probabilities: &mut probabilities },
        &mut context,
    );
    backward(
        &sequences,
        dropout.as_ref(),
        &query_map,
        &key_value_map,
        &x,
        Kept { q: &q, parts: &parts, probabilities: &probabilities },
        &d_context,
        Scratch { attention, gathered },
        Gradients {
            parts: &mut d_parts,
            q: &mut d_q,
            query: d_query,
            key_value: d_key_value,
            input: &mut d_x,
        },
    );
    let results = Results::default().out("context", context).grad("x", d_x);
    key_value.into_results(query.into_results(results))
}

#[test]
fn cpu_agrees_with_pytorch() {
    hold("absorbed_attention", "cpu", cpu);
}
