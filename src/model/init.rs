//! Initial weights, drawn on the host and so the same for every engine.

use super::params::{Init, ParameterTable};
use crate::philox::{self, Stream};

/// The arena of a new model. Weights are normal with standard deviation `range`, as in RecBole; PAD's row of
/// the item table is 0.
pub fn initial_parameters(table: &ParameterTable, range: f64, seed: u64) -> Vec<f32> {
    let mut arena = vec![0.0; table.total];
    for (index, tensor) in table.tensors.iter().enumerate() {
        let values = &mut arena[tensor.range()];
        match tensor.init {
            Init::Zeros => {}
            Init::Ones => values.fill(1.0),
            Init::Normal => normal(philox::key(seed), index as u32, range, values),
        }
    }
    let width = table.embedding_norm.weight.len();
    arena[table.item_embedding.clone()][..width].fill(0.0);
    arena
}

/// Box-Muller on the four 32-bit numbers of each block.
fn normal(key: [u32; 2], tensor: u32, deviation: f64, values: &mut [f32]) {
    for (block, out) in values.chunks_mut(4).enumerate() {
        let counter = [block as u32, (block as u64 >> 32) as u32, tensor, Stream::Init.word(0)];
        let words = philox::block(key, counter);
        let mut normals = [0.0; 4];
        for pair in 0..2 {
            let radius = (-2.0 * philox::unit(words[2 * pair]).ln()).sqrt();
            let angle = std::f64::consts::TAU * philox::unit(words[2 * pair + 1]);
            normals[2 * pair] = radius * angle.cos();
            normals[2 * pair + 1] = radius * angle.sin();
        }
        for (value, normal) in out.iter_mut().zip(normals) {
            *value = (deviation * normal) as f32;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::ModelConfig;
    use approx::assert_abs_diff_eq;

    #[test]
    fn weights_have_the_deviation_asked_for() {
        let config = ModelConfig::default();
        let table = ParameterTable::new(&config, 1000);
        let arena = initial_parameters(&table, 0.02, 1);
        for tensor in &table.tensors {
            let values = &arena[tensor.range()];
            let n = values.len() as f64;
            let mean = values.iter().map(|&x| f64::from(x)).sum::<f64>() / n;
            let square = values.iter().map(|&x| f64::from(x) * f64::from(x)).sum::<f64>() / n;
            match tensor.init {
                Init::Normal => {
                    assert!(mean.abs() < 0.02 * 5.0 / n.sqrt(), "{}: mean {mean}", tensor.name);
                    assert_abs_diff_eq!(square.sqrt(), 0.02, epsilon = 0.001);
                }
                Init::Zeros => assert_eq!(square, 0.0),
                Init::Ones => assert_eq!((mean, square), (1.0, 1.0)),
            }
        }
        assert!(arena[..config.hidden_size].iter().all(|&x| x == 0.0), "PAD is 0");
        assert_eq!(arena, initial_parameters(&table, 0.02, 1));
        assert_ne!(arena, initial_parameters(&table, 0.02, 2));
    }
}
