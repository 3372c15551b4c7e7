//! AdamW (Loshchilov and Hutter, ICLR 2019) over a piece of the arena, and the gradient's norm.

use super::vector::vectorized;

/// Constants of one step.
#[derive(Clone, Copy, Debug)]
pub struct AdamW {
    /// Learning rate.
    pub learning_rate: f32,
    /// Decay of the running mean.
    pub beta1: f32,
    /// Decay of the running mean of squares.
    pub beta2: f32,
    /// Added to the denominator.
    pub epsilon: f32,
    /// What the gradient is multiplied by first: clipping.
    pub gradient_scale: f32,
    /// Adam: the decay is added to the gradient, rather than taken off the weight.
    pub coupled: bool,
    /// 1 - β1, rounded once: 1 - 0.999 in f32 is off by 1e-5 of itself.
    mean_weight: f32,
    /// 1 - β2
    square_weight: f32,
    /// 1 / (1 - β1ᵗ)
    mean_correction: f32,
    /// 1 / (1 - β2ᵗ)
    square_correction: f32,
}

impl AdamW {
    /// For step `t`, from 1.
    pub fn new(
        t: u64,
        learning_rate: f32,
        betas: (f64, f64),
        epsilon: f64,
        gradient_scale: f32,
    ) -> Self {
        let correction = |beta: f64| (1.0 / (1.0 - beta.powf(t as f64))) as f32;
        AdamW {
            learning_rate,
            beta1: betas.0 as f32,
            beta2: betas.1 as f32,
            epsilon: epsilon as f32,
            gradient_scale,
            coupled: false,
            mean_weight: (1.0 - betas.0) as f32,
            square_weight: (1.0 - betas.1) as f32,
            mean_correction: correction(betas.0),
            square_correction: correction(betas.1),
        }
    }

    /// p -= lr (decay p + m̂ / (sqrt(v̂) + ε)), element by element; all slices have one length. Coupled: g += decay
    /// p instead, before the moments.
    pub fn update(&self, decay: f32, p: &mut [f32], g: &[f32], m: &mut [f32], v: &mut [f32]) {
        let (taken_off, added) = if self.coupled { (0.0, decay) } else { (decay, 0.0) };
        let keep = 1.0 - self.learning_rate * taken_off;
        vectorized(
            #[inline(always)]
            || {
                for (((p, &g), m), v) in p.iter_mut().zip(g).zip(m).zip(v) {
                    let g = g * self.gradient_scale + added * *p;
                    *m = self.beta1 * *m + self.mean_weight * g;
                    *v = self.beta2 * *v + self.square_weight * (g * g);
                    let denominator = (*v * self.square_correction).sqrt() + self.epsilon;
                    *p = keep * *p - self.learning_rate * (*m * self.mean_correction) / denominator;
                }
            },
        );
    }
}

/// Sum of squares, in f64; not finite where an element is not.
pub fn squared_norm(g: &[f32]) -> f64 {
    const LANES: usize = 8;
    let mut partial = [0.0f64; LANES];
    vectorized(
        #[inline(always)]
        || {
            let (blocks, rest) = g.as_chunks::<LANES>();
            for x in blocks {
                for lane in 0..LANES {
                    partial[lane] += f64::from(x[lane]) * f64::from(x[lane]);
                }
            }
            for (lane, &x) in rest.iter().enumerate() {
                partial[lane] += f64::from(x) * f64::from(x);
            }
        },
    );
    partial.iter().sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Adam in f64, with the decay added to the gradient, over a few steps of a gradient that changes sign.
    #[test]
    fn coupled_decay_joins_the_gradient() {
        let (rate, decay, epsilon) = (0.1, 0.3, 1e-8);
        let (mut p, mut m, mut v) = ([2.0f32], [0.0f32], [0.0f32]);
        let (mut weight, mut mean, mut square) = (2.0f64, 0.0f64, 0.0f64);
        for t in 1..=5u64 {
            let gradient = if t % 2 == 0 { -0.8 } else { 0.5 };
            let mut adam = AdamW::new(t, rate, (0.9, 0.999), epsilon, 0.5);
            adam.coupled = true;
            adam.update(decay, &mut p, &[gradient], &mut m, &mut v);
            let g = f64::from(gradient) * 0.5 + f64::from(decay) * weight;
            mean = 0.9 * mean + 0.1 * g;
            square = 0.999 * square + 0.001 * g * g;
            let root = (square / (1.0 - 0.999f64.powi(t as i32))).sqrt() + epsilon;
            weight -= f64::from(rate) * mean / (1.0 - 0.9f64.powi(t as i32)) / root;
        }
        assert!((f64::from(p[0]) - weight).abs() < 1e-5, "{} and {weight}", p[0]);
        assert!((f64::from(m[0]) - mean).abs() < 1e-6);
    }
}
