//! All kernels against the references, in a table: what to run first on a GPU, and what to report from it.
//!
//! `cargo test --test b4r -- --ignored --nocapture check_kernels`

use crate::model::{cuda as model, losses};
use crate::ops::{
    adamw, attention, embedding, ffn, gbce, head, item_softmax, layernorm, linear, projection, qkv,
    rank, shortlist, top_k,
};
use crate::util::cuda::{device, real_driver};
use crate::util::fixture::{Row, take_rows};
use std::panic::{AssertUnwindSafe, catch_unwind};

/// Operation, precision, and the test that holds all of its cases.
type Check = (&'static str, &'static str, fn());

/// What has no reference of PyTorch's is held to the CPU or to a plain sort.
const CHECKS: &[Check] = &[
    ("embedding", "f32", embedding::cuda_f32_agrees_with_pytorch),
    ("embedding", "bf16", embedding::cuda_bf16_agrees_with_pytorch),
    ("qkv", "f32", qkv::cuda_f32_agrees_with_pytorch),
    ("qkv", "bf16", qkv::cuda_bf16_agrees_with_pytorch),
    ("attention", "f32", attention::cuda_f32_agrees_with_pytorch),
    ("attention", "bf16", attention::cuda_bf16_agrees_with_pytorch),
    ("projection", "f32", projection::cuda_f32_agrees_with_pytorch),
    ("projection", "bf16", projection::cuda_bf16_agrees_with_pytorch),
    ("ffn", "f32", ffn::cuda_f32_agrees_with_pytorch),
    ("ffn", "bf16", ffn::cuda_bf16_agrees_with_pytorch),
    ("layernorm", "f32", layernorm::cuda_f32_agrees_with_pytorch),
    ("layernorm", "bf16", layernorm::cuda_bf16_agrees_with_pytorch),
    ("linear", "f32", linear::cuda_f32_agrees_with_pytorch),
    ("linear", "bf16", linear::cuda_bf16_agrees_with_pytorch),
    ("head", "f32", head::cuda_f32_agrees_with_pytorch),
    ("head", "bf16", head::cuda_bf16_agrees_with_pytorch),
    ("item_softmax", "f32", item_softmax::cuda_f32_agrees_with_pytorch),
    ("item_softmax", "bf16", item_softmax::cuda_bf16_agrees_with_pytorch),
    ("gbce", "f32", gbce::cuda_f32_agrees_with_pytorch),
    ("gbce", "bf16", gbce::cuda_bf16_agrees_with_pytorch),
    ("shortlist, rows", "f32", shortlist::cuda_f32_gathers_rows),
    ("shortlist, rows", "bf16", shortlist::cuda_bf16_gathers_rows),
    ("shortlist, gradients", "f32", shortlist::cuda_f32_scatters_gradients),
    ("adamw", "f32", adamw::cuda_f32_agrees_with_pytorch),
    ("adamw", "bf16", adamw::cuda_bf16_agrees_with_pytorch),
    ("rank, scores", "f32", rank::cuda_f32_ranks_agree_with_pytorch),
    ("rank", "f32", rank::cuda_f32_agrees_with_cpu),
    ("rank", "bf16", rank::cuda_bf16_agrees_with_cpu),
    ("top_k", "f32", top_k::cuda_f32_agrees_with_a_plain_sort),
    ("top_k", "bf16", top_k::cuda_bf16_agrees_with_a_plain_sort),
    ("whole model", "f32", model::f32_gradients_agree_with_pytorch),
    ("whole model", "bf16", model::bf16_gradients_agree_with_pytorch),
    ("sampled losses", "f32", losses::cuda_f32_gradients_agree_with_pytorch),
    ("sampled losses", "bf16", losses::cuda_bf16_gradients_agree_with_pytorch),
];

/// Prints a check's rows; what went wrong, if anything did.
fn print(&(operation, precision, test): &Check, device: &str) -> Option<String> {
    take_rows();
    let outcome = catch_unwind(AssertUnwindSafe(test));
    let rows = take_rows();
    for row in &rows {
        let Row { case, shape, bf16, nearness, holds, .. } = row;
        let (measure, error, allowed) = nearness.nearest(*bf16);
        let verdict = if *holds { "ok" } else { "FAIL" };
        println!(
            "| {operation} | {case}: {shape} | {precision} | {device} | {measure} {error:.1e} | {allowed:.0e} | {verdict} |"
        );
    }
    // Either there are no references, or it ended before the rows did.
    if rows.is_empty() || (outcome.is_err() && rows.iter().all(|row| row.holds)) {
        let verdict = if outcome.is_ok() { "ok" } else { "FAIL" };
        println!("| {operation} | all | {precision} | {device} | - | - | {verdict} |");
    }
    let panic = outcome.err()?;
    let text = panic.downcast_ref::<String>().map(String::as_str);
    let text = text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("a panic");
    Some(format!("{operation} in {precision}: {text}"))
}

#[test]
#[ignore = "the tests of tests/ops and tests/model hold the same; this one prints a table"]
fn check_kernels() {
    let name = device().name().to_string();
    println!(
        "{}\nErrors in f32 are relative to the reference: NMSE of a tensor, largest of a row, and of what is zero but for \
         rounding to the largest gradient; in bf16 they are shares of twice PyTorch's own error in bf16 and a \
         thousandth of the reference.\n",
        match real_driver() {
            true => format!("On the GPU {name}."),
            false =>
                "No driver is here: on the software GPU, which says nothing of silicon.".into(),
        }
    );
    println!("| operation | case: first input | precision | device | largest error | allowed | |");
    println!("|---|---|---|---|---|---|---|");
    let failures: Vec<String> = CHECKS.iter().filter_map(|check| print(check, &name)).collect();
    assert!(failures.is_empty(), "on {name}:\n{}", failures.join("\n"));
    println!("\nAll {} checks hold on {name}.", CHECKS.len());
}
