//! What keys imply for each other once all are known, and where they mean something else than in RecBole.

use std::collections::BTreeMap;

use super::resolve::Resolved;
use super::value::{Value, shorten};
use super::{
    Device, EvalUnit, Grouping, HeldOut, Loss, Metric, Negatives, Objective, SplitRule, TrainConfig,
};
use super::{keys, parse, protocol};
use crate::{Error, Result};

/// Completes the configuration; `written` has the last value of each key as written.
pub(super) fn settle(
    resolved: &mut Resolved,
    written: &BTreeMap<&'static str, Value>,
) -> Result<()> {
    check_rating_field(resolved, written)?;
    translate_gpu_keys(resolved, written);
    compute_valid_metric(resolved);
    settle_evaluation(resolved);
    tell_differences(resolved);
    tell_unused_by_the_loss(resolved);
    protocol::note(resolved);
    Ok(())
}

fn check_rating_field(resolved: &Resolved, written: &BTreeMap<&'static str, Value>) -> Result<()> {
    let Some(Value::Map(fields)) = written.get("val_interval") else { return Ok(()) };
    let rating = resolved.config.data.rating_field.as_deref();
    match fields.iter().find(|(field, _)| Some(field.as_str()) != rating) {
        Some((field, _)) => Err(Error::config(
            "val_interval",
            format!("`{}` is not the rating column", shorten(field)),
            "only ratings can be filtered by value; name the column in RATING_FIELD",
        )),
        None => Ok(()),
    }
}

/// RecBole's `use_gpu` and `gpu_id`: a GPU only where there is one, so never more than `auto`; `device` wins
/// over both.
fn translate_gpu_keys(resolved: &mut Resolved, written: &BTreeMap<&'static str, Value>) {
    let [use_gpu, gpu_id] = ["use_gpu", "gpu_id"].map(|name| written.get(name));
    if use_gpu.is_none() && gpu_id.is_none() {
        return;
    }
    let asked = gpu_id.and_then(|value| keys::gpu_id(value).ok()).unwrap_or_default();
    let refused = use_gpu.is_some_and(|value| parse::boolean(value) == Ok(false));
    let meant = if refused { Device::Cpu } else { asked };
    let device = resolved.config.run.device;
    if !written.contains_key("device") {
        resolved.config.run.device = meant;
    } else if device != meant {
        resolved.notes.push(format!("use_gpu, gpu_id: ignored: device is {device}"));
    }
}

/// The metric that picks the best epoch has to be among those computed.
fn compute_valid_metric(resolved: &mut Resolved) {
    let eval = &mut resolved.config.eval;
    let (metric, k) = eval.valid_metric;
    let mut added = false;
    if !eval.metrics.contains(&metric) {
        let mut metrics = eval.metrics.clone();
        metrics.push(metric);
        eval.metrics = Metric::ALL.into_iter().filter(|m| metrics.contains(m)).collect();
        added = true;
    }
    if let Err(position) = eval.topk.binary_search(&k)
        && metric.has_cutoff()
    {
        eval.topk.insert(position, k);
        added = true;
    }
    if added {
        resolved.notes.push(format!(
            "valid_metric: {} is computed in addition to metrics and topk",
            metric.key(k)
        ));
    }
}

fn settle_evaluation(resolved: &mut Resolved) {
    let Resolved { config, notes, origins, .. } = resolved;
    let eval = &mut config.eval;
    if eval.grouping == Grouping::None && !matches!(eval.split, SplitRule::Ratio(_)) {
        eval.grouping = Grouping::User;
        notes.push("eval_args.group_by: ignored: this split always goes by user".to_string());
    }
    let can_leave_out = eval.split == SplitRule::LeaveOneOut(HeldOut::ValidAndTest);
    if eval.valid_users.is_some() && !can_leave_out && !origins.contains_key("valid_users") {
        eval.valid_users = None;
        notes.push(
            "valid_users: none, since this split cannot leave users out of validation".to_string(),
        );
    }
    let explicit = ["filter_seen", "repeatable"].iter().any(|key| origins.contains_key(key));
    if eval.unit == EvalUnit::RecBole && eval.filter_seen && !explicit {
        eval.filter_seen = false;
        notes.push("filter_seen: false, since RecBole ranks seen items too".to_string());
    }
}

/// Says where a key that was given means something else than in RecBole.
fn tell_differences(resolved: &mut Resolved) {
    let Resolved { config, notes, origins, .. } = resolved;
    let eval = &config.eval;
    let sampled = [eval.valid_mode, eval.test_mode].into_iter().find(|m| m.negatives().is_some());
    // What a run directory's file says without anybody having asked for it.
    let published = eval.protocol.map_or(Negatives::Unseen, |name| name.config().negatives);
    if let (Some(mode), EvalUnit::Row) = (sampled, eval.unit) {
        let which = match eval.negatives {
            Negatives::Unseen => "outside the user's history",
            Negatives::Any => "other than the target",
        };
        notes.push(format!(
            "eval_args.mode {}: distinct negatives {which}, drawn once, and a list for each row; RecBole draws anew \
             with replacement and puts all rows of a user into one list (eval_unit: recbole)",
            mode.name()
        ));
    } else if origins.contains_key("eval_negatives") && eval.negatives != published {
        notes.push(
            "eval_negatives: without effect, since only uniN and popN draw any, and eval_unit: recbole by rules of \
             its own"
                .to_string(),
        );
    }
    let decays = config.train.weight_decay > 0.0 && origins.contains_key("weight_decay");
    if decays && !origins.contains_key("learner") {
        notes.push(
            "weight_decay: taken off the weights themselves (learner: adamw); RecBole, where no learner is named, adds \
             it to the gradient (learner: adam)"
                .to_string(),
        );
    }
    for (key, note) in [
        ("ft_ratio", "drawn for each sequence; RecBole draws once for a whole batch"),
        (
            "mask_ratio",
            "every masked item is a label; RecBole drops the oldest, and those at position 0",
        ),
        ("MAX_ITEM_LIST_LENGTH", "items and MASK together; RecBole always drops the oldest item"),
    ] {
        let masks = config.model.objective == Objective::Cloze;
        match (origins.contains_key(key), masks) {
            (true, true) => notes.push(format!("{key}: {note}")),
            (true, false) if key != "MAX_ITEM_LIST_LENGTH" => {
                notes.push(format!("{key}: without effect, since objective: causal masks nothing"));
            }
            _ => {}
        }
    }
}

/// Says where a key of sampled losses was given and the loss does not use it.
fn tell_unused_by_the_loss(resolved: &mut Resolved) {
    let Resolved { config, notes, origins, .. } = resolved;
    let (train, default) = (&config.train, TrainConfig::default());
    // A run directory's file has every key; one at its default asks for nothing.
    let draws_none = train.loss == Loss::CrossEntropy && train.negatives != default.negatives;
    let not_calibrated = train.loss != Loss::Gbce && train.calibration != default.calibration;
    for (key, is_unused, by) in [
        ("n_negatives", draws_none, "loss_type: sampled_softmax and gBCE draw any"),
        ("gbce_t", not_calibrated, "loss_type: gBCE has it"),
    ] {
        if origins.contains_key(key) && is_unused {
            notes.push(format!("{key}: without effect, since only {by}"));
        }
    }
}
