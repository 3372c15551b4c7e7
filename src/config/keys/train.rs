//! Keys of batches, optimizer and stopping.

use super::{Key, Scope, Section};
use crate::config::parse::{
    Parsed, Problem, boolean, choice, count, integer, name_of, number, optional, path, put, size,
    text,
};
use crate::config::value::Value;
use crate::config::{BatchSize, Learner, Loss, Schedule};

const SCHEDULES: &[(&str, Schedule)] =
    &[("constant", Schedule::Constant), ("linear", Schedule::Linear), ("cosine", Schedule::Cosine)];

const LEARNERS: &[(&str, Learner)] = &[("adamw", Learner::AdamW), ("adam", Learner::Adam)];

const LOSSES: &[(&str, Loss)] =
    &[("CE", Loss::CrossEntropy), ("sampled_softmax", Loss::SampledSoftmax), ("gBCE", Loss::Gbce)];

pub(super) const KEYS: &[Key] = &[
    Section::Training.key(
        "seed",
        "N",
        "Decides initial weights, batches, masks and dropout",
        |c| Some(c.train.seed.into()),
        |c, v| put(&mut c.train.seed, integer(v, 0, u64::MAX)),
    ),
    Section::Training.key(
        "init_from",
        "RUN",
        "Begin with the weights of this run directory, or of a file from RecBole (docs/weights.md); items \
         are matched by their ids",
        |c| Some(c.train.init_from.clone().into()),
        |c, v| put(&mut c.train.init_from, optional(v, path)),
    ),
    Section::Training
        .key(
            "init_from_sha256",
            "HEX",
            "SHA-256 of the model.safetensors of init_from; noted by the run itself",
            |c| c.train.init_from_sha256.as_deref().map(Value::from),
            |c, v| put(&mut c.train.init_from_sha256, optional(v, text)),
        )
        .hidden(),
    Section::Training.key(
        "keep_expired",
        "",
        "Keep items of init_from that the data no longer has in the catalogue",
        |c| Some(c.train.keep_expired.into()),
        |c, v| put(&mut c.train.keep_expired, boolean(v)),
    ),
    Section::Training
        .key(
            "epochs",
            "N",
            "Most passes over the training interactions; 0 only judges the weights of init_from",
            |c| Some(c.train.epochs.into()),
            |c, v| put(&mut c.train.epochs, count(v, 0)),
        )
        .scope(Scope::Run),
    Section::Training
        .key(
            "max_steps",
            "N",
            "End after this many optimizer steps, even within an epoch",
            |c| Some(c.train.max_steps.into()),
            |c, v| put(&mut c.train.max_steps, optional(v, |v| integer(v, 1, u64::MAX))),
        )
        .scope(Scope::Invocation),
    Section::Training.key(
        "train_batch_size",
        "N",
        "Training interactions a batch, so that an epoch has as many steps as RecBole's",
        |c| match c.train.batch_size {
            BatchSize::Interactions(n) => Some(n.into()),
            BatchSize::Sequences(_) => None,
        },
        |c, v| put(&mut c.train.batch_size, size(v, 1).map(BatchSize::Interactions)),
    ),
    Section::Training.key(
        "train_batch_sequences",
        "N",
        "Sequences a batch, in place of train_batch_size",
        |c| match c.train.batch_size {
            BatchSize::Interactions(_) => None,
            BatchSize::Sequences(n) => Some(n.into()),
        },
        |c, v| put(&mut c.train.batch_size, size(v, 1).map(BatchSize::Sequences)),
    ),
    Section::Training.key(
        "mask_ratio",
        "P",
        "Chance that an item is masked, to be predicted from the others",
        |c| Some(c.train.mask_ratio.into()),
        |c, v| put(&mut c.train.mask_ratio, number(v)),
    ),
    Section::Training.key(
        "ft_ratio",
        "P",
        "Share of sequences in which only the last item is masked",
        |c| Some(c.train.last_item_ratio.into()),
        |c, v| put(&mut c.train.last_item_ratio, number(v)),
    ),
    Section::Training.key(
        "shift_windows",
        "",
        "Begin the windows of long histories elsewhere in every epoch",
        |c| Some(c.train.shift_windows.into()),
        |c, v| put(&mut c.train.shift_windows, boolean(v)),
    ),
    Section::Training.key(
        "loss_type",
        "NAME",
        "CE (cross-entropy over all items) or, for huge catalogues, an estimate from n_negatives of them: \
         sampled_softmax or gBCE",
        |c| Some(name_of(c.train.loss, LOSSES)),
        |c, v| {
            put(
                &mut c.train.loss,
                choice(v, LOSSES).map_err(|error| {
                    Problem::new(
                        error.problem,
                        "write loss_type: CE (cross-entropy over all items), sampled_softmax or gBCE",
                    )
                }),
            )
        },
    ),
    Section::Training.key(
        "n_negatives",
        "N",
        "Items that each step draws for sampled_softmax or gBCE, the same for all rows of its batch",
        |c| Some(c.train.negatives.into()),
        |c, v| put(&mut c.train.negatives, size(v, 1)),
    ),
    Section::Training.key(
        "gbce_t",
        "T",
        "Calibration of gBCE: 0 is plain binary cross-entropy, 1 undoes what sampling does to probabilities",
        |c| Some(c.train.calibration.into()),
        |c, v| put(&mut c.train.calibration, number(v)),
    ),
    Section::Training.key(
        "learner",
        "NAME",
        "Optimizer: adamw (weights decay by themselves) or adam (weight_decay joins the gradient)",
        |c| Some(name_of(c.train.learner, LEARNERS)),
        |c, v| {
            put(
                &mut c.train.learner,
                choice(v, LEARNERS).map_err(|error| {
                    Problem::new(error.problem, "use learner: adamw or learner: adam")
                }),
            )
        },
    ),
    Section::Training.key(
        "learning_rate",
        "X",
        "Step size at its peak",
        |c| Some(c.train.learning_rate.into()),
        |c, v| put(&mut c.train.learning_rate, number(v)),
    ),
    Section::Training.key(
        "lr_fallback",
        "X",
        "Train once more with this learning_rate where a higher one ranked no better than popularity \
         at its best; none: leave it at that",
        |c| Some(c.train.fallback_rate.into()),
        |c, v| put(&mut c.train.fallback_rate, optional(v, number)),
    ),
    Section::Training.key(
        "lr_schedule",
        "NAME",
        "Step size after the warm-up: constant, linear (to 0) or cosine (to 0)",
        |c| Some(name_of(c.train.schedule, SCHEDULES)),
        |c, v| put(&mut c.train.schedule, choice(v, SCHEDULES)),
    ),
    Section::Training.key(
        "warmup_steps",
        "N",
        "Steps over which the step size rises from 0",
        |c| Some(c.train.warmup_steps.into()),
        |c, v| put(&mut c.train.warmup_steps, integer(v, 0, u64::MAX)),
    ),
    Section::Training.key(
        "weight_decay",
        "X",
        "Weight decay; under adamw layer norms and biases have none",
        |c| Some(c.train.weight_decay.into()),
        |c, v| put(&mut c.train.weight_decay, number(v)),
    ),
    Section::Training.key(
        "adam_beta1",
        "X",
        "Decay of the running mean of gradients",
        |c| Some(c.train.beta1.into()),
        |c, v| put(&mut c.train.beta1, number(v)),
    ),
    Section::Training.key(
        "adam_beta2",
        "X",
        "Decay of the running mean of squared gradients",
        |c| Some(c.train.beta2.into()),
        |c, v| put(&mut c.train.beta2, number(v)),
    ),
    Section::Training.key(
        "adam_eps",
        "X",
        "Added to the root of the squared gradients",
        |c| Some(c.train.epsilon.into()),
        |c, v| put(&mut c.train.epsilon, number(v)),
    ),
    Section::Training.key(
        "clip_grad_norm",
        "X",
        "Largest norm of all gradients together; in YAML also {max_norm: X, norm_type: 2}",
        |c| Some(c.train.clip_norm.into()),
        |c, v| {
            let present = c.train.clip_norm;
            put(&mut c.train.clip_norm, optional(v, |v| clip_norm(v, present)))
        },
    ),
    Section::Training.key(
        "eval_step",
        "N",
        "Epochs from one validation to the next",
        |c| Some(c.train.eval_step.into()),
        |c, v| put(&mut c.train.eval_step, count(v, 1)),
    ),
    Section::Training.key(
        "stopping_step",
        "N",
        "Stop once more than this many validations in a row brought no improvement",
        |c| Some(c.train.stopping_step.into()),
        |c, v| put(&mut c.train.stopping_step, count(v, 0)),
    ),
];

/// A bound, or RecBole's `{max_norm: 5, norm_type: 2}`, of which `--clip_grad_norm.norm_type=2` may follow alone.
fn clip_norm(value: &Value, present: Option<f64>) -> Parsed<f64> {
    let Value::Map(fields) = value else { return number(value) };
    let remedy = "write {max_norm: 5.0}, or just the number";
    let mut bound = None;
    for (field, value) in fields {
        match field.as_str() {
            "max_norm" => bound = Some(number(value)?),
            "norm_type" if number(value)? == 2.0 => {}
            "norm_type" => return Err(Problem::new("only norm_type 2 is available", remedy)),
            "error_if_nonfinite" | "foreach" => {}
            other => return Err(Problem::new(format!("`{other}` is unknown here"), remedy)),
        }
    }
    bound.or(present).ok_or_else(|| Problem::new("max_norm is missing", remedy))
}
