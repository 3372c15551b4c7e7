//! RecBole's own configurations: run as they are where they mean the same, refused where they would not.

use super::{flags, refused, yaml};
use b4r::config::protocol::changed;
use b4r::config::{
    Config, Device, EvalUnit, Grouping, HeldOut, Learner, Metric, Mode, Negatives, Objective,
    Shares, SplitRule, TrainConfig,
};

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
    for key in ["model", "transform", "eval_args.order"] {
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
        ("model: SASRec", "model", "BERT4Rec"),
        ("shuffle: False", "shuffle", "random order"),
        ("encoding: latin-1", "encoding", "UTF-8"),
        ("transform: crop_itemseq", "transform", "mask_itemseq"),
        ("eval_args: {order: RO}", "eval_args.order", "time order"),
        ("eval_args: {split: LS}", "eval_args.split", "not a split rule"),
        ("eval_args: {mode: labeled}", "eval_args.mode", "labels"),
        ("eval_args: {split: {RS: [8, 1]}}", "eval_args.split", "three shares"),
        ("metrics: [RMSE]", "metrics", "labels"),
        ("leave_one_num: 3", "leave_one_num", "test_only"),
        ("min_user_inter_num: many", "min_user_inter_num", "whole number"),
        ("eval_setting: RO_RS,full", "eval_setting", "time order"),
        ("benchmark_filename: [train, valid, test]", "benchmark_filename", "beforehand"),
        ("preload_weight: {item_id: v}", "preload_weight", "pretrained"),
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
fn the_learner_says_what_weight_decay_means() {
    assert_eq!(
        yaml("learner: adam\nweight_decay: 0.1").unwrap().config.train.learner,
        Learner::Adam
    );
    assert_eq!(
        yaml("learner: AdamW\nweight_decay: 0.1").unwrap().config.train.learner,
        Learner::AdamW
    );
    let unnamed = yaml("weight_decay: 0.1").unwrap();
    assert_eq!(unnamed.config.train.learner, Learner::AdamW);
    let is_told = |notes: &[String]| notes.iter().any(|note| note.starts_with("weight_decay"));
    assert!(is_told(&unnamed.notes), "{:?}", unnamed.notes);
    assert!(!is_told(&yaml("learner: adamw\nweight_decay: 0.1").unwrap().notes));
}

/// A configuration from the field that RecBole itself refuses, word for word.
#[test]
fn the_configuration_from_the_field_runs_as_it_is() {
    let resolved = yaml(include_str!("../../examples/recbole-ml-100k.yaml")).unwrap();
    let eval = &resolved.config.eval;
    assert_eq!(eval.split, SplitRule::Ratio(Shares([4.0, 1.0, 1.0])));
    assert_eq!(eval.grouping, Grouping::None);
    assert_eq!((eval.valid_mode, eval.test_mode), (Mode::Uniform(50), Mode::Uniform(50)));
    assert_eq!((eval.topk.as_slice(), eval.valid_metric), (&[12][..], (Metric::Map, 12)));
    assert_eq!(eval.metrics, Metric::DEFAULT);
    assert_eq!(resolved.config.data.rating_field, None);
    assert!(resolved.config.run.log_wandb);
    for key in ["load_col", "filter_inter_by_user_or_item", "neg_sampling", "eval_args.mode"] {
        assert!(
            resolved.notes.iter().any(|note| note.starts_with(key)),
            "{key}: {:?}",
            resolved.notes
        );
    }
    assert_eq!(resolved.satisfied, ["eval_args.order"]);
}

/// The recipes' files say what the tables in docs/search.md were made with.
#[test]
fn the_recipes_are_understood() {
    let (masks, causal) = (Objective::Cloze, Objective::Causal);
    for (text, objective, valid_users, sizes, plan) in [
        (include_str!("../../examples/ml-1m.yaml"), masks, Some(2048), (200, 64), (150, 0.002)),
        (include_str!("../../examples/ml-1m-causal.yaml"), causal, None, (200, 64), (60, 0.001)),
        (include_str!("../../examples/beauty.yaml"), masks, Some(2048), (50, 128), (60, 0.001)),
    ] {
        let config = yaml(text).unwrap().config;
        assert_eq!((config.model.objective, config.eval.valid_users), (objective, valid_users));
        assert_eq!((config.model.max_len, config.model.hidden_size), sizes);
        assert_eq!((config.train.epochs, config.train.learning_rate), plan);
        let changed = changed(&config.eval);
        assert!(changed.is_empty(), "what it changes of its protocol: {changed:?}");
    }
}

/// As the file says of itself.
#[test]
fn the_ml_100k_recipe_is_the_defaults_with_more_patience() {
    let config = yaml(include_str!("../../examples/ml-100k.yaml")).unwrap().config;
    let defaults = Config::default();
    assert_eq!(config.model, defaults.model);
    assert_eq!(config.train, TrainConfig { epochs: 200, stopping_step: 50, ..defaults.train });
}

#[test]
fn eval_args_replace_those_of_an_earlier_file_as_a_whole() {
    let text = "eval_args: {split: {RS: [8, 1, 1]}, group_by: none, mode: pop20}";
    let of = |flag: &str| super::yaml_and_flags(text, &[flag]).unwrap();
    let replaced = of("--eval_args={mode: {test: uni7}}");
    let eval = &replaced.config.eval;
    assert_eq!(
        eval.split,
        SplitRule::LeaveOneOut(HeldOut::ValidAndTest),
        "our default, not RecBole's"
    );
    assert_eq!((eval.valid_mode, eval.test_mode), (Mode::Full, Mode::Uniform(7)));
    assert!(
        replaced.notes.iter().any(|note| note.contains("replaces the whole")),
        "{:?}",
        replaced.notes
    );
    assert!(!replaced.origins.contains_key("eval_args.split"));
    for flag in ["--eval_args.mode=uni7", "--eval_args.mode.valid=uni7"] {
        let one = of(flag).config.eval;
        assert_eq!((one.grouping, one.valid_mode), (Grouping::None, Mode::Uniform(7)), "{flag}");
    }
    assert_eq!(of("--eval_args.mode.valid=uni7").config.eval.test_mode, Mode::Popular(20));
}

#[test]
fn splits_are_read_in_every_spelling() {
    let split = |text: &str| yaml(text).unwrap().config.eval.split;
    let (eight, even) = (Shares([8.0, 1.0, 1.0]), Shares([0.5, 0.25, 0.25]));
    assert_eq!(split("eval_args: {split: {'RS': [8,1,1]}}"), SplitRule::Ratio(eight));
    assert_eq!(split("eval_args: {split: {TS: [0.5, 0.25, 0.25]}}"), SplitRule::Time(even));
    assert_eq!(
        split("eval_args: {split: {LS: test_only}}\nepochs: 3"),
        SplitRule::LeaveOneOut(HeldOut::TestOnly)
    );
    let flag = |flag: &str| flags(&[flag]).unwrap().config.eval;
    assert_eq!(flag("--eval_args.split.RS=[8,1,1]").split, SplitRule::Ratio(eight));
    assert_eq!(flag("--eval_args.split={'TS': [8, 1, 1]}").split, SplitRule::Time(eight));
    for absent in ["None", "none", "~", ""] {
        let text = format!("eval_args: {{split: {{RS: [8, 1, 1]}}, group_by: {absent}}}");
        assert_eq!(yaml(&text).unwrap().config.eval.grouping, Grouping::None, "{absent}");
    }
    // Leave-one-out goes by user whatever is said.
    let resolved = yaml("eval_args: {group_by: None}").unwrap();
    assert_eq!(resolved.config.eval.grouping, Grouping::User);
    assert!(resolved.notes.iter().any(|note| note.starts_with("eval_args.group_by: ignored")));
}

#[test]
fn old_spellings_mean_what_they_meant() {
    let of = |text: &str| {
        let resolved = yaml(text).unwrap();
        assert!(
            resolved.notes.iter().any(|note| note.contains("old spelling")),
            "{:?}",
            resolved.notes
        );
        resolved.config
    };
    let ratio = |shares| SplitRule::Ratio(Shares(shares));
    let config = of("eval_setting: TO_RS,uni100\nsplit_ratio: [6, 2, 2]\ngroup_by_user: False");
    assert_eq!((config.eval.split, config.eval.grouping), (ratio([6.0, 2.0, 2.0]), Grouping::None));
    assert_eq!(config.eval.test_mode, Mode::Uniform(100));
    assert_eq!(of("eval_setting: TO_RS,full").eval.split, ratio([0.8, 0.1, 0.1]));
    assert_eq!(of("split_ratio: [0.8, 0.1, 0.1]").eval.split, ratio([0.8, 0.1, 0.1]));
    // Files of old carry a ratio even where they leave one out.
    let config = of("split_ratio: [0.8, 0.1, 0.1]\neval_setting: TO_LS,pop100\nleave_one_num: 2");
    assert_eq!(config.eval.split, SplitRule::LeaveOneOut(HeldOut::ValidAndTest));
    assert_eq!(config.eval.valid_mode, Mode::Popular(100));
    let config = of("min_user_inter_num: 5\nmax_user_inter_num: 90\nmin_item_inter_num: 2");
    let contains = |interval: b4r::config::Interval, xs: [f64; 4]| xs.map(|x| interval.contains(x));
    assert_eq!(
        contains(config.data.user_interval, [4.0, 5.0, 90.0, 91.0]),
        [false, true, true, false]
    );
    assert_eq!(
        contains(config.data.item_interval, [1.0, 2.0, 3.0, 1e9]),
        [false, true, true, true]
    );
    assert_eq!(flags(&["--min_user_inter_num=5"]).unwrap().config.data.user_interval.low, 5.0);
}

#[test]
fn a_protocol_sets_what_was_published_and_other_keys_win() {
    let of = |text: &str| yaml(text).unwrap();
    let eval = of("protocol: klenitskiy2023").config.eval;
    assert_eq!(eval.split, SplitRule::LeaveOneOut(HeldOut::ValidAndTest));
    assert_eq!((eval.filter_seen, eval.valid_users, eval.test_mode), (true, None, Mode::Full));
    let petrov = of("protocol: petrov2022").config.eval;
    assert_eq!((petrov.valid_users, petrov.negatives), (Some(2048), Negatives::Any));
    let without_effect =
        |text: &str| of(text).notes.iter().any(|note| note.contains("eval_negatives: without"));
    assert!(without_effect("eval_negatives: any"));
    assert!(!without_effect("eval_negatives: any\neval_args: {mode: pop10}"));
    assert!(!without_effect("eval_negatives: any\nprotocol: petrov2022"));
    let eval = of("protocol: sun2019\nepochs: 9").config.eval;
    assert_eq!(eval.split, SplitRule::LeaveOneOut(HeldOut::TestOnly));
    assert_eq!(eval.test_mode, Mode::Popular(100));
    refused(yaml("protocol: sun2019"), "epochs", &["no validation"]);
    let eval = of("protocol: recbole").config.eval;
    assert_eq!((eval.filter_seen, eval.unit), (false, EvalUnit::RecBole));
    // Wherever it stands, the protocol comes first.
    for text in ["protocol: petrov2022\nvalid_users: 7", "valid_users: 7\nprotocol: petrov2022"] {
        let resolved = of(text);
        assert_eq!(resolved.config.eval.valid_users, Some(7));
        let said = |part: &str| resolved.notes.iter().any(|note| note.contains(part));
        assert!(
            said("Petrov and Macdonald") && said("valid_users is 7 instead"),
            "{:?}",
            resolved.notes
        );
        assert_eq!(changed(&resolved.config.eval), ["valid_users"]);
    }
    assert!(changed(&of("protocol: petrov2022").config.eval).is_empty());
    // What only its own split allows goes with the split.
    let split = of("protocol: petrov2022\nepochs: 3\neval_args: {split: {LS: test_only}}");
    assert_eq!(split.config.eval.valid_users, None);
    assert!(
        split.notes.iter().any(|note| note.starts_with("valid_users: none")),
        "{:?}",
        split.notes
    );
    assert_eq!(of("protocol: ~").config.eval, Default::default());
    let resolved = of("protocol: sun2019\neval_args: {mode: full}\nepochs: 1");
    assert_eq!(resolved.config.eval.split, SplitRule::LeaveOneOut(HeldOut::TestOnly), "not lost");
    assert_eq!(changed(&resolved.config.eval), ["eval_args.mode"]);
}

#[test]
fn what_contradicts_recboles_lists_is_refused() {
    assert!(!yaml("eval_unit: recbole").unwrap().config.eval.filter_seen);
    refused(yaml("eval_unit: recbole\nfilter_seen: true"), "filter_seen", &["recbole"]);
    refused(yaml("eval_unit: recbole\nrepeatable: false"), "filter_seen", &["recbole"]);
    let ratio = "valid_users: 5\neval_args: {split: {RS: [8, 1, 1]}}";
    refused(yaml(ratio), "valid_users", &["leave-one-out"]);
}

#[test]
fn metrics_beyond_the_usual_ones_can_decide() {
    let text = "metrics: [GAUC, ItemCoverage, AveragePopularity, GiniIndex, ShannonEntropy, TailPercentage]";
    let eval = yaml(&format!("{text}\nvalid_metric: GAUC\ntail_ratio: 3")).unwrap().config.eval;
    assert_eq!((eval.metrics.len(), eval.valid_metric), (6, (Metric::Gauc, 0)));
    assert_eq!((eval.topk.as_slice(), eval.list_length()), (&[5, 10, 20][..], Some(20)));
    assert_eq!(yaml("topk: 3").unwrap().config.eval.list_length(), None);
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
