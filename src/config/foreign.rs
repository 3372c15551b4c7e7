//! Keys that RecBole knows and b4r has no use for, and names that other programs use for ours.
//!
//! A configuration written for RecBole should run unmodified where it means the same here, and never
//! silently mean something else: each such key is ignored with a reason, or rejected.

use super::keys;
use super::value::Value;

/// A key of RecBole that is not one of ours.
pub struct Foreign {
    /// Name.
    pub name: &'static str,
    /// Values, in lower case, that describe what b4r does anyway; an absent value always does.
    pub satisfied_by: &'static [&'static str],
    /// What happens with any other value.
    pub otherwise: Otherwise,
}

/// What happens with a value that does not describe what b4r does anyway.
pub enum Otherwise {
    /// It changes nothing that matters; the reason is printed.
    Ignore(&'static str),
    /// It would change the result.
    Reject {
        /// What is wrong.
        problem: &'static str,
        /// What to do.
        remedy: &'static str,
    },
}

impl Foreign {
    /// Whether `value` describes what b4r does anyway.
    pub fn is_satisfied(&self, value: &Value) -> bool {
        let text = match value {
            Value::Text(text) => text.trim().to_lowercase(),
            other => other.to_string().to_lowercase(),
        };
        value.is_null() || self.satisfied_by.contains(&text.as_str())
    }
}

const fn ignored(name: &'static str, reason: &'static str) -> Foreign {
    Foreign { name, satisfied_by: &[], otherwise: Otherwise::Ignore(reason) }
}

const fn only(
    name: &'static str,
    satisfied_by: &'static [&'static str],
    problem: &'static str,
    remedy: &'static str,
) -> Foreign {
    Foreign { name, satisfied_by, otherwise: Otherwise::Reject { problem, remedy } }
}

const NO_FEATURES: &str = "only user, item, rating and time are read";
const NO_GRAPHS: &str = "it belongs to knowledge-graph models";
const NO_NEGATIVES: &str = "loss_type says whether negatives are drawn, and n_negatives how many";
const ALWAYS_HERE: &str = "the run directory always holds what is needed to go on";
const ONE_PROCESS: &str = "one process does all the work; threads says how parallel";
const PRECISION: &str = "precision says what numbers to compute with";
const UNROUNDED: &str = "results are not rounded";

/// All of them.
pub const FOREIGN: &[Foreign] = &[
    // Environment.
    only(
        "model",
        &["bert4rec"],
        "only BERT4Rec is available",
        "write model: BERT4Rec, or leave it out; objective: causal trains it as SASRec is trained",
    ),
    ignored("worker", ONE_PROCESS),
    ignored("nproc", ONE_PROCESS),
    ignored("world_size", ONE_PROCESS),
    ignored("group_offset", ONE_PROCESS),
    ignored("ip", ONE_PROCESS),
    ignored("port", ONE_PROCESS),
    ignored("multi_gpus", ONE_PROCESS),
    ignored("state", "there are no log levels"),
    ignored("reproducibility", "runs with one seed are always the same to the bit"),
    ignored("checkpoint_dir", "run_dir says where everything is written"),
    ignored("save_dataset", ALWAYS_HERE),
    ignored("dataset_save_path", ALWAYS_HERE),
    ignored("save_dataloaders", ALWAYS_HERE),
    ignored("dataloaders_save_path", ALWAYS_HERE),
    only(
        "shuffle",
        &["true"],
        "training always visits the sequences in random order",
        "remove it; the order is fixed by seed",
    ),
    only("encoding", &["utf-8", "utf8"], "only UTF-8 files are read", "convert the file to UTF-8"),
    // Training.
    // RecBole itself stops at anything but null here.
    ignored("train_neg_sample_args", NO_NEGATIVES),
    ignored("neg_sampling", NO_NEGATIVES),
    ignored("training_neg_sample_num", NO_NEGATIVES),
    ignored("loss_decimal_place", UNROUNDED),
    only(
        "require_pow",
        &["false"],
        "it belongs to the losses of other models",
        "remove it; b4r has no embedding regularisation but weight_decay",
    ),
    ignored("enable_amp", PRECISION),
    ignored("enable_scaler", "bf16 and f32 need no scaling of the loss"),
    only(
        "transform",
        &["mask_itemseq"],
        "only masking is available as a transform",
        "write transform: mask_itemseq, or leave it out",
    ),
    ignored("draw_loss_pic", "metrics.jsonl has the losses"),
    ignored("real_time_process", "masks are always drawn anew"),
    // Evaluation.
    only(
        "eval_args.order",
        &["to"],
        "interactions are always in time order",
        "write order: TO, or leave it out",
    ),
    ignored("valid_metric_bigger", "it follows from the metric"),
    ignored("metric_decimal_place", UNROUNDED),
    // Data.
    ignored("seq_separator", NO_FEATURES),
    ignored("seq_len", NO_FEATURES),
    ignored("LABEL_FIELD", "BERT4Rec has no labels"),
    ignored("threshold", "it makes labels, which BERT4Rec has not; val_interval drops ratings"),
    ignored("NEG_PREFIX", NO_NEGATIVES),
    ignored("numerical_features", NO_FEATURES),
    ignored("load_col", NO_FEATURES),
    ignored("unload_col", NO_FEATURES),
    ignored("unused_col", NO_FEATURES),
    ignored("additional_feat_suffix", NO_FEATURES),
    ignored("filter_inter_by_user_or_item", "user and item files are not read"),
    ignored("alias_of_user_id", NO_FEATURES),
    ignored("alias_of_item_id", NO_FEATURES),
    ignored("alias_of_entity_id", NO_GRAPHS),
    ignored("alias_of_relation_id", NO_GRAPHS),
    only(
        "preload_weight",
        &[],
        "pretrained vectors cannot be loaded",
        "remove it; item embeddings are learned from the interactions",
    ),
    ignored("normalize_field", "times only give the order, which scaling would not change"),
    ignored("normalize_all", "times only give the order, which scaling would not change"),
    ignored("discretization", NO_FEATURES),
    ignored("ITEM_LIST_LENGTH_FIELD", "sequences have no columns"),
    ignored("LIST_SUFFIX", "sequences have no columns"),
    ignored("POSITION_FIELD", "sequences have no columns"),
    only(
        "benchmark_filename",
        &[],
        "files split beforehand cannot be read yet in this version",
        "give the whole interaction file as dataset",
    ),
    // Knowledge graphs.
    ignored("HEAD_ENTITY_ID_FIELD", NO_GRAPHS),
    ignored("TAIL_ENTITY_ID_FIELD", NO_GRAPHS),
    ignored("RELATION_ID_FIELD", NO_GRAPHS),
    ignored("ENTITY_ID_FIELD", NO_GRAPHS),
    ignored("kg_reverse_r", NO_GRAPHS),
    ignored("entity_kg_num_interval", NO_GRAPHS),
    ignored("relation_kg_num_interval", NO_GRAPHS),
];

/// The foreign key of this name.
pub fn find(name: &str) -> Option<&'static Foreign> {
    let name = name.replace('-', "_");
    FOREIGN.iter().find(|foreign| foreign.name == name)
}

/// Names in other programs, and what the same thing is called here.
const TRANSLATIONS: &[(&str, &[&str])] = &[
    ("learning_rate", &["lr", "max_lr", "step_size", "eta"]),
    ("train_batch_size", &["batch_size", "bs", "batch", "train_bs"]),
    ("hidden_dropout_prob", &["dropout", "dropout_prob", "dropout_rate", "drop", "bert_dropout"]),
    ("attn_dropout_prob", &["attention_dropout", "attention_probs_dropout_prob", "attn_dropout"]),
    (
        "MAX_ITEM_LIST_LENGTH",
        &["max_seq_length", "max_seq_len", "maxlen", "max_length", "session_max_len", "seq_length"],
    ),
    ("MAX_ITEM_LIST_LENGTH", &["bert_max_len", "max_sequence_length", "context_length"]),
    (
        "hidden_size",
        &["d_model", "hidden_units", "hidden_dim", "embedding_size", "embedding_dim", "n_factors"],
    ),
    ("n_heads", &["num_heads", "heads", "num_attention_heads", "head_count", "nhead"]),
    (
        "n_layers",
        &["num_layers", "num_blocks", "n_blocks", "layers", "num_hidden_layers", "block_count"],
    ),
    ("inner_size", &["ffn_size", "d_ff", "dim_feedforward", "intermediate_size", "ffn_dim"]),
    ("hidden_act", &["activation", "act", "activation_function"]),
    ("objective", &["causal", "unidirectional", "autoregressive", "training_objective"]),
    ("norm", &["norm_first", "pre_norm", "norm_placement"]),
    (
        "mask_ratio",
        &["mask_prob", "mask_probability", "masking_prob", "mlm_probability", "masked_lm_prob"],
    ),
    ("ft_ratio", &["last_item_ratio", "finetune_ratio"]),
    ("epochs", &["n_epochs", "num_epochs", "num_train_epochs", "max_epochs", "epoch"]),
    ("max_steps", &["steps", "num_steps", "num_train_steps", "max_iterations", "iterations"]),
    ("seed", &["random_seed", "random_state", "rng_seed"]),
    ("weight_decay", &["wd", "l2", "reg_weight", "l2_reg"]),
    ("clip_grad_norm", &["max_grad_norm", "grad_clip", "gradient_clip_val", "clip", "clip_norm"]),
    ("loss_type", &["loss", "loss_function", "criterion"]),
    (
        "n_negatives",
        &[
            "negs_per_pos",
            "neg_per_positive",
            "num_negatives",
            "num_sampled",
            "n_neg",
            "negative_sample_num",
        ],
    ),
    ("gbce_t", &["t", "calibration", "gbce_calibration"]),
    ("learner", &["optimizer", "optim", "optimiser"]),
    ("lr_schedule", &["scheduler", "lr_scheduler", "lr_scheduler_type", "schedule"]),
    ("warmup_steps", &["warmup", "num_warmup_steps", "warm_up_steps"]),
    ("adam_beta1", &["beta1", "beta_1", "betas"]),
    ("adam_beta2", &["beta2", "beta_2"]),
    ("adam_eps", &["eps", "epsilon", "adam_epsilon"]),
    ("stopping_step", &["patience", "early_stopping_patience", "early_stopping"]),
    ("eval_step", &["eval_every", "eval_steps", "val_every", "eval_interval"]),
    ("eval_batch_size", &["test_batch_size", "valid_batch_size", "val_batch_size"]),
    ("topk", &["k", "ks", "top_k", "metric_ks", "cutoffs"]),
    ("metrics", &["metric"]),
    ("valid_metric", &["best_metric", "monitor", "eval_metric"]),
    ("filter_seen", &["filter_viewed", "filter_rated", "remove_seen", "filter_history"]),
    ("tie_embeddings", &["weight_tying", "tie_weights", "tied", "enable_embedding_tying"]),
    ("threads", &["n_threads", "num_threads", "num_workers", "n_jobs", "workers", "cpus"]),
    ("device", &["gpu", "cuda", "accelerator"]),
    ("run_dir", &["output_dir", "out_dir", "out", "output", "save_dir", "log_dir", "dir"]),
    ("config_files", &["config", "config_file", "config_file_list"]),
    ("dataset", &["data", "input", "file", "dataset_name", "dataset_path"]),
    ("USER_ID_FIELD", &["user_col", "user_column", "user_field", "user"]),
    ("ITEM_ID_FIELD", &["item_col", "item_column", "item_field", "item"]),
    ("TIME_FIELD", &["time_col", "timestamp_col", "time_column", "time"]),
    ("RATING_FIELD", &["rating_col", "rating_column"]),
    ("field_separator", &["sep", "separator", "delimiter", "delim"]),
    ("eval_args.mode", &["eval_mode", "mode"]),
    ("eval_args.split", &["split"]),
    ("eval_args.group_by", &["group_by"]),
    ("eval_seed", &["negatives_seed", "sample_seed"]),
    ("show_progress", &["progress", "verbose", "progress_bar", "tqdm"]),
];

/// The key that an unknown name most likely stands for.
pub fn suggest(name: &str) -> Option<&'static str> {
    /// Below this Jaro-Winkler similarity a suggestion confuses more than it helps.
    const SIMILAR: f64 = 0.85;
    let plain = |name: &str| name.to_lowercase().replace(['-', '_', ' '], "");
    let wanted = plain(name);
    // Long names are no typing errors, and comparing them costs the product of the lengths.
    if wanted.is_empty() || wanted.len() > 64 {
        return None;
    }
    let ours = || keys::all().filter(|key| !key.hidden);
    let same = ours()
        .flat_map(|key| key.aliases.iter().chain([&key.name]).map(move |name| (key.name, *name)))
        .find(|(_, name)| plain(name) == wanted);
    if let Some((name, _)) = same {
        return Some(name);
    }
    let translated =
        TRANSLATIONS.iter().find(|(_, names)| names.iter().any(|name| plain(name) == wanted));
    if let Some((name, _)) = translated {
        return Some(name);
    }
    let similarity = |name: &str| strsim::jaro_winkler(&plain(name), &wanted);
    ours()
        .map(|key| (key.name, similarity(key.name)))
        .filter(|(_, similarity)| *similarity >= SIMILAR)
        .max_by(|a, b| a.1.total_cmp(&b.1))
        .map(|(name, _)| name)
}
