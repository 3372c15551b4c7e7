//! Filters, order, numbering, statistics and splits.

use b4r::config::{Duplicates, Interval};
use b4r::data::{Dropped, Lengths};

use super::{histories, lines, load_both};

/// A CSV file of `user,item,rating,timestamp` rows.
fn csv(rows: &str) -> String {
    let rows: String = rows
        .split(';')
        .map(|row| row.split_whitespace().collect::<Vec<_>>().join(",") + "\n")
        .collect();
    format!("user_id,item_id,rating,timestamp\n{rows}")
}

#[test]
fn order_is_by_time_and_ties_stay_in_file_order() {
    // 64 s apart around 1.6e9, where an f32 sees one time; half a second apart; equal.
    let text = csv("u d 1 1600000064;u c 1 1600000001;u b 1 1600000000.5;u a 1 1600000000;\
                    u e 1 1600000064;v b 1 5;v a 1 5;v c 1 -1;v d 1 5");
    let (dataset, _) = load_both("x.csv", &text, |_| ()).unwrap();
    assert_eq!(histories(&dataset), lines("u a b c d e\nv c b a d"));
    let times = dataset.times.unwrap();
    assert_eq!(times[..5], [1.6e9, 1.6e9 + 0.5, 1.6e9 + 1.0, 1.6e9 + 64.0, 1.6e9 + 64.0]);
    assert_eq!(times[5..], [-1.0, 5.0, 5.0, 5.0]);
}

#[test]
fn numbers_follow_the_first_appearance_in_the_file_after_filters() {
    let text = csv("gone x 1 1;v b 5 9;u a 5 8;v x 5 2;u b 5 1;v c 5 3;u c 5 1");
    let (dataset, statistics) = load_both("x.csv", &text, |config| {
        config.rating_interval = Some(Interval::at_least(3.0));
    })
    .unwrap();
    // `x` came first but in a row that was dropped; times do not matter.
    assert_eq!(dataset.items.iter().collect::<Vec<_>>(), ["b", "a", "x", "c"]);
    assert_eq!(dataset.users.iter().collect::<Vec<_>>(), ["v", "u"]);
    assert_eq!(dataset.sequences.get(0), [3, 4, 1]);
    assert_eq!(dataset.sequences.get(1), [1, 4, 2]);
    assert_eq!(dataset.item_count(), 4);
    assert_eq!(statistics.dropped, Dropped { rating: 1, ..Dropped::default() });
}

#[test]
fn rating_bounds_are_open_or_closed() {
    let text = csv("u a 1 1;u b 2 2;u c 3 3;u d 4 4;u e 5 5");
    for (low_closed, high_closed, want) in
        [(true, true, "u b c d e"), (false, true, "u c d e"), (true, false, "u b c d")]
    {
        let interval = Interval { low: 2.0, low_closed, high: 5.0, high_closed };
        let (dataset, _) =
            load_both("x.csv", &text, |config| config.rating_interval = Some(interval)).unwrap();
        assert_eq!(histories(&dataset), lines(want));
    }
}

#[test]
fn duplicates_keep_the_first_or_the_last() {
    let text = csv("u a 1 3;u b 5 2;u a 5 1;u c 5 4;u b 5 5;v a 5 1;v a 5 1");
    for (keep, want, dropped) in [
        (Duplicates::Keep, "u a b a c b\nv a a", 0),
        (Duplicates::First, "u a b c\nv a", 3),
        (Duplicates::Last, "u a c b\nv a", 3),
    ] {
        let (dataset, statistics) =
            load_both("x.csv", &text, |config| config.duplicates = keep).unwrap();
        assert_eq!(histories(&dataset), lines(want), "{keep:?}");
        assert_eq!(statistics.dropped.duplicates, dropped);
    }
    // As in RecBole, the rating is asked of the row that was kept.
    let (dataset, _) =
        load_both("x.csv", &csv("u a 1 1;u b 5 2;u a 5 3;u c 5 4;u d 5 5"), |config| {
            config.duplicates = Duplicates::First;
            config.rating_interval = Some(Interval::at_least(3.0));
        })
        .unwrap();
    assert_eq!(histories(&dataset), lines("u b c d"));
}

#[test]
fn consecutive_duplicates_collapse_also_after_the_core() {
    let text =
        csv("u a 1 1;u a 1 2;u b 1 3;u a 1 4;u c 1 5;u c 1 6;u d 1 7;v a 1 1;v c 1 2;v d 1 3");
    let (dataset, statistics) =
        load_both("x.csv", &text, |config| config.remove_consecutive = true).unwrap();
    assert_eq!(histories(&dataset), lines("u a b a c d\nv a c d"));
    assert_eq!(dataset.times.unwrap()[..5], [1.0, 3.0, 4.0, 5.0, 7.0]);
    assert_eq!(statistics.dropped, Dropped { consecutive: 2, ..Dropped::default() });
    let (dataset, statistics) = load_both("x.csv", &text, |config| {
        config.remove_consecutive = true;
        config.item_interval = Interval::at_least(2.0);
    })
    .unwrap();
    // Without `b` its neighbours become one.
    assert_eq!(histories(&dataset), lines("u a c d\nv a c d"));
    assert_eq!(statistics.dropped, Dropped { consecutive: 3, core: 1, ..Dropped::default() });
}

#[test]
fn the_core_is_iterated_to_a_fixed_point() {
    // A chain: each removal undoes the next; only the ring of x, y, z stays.
    let mut rows = String::new();
    for i in 0..2000 {
        rows += &format!("c{i} i{i} 1 1;c{i} i{} 1 2;", i + 1);
    }
    for user in ["p", "q", "r"] {
        for item in ["x", "y", "z"] {
            rows += &format!("{user} {item} 1 1;");
        }
    }
    let (dataset, statistics) = load_both("x.csv", &csv(rows.trim_end_matches(';')), |config| {
        config.user_interval = Interval::at_least(2.0);
        config.item_interval = Interval::at_least(2.0);
    })
    .unwrap();
    assert_eq!(histories(&dataset), lines("p x y z\nq x y z\nr x y z"));
    assert_eq!(statistics.dropped.core, 4000);
}

#[test]
fn upper_bounds_are_judged_with_the_lower_ones() {
    // `h` is above the bound and falls at once; then `w` has too few.
    let text = csv("u a 1 1;u b 1 2;u c 1 3;u h 1 4;v a 1 1;v b 1 2;v c 1 3;v h 1 4;\
                    w a 1 1;w h 1 2;w b 1 3;w c 1 4;x h 1 1;x d 1 2");
    let (dataset, _) = load_both("x.csv", &text, |config| {
        config.user_interval = Interval::at_least(2.0);
        config.item_interval =
            Interval { low: 0.0, low_closed: true, high: 3.0, high_closed: true };
    })
    .unwrap();
    assert_eq!(histories(&dataset), lines("u a b c\nv a b c\nw a b c"));
}

#[test]
fn rows_without_an_id_are_left_out_and_counted() {
    let text = csv("u a 1 1;u b 1 2;u c 1 3;u d 1 4").replace("u,b", ",b").replace("u,c", "u,");
    let (dataset, statistics) = load_both("x.csv", &(text + "u,e,1,5\n"), |_| ()).unwrap();
    assert_eq!(histories(&dataset), lines("u a d e"));
    assert_eq!((statistics.dropped.without_id, statistics.rows_read), (2, 5));
}

#[test]
fn statistics_count_what_is_left() {
    let text = "u1 a b c d\nu2 a b c\nu3 a b\nu4 a\nu5 a a a a a a\n";
    let (dataset, statistics) = load_both("x.txt", text, |_| ()).unwrap();
    assert_eq!((statistics.users, statistics.items, statistics.interactions), (5, 4, 16));
    assert_eq!(statistics.density, 16.0 / 20.0);
    assert_eq!(
        statistics.lengths,
        Lengths {
            minimum: 1,
            lower_quartile: 2,
            median: 3,
            upper_quartile: 4,
            percentile_95: 4,
            maximum: 6,
            mean: 3.2
        }
    );
    assert_eq!(statistics.short_users, 2);
    assert_eq!(dataset.sha256.len(), 64);
    let shown = statistics.to_string();
    for part in ["users         5", "1 / 2 / 3 / 4 / 4 / 6, mean 3.2", "2 users have fewer than 3"]
    {
        assert!(shown.contains(part), "`{part}` is not in:\n{shown}");
    }
}
