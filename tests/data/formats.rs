//! Every format, plain and compressed, recognised and given.

use b4r::config::DataFormat;

use super::{histories, lines, load_both, load_bytes};

/// The same three histories in every format.
const WANT: &str = "u1 a b c\nu2 b a d\nu3 c";

fn check(name: &str, text: &str, format: DataFormat) {
    // Times arrive out of order in the formats that have them.
    let variants = [text.to_string(), text.replace('\n', "\r\n"), format!("\u{feff}{text}")];
    let cut = text.trim_end().to_string();
    for text in variants.iter().chain([&cut]) {
        for given in [None, Some(format)] {
            let (dataset, _) = load_both(name, text, |config| config.format = given).unwrap();
            assert_eq!(histories(&dataset), lines(WANT), "{name} {given:?} {text:?}");
            assert_eq!(dataset.items.iter().collect::<Vec<_>>().len(), 4);
        }
    }
}

#[test]
fn atomic_files_with_columns_in_any_order() {
    check(
        "x.inter",
        "user_id:token\titem_id:token\trating:float\ttimestamp:float\n\
         u1\tb\t3\t20\nu1\ta\t4\t10\nu2\tb\t5\t1\nu2\ta\t1\t2\nu1\tc\t2\t30\nu3\tc\t2\t3\nu2\td\t1\t4\n",
        DataFormat::Inter,
    );
    check(
        "x.inter",
        "timestamp:float\tother:token_seq\titem_id:token\tuser_id:token\n\
         20\tp q\tb\tu1\n10\t\ta\tu1\n1\t\tb\tu2\n2\t\ta\tu2\n30\t\tc\tu1\n3\t\tc\tu3\n4\t\td\tu2\n",
        DataFormat::Inter,
    );
}

#[test]
fn delimited_text_with_a_header() {
    let text = "userId,movieId,rating,timestamp\n\
                u1,b,3.5,20\nu1,a,4,10\nu2,b,5,1\nu2,a,1,2\nu1,c,2,30\nu3,c,2,3\nu2,d,1,4\n";
    check("ratings.csv", text, DataFormat::Csv);
    for separator in ["\t", ";", "|"] {
        check("x.txt", &text.replace(',', separator), DataFormat::Csv);
    }
    check("x.txt", &text.replace(',', " "), DataFormat::Csv);
}

#[test]
fn movielens_ratings_dat() {
    check(
        "ratings.dat",
        "u1::b::3::20\nu1::a::4::10\nu2::b::5::1\nu2::a::1::2\nu1::c::2::30\nu3::c::2::3\nu2::d::1::4\n",
        DataFormat::RatingsDat,
    );
}

#[test]
fn movielens_u_data() {
    check(
        "u.data",
        "u1\tb\t3\t880000020\nu1\ta\t4\t880000010\nu2\tb\t5\t880000001\nu2\ta\t1\t880000002\n\
         u1\tc\t2\t880000030\nu3\tc\t2\t880000003\nu2\td\t1\t880000004\n",
        DataFormat::UData,
    );
}

#[test]
fn pairs_and_sequences_without_time() {
    check("x.txt", "u1 a\nu1 b\nu2 b\nu2 a\nu1 c\nu3 c\nu2 d\n", DataFormat::Pairs);
    check("x.txt", "u1\ta\nu1\tb\nu2\tb\nu2\ta\nu1\tc\nu3\tc\nu2\td\n", DataFormat::Pairs);
    check("x.txt", "u1 a b\nu2 b a d\n\nu1 c\nu3  c\n", DataFormat::Sequences);
}

#[test]
fn columns_are_chosen_by_name() {
    let text = "when;what;who\n2;b;u1\n1;a;u1\n3;c;u1\n";
    let (dataset, statistics) = load_both("x.csv", text, |config| {
        config.user_field = "who".to_string();
        config.item_field = "what".to_string();
        config.time_field = Some("when".to_string());
        config.field_separator = Some(';');
    })
    .unwrap();
    assert_eq!(histories(&dataset), lines("u1 a b c"));
    assert_eq!(dataset.times, Some(vec![1.0, 2.0, 3.0]));
    assert!(statistics.notes.is_empty(), "{:?}", statistics.notes);
}

#[test]
fn aliases_are_taken_and_told_only_for_default_names() {
    let text = "uid,iid,ts\nu,b,2\nu,a,1\nu,c,3\n";
    let (dataset, statistics) = load_both("x.csv", text, |_| ()).unwrap();
    assert_eq!(histories(&dataset), lines("u a b c"));
    assert!(statistics.notes.iter().any(|note| note.contains("`ts` is taken for `timestamp`")));
    let error = load_both("x.csv", text, |config| config.user_field = "user".into()).unwrap_err();
    assert!(error.to_string().contains("USER_ID_FIELD"), "{error}");
}

#[test]
fn a_file_without_time_keeps_its_order_and_says_so() {
    let text = "user_id,item_id\nu,b\nu,a\nu,c\n";
    let (dataset, statistics) = load_both("x.csv", text, |_| ()).unwrap();
    assert_eq!(histories(&dataset), lines("u b a c"));
    assert_eq!(dataset.times, None);
    assert!(statistics.to_string().contains("no time column"), "{statistics}");
    // The same when the time column is not wanted.
    let text = "user_id,item_id,timestamp\nu,b,3\nu,a,x\nu,c,1\n";
    let (dataset, _) = load_both("x.csv", text, |config| config.time_field = None).unwrap();
    assert_eq!(histories(&dataset), lines("u b a c"));
}

#[test]
fn ids_of_any_kind_are_kept_and_given_back() {
    let ids =
        ["two words", " lead", "käse 🧀", "0012", "a\"b", "1.0", "NA", "null", "-7", "x,y", "p\tq"];
    let quote = |id: &&str| format!("\"{}\"", id.replace('"', "\"\""));
    let rows: String = ids.iter().map(|id| format!("\"the user\",{}\n", quote(id))).collect();
    let (dataset, _) = load_both("x.csv", &format!("user_id,item_id\n{rows}"), |_| ()).unwrap();
    assert_eq!(dataset.users.get(0), "the user");
    assert_eq!(dataset.items.iter().collect::<Vec<_>>(), ids);
    let index = dataset.items.index().unwrap();
    for (number, id) in ids.iter().enumerate() {
        assert_eq!(index.get(id), Some(number));
    }
    assert_eq!(index.get("unknown"), None);
    // Atomic files have no quotes: the character is part of the id.
    let text = "user_id:token\titem_id:token\nu\t\"a\nu\tb \"c\"\nu\td,e::f\n";
    let (dataset, _) = load_both("x.inter", text, |_| ()).unwrap();
    assert_eq!(dataset.items.iter().collect::<Vec<_>>(), ["\"a", "b \"c\"", "d,e::f"]);
}

#[test]
fn a_quoted_id_may_hold_line_feeds() {
    let text = "user_id,item_id\nu,\"a\nb\"\nu,c\nu,d\nu,e,f\n";
    let error = load_both("x.csv", text, |_| ()).unwrap_err().to_string();
    assert!(error.contains("x.csv.gz:6:") || error.contains("x.csv:6:"), "{error}");
    let (dataset, statistics) = load_both("x.csv", &text.replace(",f", ""), |_| ()).unwrap();
    assert_eq!(dataset.items.get(0), "a\nb");
    let note = "records of several lines, in double quotes: 1, the first at line 2";
    assert!(statistics.notes.iter().any(|found| found == note), "{:?}", statistics.notes);
    // In the last line too, and where it ends with the line feed.
    for last in ["u,\"c\nd\"\n", "u,\"c\n\"\n", "u,\"c\n\"", "u,\"c\n\"\r\n"] {
        let text = format!("user_id,item_id\nu,a\nu,b\n{last}");
        assert_eq!(load_both("x.csv", &text, |_| ()).unwrap().0.items.len(), 3, "{last:?}");
    }
}

/// Colons in ids do not make a file with a header one without.
#[test]
fn a_known_header_outweighs_double_colons() {
    let text = "user_id,item_id,timestamp\nu,ns::a::b::c,5\nu,d,6\nu,e,7\n";
    let (dataset, _) = load_both("x.csv", text, |_| ()).unwrap();
    assert_eq!(dataset.items.get(0), "ns::a::b::c");
}

#[test]
fn text_without_header_and_with_columns_that_cannot_be_told_is_refused() {
    let rows: String = (0..9).map(|i| format!("u i{i} 88000000{i}\n")).collect();
    let error = load_both("x.txt", &rows, |_| ()).unwrap_err().to_string();
    assert!(error.contains("looks like a time"), "{error}");
    let rows: String = (0..9).map(|i| format!("u i{i} {}\n", i % 6)).collect();
    let error = load_both("x.txt", &rows, |_| ()).unwrap_err().to_string();
    assert!(error.contains("looks like a rating"), "{error}");
    let sequences =
        |config: &mut b4r::config::DataConfig| config.format = Some(DataFormat::Sequences);
    assert!(load_both("x.txt", &rows, sequences).is_ok());
    // A header with names nobody told us is no interaction.
    let error = load_both("x.tsv", "customer\tarticle\n1\t2\n1\t3\n1\t4\n", |_| ()).unwrap_err();
    assert!(error.to_string().contains("`customer`, `article`"), "{error}");
    let error = load_both("x.txt", "customer article\n1 2\n1 3\n1 4\n", |_| ()).unwrap_err();
    assert!(error.to_string().contains("`customer`, `article`"), "{error}");
}

#[test]
fn delimited_text_without_header_is_read_when_told() {
    let (dataset, _) = load_both("x.csv", "u,b,5,2\nu,a,5,1\nu,c,1,3\n", |config| {
        config.format = Some(DataFormat::UData);
        config.field_separator = Some(',');
    })
    .unwrap();
    assert_eq!(histories(&dataset), lines("u a b c"));
}

#[test]
fn recbole_folders_are_found() {
    let folder = tempfile::tempdir().unwrap();
    let inside = folder.path().join("shop");
    std::fs::create_dir(&inside).unwrap();
    let text = "user_id:token\titem_id:token\nu\ta\nu\tb\nu\tc\n";
    std::fs::write(inside.join("shop.inter"), text).unwrap();
    let mut config = b4r::config::DataConfig {
        dataset: "shop".to_string(),
        data_path: Some(folder.path().to_path_buf()),
        ..Default::default()
    };
    let (dataset, _) = b4r::data::load(&config, false).unwrap();
    assert_eq!((dataset.name.as_str(), dataset.item_count()), ("shop", 3));
    config.dataset = inside.to_str().unwrap().to_string();
    config.data_path = None;
    assert_eq!(b4r::data::load(&config, false).unwrap().0.name, "shop");
    // A known name may be the user's own file there; it is read, and told to be another.
    config.dataset = "ml-1m".to_string();
    config.data_path = Some(folder.path().to_path_buf());
    std::fs::create_dir(folder.path().join("ml-1m")).unwrap();
    std::fs::write(folder.path().join("ml-1m/ml-1m.inter"), text).unwrap();
    let (_, statistics) = b4r::data::load(&config, false).unwrap();
    assert!(statistics.notes.iter().any(|note| note.contains("1000209")), "{:?}", statistics.notes);
}

#[cfg(unix)]
#[test]
fn a_pipe_is_read_like_a_file() {
    // Nothing seeks or looks twice.
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("pipe");
    assert!(std::process::Command::new("mkfifo").arg(&path).status().unwrap().success());
    let writer = path.clone();
    let thread = std::thread::spawn(move || std::fs::write(writer, "u a\nu b\nu c\n").unwrap());
    let config = b4r::config::DataConfig {
        dataset: path.to_str().unwrap().to_string(),
        ..Default::default()
    };
    let (dataset, _) = b4r::data::load(&config, false).unwrap();
    thread.join().unwrap();
    assert_eq!(histories(&dataset), lines("u a b c"));
    assert!(load_bytes("x", b"u a\nu b\nu c\n", |_| ()).is_ok());
}
