//! Arbitrary input never panics, and what is written reads back the same.

use std::ffi::OsString;

use b4r::config::{
    Config, Device, EvalUnit, Mode, Precision, Protocol, Shares, SplitRule, keys, read, resolve,
    to_yaml, value::Value,
};
use proptest::prelude::*;

use super::file;

/// Texts that look like values, and some that do not.
fn value_text() -> impl Strategy<Value = String> {
    prop_oneof![
        any::<i64>().prop_map(|x| x.to_string()),
        any::<f64>().prop_map(|x| format!("{x:e}")),
        "[\\[({'\"]?[a-zA-Z0-9,:@ .*&!<-]{0,12}[\\])}'\"]?",
        Just("~".to_string()),
        Just("true".to_string()),
        Just("[5,inf)".to_string()),
        ".{0,40}",
    ]
}

fn key_name() -> impl Strategy<Value = String> {
    let known: Vec<String> = keys::all()
        .flat_map(|key| key.aliases.iter().chain([&key.name]))
        .map(|name| name.to_string())
        .chain(b4r::config::legacy::NAMES.iter().map(|name| name.to_string()))
        .chain(b4r::config::foreign::FOREIGN.iter().map(|foreign| foreign.name.to_string()))
        .collect();
    prop_oneof![8 => proptest::sample::select(known), 1 => "[a-zA-Z_.-]{0,20}"]
}

/// Valid configurations, each key on its own set to a random valid text.
fn config() -> impl Strategy<Value = Config> {
    let path = "[^\0]{0,12}[a-zA-Z\u{1}-\u{2fff}&&[^\0]]";
    let interval = (0u32..50, 0u32..50, any::<[bool; 2]>()).prop_map(|(low, width, [a, b])| {
        let high = if width == 0 { "inf".to_string() } else { (low + width).to_string() };
        format!("{}{low},{high}{}", if a { '[' } else { '(' }, if b { ']' } else { ')' })
    });
    let data = (path, interval, "[a-z:#{}'\"\\\\ ,]{1,9}x", any::<char>(), any::<bool>());
    let numbers = (any::<u64>(), 1e-6f64..1.0, 1e-30f32..1.0, 0.0f64..0.99, 1usize..5000);
    let lists = (proptest::collection::btree_set(1usize..200, 1..8), 0usize..6, any::<[bool; 4]>());
    (data, numbers, lists).prop_filter_map("valid", |(data, numbers, lists)| {
        let mut config = Config::default();
        let set = |config: &mut Config, key: &str, text: &str| {
            let key = keys::find(key).unwrap();
            (key.set)(config, &Value::Text(text.to_string())).ok()
        };
        let (path, interval, column, separator, closed) = data;
        set(&mut config, "dataset", &path)?;
        set(&mut config, "run_dir", &path)?;
        set(&mut config, "user_inter_num_interval", &interval)?;
        set(&mut config, if closed { "USER_ID_FIELD" } else { "RATING_FIELD" }, &column)?;
        config.data.field_separator = closed.then_some(separator);
        if !closed {
            set(&mut config, "val_interval", &interval)?;
        }
        let (seed, rate, epsilon, dropout, batch) = numbers;
        config.train.seed = seed;
        config.train.learning_rate = rate;
        config.train.mask_ratio = rate;
        config.train.clip_norm = closed.then_some(rate * 1e9);
        config.model.layer_norm_eps = epsilon;
        config.model.hidden_dropout = dropout;
        let (topk, metric, switches) = lists;
        config.eval.topk = topk.into_iter().collect();
        config.eval.valid_metric = (b4r::config::Metric::ALL[metric], config.eval.topk[0]);
        config.eval.filter_seen = switches[0];
        if switches[1] {
            let shares = Shares([rate, f64::from(epsilon), dropout]);
            config.eval.split =
                if switches[2] { SplitRule::Ratio(shares) } else { SplitRule::Time(shares) };
            config.eval.valid_mode = Mode::Popular(batch);
            config.eval.seed = Some(seed);
        } else {
            config.eval.valid_users = switches[3].then_some(batch);
            config.eval.protocol = switches[2].then_some(Protocol::Sun2019);
            config.eval.unit = if switches[0] { EvalUnit::Row } else { EvalUnit::RecBole };
        }
        config.model.tied = switches[1];
        config.data.all_data = switches[0];
        config.train.init_from = switches[1].then(|| path.into());
        config.train.init_from_sha256 = config.train.init_from.as_ref().map(|_| column);
        config.train.keep_expired = switches[1] && switches[2];
        config.run.progress = switches[2].then_some(switches[3]);
        config.run.device =
            [Device::Auto(0), Device::Auto(3), Device::Cuda(0), Device::Cuda(1)][metric % 4];
        config.run.precision = [None, Some(Precision::F32), Some(Precision::Bf16)][metric % 3];
        if switches[3] {
            config.train.batch_size = b4r::config::BatchSize::Sequences(batch);
            config.data.time_field = None;
        }
        b4r::config::validate(&config).is_ok().then_some(config)
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..Default::default() })]

    #[test]
    fn arbitrary_bytes_as_a_file_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        let (_folder, path) = file(bytes);
        let _ = read(&path);
    }

    #[test]
    fn arbitrary_text_as_a_file_never_panics(text in "([a-z_&*]{0,6}[:\\-,\\[\\]{}?|>'\"#%@! \t\n~0-9]{0,3}){0,30}") {
        let (_folder, path) = file(text);
        let _ = read(&path);
    }

    #[test]
    fn arbitrary_values_in_a_file_never_panic(key in key_name(), value in value_text()) {
        let (_folder, path) = file(format!("{key}: {value}\n"));
        if let Err(error) = read(&path) {
            prop_assert_eq!(error.exit_code(), 2);
        }
    }

    #[test]
    fn arbitrary_flags_never_panic(key in key_name(), value in value_text(), joined: bool) {
        let arguments = if joined {
            vec![format!("--{key}={value}")]
        } else {
            vec![format!("--{key}"), value]
        };
        if let Err(error) = resolve(arguments.into_iter().map(OsString::from)) {
            prop_assert_eq!(error.exit_code(), 2);
        }
    }

    #[test]
    fn what_is_written_reads_back_the_same(config in config()) {
        let text = to_yaml(&config);
        let (_folder, path) = file(&text);
        match read(&path) {
            Ok(again) => prop_assert_eq!(again, config),
            Err(error) => prop_assert!(false, "{error}\n{text}"),
        }
    }

    #[test]
    fn any_value_survives_being_written(text in any::<String>(), number: f64, whole: i64, truth: bool) {
        let value = Value::List(vec![
            Value::Text(text.clone()),
            Value::Integer(whole.into()),
            Value::Bool(truth),
            Value::Null,
            Value::Map(vec![(text, if number.is_nan() { Value::Null } else { number.into() })]),
        ]);
        prop_assert_eq!(Value::from_argument(&value.to_string()), value);
    }
}
