//! RecBole's own configurations: run as they are where they mean the same, refused where they would not.

use super::{flags, refused, yaml};
use b4r::config::Device;

/// Every key of RecBole's defaults for BERT4Rec on ml-100k, spelled with the values that a user's file has.
const EVERYTHING: &str = r#"
gpu_id: '0'
worker: 0
use_gpu: True
seed: 2020
state: INFO
reproducibility: True
data_path: 'dataset/'
checkpoint_dir: 'saved'
show_progress: True
save_dataset: False
dataset_save_path: ~
save_dataloaders: False
dataloaders_save_path: ~
log_wandb: False
wandb_project: 'recbole'
shuffle: True
encoding: utf-8
epochs: 300
train_batch_size: 2048
learner: adam
learning_rate: 0.001
train_neg_sample_args: None
eval_step: 1
stopping_step: 10
clip_grad_norm: {'max_norm': 5, 'norm_type': 2}
weight_decay: 0.0
loss_decimal_place: 4
require_pow: False
enable_amp: False
enable_scaler: False
transform: mask_itemseq
eval_args:
  split: {'LS': 'valid_and_test'}
  order: TO
  group_by: user
  mode: {'valid': 'full', 'test': 'full'}
repeatable: True
metrics: ["Recall", "MRR", "NDCG", "Hit", "Precision"]
topk: [10]
valid_metric: MRR@10
valid_metric_bigger: True
eval_batch_size: 4096
metric_decimal_place: 4
n_layers: 2
n_heads: 2
hidden_size: 64
inner_size: 256
hidden_dropout_prob: 0.2
attn_dropout_prob: 0.2
hidden_act: 'gelu'
layer_norm_eps: 1e-12
initializer_range: 0.02
mask_ratio: 0.2
loss_type: 'CE'
ft_ratio: 0.5
field_separator: "\t"
seq_separator: " "
USER_ID_FIELD: user_id
ITEM_ID_FIELD: item_id
RATING_FIELD: rating
TIME_FIELD: timestamp
seq_len: ~
LABEL_FIELD: label
threshold: ~
NEG_PREFIX: neg_
numerical_features: []
load_col:
  inter: [user_id, item_id, rating, timestamp]
unload_col: ~
unused_col: ~
additional_feat_suffix: ~
rm_dup_inter: ~
val_interval: ~
filter_inter_by_user_or_item: True
user_inter_num_interval: "[0,inf)"
item_inter_num_interval: "[0,inf)"
alias_of_user_id: ~
alias_of_item_id: ~
alias_of_entity_id: ~
alias_of_relation_id: ~
preload_weight: ~
normalize_field: ~
normalize_all: True
discretization: ~
ITEM_LIST_LENGTH_FIELD: item_length
LIST_SUFFIX: _list
POSITION_FIELD: position_id
MAX_ITEM_LIST_LENGTH: 50
HEAD_ENTITY_ID_FIELD: head_id
TAIL_ENTITY_ID_FIELD: tail_id
RELATION_ID_FIELD: relation_id
ENTITY_ID_FIELD: entity_id
kg_reverse_r: False
entity_kg_num_interval: "[0,inf)"
relation_kg_num_interval: "[0,inf)"
benchmark_filename: ~
model: BERT4Rec
dataset: ml-100k
"#;

#[test]
fn recboles_full_configuration_runs_unmodified() {
    let resolved = yaml(EVERYTHING).unwrap();
    let config = &resolved.config;
    assert_eq!(config.train.clip_norm, Some(5.0));
    assert!(!config.eval.filter_seen, "repeatable: True was written");
    assert_eq!(config.data.field_separator, Some('\t'));
    assert_eq!(config.run.progress, Some(true));
    assert_eq!(config.run.device, Device::Auto(0), "gpu_id: '0' and use_gpu: True were written");
    assert!(!config.run.log_wandb && config.run.wandb_project == "recbole");
    for key in ["normalize_all", "load_col", "checkpoint_dir", "enable_amp"] {
        assert!(
            resolved.notes.iter().any(|note| note.starts_with(&format!("{key} ("))),
            "{key} is not accounted for: {:?}",
            resolved.notes
        );
    }
    for key in ["loss_type", "model", "transform", "eval_args.order"] {
        assert!(resolved.satisfied.iter().any(|name| name == key), "{key}");
    }
}

/// Each key of the file is used, ignored with a reason, or what happens anyway; none vanishes.
#[test]
fn every_key_is_accounted_for() {
    let resolved = yaml(EVERYTHING).unwrap();
    let keys = EVERYTHING.lines().filter_map(|line| line.split_once(':'));
    for (key, _) in keys.filter(|(key, _)| !key.starts_with(' ') && *key != "eval_args") {
        let used = resolved.origins.contains_key(key);
        let ignored = resolved.notes.iter().any(|note| note.starts_with(&format!("{key} (")));
        let satisfied = resolved.satisfied.iter().any(|name| name == key);
        assert!(
            [used, ignored, satisfied].iter().filter(|&&x| x).count() == 1,
            "{key}: used {used}, ignored {ignored}, satisfied {satisfied}"
        );
    }
}

#[test]
fn what_would_change_the_result_is_refused() {
    for (text, key, part) in [
        ("loss_type: BPR", "loss_type", "cross-entropy"),
        ("learner: sgd", "learner", "adamw"),
        ("learner: adam\nweight_decay: 0.1", "learner", "adamw"),
        ("model: SASRec", "model", "BERT4Rec"),
        ("shuffle: False", "shuffle", "random order"),
        ("encoding: latin-1", "encoding", "UTF-8"),
        ("transform: crop_itemseq", "transform", "mask_itemseq"),
        ("eval_args: {order: RO}", "eval_args.order", "time order"),
        ("eval_args: {split: {RS: [8,1,1]}}", "eval_args.split", "not available yet"),
        ("eval_args: {split: {TS: [8,1,1]}}", "eval_args.split", "not available yet"),
        ("eval_args: {split: {LS: valid_only}}", "eval_args.split", "not available yet"),
        ("eval_args: {split: LS}", "eval_args.split", "not a split rule"),
        ("eval_args: {mode: uni100}", "eval_args.mode", "not available yet"),
        ("eval_args: {mode: {valid: full, test: pop100}}", "eval_args.mode", "not available yet"),
        ("eval_args: {mode: labeled}", "eval_args.mode", "not available yet"),
        ("eval_setting: RO_RS,full", "eval_setting", "TO_LS"),
        ("split_ratio: [0.8, 0.1, 0.1]", "split_ratio", "not available yet"),
        ("benchmark_filename: [train, valid, test]", "benchmark_filename", "beforehand"),
        ("preload_weight: {item_id: v}", "preload_weight", "pretrained"),
        ("min_user_inter_num: 5", "min_user_inter_num", "user_inter_num_interval"),
        ("metrics: [ItemCoverage]", "metrics", "recall"),
        ("hidden_act: swish", "hidden_act", "gelu"),
    ] {
        refused(yaml(text), key, &[part, "conf.yaml:1"][..if text.contains('\n') { 1 } else { 2 }]);
    }
}

/// RecBole computes on a GPU where there is one, else on the processor, without a word.
#[test]
fn gpu_keys_say_what_they_say_there() {
    for (text, device) in [
        ("use_gpu: True", Device::Auto(0)),
        ("use_gpu: False", Device::Cpu),
        ("gpu_id: '0'", Device::Auto(0)),
        ("gpu_id: 1", Device::Auto(1)),
        ("gpu_id: '2,3'", Device::Auto(2)),
        ("gpu_id: [2, 3]", Device::Auto(2)),
        ("gpu_id: ''", Device::Cpu),
        ("gpu_id: ~", Device::Auto(0)),
        ("gpu_id: -1", Device::Cpu),
        ("gpu_id: 1\nuse_gpu: False", Device::Cpu),
        ("use_gpu: True\ngpu_id: 1", Device::Auto(1)),
    ] {
        let resolved = yaml(text).unwrap();
        assert_eq!(resolved.config.run.device, device, "{text}");
        assert_eq!(resolved.notes, Vec::<String>::new(), "{text}");
    }
    assert_eq!(flags(&["--gpu_id=1"]).unwrap().config.run.device, Device::Auto(1));
}

#[test]
fn device_wins_over_recboles_keys() {
    for text in ["device: cuda\nuse_gpu: False", "gpu_id: 1\ndevice: cuda"] {
        let resolved = yaml(text).unwrap();
        assert_eq!(resolved.config.run.device, Device::Cuda(0), "{text}");
        assert_eq!(resolved.notes, ["use_gpu, gpu_id: ignored: device is cuda"], "{text}");
    }
    let resolved = yaml("device: cpu\nuse_gpu: False").unwrap();
    assert!(resolved.config.run.device == Device::Cpu && resolved.notes.is_empty());
}

#[test]
fn adam_without_decay_is_adamw() {
    yaml("learner: adam").unwrap();
    yaml("learner: adam\nweight_decay: 0").unwrap();
    yaml("learner: AdamW\nweight_decay: 0.1").unwrap();
    yaml("weight_decay: 0.1").unwrap();
}

#[test]
fn ignored_keys_are_noted_and_flags_too() {
    let notes =
        flags(&["--worker=0", "--nproc=2", "--ip=localhost", "-m", "BERT4Rec"]).unwrap().notes;
    assert_eq!(notes.len(), 3, "{notes:?}");
    assert!(notes.iter().all(|note| note.contains("ignored: ") && note.contains("command line")));
    let notes = yaml("neg_sampling: {uniform: 1}\ntraining_neg_sample_num: 1").unwrap().notes;
    assert_eq!(notes.len(), 2, "{notes:?}");
}
