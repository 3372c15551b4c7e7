//! Elementary functions that the compiler can vectorise: no branches, and no library calls where the processor
//! has fused multiply-adds (on x86 since AVX2; an older one calls `fmaf`, slowly, for the same results).

use crate::config::Activation;
use pulp::Simd;

const LOG2_E: f32 = std::f32::consts::LOG2_E;
/// ln 2 split so that `n * LN2_HIGH` is exact for the `n` that occur.
const LN2_HIGH: f32 = 0.693_359_4;
const LN2_LOW: f32 = -2.121_944_4e-4;
/// Adding and subtracting 1.5 * 2^23 rounds to the nearest integer.
const ROUNDER: f32 = 12_582_912.0;

/// e^x to about one unit in the last place; arguments below -87.3 give the smallest normal numbers,
/// above 88.3 about 2e38. NaN stays NaN.
#[inline(always)]
pub fn exp(x: f32) -> f32 {
    exp_below(if x > 88.3 { 88.3 } else { x })
}

/// [`exp`] of what is at most 88.3.
#[inline(always)]
pub fn exp_below(x: f32) -> f32 {
    exp_between(if x < -87.3 { -87.3 } else { x })
}

/// [`exp`] of what lies from -87.3 to 88.3.
#[inline(always)]
fn exp_between(x: f32) -> f32 {
    exp_between_vector(pulp::Scalar::new(), x)
}

/// [`exp_below`] of a vector, bit for bit: for loops that the compiler does not turn into vectors as they should be.
#[inline(always)]
pub fn exp_below_vector<S: Simd>(simd: S, x: S::f32s) -> S::f32s {
    let least = simd.splat_f32s(-87.3);
    exp_between_vector(simd, simd.select_f32s(simd.less_than_f32s(x, least), least, x))
}

/// [`exp_between`] of a vector; a number is one of a single lane.
#[inline(always)]
fn exp_between_vector<S: Simd>(simd: S, x: S::f32s) -> S::f32s {
    let rounder = simd.splat_f32s(ROUNDER);
    let shifted = simd.mul_add_f32s(x, simd.splat_f32s(LOG2_E), rounder);
    let n = simd.sub_f32s(shifted, rounder);
    let r = simd.mul_add_f32s(n, simd.splat_f32s(-LN2_HIGH), x);
    let r = simd.mul_add_f32s(n, simd.splat_f32s(-LN2_LOW), r);
    // e^r on |r| <= ln 2 / 2 to 3.1e-9 of itself (minimax, found by Lawson's iteration), by Estrin's scheme: fewer terms wait
    // for one another than by Horner's, and of loops as long as these a processor has few turns in flight.
    let r2 = simd.mul_f32s(r, r);
    let high = simd.splat_f32s(1.381_432e-3);
    let middle = simd.mul_add_f32s(r, simd.splat_f32s(8.368_851e-3), simd.splat_f32s(4.166_84e-2));
    let low = simd.mul_add_f32s(r, simd.splat_f32s(0.166_665_2), simd.splat_f32s(0.499_999_94));
    let p = simd.mul_add_f32s(simd.mul_add_f32s(high, r2, middle), r2, low);
    let mantissa = simd.mul_add_f32s(p, r2, simd.add_f32s(r, simd.splat_f32s(1.0)));
    // 2^n by its exponent bits: the low bits of `shifted` are n, and n + 127 lies in 1..=254.
    let exponent = simd.add_u32s(simd.transmute_u32s_f32s(shifted), simd.splat_u32s(127));
    let scale = simd.wrapping_dyn_shl_u32s(exponent, simd.splat_u32s(23));
    simd.mul_f32s(mantissa, simd.transmute_f32s_u32s(scale))
}

/// Value and derivative of an activation at one point.
#[derive(Clone, Copy)]
pub struct ValueSlope {
    /// f(u)
    pub value: f32,
    /// f'(u)
    pub slope: f32,
}

/// Exact GELU, u Φ(u), with its derivative Φ(u) + u φ(u), which shares its exponential.
///
/// For a = |u|, Φ(-a) e^(a²/2) is a quotient of polynomials, fitted to 1.3e-8 of Φ near 0 and to 5e-6 of the
/// far tail. All coefficients are positive, so that nothing cancels in f32.
#[inline(always)]
pub fn gelu(u: f32) -> ValueSlope {
    // Beyond 13.2 the exponential is as small as it gets.
    let a = if u.abs() > 13.2 { 13.2 } else { u.abs() };
    let gauss = exp_between(-0.5 * a * a);
    let a2 = a * a;
    let p = a.mul_add(2.669_128_4e-2, 0.207_214_9).mul_add(a2, a.mul_add(0.667_888, 1.0));
    let q = a.mul_add(6.693_217e-2, 0.518_498_06).mul_add(a2, a.mul_add(1.753_485_1, 2.931_543_8));
    let q = q.mul_add(a, 2.0);
    let tail = gauss * (p / q);
    let cdf = if u < 0.0 { tail } else { 1.0 - tail };
    const INV_SQRT_2PI: f32 = 0.398_942_3;
    let relu = if u > 0.0 { u } else { 0.0 };
    ValueSlope { value: a.mul_add(-tail, relu), slope: (u * INV_SQRT_2PI).mul_add(gauss, cdf) }
}

/// GELU by the tanh approximation of Hendrycks and Gimpel, with its derivative.
#[inline(always)]
pub fn gelu_tanh(u: f32) -> ValueSlope {
    const SQRT_2_OVER_PI: f32 = 0.797_884_6;
    const CUBIC: f32 = 0.044_715;
    let inner = SQRT_2_OVER_PI * (u + CUBIC * u * u * u);
    // tanh(z) = 1 - 2 / (e^{2z} + 1)
    let tanh = 1.0 - 2.0 / (exp(2.0 * inner) + 1.0);
    let inner_slope = SQRT_2_OVER_PI * (1.0 + 3.0 * CUBIC * u * u);
    ValueSlope {
        value: 0.5 * u * (1.0 + tanh),
        slope: 0.5 * (1.0 + tanh) + 0.5 * u * (1.0 - tanh * tanh) * inner_slope,
    }
}

/// max(u, 0); the derivative at 0 is 0.
#[inline(always)]
pub fn relu(u: f32) -> ValueSlope {
    if u > 0.0 {
        ValueSlope { value: u, slope: 1.0 }
    } else {
        // u * 0 keeps NaN.
        ValueSlope { value: u * 0.0, slope: 0.0 }
    }
}

/// Runs `body` with the chosen activation as a function the compiler can inline into it.
#[inline(always)]
pub fn with_activation(activation: Activation, body: impl ActivationLoop) {
    match activation {
        Activation::Gelu => body.run(gelu),
        Activation::GeluTanh => body.run(gelu_tanh),
        Activation::Relu => body.run(relu),
    }
}

/// A loop over an activation that is not known until run time.
pub trait ActivationLoop {
    /// The loop, for one activation.
    fn run(self, f: impl Fn(f32) -> ValueSlope);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn points() -> impl Iterator<Item = f32> {
        (-9000..=9000).map(|i| i as f32 / 1000.0)
    }

    #[test]
    fn exp_is_accurate() {
        for x in points().map(|x| x * 9.6).chain([-87.3, -87.29, -87.0, 87.7, 88.29, 88.3]) {
            let exact = f64::from(x).exp();
            let error = (f64::from(exp(x)) - exact).abs() / exact;
            assert!(error < 2e-7, "exp({x}): relative error {error}");
        }
        assert_eq!(exp(0.0), 1.0);
        assert_eq!((exp(-1e30), exp(1e30)), (exp(-87.3), exp(88.3)));
        for bits in [0x7fc0_0000, 0x7fc0_0001, 0xffff_ffff_u32] {
            assert!(exp(f32::from_bits(bits)).is_nan(), "NaN of bits {bits:x}");
        }
    }

    struct ExpBelow([f32; 64]);

    impl pulp::WithSimd for ExpBelow {
        type Output = [f32; 64];

        #[inline(always)]
        fn with_simd<S: Simd>(mut self, simd: S) -> [f32; 64] {
            for x in S::as_mut_simd_f32s(&mut self.0).0 {
                *x = exp_below_vector(simd, *x);
            }
            self.0
        }
    }

    #[test]
    fn exp_of_vectors_is_that_of_numbers() {
        let numbers: [f32; 64] = std::array::from_fn(|i| 88.3 - i as f32 * i as f32 / 17.0);
        let expected = numbers.map(exp_below);
        assert_eq!(crate::cpu::vector::with_simd(ExpBelow(numbers)), expected);
        assert_eq!(pulp::Scalar::new().vectorize(ExpBelow(numbers)), expected);
        assert!(crate::cpu::vector::with_simd(ExpBelow([f32::NAN; 64])).iter().all(|x| x.is_nan()));
    }

    /// The normal distribution up to `u`: the Maclaurin series of its odd part, or the continued fraction of
    /// its tail.
    fn normal_cdf(u: f64) -> f64 {
        let density = (-0.5 * u * u).exp() / (2.0 * std::f64::consts::PI).sqrt();
        if u.abs() < 4.0 {
            let terms = (1..200).scan(u, |term, n| {
                let now = *term;
                *term *= u * u / f64::from(2 * n + 1);
                Some(now)
            });
            return 0.5 + density * terms.sum::<f64>();
        }
        let fraction = (1..200).rev().fold(u.abs(), |below, n| u.abs() + f64::from(n) / below);
        let tail = density / fraction;
        if u < 0.0 { tail } else { 1.0 - tail }
    }

    /// Everywhere within two units in the last place of 1, and in the lower tail relative to itself, so that
    /// the slope is right around its root at -0.75 and where it fades.
    #[test]
    fn gelu_is_accurate() {
        for u in points() {
            let wide = f64::from(u);
            let cdf = normal_cdf(wide);
            let density = (-0.5 * wide * wide).exp() / (2.0 * std::f64::consts::PI).sqrt();
            let point = gelu(u);
            let (value, slope) = (f64::from(point.value) - wide * cdf, f64::from(point.slope));
            let slope = slope - (cdf + wide * density);
            assert!(value.abs() <= 1.3e-7 * wide.abs(), "value at {u}: {value:e}");
            assert!(slope.abs() <= 1.5e-7, "slope at {u}: {slope:e}");
            if u < -0.5 {
                assert!(slope.abs() <= 9e-8, "slope at {u}: {slope:e}");
                assert!(value.abs() <= 6e-6 * (wide * cdf).abs(), "value at {u}: {value:e}");
            }
        }
        assert_eq!(gelu(1e30).value, 1e30);
        assert_eq!((gelu(0.0).value, gelu(0.0).slope), (0.0, 0.5));
        assert!(gelu(-1e15).value.abs() < 1e-20 && gelu(f32::NAN).slope.is_nan());
    }

    /// Derivatives against central differences of the function's own values in f64.
    #[test]
    fn activations_agree_with_their_slopes() {
        let tanh =
            |u: f64| 0.5 * u * (1.0 + (0.797_884_560_8 * (u + 0.044_715 * u.powi(3))).tanh());
        for u in points() {
            let wide = f64::from(u);
            let h = 1e-5;
            let slope = (tanh(wide + h) - tanh(wide - h)) / (2.0 * h);
            assert!((f64::from(gelu_tanh(u).value) - tanh(wide)).abs() < 2e-6, "{u}");
            assert!((f64::from(gelu_tanh(u).slope) - slope).abs() < 2e-6, "{u}");
            assert!((gelu(u).value - gelu_tanh(u).value).abs() < 1e-3, "{u}");
            assert!((gelu(u).slope - gelu_tanh(u).slope).abs() < 3e-3, "{u}");
        }
        assert_eq!(relu(-2.0).value, 0.0);
        assert!(gelu(f32::NAN).value.is_nan() && relu(f32::NAN).value.is_nan());
    }
}
