//! Queries where they are read, keys and values everywhere.

use super::device::Grid;
use super::memory::{self, Slice, Storage};
use super::operands::{Count, Launcher, Linear, Rows};
use super::tiles::{Blocking, Side, check, check_width};
use crate::Result;
use bytemuck::NoUninit;

/// Sizes of the map.
#[derive(Clone, Copy)]
pub struct Shape {
    /// `T`
    pub tokens: Count,
    /// `Tq`: `T`, or `P` in the last layer.
    pub queries: Count,
    /// `D`
    pub width: usize,
}

/// `QkvArguments`
#[derive(Clone, Copy, NoUninit)]
#[repr(C)]
struct Arguments {
    tokens: u64,
    queries: u64,
    index: u64,
    query_weight: u64,
    query_bias: u64,
    key_value_weight: u64,
    key_value_bias: u64,
    x: u64,
    q: u64,
    kv: u64,
    residual: u64,
    width: u32,
    unused: u32,
}

/// Tiles of the kernels up to a width.
struct Class {
    name: &'static str,
    most_width: usize,
    blocking: Blocking,
}

const CLASSES: [Class; 2] = [
    Class { name: "d64", most_width: 64, blocking: Blocking::new(4, 1, 2, 8) },
    Class { name: "wide", most_width: usize::MAX, blocking: Blocking::new(2, 2, 4, 8) },
];

impl Shape {
    fn class(&self) -> &'static Class {
        let fits = |class: &&Class| self.width <= class.most_width;
        CLASSES.iter().find(fits).unwrap_or(&CLASSES[1])
    }

    fn check_maps<S: Storage>(
        &self,
        operation: &str,
        query: Linear<S>,
        key_value: Linear<S>,
    ) -> Result<()> {
        let d = self.width;
        check_width(operation, d)?;
        query.check(operation, "query ", d, d)?;
        key_value.check(operation, "key and value ", 2 * d, d)
    }

    fn check_rows(&self, operation: &str, rows: Rows) -> Result<()> {
        let Rows::Selected { tokens, rows } = rows else { return Ok(()) };
        memory::check(operation, "tokens of the rows", tokens, self.queries.most)?;
        memory::check(operation, "rows of the tokens", rows, self.tokens.most)
    }

    fn arguments<S>(
        &self,
        launcher: Launcher<'_>,
        query: Linear<S>,
        key_value: Linear<S>,
    ) -> Arguments {
        Arguments {
            tokens: launcher.size(self.tokens.size),
            queries: launcher.size(self.queries.size),
            index: 0,
            query_weight: query.weight.address,
            query_bias: query.bias.address,
            key_value_weight: key_value.weight.address,
            key_value_bias: key_value.bias.address,
            x: 0,
            q: 0,
            kv: 0,
            residual: 0,
            width: self.width as u32,
            unused: 0,
        }
    }
}

/// q = query(input at `rows`) `[Tq, D]`, kv = key_value(input) `[T, 2D]`, in one launch.
///
/// # Errors
/// [`crate::Error::Device`] for buffers of wrong length, sizes that no kernel takes, or a failed launch.
#[expect(clippy::too_many_arguments, reason = "one argument a tensor, as on the CPU")]
pub fn forward<S: Storage>(
    launcher: Launcher<'_>,
    shape: Shape,
    query: Linear<S>,
    key_value: Linear<S>,
    rows: Rows,
    input: Slice<S>,
    q: Slice<S>,
    kv: Slice<S>,
) -> Result<()> {
    const OPERATION: &str = "qkv forward";
    let (tokens, queries, d) = (shape.tokens.most, shape.queries.most, shape.width);
    shape.check_maps(OPERATION, query, key_value)?;
    shape.check_rows(OPERATION, rows)?;
    check(OPERATION, "input", input, tokens * d)?;
    check(OPERATION, "q", q, queries * d)?;
    check(OPERATION, "kv", kv, 2 * tokens * d)?;
    let arguments = Arguments {
        index: rows.tokens_address(),
        x: input.address,
        q: q.address,
        kv: kv.address,
        ..shape.arguments(launcher, query, key_value)
    };
    let Class { name, blocking, .. } = shape.class();
    let across = d.div_ceil(blocking.columns) + (2 * d).div_ceil(blocking.columns);
    let down = tokens.max(queries).div_ceil(blocking.rows);
    let grid = Grid {
        blocks: [across as u32, down as u32, 1],
        threads: blocking.threads(),
        shared: blocking.linear_tile::<S>(Side::Outputs) as u32,
    };
    let kernel = format!("qkv_forward_{name}_{}", S::NAME);
    // SAFETY: the arguments mirror QkvArguments; all buffers were checked to hold what the kernel's sizes, at most
    // those of `shape`, ask for, and live as long as their owners, which outlive the step.
    unsafe { launcher.device.launch(&kernel, grid, &arguments) }
}

/// d_input `[T, D]` = d_q Wq (at `rows`) + d_kv Wkv + residual (at `rows`, where there is one), in one launch.
/// Weight gradients: [`super::linear::gradients`].
///
/// # Errors
/// As [`forward`].
#[expect(clippy::too_many_arguments, reason = "one argument a tensor, as on the CPU")]
pub fn backward<S: Storage>(
    launcher: Launcher<'_>,
    shape: Shape,
    query: Linear<S>,
    key_value: Linear<S>,
    rows: Rows,
    d_q: Slice<S>,
    d_kv: Slice<S>,
    residual: Option<Slice<S>>,
    d_input: Slice<S>,
) -> Result<()> {
    const OPERATION: &str = "qkv backward";
    let (tokens, queries, d) = (shape.tokens.most, shape.queries.most, shape.width);
    shape.check_maps(OPERATION, query, key_value)?;
    shape.check_rows(OPERATION, rows)?;
    check(OPERATION, "gradient of q", d_q, queries * d)?;
    check(OPERATION, "gradient of kv", d_kv, 2 * tokens * d)?;
    check(OPERATION, "gradient of the input", d_input, tokens * d)?;
    if let Some(residual) = residual {
        check(OPERATION, "gradient of the residual", residual, queries * d)?;
    }
    let arguments = Arguments {
        index: rows.rows_address(),
        x: d_input.address,
        q: d_q.address,
        kv: d_kv.address,
        residual: residual.map_or(0, |residual| residual.address),
        ..shape.arguments(launcher, query, key_value)
    };
    let Class { name, blocking, .. } = shape.class();
    let grid = Grid {
        blocks: [d.div_ceil(blocking.columns) as u32, tokens.div_ceil(blocking.rows) as u32, 1],
        threads: blocking.threads(),
        shared: blocking.linear_tile::<S>(Side::Inputs) as u32,
    };
    let kernel = format!("qkv_backward_{name}_{}", S::NAME);
    // SAFETY: as in `forward`.
    unsafe { launcher.device.launch(&kernel, grid, &arguments) }
}
