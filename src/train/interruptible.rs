//! An engine that notices signals between batches of an evaluation, which may take minutes.

use super::signals::Signals;
use crate::Result;
use crate::batch::Batch;
use crate::model::engine::{Engine, State, Step, StepOutcome};
use crate::model::params::ParameterTable;
use std::borrow::Cow;

/// Passes everything on to `engine`, but ranks and scores nothing more once a signal has come.
pub struct Interruptible<'a> {
    /// Does the work.
    pub engine: &'a mut dyn Engine,
    /// Where signals arrive.
    pub signals: &'a Signals,
}

impl Engine for Interruptible<'_> {
    fn table(&self) -> &ParameterTable {
        self.engine.table()
    }

    fn train_step(&mut self, batch: &Batch, step: &Step) -> Result<()> {
        self.engine.train_step(batch, step)
    }

    fn outcomes(&mut self, wait: bool) -> Result<Vec<StepOutcome>> {
        self.engine.outcomes(wait)
    }

    fn rank(&mut self, batch: &Batch, seen: &[&[u32]]) -> Result<Vec<u32>> {
        self.signals.check()?;
        self.engine.rank(batch, seen)
    }

    fn score(&mut self, batch: &Batch, items: &[&[u32]]) -> Result<Vec<f32>> {
        self.signals.check()?;
        self.engine.score(batch, items)
    }

    fn top_k(&mut self, batch: &Batch, seen: &[&[u32]], k: usize) -> Result<Vec<Vec<u32>>> {
        self.signals.check()?;
        self.engine.top_k(batch, seen, k)
    }

    fn state(&self) -> Result<Cow<'_, State>> {
        self.engine.state()
    }

    fn parameters(&self) -> Result<Cow<'_, [f32]>> {
        self.engine.parameters()
    }

    fn load_state(&mut self, state: &State) -> Result<()> {
        self.engine.load_state(state)
    }

    fn load_parameters(&mut self, parameters: &[f32]) -> Result<()> {
        self.engine.load_parameters(parameters)
    }
}
