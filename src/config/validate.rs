//! Ranges of values, and what has to hold between them.

use super::keys;
use super::parse::MAX_SIZE;
use super::{
    BatchSize, Config, DataConfig, Device, EvalConfig, EvalUnit, HeldOut, ModelConfig, Precision,
    RunConfig, SplitRule, TrainConfig,
};
use crate::{Error, Result};

/// Most distinct cut-offs; each is a column of results.
const MAX_CUT_OFFS: usize = 100;

/// Checks a configuration, wherever it came from.
///
/// # Errors
/// [`Error::Config`] for the first key that is out of range.
pub fn validate(config: &Config) -> Result<()> {
    data(&config.data)?;
    model(&config.model)?;
    train(&config.train)?;
    eval(&config.eval)?;
    run(&config.run)
}

fn require(
    holds: bool,
    key: &str,
    problem: impl FnOnce() -> String,
    remedy: impl Into<String>,
) -> Result<()> {
    if holds { Ok(()) } else { Err(Error::config(key, problem(), remedy)) }
}

fn size(key: &str, value: usize, low: usize, high: usize) -> Result<()> {
    require(
        (low..=high).contains(&value),
        key,
        || format!("{value} is not between {low} and {high}"),
        format!("write a number from {low} to {high}"),
    )
}

fn data(data: &DataConfig) -> Result<()> {
    require(
        !data.dataset.trim().is_empty(),
        "dataset",
        || "is empty".to_string(),
        "name a data set, such as ml-100k, or the path of a file",
    )?;
    for (key, field) in [("USER_ID_FIELD", &data.user_field), ("ITEM_ID_FIELD", &data.item_field)] {
        require(
            !field.is_empty(),
            key,
            || "is empty".to_string(),
            "write the name of the column, such as user_id",
        )?;
    }
    let fields = [
        ("USER_ID_FIELD", Some(&data.user_field)),
        ("ITEM_ID_FIELD", Some(&data.item_field)),
        ("RATING_FIELD", data.rating_field.as_ref()),
        ("TIME_FIELD", data.time_field.as_ref()),
    ];
    for (i, (key, field)) in fields.iter().enumerate() {
        let twin = fields[..i].iter().find(|(_, other)| field.is_some() && other == field);
        if let Some((other, _)) = twin {
            return Err(Error::config(
                *key,
                format!("names the same column as {other}"),
                "name a column of its own, or none",
            ));
        }
    }
    if let Some(separator) = data.field_separator {
        require(
            separator.is_ascii() && !matches!(separator, '"' | '\n' | '\r' | '\0'),
            "field_separator",
            || format!("{separator:?} cannot separate columns"),
            "write one ASCII character, such as \\t, a comma or a semicolon",
        )?;
    }
    require(
        data.rating_interval.is_none() || data.rating_field.is_some(),
        "val_interval",
        || "needs a rating column, and RATING_FIELD is none".to_string(),
        "name the column in RATING_FIELD, or remove val_interval",
    )
}

fn model(model: &ModelConfig) -> Result<()> {
    let limit = MAX_SIZE as usize;
    size("hidden_size", model.hidden_size, 1, limit)?;
    size("n_layers", model.n_layers, 1, limit)?;
    size("n_heads", model.n_heads, 1, limit)?;
    size("inner_size", model.inner_size, 1, limit)?;
    require(
        (2..=keys::MAX_LEN as usize).contains(&model.max_len),
        "MAX_ITEM_LIST_LENGTH",
        || format!("max_len {} is not between 2 and {}", model.max_len, keys::MAX_LEN),
        "write at least 2: one item of history and the position to predict",
    )?;
    require(
        model.hidden_size.is_multiple_of(model.n_heads),
        "n_heads",
        || format!("{} does not divide hidden_size {}", model.n_heads, model.hidden_size),
        format!("write one of {}", some_divisors(model.hidden_size)),
    )?;
    dropout("hidden_dropout_prob", model.hidden_dropout)?;
    dropout("attn_dropout_prob", model.attention_dropout)?;
    positive("layer_norm_eps", model.layer_norm_eps.into(), "1e-12")?;
    positive("initializer_range", model.initializer_range, "0.02")?;
    in_f32("initializer_range", model.initializer_range, "0.02")
}

/// The smallest divisors, enough to choose a number of heads from.
fn some_divisors(n: usize) -> String {
    let divisors = (1..=n.min(64)).filter(|&d| n.is_multiple_of(d)).take(8);
    divisors.map(|d| d.to_string()).collect::<Vec<_>>().join(", ")
}

/// Dropout works in steps of 1/65536, and the last step would leave nothing over.
fn dropout(key: &str, value: f64) -> Result<()> {
    require(
        value >= 0.0 && (value * 65_536.0).round() < 65_536.0,
        key,
        || format!("{value} is not at least 0 and below 1"),
        "write a number such as 0.2; 0 switches it off",
    )
}

/// The engine works in f32, in which a decay just below 1 becomes 1 and the mean never moves.
fn decay(key: &str, value: f64, example: &str) -> Result<()> {
    require(
        value >= 0.0 && (value as f32) < 1.0,
        key,
        || format!("{value} is not at least 0 and below 1"),
        format!("write a number such as {example}"),
    )
}

fn positive(key: &str, value: f64, example: &str) -> Result<()> {
    require(
        value.is_finite() && value > 0.0,
        key,
        || format!("{value} is not a positive number"),
        format!("write a positive number, such as {example}"),
    )
}

/// The engine works in f32, in which larger values are infinite and smaller ones 0.
fn in_f32(key: &str, value: f64, example: &str) -> Result<()> {
    require(
        (value as f32).is_normal(),
        key,
        || format!("{value:e} is out of the range of f32"),
        format!("write a number such as {example}"),
    )
}

/// Keys that say something about `init_from` need it.
fn init_from(train: &TrainConfig) -> Result<()> {
    let key = match (&train.init_from_sha256, train.keep_expired) {
        (Some(_), _) => "init_from_sha256",
        (None, true) => "keep_expired",
        (None, false) => return Ok(()),
    };
    require(
        train.init_from.is_some(),
        key,
        || "has no meaning without init_from".to_string(),
        "name the run directory in init_from, or leave it out",
    )
}

fn train(train: &TrainConfig) -> Result<()> {
    let limit = MAX_SIZE as usize;
    init_from(train)?;
    require(
        train.epochs >= 1 || train.init_from.is_some(),
        "epochs",
        || "0 epochs train nothing, and there are no weights of init_from to judge".to_string(),
        "write at least 1; --max_steps ends even earlier",
    )?;
    match train.batch_size {
        BatchSize::Interactions(n) => size("train_batch_size", n, 1, limit)?,
        BatchSize::Sequences(n) => size("train_batch_sequences", n, 1, limit)?,
    }
    require(
        train.max_steps != Some(0),
        "max_steps",
        || "0 steps train nothing".to_string(),
        "write at least 1, or leave it out",
    )?;
    require(
        train.mask_ratio > 0.0 && train.mask_ratio <= 1.0,
        "mask_ratio",
        || format!("{} is not above 0 and at most 1", train.mask_ratio),
        "write the share of items to mask, such as 0.2",
    )?;
    require(
        (0.0..=1.0).contains(&train.last_item_ratio),
        "ft_ratio",
        || format!("{} is not between 0 and 1", train.last_item_ratio),
        "write the share of sequences that mask only their last item, such as 0.5",
    )?;
    size("n_negatives", train.negatives, 1, limit)?;
    require(
        (0.0..=1.0).contains(&train.calibration),
        "gbce_t",
        || format!("{} is not between 0 and 1", train.calibration),
        "write a number such as 0.75; 0 is plain binary cross-entropy",
    )?;
    positive("learning_rate", train.learning_rate, "0.001")?;
    in_f32("learning_rate", train.learning_rate, "0.001")?;
    if let Some(rate) = train.fallback_rate {
        positive("lr_fallback", rate, "0.001")?;
        in_f32("lr_fallback", rate, "0.001")?;
    }
    require(
        (train.weight_decay as f32).is_finite() && train.weight_decay >= 0.0,
        "weight_decay",
        || format!("{:?} is not 0 or a positive number of f32", train.weight_decay),
        "write a number such as 0.01; 0 switches it off",
    )?;
    decay("adam_beta1", train.beta1, "0.9")?;
    decay("adam_beta2", train.beta2, "0.999")?;
    positive("adam_eps", train.epsilon, "1e-8")?;
    in_f32("adam_eps", train.epsilon, "1e-8")?;
    if let Some(bound) = train.clip_norm {
        positive("clip_grad_norm", bound, "5.0")?;
    }
    require(
        train.eval_step >= 1,
        "eval_step",
        || "0 would never validate, so that no epoch could be best".to_string(),
        "write the number of epochs between validations, at least 1",
    )
}

fn eval(eval: &EvalConfig) -> Result<()> {
    let limit = MAX_SIZE as usize;
    require(
        !eval.metrics.is_empty(),
        "metrics",
        || "the list is empty".to_string(),
        "name at least one, such as [ndcg]",
    )?;
    require(
        (1..=MAX_CUT_OFFS).contains(&eval.topk.len()),
        "topk",
        || format!("{} cut-offs are not between 1 and {MAX_CUT_OFFS}", eval.topk.len()),
        "write a few, such as [5, 10, 20]",
    )?;
    for &k in &eval.topk {
        size("topk", k, 1, limit)?;
    }
    require(
        eval.topk.is_sorted_by(|a, b| a < b),
        "topk",
        || "the cut-offs do not ascend".to_string(),
        "write each once, the smallest first",
    )?;
    let (metric, k) = eval.valid_metric;
    require(
        eval.metrics.contains(&metric) && (eval.topk.contains(&k) || !metric.has_cutoff()),
        "valid_metric",
        || format!("{} is not among metrics and topk", metric.key(k)),
        "add it to metrics and topk",
    )?;
    positive("tail_ratio", eval.tail_ratio, "0.1")?;
    protocol(eval)?;
    size("eval_batch_size", eval.batch_size, 1, limit)
}

/// What has to hold between split, unit and the rest.
fn protocol(eval: &EvalConfig) -> Result<()> {
    let both = eval.split == SplitRule::LeaveOneOut(HeldOut::ValidAndTest);
    require(
        eval.valid_users.is_none() || both,
        "valid_users",
        || "only leave-one-out with both parts can leave users out of validation".to_string(),
        "write valid_users: none, or eval_args: {split: {LS: valid_and_test}}",
    )?;
    if let Some(users) = eval.valid_users {
        size("valid_users", users, 1, MAX_SIZE as usize)?;
    }
    require(
        eval.unit == EvalUnit::Row || !eval.filter_seen,
        "filter_seen",
        || "contradicts eval_unit: recbole, since RecBole ranks seen items too".to_string(),
        "leave filter_seen out, or write eval_unit: row",
    )
}

fn run(run: &RunConfig) -> Result<()> {
    size("threads", run.threads, 0, keys::MAX_THREADS as usize)?;
    require(
        !(run.precision == Some(Precision::Bf16) && run.device == Device::Cpu),
        "precision",
        || "bf16 needs a GPU; the CPU computes in f32".to_string(),
        "write precision: f32, or leave it out; or write device: cuda",
    )?;
    require(
        !(run.resume && run.overwrite),
        "overwrite",
        || "contradicts resume".to_string(),
        "give --resume to continue the run, or --overwrite to start afresh",
    )
}
