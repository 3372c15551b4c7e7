//! Public data sets, where the environment has them: `B4R_DATA` is a folder with `<name>/<file>`.

use std::path::PathBuf;

use b4r::config::{DataConfig, DataFormat, EvalConfig, Grouping, Shares, SplitRule};
use b4r::data::{SplitCounts, load, split};

/// Folder and file, users, items, interactions.
const FILES: [(&str, u64, u64, u64); 10] = [
    ("ml-100k/ml-100k.inter", 943, 1_682, 100_000),
    ("ml-1m/ml-1m.txt.gz", 6_040, 3_416, 999_611),
    ("beauty-bert4rec/beauty.txt.gz", 40_226, 54_542, 353_962),
    ("beauty-s3rec/Beauty.txt", 22_363, 12_101, 198_502),
    ("toys-s3rec/Toys_and_Games.txt", 19_412, 11_924, 167_597),
    ("sports-s3rec/Sports_and_Outdoors.txt", 35_598, 18_357, 296_337),
    ("yelp-s3rec/Yelp.txt", 30_431, 20_033, 316_354),
    ("lastfm-s3rec/LastFM.txt", 1_090, 3_646, 52_551),
    ("games-sasrec/Video.txt.gz", 31_013, 23_715, 287_107),
    ("online-retail-uci/online-retail-uci.inter.gz", 4_334, 3_659, 386_250),
];

fn data() -> Option<PathBuf> {
    let folder = std::env::var_os("B4R_DATA").map(PathBuf::from);
    if folder.is_none() {
        eprintln!("skipped: B4R_DATA is not set");
    }
    folder
}

#[test]
fn public_files_have_their_known_counts() {
    let Some(folder) = data() else { return };
    for (file, users, items, interactions) in FILES {
        let path = folder.join(file);
        if !path.is_file() {
            eprintln!("skipped: {file} is not in B4R_DATA");
            continue;
        }
        let dataset = path.to_str().unwrap().to_string();
        let (dataset, statistics) =
            load(&DataConfig { dataset, ..DataConfig::default() }, false).unwrap();
        let found = (statistics.users, statistics.items, statistics.interactions);
        assert_eq!(found, (users, items, interactions), "{file}");
        assert_eq!(dataset.times.is_some(), file.contains(".inter"), "{file}");
        let split = split(&dataset.sequences, None, &EvalConfig::default(), 0).unwrap();
        assert_eq!(split.test.len() as u64 + statistics.short_users, users, "{file}");
    }
}

#[test]
fn ml_100k_is_found_by_name() {
    let Some(folder) = data() else { return };
    if !folder.join("ml-100k/ml-100k.inter").is_file() {
        eprintln!("skipped: ml-100k is not in B4R_DATA");
        return;
    }
    let (dataset, statistics) = load(&DataConfig::default(), false).unwrap();
    assert_eq!((statistics.users, statistics.items, statistics.rows_read), (943, 1_682, 100_000));
    assert_eq!(dataset.name, "ml-100k");
    assert_eq!(dataset.sha256, "4edb74e2a81178c2ba9ff381495f754f996c4aea351b1272ca36b43da0935eff");
    // Its first row is user 196 with item 242.
    assert_eq!((dataset.users.get(0), dataset.items.get(0)), ("196", "242"));
    let times = dataset.times.unwrap();
    for user in 0..dataset.sequences.len() {
        let (start, end) = (
            dataset.sequences.offsets[user] as usize,
            dataset.sequences.offsets[user + 1] as usize,
        );
        assert!(times[start..end].is_sorted());
    }
}

#[test]
fn given_formats_agree_with_the_recognised_ones() {
    let Some(folder) = data() else { return };
    for (file, format) in [
        ("ml-1m/ml-1m.txt.gz", DataFormat::Pairs),
        ("lastfm-s3rec/LastFM.txt", DataFormat::Sequences),
    ] {
        let path = folder.join(file);
        if path.is_file() {
            let dataset = path.to_str().unwrap().to_string();
            let mut config = DataConfig { dataset, ..DataConfig::default() };
            let (sniffed, _) = load(&config, false).unwrap();
            config.format = Some(format);
            assert_eq!(load(&config, false).unwrap().0.sequences, sniffed.sequences);
        }
    }
}

/// Rows and users as RecBole 1.2.1 counts them on its own ml-100k, where times do not come together by
/// being rounded to 32 bits.
#[test]
fn splits_of_ml_100k_have_the_rows_that_recbole_has() {
    let Some(folder) = data() else { return };
    if !folder.join("ml-100k/ml-100k.inter").is_file() {
        eprintln!("skipped: ml-100k is not in B4R_DATA");
        return;
    }
    let (dataset, _) = load(&DataConfig::default(), false).unwrap();
    let counts = |split_rule, grouping| {
        let eval = EvalConfig { split: split_rule, grouping, ..EvalConfig::default() };
        let split = split(&dataset.sequences, dataset.times.as_deref(), &eval, 0).unwrap();
        let counts = SplitCounts::new(&split);
        [
            (counts.train_rows, counts.train_users),
            (counts.valid_rows, counts.valid_users),
            (counts.test_rows, counts.test_users),
        ]
    };
    let four = SplitRule::Ratio(Shares([4.0, 1.0, 1.0]));
    assert_eq!(counts(four, Grouping::None), [(66_039, 645), (16_509, 250), (16_509, 241)]);
    assert_eq!(counts(four, Grouping::User), [(66_829, 943), (16_114, 943), (16_114, 943)]);
    let eight = SplitRule::Ratio(Shares([8.0, 1.0, 1.0]));
    assert_eq!(counts(eight, Grouping::User), [(80_065, 943), (9_496, 943), (9_496, 943)]);
    let seven = SplitRule::Ratio(Shares([0.7, 0.1, 0.2]));
    assert_eq!(counts(seven, Grouping::None), [(69_341, 673), (9_905, 162), (19_811, 301)]);
    let [train, valid, test] = counts(SplitRule::Time(Shares([8.0, 1.0, 1.0])), Grouping::User);
    assert_eq!((train.0 + valid.0 + test.0, test.0), (99_057, 9_906));
    assert_eq!((train.1, valid.1, test.1), (866, 866, 166));
}
