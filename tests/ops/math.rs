//! Activations and the exponential over their range, point by point.

use crate::util::fixture::{Case, Results, cases, hold};
use b4r::cpu::math::{ValueSlope, exp, gelu, gelu_tanh, relu};
use serde::Deserialize;

#[derive(Deserialize)]
struct Parameters {}

fn cpu(case: &Case<Parameters>) -> Results {
    let f: fn(f32) -> ValueSlope = match case.name.as_str() {
        "gelu" => gelu,
        "gelu_tanh" => gelu_tanh,
        "relu" => relu,
        "exp" => |x| ValueSlope { value: exp(x), slope: exp(x) },
        other => panic!("no function {other}"),
    };
    let points: Vec<ValueSlope> = case.expected("in.x").values.iter().map(|&x| f(x)).collect();
    Results::default()
        .out("y", points.iter().map(|point| point.value).collect::<Vec<_>>())
        .grad("x", points.iter().map(|point| point.slope).collect::<Vec<_>>())
}

#[test]
fn cpu_agrees_with_pytorch() {
    hold("math", "cpu", cpu);
}

/// A long row hides small values behind its largest: here each point counts by itself. Activations are
/// held to 5e-7 of the larger of |x| and 1, the exponential to 3e-7 of its value.
#[test]
fn cpu_is_accurate_at_every_point() {
    for case in cases::<Parameters>("math") {
        let points = &case.expected("in.x").values;
        let (bound, relative) = if case.name == "exp" { (3e-7, true) } else { (5e-7, false) };
        let results = cpu(&case);
        for name in ["out.y", "grad.x"] {
            let expected = &case.expected(name).values;
            for ((&x, &got), &expected) in points.iter().zip(results.get(name)).zip(expected) {
                let size = if relative { expected.abs() } else { x.abs().max(1.0) };
                let error = (got - expected).abs() / size;
                assert!(error <= bound, "{} {name} at {x}: {got}, not {expected}", case.name);
            }
        }
    }
}
