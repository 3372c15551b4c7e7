//! What a person sees while a run goes on. All of it goes to stderr, so that stdout is left to the result.

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use std::fmt::Display;
use std::io::{IsTerminal, Write};
use std::time::{Duration, Instant};

/// Time between lines where there is no bar.
const LINE_EVERY: Duration = Duration::from_secs(30);
/// Time between changes of the figures beside a bar.
const FIGURES_EVERY: Duration = Duration::from_millis(100);

/// Writes a line to stderr; a closed stderr is no reason to end a run.
pub fn say(line: impl Display) {
    let _ = writeln!(std::io::stderr(), "{line}");
}

/// Whether to draw bars: on a terminal, unless `show_progress` is false.
pub fn draws_bars(show_progress: Option<bool>) -> bool {
    show_progress != Some(false) && std::io::stderr().is_terminal()
}

/// Progress through one epoch: a bar on a terminal, else a line now and then.
pub struct EpochProgress {
    bar: Option<ProgressBar>,
    label: String,
    done: u64,
    steps: u64,
    started: Instant,
    /// Steps and tokens since `started`; a resumed epoch has more behind it.
    measured: (u64, u64),
    shown: Instant,
}

impl EpochProgress {
    /// Begins at step `done` of `steps`; `epoch` counts from 1.
    pub fn new(bars: bool, epoch: u32, epochs: u32, done: u64, steps: u64) -> Self {
        let label = format!("epoch {epoch}/{epochs}");
        let bar = bars.then(|| {
            let bar = ProgressBar::with_draw_target(Some(steps), ProgressDrawTarget::stderr());
            let template = "{prefix} {bar:24} {pos}/{len} [{elapsed}, {eta} left] {msg}";
            if let Ok(style) = ProgressStyle::with_template(template) {
                bar.set_style(style);
            }
            bar.with_position(done).with_prefix(label.clone())
        });
        if let Some(bar) = &bar {
            bar.reset_eta();
        }
        let now = Instant::now();
        EpochProgress { bar, label, done, steps, started: now, measured: (0, 0), shown: now }
    }

    /// Takes in one more step of `tokens` tokens; `loss` is the epoch's mean so far.
    pub fn step(&mut self, loss: f64, tokens: u64) {
        self.done += 1;
        self.measured = (self.measured.0 + 1, self.measured.1 + tokens);
        let interval = if self.bar.is_some() { FIGURES_EVERY } else { LINE_EVERY };
        let due = self.shown.elapsed() >= interval;
        if due {
            self.shown = Instant::now();
        }
        match &self.bar {
            Some(bar) => {
                if due || self.measured.0 == 1 {
                    bar.set_message(self.figures(loss));
                }
                bar.inc(1);
            }
            None if due => {
                let seconds_left = self.started.elapsed().as_secs_f64() / self.measured.0 as f64
                    * self.steps.saturating_sub(self.done) as f64;
                say(format_args!(
                    "{}: step {}/{}, {}, {seconds_left:.0} s left",
                    self.label,
                    self.done,
                    self.steps,
                    self.figures(loss)
                ));
            }
            None => {}
        }
    }

    fn figures(&self, loss: f64) -> String {
        let rate = self.measured.1 as f64 / self.started.elapsed().as_secs_f64().max(1e-9);
        format!("loss {loss:.4}, {rate:.0} tokens/s")
    }
}

impl Drop for EpochProgress {
    fn drop(&mut self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}
