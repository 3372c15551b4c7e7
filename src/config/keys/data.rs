//! Keys that say which interactions to read and how to prepare them.

use super::{Key, Scope, Section};
use crate::config::parse::{
    Parsed, Problem, boolean, choice, interval, interval_text, name_of, optional, path, put, text,
};
use crate::config::value::Value;
use crate::config::{DataFormat, Duplicates, Interval};

const DUPLICATES: &[(&str, Duplicates)] =
    &[("none", Duplicates::Keep), ("first", Duplicates::First), ("last", Duplicates::Last)];

const FORMATS: &[(&str, Option<DataFormat>)] = &[
    ("auto", None),
    ("inter", Some(DataFormat::Inter)),
    ("csv", Some(DataFormat::Csv)),
    ("ratings.dat", Some(DataFormat::RatingsDat)),
    ("u.data", Some(DataFormat::UData)),
    ("pairs", Some(DataFormat::Pairs)),
    ("sequences", Some(DataFormat::Sequences)),
];

pub(super) const KEYS: &[Key] = &[
    Section::Data.key(
        "dataset",
        "NAME|PATH",
        "ml-100k, ml-1m, ml-20m or ml-25m (found or downloaded), or the path of an interaction file",
        |c| Some(c.data.dataset.as_str().into()),
        |c, v| put(&mut c.data.dataset, text(v)),
    )
    // A file may move: what a resumed run insists on is its content.
    .scope(Scope::Run),
    Section::Data.key(
        "data_path",
        "DIR",
        "Folder that holds <dataset>/<dataset>.inter, as RecBole lays it out",
        |c| Some(c.data.data_path.clone().into()),
        |c, v| put(&mut c.data.data_path, optional(v, path)),
    )
    .scope(Scope::Run),
    Section::Data.key(
        "format",
        "FORMAT",
        "Layout of the file: auto, inter (RecBole), csv (any separator, with a header), ratings.dat, \
         u.data, pairs (user item) or sequences (user item item ...)",
        |c| Some(name_of(c.data.format, FORMATS)),
        |c, v| put(&mut c.data.format, choice(v, FORMATS)),
    ),
    Section::Data.key(
        "field_separator",
        "CHAR",
        "Column separator of a csv or inter file, such as \\t or ; (found by itself otherwise)",
        |c| Some(c.data.field_separator.map(String::from).into()),
        |c, v| put(&mut c.data.field_separator, separator(v)),
    ),
    Section::Data.key(
        "USER_ID_FIELD",
        "COLUMN",
        "Column with the user",
        |c| Some(c.data.user_field.as_str().into()),
        |c, v| put(&mut c.data.user_field, text(v)),
    ),
    Section::Data.key(
        "ITEM_ID_FIELD",
        "COLUMN",
        "Column with the item",
        |c| Some(c.data.item_field.as_str().into()),
        |c, v| put(&mut c.data.item_field, text(v)),
    ),
    Section::Data.key(
        "RATING_FIELD",
        "COLUMN",
        "Column with the rating, a number in every line, for val_interval alone; none: there is no such column",
        |c| Some(c.data.rating_field.clone().into()),
        |c, v| put(&mut c.data.rating_field, optional(v, text)),
    ),
    Section::Data.key(
        "TIME_FIELD",
        "COLUMN",
        "Column with the time; none: lines are in time order",
        |c| Some(c.data.time_field.clone().into()),
        |c, v| put(&mut c.data.time_field, optional(v, text)),
    ),
    Section::Data.key(
        "val_interval",
        "INTERVAL",
        "Keep interactions whose rating lies inside: \"[4,inf)\", or {rating: \"[4,inf)\"} in YAML",
        |c| {
            let Some(interval) = &c.data.rating_interval else { return Some(Value::Null) };
            let field = c.data.rating_field.clone().unwrap_or_default();
            Some(Value::Map(vec![(field, interval_text(interval))]))
        },
        |c, v| put(&mut c.data.rating_interval, optional(v, rating_interval)),
    ),
    Section::Data.key(
        "user_inter_num_interval",
        "INTERVAL",
        "Keep users with this many interactions; repeated together with the items' until nothing changes",
        |c| Some(interval_text(&c.data.user_interval)),
        |c, v| put(&mut c.data.user_interval, interval_or_any(v)),
    ),
    Section::Data.key(
        "item_inter_num_interval",
        "INTERVAL",
        "Keep items with this many interactions; repeated together with the users' until nothing changes",
        |c| Some(interval_text(&c.data.item_interval)),
        |c, v| put(&mut c.data.item_interval, interval_or_any(v)),
    ),
    Section::Data.key(
        "rm_dup_inter",
        "WHICH",
        "Of several interactions of a user with one item keep the first, the last, or all (none)",
        |c| match c.data.duplicates {
            Duplicates::Keep => Some(Value::Null),
            which => Some(name_of(which, DUPLICATES)),
        },
        |c, v| {
            let which = optional(v, |v| choice(v, DUPLICATES))?;
            c.data.duplicates = which.unwrap_or(Duplicates::Keep);
            Ok(())
        },
    ),
    Section::Data.key(
        "rm_consecutive_dup",
        "",
        "Collapse runs of one item in a user's history",
        |c| Some(c.data.remove_consecutive.into()),
        |c, v| put(&mut c.data.remove_consecutive, boolean(v)),
    ),
    Section::Data.key(
        "all_data",
        "",
        "Train on every interaction, for deployment: nothing is held out and nothing evaluated, so epochs \
         has to be given",
        |c| Some(c.data.all_data.into()),
        |c, v| put(&mut c.data.all_data, boolean(v)),
    ),
];

fn interval_or_any(value: &Value) -> Parsed<Interval> {
    Ok(optional(value, interval)?.unwrap_or(Interval::at_least(0.0)))
}

/// The interval itself, or RecBole's `{rating: interval}`; which column that may be is checked later.
fn rating_interval(value: &Value) -> Parsed<Interval> {
    match value {
        Value::Map(fields) => match fields.as_slice() {
            [(_, value)] => interval(value),
            _ => Err(Problem::new(
                "only an interval of the rating is available",
                "write {rating: \"[4,inf)\"}",
            )),
        },
        other => interval(other),
    }
}

/// One character; the two characters `\t` are a tab. A space is a separator, not an absent value.
fn separator(value: &Value) -> Parsed<Option<char>> {
    let spelled = match value {
        Value::Text(text) if text == "\\t" => return Ok(Some('\t')),
        Value::Text(text) if text == " " || text == "~" => return Ok(text.chars().next()),
        other if other.is_null() => return Ok(None),
        other => text(other)?,
    };
    let mut characters = spelled.chars();
    match (characters.next(), characters.next()) {
        (Some(c), None) => Ok(Some(c)),
        _ => Err(Problem::new(
            format!("`{}` is not a single character", value.brief()),
            "write one character, or \\t for a tab; `::` files are format: ratings.dat",
        )),
    }
}
