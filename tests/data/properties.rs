//! Properties: no bytes make a parser panic, what is written is read back, and the fast k-core is the naive one.

use std::collections::HashMap;

use b4r::config::{DataFormat, Interval};
use proptest::prelude::*;

use super::{gzip, histories, load_bytes};

const FORMATS: [DataFormat; 6] = [
    DataFormat::Inter,
    DataFormat::Csv,
    DataFormat::RatingsDat,
    DataFormat::UData,
    DataFormat::Pairs,
    DataFormat::Sequences,
];

/// Bytes that come near what the parsers look for.
fn nearly_text() -> impl Strategy<Value = Vec<u8>> {
    let piece = prop_oneof![
        prop::sample::select(vec![
            "user_id",
            "item_id",
            "user_id:token",
            "item_id:token",
            "timestamp:float",
            "rating",
            "\t",
            "\t",
            ",",
            ",",
            "::",
            ";",
            "|",
            " ",
            "\n",
            "\n",
            "\n",
            "\r\n",
            "\"",
            "\u{feff}",
            "1",
            "23",
            "880000000",
            "4.5",
            "nan",
            "1e999",
            "-",
            "ü",
            "x",
        ])
        .prop_map(|text: &str| text.as_bytes().to_vec()),
        prop::collection::vec(any::<u8>(), 0..4),
    ];
    prop::collection::vec(piece, 0..60).prop_map(|pieces| pieces.concat())
}

/// A history of ids that the strategy makes.
fn any_histories(id: &'static str) -> impl Strategy<Value = Vec<(String, Vec<String>)>> {
    let history = prop::collection::vec(id, 3..8);
    prop::collection::hash_map(id, history, 1..8).prop_map(|map| {
        let mut histories: Vec<_> = map.into_iter().collect();
        histories.sort();
        // Two different items at least, so that the file is not refused.
        histories[0].1.extend(["first".to_string(), "second".to_string()]);
        histories
    })
}

/// Writes the histories in a format.
fn write(format: DataFormat, histories: &[(String, Vec<String>)]) -> String {
    let quote = |id: &str| format!("\"{}\"", id.replace('"', "\"\""));
    let mut text = String::new();
    match format {
        DataFormat::Inter => text += "timestamp:float\titem_id:token\tuser_id:token\n",
        DataFormat::Csv => text += "user_id,timestamp,item_id\n",
        _ => {}
    }
    for (user, items) in histories {
        if format == DataFormat::Sequences {
            text += &format!("{user} {}\n", items.join(" "));
            continue;
        }
        for (time, item) in items.iter().enumerate() {
            text += &match format {
                DataFormat::Inter => format!("{time}\t{item}\t{user}\n"),
                DataFormat::Csv => format!("{},{time},{}\n", quote(user), quote(item)),
                DataFormat::RatingsDat => format!("{user}::{item}::1::{time}\n"),
                DataFormat::UData => format!("{user}\t{item}\t1\t{time}\n"),
                _ => format!("{user} {item}\n"),
            };
        }
    }
    text
}

fn round_trip(format: DataFormat, want: &[(String, Vec<String>)]) -> Result<(), TestCaseError> {
    let text = write(format, want);
    for bytes in [text.as_bytes().to_vec(), gzip(text.as_bytes())] {
        let (dataset, _) = load_bytes("x", &bytes, |config| config.format = Some(format))
            .map_err(|error| TestCaseError::fail(format!("{error}\n{text:?}")))?;
        prop_assert_eq!(&histories(&dataset)[..], want);
    }
    Ok(())
}

/// The k-core by the definition: count anew until nothing changes.
fn naive_core(
    mut rows: Vec<(u8, u8)>,
    user_bounds: Interval,
    item_bounds: Interval,
    collapse: bool,
) -> Vec<(u8, u8)> {
    loop {
        let before = rows.len();
        if collapse {
            let mut last = HashMap::new();
            rows.retain(|&(user, item)| last.insert(user, item) != Some(item));
        }
        let (mut users, mut items) = (HashMap::new(), HashMap::new());
        for &(user, item) in &rows {
            *users.entry(user).or_insert(0.0) += 1.0;
            *items.entry(item).or_insert(0.0) += 1.0;
        }
        rows.retain(|(user, item)| {
            user_bounds.contains(users[user]) && item_bounds.contains(items[item])
        });
        if rows.len() == before {
            return rows;
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn no_bytes_make_a_parser_panic(bytes in nearly_text(), cut in 0usize..200) {
        let packed = gzip(&bytes);
        let cut_short = &packed[..packed.len().saturating_sub(cut)];
        for format in FORMATS.map(Some).into_iter().chain([None]) {
            for (name, bytes) in [("x.csv", &bytes[..]), ("x.inter", cut_short)] {
                if let Err(error) = load_bytes(name, bytes, |config| config.format = format) {
                    prop_assert_eq!(error.exit_code(), 2, "{}", error);
                }
            }
        }
    }

    #[test]
    fn arbitrary_bytes_are_an_error_or_data(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        if let Err(error) = load_bytes("x", &bytes, |_| ()) {
            prop_assert_eq!(error.exit_code(), 2, "{}", error);
        }
    }

    #[test]
    fn quoted_text_round_trips(histories in any_histories("[a-c \",;\t\n:é🧀]{1,6}[a-z]")) {
        round_trip(DataFormat::Csv, &histories)?;
    }

    #[test]
    fn atomic_files_round_trip(histories in any_histories("[a-c \",;:é🧀]{1,6}[a-z]")) {
        round_trip(DataFormat::Inter, &histories)?;
        round_trip(DataFormat::UData, &histories)?;
    }

    #[test]
    fn bare_ids_round_trip(histories in any_histories("[a-c\",;:é🧀0-9]{1,6}[a-z]")) {
        round_trip(DataFormat::Pairs, &histories)?;
        round_trip(DataFormat::Sequences, &histories)?;
    }

    #[test]
    fn double_colons_round_trip(histories in any_histories("[a-c \",;é🧀0-9]{1,6}[a-z]")) {
        round_trip(DataFormat::RatingsDat, &histories)?;
    }

    #[test]
    fn the_core_is_the_naive_fixed_point(
        rows in prop::collection::vec((0u8..12, 0u8..12), 1..120),
        (least_user, least_item) in (1u32..6, 1u32..6),
        (most_user, most_item) in (prop::option::of(6u32..14), prop::option::of(6u32..14)),
        collapse in any::<bool>(),
    ) {
        let interval = |least: u32, most: Option<u32>| Interval {
            low: f64::from(least),
            low_closed: true,
            high: most.map_or(f64::INFINITY, f64::from),
            high_closed: false,
        };
        // Upper bounds with collapsing have no single fixed point; the order of removal decides.
        let (most_user, most_item) = if collapse { (None, None) } else { (most_user, most_item) };
        let users = interval(least_user, most_user);
        let items = interval(least_item, most_item);
        let want = naive_core(rows.clone(), users, items, collapse);
        let text: String = rows.iter().map(|(user, item)| format!("u{user} i{item}\n")).collect();
        let result = load_bytes("x", text.as_bytes(), |config| {
            config.format = Some(DataFormat::Pairs);
            config.user_interval = users;
            config.item_interval = items;
            config.remove_consecutive = collapse;
        });
        let longest = want.iter().fold(HashMap::new(), |mut lengths, (user, _)| {
            *lengths.entry(user).or_insert(0) += 1;
            lengths
        });
        let distinct = want.iter().map(|(_, item)| item).collect::<std::collections::HashSet<_>>();
        match result {
            Ok((dataset, statistics)) => {
                let mut expected: Vec<(String, Vec<String>)> = Vec::new();
                for (user, item) in &want {
                    let (user, item) = (format!("u{user}"), format!("i{item}"));
                    match expected.iter_mut().find(|(u, _)| *u == user) {
                        Some((_, items)) => items.push(item),
                        None => expected.push((user, vec![item])),
                    }
                }
                prop_assert_eq!(histories(&dataset), expected);
                prop_assert_eq!(statistics.dropped.total(), (rows.len() - want.len()) as u64);
            }
            Err(error) => prop_assert!(
                distinct.len() < 2 || longest.values().all(|length| *length < 3),
                "{}", error
            ),
        }
    }
}
