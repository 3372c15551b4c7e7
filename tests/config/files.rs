//! YAML as a file format.

use b4r::Error;

use super::{file, good, refused, yaml};

/// Asserts an input error on `line` (0: none) with exit code 2 whose text contains `part`.
#[track_caller]
fn broken(text: impl AsRef<[u8]>, line: u64, part: &str) {
    let (_folder, path) = file(text);
    let error = b4r::config::read(&path).expect_err("this should have been refused");
    assert_eq!(error.exit_code(), 2);
    let Error::Input { line: named, path: named_path, remedy, .. } = &error else {
        panic!("another error: {error}");
    };
    assert_eq!(named_path, &path);
    assert_eq!(named.unwrap_or(0), line, "{error}");
    assert!(!remedy.is_empty());
    assert!(error.to_string().contains(part), "`{part}` is missing in: {error}");
}

#[test]
fn an_empty_file_changes_nothing() {
    for text in ["", "# only a comment\n", "---\n", "~\n"] {
        assert_eq!(yaml(text).unwrap().config, good(&[]), "{text:?}");
    }
}

#[test]
fn later_files_win_and_flags_win_over_files() {
    let (_a, first) = file("epochs: 1\nseed: 1\nn_layers: 1\n");
    let (_b, second) = file("epochs: 2\nseed: 2\n");
    let (first, second) = (first.to_str().unwrap(), second.to_str().unwrap());
    let config = good(&["--seed=3", first, second]);
    assert_eq!((config.train.epochs, config.train.seed, config.model.n_layers), (2, 3, 1));
    let both = format!("--config_files={second} {first}");
    assert_eq!(good(&[&both]).train.epochs, 1);
}

#[test]
fn a_duplicate_key_is_refused_where_it_stands() {
    broken("epochs: 1\nseed: 3\nepochs: 2\n", 3, "`epochs` is given twice");
    // Two names of one key are no syntax error, but as ambiguous.
    refused(
        yaml("max_len: 20\nMAX_ITEM_LIST_LENGTH: 30\n"),
        "MAX_ITEM_LIST_LENGTH",
        &["twice", "conf.yaml:2"],
    );
    refused(
        yaml("eval_args: {mode: full}\neval_args.mode: full\n"),
        "eval_args.mode",
        &["twice", "conf.yaml:2"],
    );
}

#[test]
fn an_alias_bomb_is_refused_quickly() {
    let mut text = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n".to_string();
    for level in 1..10 {
        let below = format!("*a{}", level - 1);
        let list = vec![below; 10].join(", ");
        text.push_str(&format!("a{level}: &a{level} [{list}]\n"));
    }
    let started = std::time::Instant::now();
    let (_folder, path) = file(&text);
    let error = b4r::config::read(&path).unwrap_err();
    assert!(
        matches!(error, Error::Input { .. }) && error.to_string().contains("aliases"),
        "{error}"
    );
    assert!(started.elapsed().as_secs() < 5);
}

#[test]
fn what_is_no_configuration_is_refused() {
    broken("- epochs\n- 3\n", 0, "mapping");
    broken("just text\n", 0, "mapping");
    broken("epochs: 3\n---\nepochs: 4\n", 3, "document");
    broken("epochs: [1\n", 1, "bracket");
    broken(b"seed: 1\nepochs: \xff\n", 2, "UTF-8");
    broken(vec![b'#'; (1 << 20) + 1], 0, "larger");
    broken(format!("metrics: {}{}\n", "[".repeat(500), "]".repeat(500)), 1, "");
    let nested: String = (0..60).map(|depth| format!("{}a:\n", " ".repeat(depth))).collect();
    broken(nested, 17, "");
}

#[test]
fn a_missing_file_or_a_folder_is_refused() {
    let folder = tempfile::TempDir::new().unwrap();
    for path in [folder.path().join("none.yaml"), folder.path().to_path_buf()] {
        let error = super::flags(&[path.to_str().unwrap()]).unwrap_err();
        assert!(matches!(error, Error::Input { .. }), "{error}");
        assert_eq!(error.exit_code(), 2);
        assert!(error.to_string().contains(path.to_str().unwrap()));
    }
}

#[test]
fn numbers_read_as_python_reads_them() {
    let config =
        yaml("layer_norm_eps: 1e-6\nlearning_rate: 1e-3\ntrain_batch_size: 1e3\nseed: 007")
            .unwrap()
            .config;
    assert_eq!(config.model.layer_norm_eps, 1e-6);
    assert_eq!(config.train.learning_rate, 1e-3);
    assert_eq!(config.train.batch_size, b4r::config::BatchSize::Interactions(1000));
    assert_eq!(config.train.seed, 7);
    assert_eq!(yaml("seed: 18446744073709551615").unwrap().config.train.seed, u64::MAX);
    refused(yaml("epochs: 2.5"), "epochs", &["2.5", "whole number", "conf.yaml:1"]);
    refused(yaml("epochs: \"\"\n"), "epochs", &["has no value"]);
    refused(yaml("epochs: [3]\n"), "epochs", &["[3]"]);
}

#[test]
fn truth_values_and_nothing_read_as_python_reads_them() {
    for (text, filter) in [("True", true), ("no", false), ("\"off\"", false), ("1", true)] {
        let config = yaml(&format!("filter_seen: {text}\n")).unwrap().config;
        assert_eq!(config.eval.filter_seen, filter, "{text}");
    }
    refused(yaml("filter_seen: maybe\n"), "filter_seen", &["maybe", "true or false"]);
    for nothing in ["None", "'None'", "null", "~", ""] {
        let config =
            yaml(&format!("TIME_FIELD: {nothing}\nclip_grad_norm: {nothing}\n")).unwrap().config;
        assert_eq!(config.data.time_field, None, "{nothing}");
        assert_eq!(config.train.clip_norm, None, "{nothing}");
    }
    // Column names that other YAML readers take for truth values.
    let data = yaml("USER_ID_FIELD: y\nITEM_ID_FIELD: no\nRATING_FIELD: 3").unwrap().config.data;
    assert_eq!((data.user_field.as_str(), data.item_field.as_str()), ("y", "no"));
    assert_eq!(data.rating_field.as_deref(), Some("3"));
}

#[test]
fn aliases_and_merges_work() {
    let config = yaml("n_layers: &n 3\nepochs: *n\nclip_grad_norm: {<<: {max_norm: 2}}\n");
    let train = config.unwrap().config.train;
    assert_eq!((train.epochs, train.clip_norm), (3, Some(2.0)));
}

#[test]
fn a_path_with_a_nul_is_refused() {
    refused(yaml("data_path: \"a\\0b\"\n"), "data_path", &["NUL"]);
}
