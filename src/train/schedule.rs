//! The learning rate of each step.

use crate::config::{Schedule, TrainConfig};

/// Last step that a run of `config` can take.
pub fn planned_steps(config: &TrainConfig, steps_per_epoch: u64) -> u64 {
    let all = u64::from(config.epochs).saturating_mul(steps_per_epoch);
    config.max_steps.map_or(all, |most| most.min(all))
}

/// Learning rate of step `step`, from 1, of `planned`: a straight rise that reaches `peak` at step
/// `warmup_steps`, then constant, or a fall that reaches 0 at step `planned`.
pub fn learning_rate(config: &TrainConfig, peak: f64, step: u64, planned: u64) -> f32 {
    let warmup = config.warmup_steps;
    if step < warmup {
        return (peak * (step as f64 / warmup as f64)) as f32;
    }
    let falling = planned.saturating_sub(warmup);
    let progress =
        if falling == 0 { 0.0 } else { (step - warmup) as f64 / falling as f64 }.min(1.0);
    let share = match config.schedule {
        Schedule::Constant => 1.0,
        Schedule::Linear => 1.0 - progress,
        Schedule::Cosine => 0.5 * (1.0 + (std::f64::consts::PI * progress).cos()),
    };
    (peak * share) as f32
}

/// Whether the learning rate of a step depends on how many steps are planned.
pub fn depends_on_length(config: &TrainConfig) -> bool {
    config.schedule != Schedule::Constant
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn config(schedule: Schedule, warmup_steps: u64) -> TrainConfig {
        TrainConfig { schedule, warmup_steps, ..TrainConfig::default() }
    }

    #[test]
    fn follows_the_written_shapes() {
        let rates = |schedule, warmup, planned: u64| -> Vec<f32> {
            let config = config(schedule, warmup);
            (1..=planned).map(|step| learning_rate(&config, 0.5, step, planned)).collect()
        };
        assert_eq!(rates(Schedule::Constant, 0, 3), [0.5, 0.5, 0.5]);
        assert_eq!(rates(Schedule::Constant, 2, 4), [0.25, 0.5, 0.5, 0.5]);
        assert_eq!(rates(Schedule::Linear, 2, 6), [0.25, 0.5, 0.375, 0.25, 0.125, 0.0]);
        assert_eq!(rates(Schedule::Linear, 0, 4), [0.375, 0.25, 0.125, 0.0]);
        let cosine = rates(Schedule::Cosine, 0, 4);
        assert!((cosine[1] - 0.25).abs() < 1e-7 && cosine[3] == 0.0, "{cosine:?}");
        // A warm-up longer than the run is cut off, not divided by.
        assert_eq!(rates(Schedule::Linear, 8, 2), [0.0625, 0.125]);
        assert_eq!(rates(Schedule::Cosine, 2, 2), [0.25, 0.5]);
    }

    #[test]
    fn plans_the_shorter_of_epochs_and_steps() {
        let mut config = TrainConfig { epochs: 3, ..TrainConfig::default() };
        assert_eq!(planned_steps(&config, 7), 21);
        config.max_steps = Some(5);
        assert_eq!(planned_steps(&config, 7), 5);
        config.max_steps = Some(50);
        assert_eq!(planned_steps(&config, 7), 21);
        assert_eq!(planned_steps(&config, u64::MAX), 50);
    }

    proptest! {
        #[test]
        fn stays_between_zero_and_the_peak(step in 1u64.., warmup: u64, planned: u64, kind in 0..3) {
            let schedule = [Schedule::Constant, Schedule::Linear, Schedule::Cosine][kind as usize];
            let rate = learning_rate(&config(schedule, warmup), 0.5, step, planned);
            prop_assert!((0.0..=0.5).contains(&rate));
        }
    }
}
