//! Weight gradients of linear maps, several at once: dW = upstreamᵀ input, db = column sums of upstream.

use super::activation;
use super::device::{Grid, failed};
use super::memory::{self, Slice, Storage};
use super::operands::{Count, Launcher, LinearPartials};
use super::tiles::{Blocking, check, chunk, tile};
use crate::Result;
use crate::config::Activation;
use bytemuck::{NoUninit, Pod, Zeroable};

/// Most maps that one launch takes.
pub const MOST_MAPS: usize = 4;

/// One map's gradient.
#[derive(Clone, Copy)]
pub struct Gradient<S> {
    /// Rows of `upstream`.
    pub rows: Count,
    /// Width of `upstream`, a multiple of 16.
    pub outputs: usize,
    /// Width of `input`, a multiple of 16.
    pub inputs: usize,
    /// `[rows, outputs]` gradient of the map's output.
    pub upstream: Slice<S>,
    /// `[rows, inputs]`, or more rows where `tokens` picks them.
    pub input: Slice<S>,
    /// `[rows]` which row of `input` belongs to each row; empty where row i belongs to row i.
    pub tokens: Slice<u32>,
    /// Applied to `input` first, where the map's input is an activation's output that was not kept.
    pub activation: Option<Activation>,
    /// What is assigned.
    pub partials: LinearPartials,
}

/// `LinearMap`
#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct Map {
    rows: u64,
    upstream: u64,
    input: u64,
    tokens: u64,
    weight: u64,
    bias: u64,
    weight_stride: u64,
    bias_stride: u64,
    outputs: u32,
    inputs: u32,
    slots: u32,
    activation: u32,
}

/// `LinearArguments`
#[derive(Clone, Copy, NoUninit)]
#[repr(C)]
struct Arguments {
    maps: [Map; MOST_MAPS],
}

/// `LINEAR_STAGES`
const STAGES: usize = 3;
const NARROW: Blocking = Blocking::new(2, 2, 2, 4);
const WIDE: Blocking = Blocking::new(2, 2, 4, 8);

const OPERATION: &str = "weight gradients";

impl<S: Storage> Gradient<S> {
    fn check(&self) -> Result<()> {
        let Gradient { outputs, inputs, .. } = *self;
        if outputs == 0 || inputs == 0 || outputs % 16 != 0 || inputs % 16 != 0 {
            let problem = format!(
                "a map from {inputs} to {outputs} has a width that is not a multiple of 16; choose another \
                 hidden_size or inner_size, or --device cpu"
            );
            return Err(failed(OPERATION, problem));
        }
        check(OPERATION, "gradient of the output", self.upstream, self.rows.most * outputs)?;
        if self.tokens.is_empty() {
            check(OPERATION, "input", self.input, self.rows.most * inputs)?;
        } else {
            memory::check(OPERATION, "tokens of the rows", self.tokens, self.rows.most)?;
            let whole_rows = self.input.len - self.input.len % inputs;
            check(OPERATION, "input", self.input, whole_rows)?;
        }
        let LinearPartials { weight, bias } = self.partials;
        check(OPERATION, "parts of the weight's gradient", weight.first, outputs * inputs)?;
        check(OPERATION, "parts of the bias's gradient", bias.first, outputs)?;
        let apart = weight.slots == 1
            || (weight.stride >= weight.first.len
                && bias.stride >= bias.first.len
                && weight.stride % 4 == 0);
        if weight.slots == bias.slots && weight.slots > 0 && apart {
            return Ok(());
        }
        Err(failed(
            OPERATION,
            format!("parts that do not fit together or overlap: {:?}", self.partials),
        ))
    }

    fn map(&self, launcher: Launcher<'_>) -> Map {
        let LinearPartials { weight, bias } = self.partials;
        Map {
            rows: launcher.size(self.rows.size),
            upstream: self.upstream.address,
            input: self.input.address,
            tokens: self.tokens.address,
            weight: weight.first.address,
            bias: bias.first.address,
            weight_stride: weight.stride as u64,
            bias_stride: bias.stride as u64,
            outputs: self.outputs as u32,
            inputs: self.inputs as u32,
            slots: weight.slots,
            activation: activation::code(self.activation),
        }
    }
}

/// Assigns all parts of the weight and bias gradients of up to [`MOST_MAPS`] maps, in one launch.
///
/// # Errors
/// [`crate::Error::Device`] for buffers of wrong length, widths that no kernel takes, or a failed launch.
pub fn gradients<S: Storage>(launcher: Launcher<'_>, maps: &[Gradient<S>]) -> Result<()> {
    if maps.len() > MOST_MAPS {
        let problem = format!("{} maps in one launch, which takes {MOST_MAPS}", maps.len());
        return Err(failed(OPERATION, problem));
    }
    maps.iter().try_for_each(Gradient::check)?;
    let wide = maps.iter().all(|map| map.outputs.min(map.inputs) >= WIDE.rows);
    let (class, blocking) = if wide { ("wide", WIDE) } else { ("d64", NARROW) };
    let mut arguments = Arguments { maps: [Map::zeroed(); MOST_MAPS] };
    let (mut tiles, mut slots) = (0, 0);
    for (map, argument) in maps.iter().zip(&mut arguments.maps) {
        *argument = map.map(launcher);
        tiles += map.outputs.div_ceil(blocking.rows) * map.inputs.div_ceil(blocking.columns);
        slots = slots.max(argument.slots);
    }
    let stage = tile::<S>(chunk::<S>(), blocking.rows) + tile::<S>(chunk::<S>(), blocking.columns);
    let grid = Grid {
        blocks: [tiles as u32, slots, 1],
        threads: blocking.threads(),
        shared: (STAGES * stage).max(blocking.patches()) as u32,
    };
    let kernel = format!("linear_gradients_{class}_{}", S::NAME);
    // SAFETY: the arguments mirror LinearArguments; all buffers were checked to hold what the kernel's sizes, at
    // most `rows.most`, ask for, an index picks rows of its input, and buffers live as long as their owners, which
    // outlive the step.
    unsafe { launcher.device.launch(&kernel, grid, &arguments) }
}
