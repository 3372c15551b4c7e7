//! The command line.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;

use b4r::config::{BatchSize, Invocation, Metric, cli, invocation, keys};

use super::{flags, good, refused, yaml, yaml_and_flags};

#[test]
fn the_command_is_well_formed() {
    cli::command().debug_assert();
}

#[test]
fn a_flag_can_be_written_in_four_ways() {
    for arguments in [
        &["--hidden_size", "32"][..],
        &["--hidden-size", "32"],
        &["--hidden_size=32"],
        &["--hidden-size=32"],
    ] {
        assert_eq!(good(arguments).model.hidden_size, 32);
    }
    assert_eq!(good(&["--seed=1", "--seed=2"]).train.seed, 2);
    assert_eq!(good(&["--max-len", "9"]).model.max_len, 9);
    assert_eq!(good(&["-d", "x.csv"]).data.dataset, "x.csv");
}

#[test]
fn switches_take_a_value_or_none() {
    let run = good(&["--resume", "--run-dir", "/nowhere/at/all"]).run;
    assert!(run.resume && !run.overwrite);
    for (arguments, filter) in [
        (&["--filter_seen"][..], true),
        (&["--filter_seen=false"], false),
        (&["--filter-seen", "false"], false),
        (&["--filter_seen", "--seed=1"], true),
        (&["--filter_seen", "True"], true),
    ] {
        assert_eq!(good(arguments).eval.filter_seen, filter, "{arguments:?}");
    }
    assert!(flags(&["--explain"]).unwrap().explain);
    assert!(!flags(&[]).unwrap().explain);
    refused(flags(&["--resume", "--overwrite"]), "overwrite", &["resume"]);
    refused(yaml("explain: true"), "explain", &["command line", "--explain"]);
}

#[test]
fn every_key_is_a_flag() {
    for key in keys::all() {
        let Some(default) = key.default_text() else { continue };
        for name in key.aliases.iter().chain([&key.name]) {
            let config = good(&[&format!("--{name}={default}")]);
            assert_eq!(config, good(&[]), "--{name}={default}");
        }
    }
}

#[test]
fn unknown_flags_and_keys_are_refused_with_a_suggestion() {
    for (name, meant) in [
        ("lr", "learning_rate"),
        ("batch_size", "train_batch_size"),
        ("dropout", "hidden_dropout_prob"),
        ("max_seq_length", "MAX_ITEM_LIST_LENGTH"),
        ("max_item_list_length", "MAX_ITEM_LIST_LENGTH"),
        ("MaxLen", "MAX_ITEM_LIST_LENGTH"),
        ("num_heads", "n_heads"),
        ("epoch", "epochs"),
        ("leraning_rate", "learning_rate"),
        ("hiden_size", "hidden_size"),
        ("stoping_step", "stopping_step"),
    ] {
        refused(flags(&[&format!("--{name}=1")]), &format!("--{name}"), &[&format!("--{meant}")]);
        let error = yaml(&format!("seed: 1\n{name}: 1\n"));
        refused(error, name, &[&format!("write {meant}"), "conf.yaml:2"]);
    }
    refused(flags(&["--zzzz=1"]), "--zzzz", &["no such flag", "--help"]);
    refused(yaml("eval_args: {splitt: 1}"), "eval_args.splitt", &["eval_args.split"]);
    refused(yaml("a.b.c.d.e.f: 1"), "a.b.c.d.e.f", &["no such key"]);
    refused(yaml(&format!("{}: 1", "x".repeat(900))), &format!("{}...", "x".repeat(80)), &[]);
}

#[test]
fn a_flag_without_its_value_is_refused() {
    refused(flags(&["--epochs"]), "--epochs", &["no value"]);
    refused(flags(&["--epochs="]), "epochs", &["no value"]);
    refused(flags(&["--explain=1"]), "--explain", &["takes no value"]);
    refused(flags(&["-x"]), "-x", &["no such flag"]);
}

#[test]
fn values_may_be_python() {
    let eval = good(&["--metrics=['NDCG', 'Recall']", "--topk=[20,5,5]"]).eval;
    assert_eq!(eval.metrics, [Metric::Recall, Metric::Ndcg]);
    assert_eq!(eval.topk, [5, 10, 20], "10 is computed for valid_metric");
    let eval = good(&["--metrics", "ndcg,map", "--topk", "10"]).eval;
    assert_eq!((eval.metrics.len(), eval.topk), (2, vec![10]));
    good(&["--eval_args={'split': {'LS': 'valid_and_test'}, 'group_by': None, 'order': 'TO'}"]);
    good(&["--eval_args.mode=full", "--eval_args.split.LS=valid_and_test"]);
    refused(
        flags(&["--eval_args.split={XS: [8,1,1]}"]),
        "eval_args.split",
        &["XS", "RS: [8, 1, 1]"],
    );
    refused(flags(&["--eval_args=full"]), "eval_args", &["mapping"]);
    assert_eq!(good(&["--clip_grad_norm={'max_norm': 5}"]).train.clip_norm, Some(5.0));
    assert_eq!(good(&["--clip_grad_norm.max_norm=5"]).train.clip_norm, Some(5.0));
    let both = ["--clip_grad_norm.max_norm=5", "--clip_grad_norm.norm_type=2"];
    assert_eq!(good(&both).train.clip_norm, Some(5.0));
    assert_eq!(good(&["--user_inter_num_interval=[5,inf)"]).data.user_interval.low, 5.0);
    assert_eq!(good(&["--RATING_FIELD=None"]).data.rating_field, None);
    assert_eq!(good(&["--field_separator=\\t"]).data.field_separator, Some('\t'));
    assert_eq!(good(&["--field_separator", " "]).data.field_separator, Some(' '));
    assert_eq!(good(&["--dataset", "{odd"]).data.dataset, "{odd");
}

#[test]
fn batch_sizes_exclude_each_other_within_a_source() {
    let both = "train_batch_size: 10\ntrain_batch_sequences: 20\n";
    refused(yaml(both), "train_batch_sequences", &["train_batch_size", "conf.yaml"]);
    refused(
        flags(&["--train_batch_size=10", "--train_batch_sequences=20"]),
        "train_batch_sequences",
        &["command line"],
    );
    let config = yaml_and_flags("train_batch_size: 10", &["--train_batch_sequences=20"]);
    assert_eq!(config.unwrap().config.train.batch_size, BatchSize::Sequences(20));
    let config = yaml_and_flags("train_batch_sequences: 10", &["--train_batch_size=20"]);
    assert_eq!(config.unwrap().config.train.batch_size, BatchSize::Interactions(20));
}

#[test]
fn repeatable_is_the_opposite_of_filter_seen() {
    assert!(good(&[]).eval.filter_seen);
    assert!(!good(&["--repeatable=True"]).eval.filter_seen);
    assert!(yaml("repeatable: False").unwrap().config.eval.filter_seen);
    assert!(!yaml("repeatable: True\nfilter_seen: False").unwrap().config.eval.filter_seen);
    refused(yaml("repeatable: True\nfilter_seen: True"), "repeatable", &["filter_seen"]);
    refused(flags(&["--repeatable=false", "--filter_seen=false"]), "repeatable", &["filter_seen"]);
    let config = yaml_and_flags("repeatable: True", &["--filter_seen"]).unwrap().config;
    assert!(config.eval.filter_seen, "flags win over files");
}

#[test]
fn a_flag_that_is_not_utf8_is_refused() {
    let argument = OsString::from_vec(b"--dataset=\xff".to_vec());
    refused(b4r::config::resolve([argument]), "--dataset", &["UTF-8"]);
}

#[test]
fn help_teaches_and_version_tells() {
    let text = |flag: &str| match invocation([OsString::from(flag)]).unwrap() {
        Invocation::Text(text) => text.to_string(),
        Invocation::Run(_) => panic!("{flag} should not run"),
    };
    let help = text("--help");
    for key in keys::all().filter(|key| !key.hidden) {
        assert!(help.contains(&format!("--{}", key.name)), "{} is missing", key.name);
    }
    for part in ["Data:", "Model:", "Training:", "Evaluation:", "Run:", "Examples:", "[default: "] {
        assert!(help.contains(part), "{part} is missing");
    }
    assert!(!help.contains("gpu_id"));
    assert_eq!(text("-h"), help);
    assert_eq!(text("--version").trim(), concat!("b4r-train ", env!("CARGO_PKG_VERSION")));
    refused(flags(&["--help"]), "--help", &[]);
}
