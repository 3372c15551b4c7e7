//! Spellings of RecBole before version 1, rewritten as what they are called today. RecBole itself ignores
//! them in silence.

use super::parse::{self, Problem};
use super::resolve::{Entry, problem_at};
use super::value::Value;
use crate::Result;

/// The old names.
pub const NAMES: &[&str] = &[
    "eval_setting",
    "split_ratio",
    "leave_one_num",
    "group_by_user",
    "min_user_inter_num",
    "max_user_inter_num",
    "min_item_inter_num",
    "max_item_inter_num",
];

/// One source with its old spellings replaced, and a line for each of them.
pub(super) struct Rewritten {
    pub entries: Vec<Entry>,
    pub notes: Vec<String>,
}

/// Replaces the old spellings of one file, or of all flags.
pub(super) fn rewrite(source: Vec<Entry>) -> Result<Rewritten> {
    let is_old = |entry: &Entry| NAMES.contains(&entry.key.as_str());
    let (old, new): (Vec<Entry>, Vec<Entry>) = source.into_iter().partition(is_old);
    // A present spelling of the same thing in the same file is refused as given twice.
    let mut out = Rewritten { entries: Vec::new(), notes: Vec::new() };
    let find = |name: &str| old.iter().rfind(|entry| entry.key == name && !entry.value.is_null());
    out.evaluation(find("eval_setting"), find("split_ratio"), find("leave_one_num"))?;
    if let Some(entry) = find("group_by_user") {
        let by_user = parse::boolean(&entry.value).map_err(|problem| problem_at(entry, problem))?;
        out.replace(entry, "eval_args.group_by", if by_user { "user" } else { "none" }.into());
    }
    for (least, most, name) in [
        ("min_user_inter_num", "max_user_inter_num", "user_inter_num_interval"),
        ("min_item_inter_num", "max_item_inter_num", "item_inter_num_interval"),
    ] {
        out.interval(find(least), find(most), name)?;
    }
    out.entries.extend(new);
    Ok(out)
}

impl Rewritten {
    fn replace(&mut self, entry: &Entry, key: &str, value: Value) {
        let Entry { key: old, place, .. } = entry;
        self.notes.push(format!("{old} ({place}): old spelling, read as {key}: {value}"));
        self.entries.push(Entry { key: key.to_string(), value, place: place.clone() });
    }

    /// `eval_setting: TO_RS,full` and what belongs to it.
    fn evaluation(
        &mut self,
        setting: Option<&Entry>,
        ratio: Option<&Entry>,
        leave_one: Option<&Entry>,
    ) -> Result<()> {
        let (rule, mode) = setting.map(read_setting).transpose()?.unzip();
        let by_ratio = rule.unwrap_or(if ratio.is_some() { "RS" } else { "LS" }) == "RS";
        if let Some(entry) = leave_one.filter(|_| !by_ratio) {
            require_two(entry)?;
        }
        let idle = if by_ratio { leave_one } else { ratio };
        if let Some(Entry { key, place, .. }) = idle {
            self.notes.push(format!("{key} ({place}): ignored: the split is another one"));
        }
        let Some(entry) = setting.or(if by_ratio { ratio } else { leave_one }) else {
            return Ok(());
        };
        let rule = if by_ratio {
            let shares = ratio.map(|entry| entry.value.clone());
            let usual = || Value::List([0.8, 0.1, 0.1].map(Value::from).to_vec());
            ("RS".to_string(), shares.unwrap_or_else(usual))
        } else {
            ("LS".to_string(), "valid_and_test".into())
        };
        self.replace(entry, "eval_args.split", Value::Map(vec![rule]));
        if let (Some(entry), Some(mode)) = (setting, mode) {
            self.replace(entry, "eval_args.mode", mode.into());
        }
        Ok(())
    }

    /// A least and a most number of interactions as an interval.
    fn interval(&mut self, least: Option<&Entry>, most: Option<&Entry>, name: &str) -> Result<()> {
        let Some(entry) = least.or(most) else { return Ok(()) };
        let number = |entry: &Entry| {
            parse::integer(&entry.value, 0, u64::MAX).map_err(|problem| problem_at(entry, problem))
        };
        let low = least.map(number).transpose()?.unwrap_or(0);
        let text = match most.map(number).transpose()? {
            Some(high) => format!("[{low},{high}]"),
            None => format!("[{low},inf)"),
        };
        self.replace(entry, name, text.into());
        Ok(())
    }
}

/// Split and mode of `TO_LS,full`.
fn read_setting(entry: &Entry) -> Result<(&'static str, String)> {
    let text = match &entry.value {
        Value::Text(text) => text.clone(),
        Value::List(parts) => parts.iter().map(Value::brief).collect::<Vec<_>>().join(","),
        other => other.brief(),
    };
    let (order, mode) = text.split_once(',').unwrap_or((&text, "full"));
    let rule = match order.trim().to_ascii_uppercase().as_str() {
        "TO_LS" => "LS",
        "TO_RS" => "RS",
        _ => {
            return Err(problem_at(
                entry,
                Problem::new(
                    format!(
                        "`{}` is not in time order, or no split that there is",
                        entry.value.brief()
                    ),
                    "write eval_args: {split: {LS: valid_and_test}, order: TO, mode: full}",
                ),
            ));
        }
    };
    Ok((rule, mode.trim().to_string()))
}

fn require_two(entry: &Entry) -> Result<()> {
    match parse::integer(&entry.value, 2, 2) {
        Ok(_) => Ok(()),
        Err(_) => Err(problem_at(
            entry,
            Problem::new(
                format!("`{}`: leave-one-out keeps two items back", entry.value.brief()),
                "write 2, or eval_args: {split: {LS: test_only}} to keep one back",
            ),
        )),
    }
}
