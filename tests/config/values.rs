//! Each key's range, and what has to hold between keys.

use b4r::config::{
    Activation, BatchSize, DataFormat, Device, Duplicates, Loss, Metric, NormPlacement, Objective,
    Positions, Precision, Schedule, validate,
};

use super::{flags, good, refused, yaml};

#[test]
fn values_out_of_range_are_refused() {
    let cases: &[(&str, &[&str])] = &[
        ("hidden_size", &["0", "-1", "1e9", "1000000000", "1e300", "inf", "nan", "x", "12.5", ""]),
        ("n_layers", &["0", "-3", "99999999999999999999999"]),
        ("n_heads", &["0", "3", "7", "128"]),
        ("inner_size", &["0", "16777217"]),
        ("mask_ratio", &["0", "1.5", "-0.1", "nan", "inf", "x"]),
        ("ft_ratio", &["-0.1", "1.1", "nan"]),
        ("learning_rate", &["0", "-1e-3", "nan", "NaN", "inf", "1e-300", "1e300", ""]),
        ("lr_fallback", &["0", "-1e-3", "nan", "inf", "1e-300", "1e300"]),
        ("hidden_dropout_prob", &["1", "-0.1", "nan", "0.9999999"]),
        ("attn_dropout_prob", &["1", "1.5", "inf"]),
        ("layer_norm_eps", &["0", "-1", "nan", "1e-300"]),
        ("initializer_range", &["0", "-0.02", "inf", "1e300", "1e-300"]),
        ("adam_beta1", &["1", "-0.1", "nan", "0.9999999999"]),
        ("adam_beta2", &["1", "2"]),
        ("adam_eps", &["0", "-1e-8", "nan", "1e-300"]),
        ("weight_decay", &["-0.1", "nan", "inf", "1e300"]),
        (
            "clip_grad_norm",
            &["0", "-5", "nan", "{max_norm: 0}", "{}", "{max_norm: 1, norm_type: 1}"],
        ),
        ("epochs", &["0", "-1", "1e10", "ten"]),
        ("max_steps", &["0", "-1"]),
        ("train_batch_size", &["0", "1e9"]),
        ("train_batch_sequences", &["0", "1e9"]),
        ("eval_step", &["0"]),
        ("stopping_step", &["-1"]),
        ("seed", &["-1", "18446744073709551616", "1.5"]),
        ("topk", &["0", "[]", "", "[10, -1]", "[[10]]", "ten"]),
        ("metrics", &["[]", "AUC", "LogLoss", "[ndcg, 3]", "{ndcg: 1}", ""]),
        ("valid_metric", &["ndcg", "ndcg@", "ndcg@0", "@10", "loss@10", "gauc@10", ""]),
        ("tail_ratio", &["0", "-1", "nan", "x"]),
        ("protocol", &["sun", "2019"]),
        ("eval_unit", &["user", ""]),
        ("eval_negatives", &["seen", ""]),
        ("valid_users", &["0", "-1"]),
        ("eval_seed", &["-1", "1.5"]),
        ("eval_args.group_by", &["item"]),
        (
            "eval_args.mode",
            &["uni", "uni0", "pop", "pop-1", "all", "labeled", "{train: full}", "{valid: x}"],
        ),
        (
            "eval_args.split",
            &[
                "LS",
                "{LS: last}",
                "{RS: [8, 2]}",
                "{RS: [0, 1, 1]}",
                "{TS: [1, -1, 1]}",
                "{LS: valid_only, RS: [8, 1, 1]}",
            ],
        ),
        ("eval_batch_size", &["0"]),
        ("threads", &["-1", "4097", "all"]),
        ("device", &["tpu", "gpu", "cuda:x", "cuda:-1", "cuda:", "cuda:1:2", "cpu:0", "1", ""]),
        ("use_gpu", &["maybe", "2"]),
        ("gpu_id", &["x", "0.5", "4294967296", "a,0"]),
        ("precision", &["f64", "fp16", "16"]),
        ("hidden_act", &["swish", "tanh", "sigmoid", ""]),
        ("norm", &["middle"]),
        ("positions", &["sine"]),
        ("lr_schedule", &["step"]),
        ("format", &["parquet"]),
        ("field_separator", &["::", "é", "\""]),
        ("dataset", &["", "   "]),
        ("rm_dup_inter", &["middle"]),
        ("val_interval", &["5", "[5", "[6,5]", "[a,b]", "(5,5)", "[1,2];[3,4]", "[nan,5]"]),
        ("user_inter_num_interval", &["5", "[5,inf", "[inf,5)", "(,)", "[5;inf)"]),
        ("loss_type", &["BPR"]),
        ("learner", &["sgd", "adagrad", "None"]),
    ];
    for (key, values) in cases {
        for value in *values {
            let result = flags(&[&format!("--{key}={value}")]);
            assert!(result.is_err(), "--{key}={value} was taken");
            refused(result, key, &["remedy: "]);
        }
    }
    for value in ["0", "1", "-1", "65536", "1e9"] {
        let error = flags(&[&format!("--max_len={value}")]).unwrap_err().to_string();
        assert!(error.starts_with("MAX_ITEM_LIST_LENGTH (max_len): "), "{error}");
        assert!(error.contains("from 2 to 65535"), "{error}");
    }
    let error = flags(&["--seed=18446744073709551616"]).unwrap_err().to_string();
    assert!(error.contains("is more than"), "{error}");
}

#[test]
fn values_at_the_ends_of_their_range_are_taken() {
    for flag in [
        "--mask_ratio=1",
        "--ft_ratio=0",
        "--ft_ratio=1",
        "--hidden_dropout_prob=0",
        "--attn_dropout_prob=0.99",
        "--adam_beta1=0",
        "--max_len=2",
        "--max_len=65535",
        "--n_heads=64",
        "--inner_size=16777216",
        "--stopping_step=0",
        "--threads=0",
        "--threads=4096",
        "--epochs=4294967295",
        "--topk=1",
        "--weight_decay=0.01",
        "--device=CPU",
        "--device=CUDA:4294967295",
        "--precision=BF16",
        "--precision=none",
    ] {
        good(&[flag]);
    }
}

#[test]
fn a_device_is_written_as_it_is_read() {
    for (text, device) in [
        ("auto", Device::Auto(0)),
        ("auto:2", Device::Auto(2)),
        ("cpu", Device::Cpu),
        ("cuda", Device::Cuda(0)),
        ("cuda:1", Device::Cuda(1)),
    ] {
        assert_eq!(good(&[&format!("--device={text}")]).run.device, device);
        assert_eq!(device.to_string(), text);
    }
    assert_eq!(good(&["--device=cuda:0"]).run.device, Device::Cuda(0));
    assert_eq!(good(&[]).run.device, Device::Auto(0));
}

#[test]
fn bf16_is_for_gpus() {
    assert_eq!(good(&[]).run.precision, None);
    assert_eq!(good(&["--precision=bf16"]).run.precision, Some(Precision::Bf16));
    good(&["--precision=bf16", "--device=cuda"]);
    good(&["--precision=f32", "--device=cpu"]);
    refused(
        flags(&["--precision=bf16", "--device=cpu"]),
        "precision",
        &["GPU", "f32", "command line"],
    );
    refused(flags(&["--precision=bf16", "--use_gpu=False"]), "precision", &["GPU", "f32"]);
}

#[test]
fn errors_name_the_place() {
    refused(yaml("seed: 1\n\nmask_ratio: 1.5\n"), "mask_ratio", &["1.5", "conf.yaml:3", "0.2"]);
    refused(
        yaml("hidden_size: 60\nn_heads: 7"),
        "n_heads",
        &["60", "7", "conf.yaml:2", "1, 2, 3, 4, 5, 6"],
    );
    refused(flags(&["--mask_ratio=0"]), "mask_ratio", &["command line"]);
}

#[test]
fn names_are_read_in_any_case() {
    let config = good(&[
        "--hidden_act=GELU_tanh",
        "--norm=pre",
        "--positions=from-end",
        "--lr_schedule=cosine",
        "--device=cpu",
        "--format=ratings.dat",
        "--rm_dup_inter=last",
        "--tie_embeddings=false",
        "--rm_consecutive_dup",
        "--show_progress=false",
        "--warmup_steps=100",
        "--max_steps=7",
        "--train_batch_sequences=64",
    ]);
    assert_eq!(config.model.hidden_act, Activation::GeluTanh);
    assert_eq!(config.model.norm, NormPlacement::Pre);
    assert_eq!(config.model.positions, Positions::FromEnd);
    assert_eq!(config.train.schedule, Schedule::Cosine);
    assert_eq!(config.run.device, Device::Cpu);
    assert_eq!(config.data.format, Some(DataFormat::RatingsDat));
    assert_eq!(config.data.duplicates, Duplicates::Last);
    assert!(!config.model.tied);
    assert!(config.data.remove_consecutive);
    assert_eq!(config.run.progress, Some(false));
    assert_eq!((config.train.warmup_steps, config.train.max_steps), (100, Some(7)));
    assert_eq!(config.train.batch_size, BatchSize::Sequences(64));
    assert_eq!(good(&["--format=auto"]).data.format, None);
    assert_eq!(good(&["--rm_dup_inter=None"]).data.duplicates, Duplicates::Keep);
}

#[test]
fn intervals_have_open_and_closed_ends() {
    let contained = |text: &str| -> Vec<f64> {
        let interval = good(&[&format!("--item_inter_num_interval={text}")]).data.item_interval;
        [1.0, 2.0, 3.0, 4.0].into_iter().filter(|&x| interval.contains(x)).collect()
    };
    assert_eq!(contained("[2,3]"), [2.0, 3.0]);
    assert_eq!(contained("(2,4)"), [3.0]);
    assert_eq!(contained("( 2 , inf )"), [3.0, 4.0]);
    assert_eq!(contained("(-inf,2]"), [1.0, 2.0]);
    assert_eq!(contained("None"), [1.0, 2.0, 3.0, 4.0]);
    let data = yaml("val_interval: {rating: \"[4,inf)\"}").unwrap().config.data;
    assert_eq!(data.rating_interval.map(|interval| interval.low), Some(4.0));
    let renamed = "val_interval: {stars: \"[4,inf)\"}\nRATING_FIELD: stars\n";
    assert!(yaml(renamed).unwrap().config.data.rating_interval.is_some());
    refused(yaml("val_interval: {timestamp: \"[4,inf)\"}"), "val_interval", &["timestamp"]);
    refused(yaml("val_interval: {}"), "val_interval", &["rating"]);
    refused(
        flags(&["--val_interval=[4,5]", "--RATING_FIELD=~"]),
        "val_interval",
        &["RATING_FIELD"],
    );
}

#[test]
fn the_objective_has_two_names() {
    assert_eq!(good(&[]).model.objective, Objective::Cloze);
    assert_eq!(good(&["--objective=causal"]).model.objective, Objective::Causal);
    refused(flags(&["--objective=next"]), "objective", &["cloze", "causal"]);
    let notes = yaml("objective: causal\nmask_ratio: 0.4").unwrap().notes;
    assert!(
        notes.iter().any(|note| note.contains("mask_ratio") && note.contains("without effect"))
    );
}

#[test]
fn losses_over_a_sample_have_their_keys() {
    assert_eq!(good(&["--loss_type=ce"]).train.loss, Loss::CrossEntropy);
    let train = good(&["--loss_type=sampled-softmax", "--n_negatives=300"]).train;
    assert_eq!((train.loss, train.negatives), (Loss::SampledSoftmax, 300));
    let train = good(&["--loss_type=GBCE", "--gbce_t=0.5"]).train;
    assert_eq!((train.loss, train.calibration), (Loss::Gbce, 0.5));
    for (key, values) in [("n_negatives", ["0", "-1"]), ("gbce_t", ["1.1", "nan"])] {
        for value in values {
            refused(flags(&[&format!("--{key}={value}")]), key, &["remedy: "]);
        }
    }
    refused(flags(&["--negs_per_pos=256"]), "--negs_per_pos", &["n_negatives"]);
    let notes = yaml("n_negatives: 300\ngbce_t: 0.5").unwrap().notes;
    assert_eq!(notes.iter().filter(|note| note.contains("without effect")).count(), 2, "{notes:?}");
    let notes = yaml("loss_type: gBCE\nn_negatives: 300\ngbce_t: 0.5").unwrap().notes;
    assert!(notes.is_empty(), "{notes:?}");
}

#[test]
fn columns_must_differ() {
    refused(flags(&["--USER_ID_FIELD=item_id"]), "ITEM_ID_FIELD", &["USER_ID_FIELD"]);
    refused(flags(&["--TIME_FIELD=rating"]), "TIME_FIELD", &["RATING_FIELD"]);
    good(&["--TIME_FIELD=~", "--RATING_FIELD=~"]);
}

#[test]
fn the_metric_that_decides_is_always_computed() {
    let resolved = yaml("metrics: [recall, MAP]\ntopk: 12\nvalid_metric: NDCG@7").unwrap();
    let eval = &resolved.config.eval;
    assert_eq!(eval.metrics, [Metric::Recall, Metric::Ndcg, Metric::Map]);
    assert_eq!(eval.topk, [7, 12]);
    assert_eq!(eval.valid_metric, (Metric::Ndcg, 7));
    assert!(resolved.notes.iter().any(|note| note.contains("ndcg@7")), "{:?}", resolved.notes);
    assert!(yaml("metrics: ndcg\ntopk: 10").unwrap().notes.is_empty());
}

#[test]
fn a_configuration_made_by_hand_is_checked_too() {
    let mut config = b4r::config::Config::default();
    validate(&config).unwrap();
    config.eval.topk = vec![10, 5];
    refused(validate(&config), "topk", &["ascend"]);
    config.eval.topk = vec![5];
    refused(validate(&config), "valid_metric", &["ndcg@10"]);
    config.eval.topk = (1..=101).collect();
    refused(validate(&config), "topk", &["101"]);
    config = b4r::config::Config::default();
    config.model.max_len = 0;
    refused(validate(&config), "MAX_ITEM_LIST_LENGTH", &["max_len 0"]);
}
