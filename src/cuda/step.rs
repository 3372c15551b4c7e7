//! What changes from step to step, mirrored by `kernels/common/step.cuh`.

use crate::philox;
use bytemuck::{Pod, Zeroable};

/// Lies on the device; kernels read it through a pointer that a captured graph holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Pod, Zeroable)]
#[repr(C)]
pub struct StepBlock {
    /// `T`
    pub tokens: u32,
    /// `B`
    pub sequences: u32,
    /// `P`
    pub rows: u32,
    /// Distinct items among the tokens.
    pub token_segments: u32,
    /// Items that scores are made of: `V`, or `C` where the loss looks at a shortlist.
    pub items: u32,
    /// Number of the step, from 1: dropout's address.
    pub number: u32,
    /// Words of the seed: dropout's key.
    pub key: [u32; 2],
    /// Learning rate.
    pub learning_rate: f32,
    /// 1 / (1 - β1ᵗ)
    pub mean_correction: f32,
    /// 1 / (1 - β2ᵗ)
    pub square_correction: f32,
    /// Fills the struct up to a multiple of 16 bytes.
    pub unused: u32,
}

/// A size that a kernel reads from the step block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Size {
    /// `T`
    Tokens,
    /// `B`
    Sequences,
    /// `P`
    Rows,
    /// Distinct items among the tokens.
    TokenSegments,
    /// `V`, or `C`.
    Items,
}

impl Size {
    /// Bytes from the beginning of the step block.
    pub fn offset(self) -> u64 {
        4 * match self {
            Size::Tokens => 0,
            Size::Sequences => 1,
            Size::Rows => 2,
            Size::TokenSegments => 3,
            Size::Items => 4,
        }
    }
}

/// Share and scale of dropout as kernels take them.
#[derive(Clone, Copy, Debug, PartialEq, Pod, Zeroable)]
#[repr(C)]
pub struct Rate {
    /// An element is dropped where its 16-bit number is below this; 0 drops nothing.
    pub threshold: u32,
    /// What survivors are multiplied by.
    pub scale: f32,
}

impl Rate {
    /// Drops nothing.
    pub const NONE: Rate = Rate { threshold: 0, scale: 1.0 };

    /// For a probability in `[0, 1)`; the same rounding as on the CPU.
    pub fn new(probability: f64) -> Self {
        let threshold = philox::threshold16(probability).min(65_535);
        Rate { threshold, scale: 65_536.0 / (65_536 - threshold) as f32 }
    }
}
