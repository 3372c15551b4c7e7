//! From rows in file order to numbered sequences.
//!
//! The filters run in RecBole's order: duplicates, ratings, then consecutive duplicates (ours) together
//! with the k-core. Numbers follow the first appearance in the file of what is left.

use super::core::{Bounds, Rows, filled, group, reduce};
use super::statistics::{Dropped, Statistics};
use super::table::{Table, reserve};
use super::{Dataset, Histories, Sequences, Vocabulary};
use crate::config::{DataConfig, Duplicates};
use crate::{Error, Result};

/// No number yet.
const NONE: u32 = u32::MAX;

/// Filters, sorts and numbers the rows of `table`.
pub(super) fn prepare(
    name: String,
    table: Table,
    config: &DataConfig,
) -> Result<(Dataset, Statistics)> {
    let (offsets, order) = sort(&table)?;
    let mut alive = filled(table.user.len(), true)?;
    let mut dropped = Dropped { without_id: table.without_id, ..Dropped::default() };
    dropped.duplicates = drop_duplicates(&table, &offsets, &order, config.duplicates, &mut alive)?;
    if let Some(passes) = &table.rating_passes {
        for (alive, passes) in alive.iter_mut().zip(passes) {
            dropped.rating += u64::from(*alive && !passes);
            *alive &= passes;
        }
    }
    let rows = Rows {
        user: &table.user,
        item: &table.item,
        order: &order,
        offsets: &offsets,
        items: table.items.len(),
    };
    let bounds = Bounds {
        user: config.user_interval,
        item: config.item_interval,
        remove_consecutive: config.remove_consecutive,
    };
    let removed = reduce(&rows, &bounds, &mut alive)?;
    (dropped.consecutive, dropped.core) = (removed.consecutive, removed.core);
    let dataset = finish(name, &table, &offsets, &order, &alive)?;
    let statistics = Statistics::new(&dataset, &table, dropped);
    refuse_too_little(&statistics, config.all_data)?;
    Ok((dataset, statistics))
}

/// The rows of `table` by user and time, all of them.
pub(super) fn histories(table: Table) -> Result<Histories> {
    let (offsets, order) = sort(&table)?;
    let mut sequences = Sequences::default();
    reserve(&mut sequences.offsets, offsets.len())?;
    reserve(&mut sequences.items, order.len())?;
    sequences.offsets.extend(offsets.iter().map(|&offset| u64::from(offset)));
    sequences.items.extend(order.iter().map(|&row| table.item[row as usize] + 1));
    Ok(Histories { users: table.users, items: table.items, sequences })
}

/// `[users + 1]` offsets and the rows sorted by user, time and place in the file.
///
/// # Errors
/// [`Error::Input`] for more rows than 32 bits count; [`Error::Memory`].
fn sort(table: &Table) -> Result<(Vec<u32>, Vec<u32>)> {
    if table.user.len() >= u32::MAX as usize {
        let problem = format!("the file holds {} interactions", table.user.len());
        return Err(Error::input(&table.path, problem, "give a file with fewer than 2^32 - 1"));
    }
    let (offsets, mut order) = group(&table.user, table.users.len())?;
    if let Some(time) = &table.time {
        for range in offsets.windows(2) {
            // A stable sort: equal times stay in file order.
            order[range[0] as usize..range[1] as usize]
                .sort_by(|&a, &b| time[a as usize].total_cmp(&time[b as usize]));
        }
    }
    Ok((offsets, order))
}

fn drop_duplicates(
    table: &Table,
    offsets: &[u32],
    order: &[u32],
    keep: Duplicates,
    alive: &mut [bool],
) -> Result<u64> {
    if keep == Duplicates::Keep {
        return Ok(0);
    }
    let mut dropped = 0;
    // The last user by whom each item was met.
    let mut met_by = filled(table.items.len(), NONE)?;
    let mut meet = |row: u32| {
        let met_by = &mut met_by[table.item[row as usize] as usize];
        let user = table.user[row as usize];
        if *met_by == user {
            alive[row as usize] = false;
            dropped += 1;
        }
        *met_by = user;
    };
    for range in offsets.windows(2) {
        let history = &order[range[0] as usize..range[1] as usize];
        match keep {
            Duplicates::Last => history.iter().rev().copied().for_each(&mut meet),
            _ => history.iter().copied().for_each(&mut meet),
        }
    }
    Ok(dropped)
}

/// Numbers what is left and lays it out user by user.
fn finish(
    name: String,
    table: &Table,
    offsets: &[u32],
    order: &[u32],
    alive: &[bool],
) -> Result<Dataset> {
    let users = Renumbered::new(&table.user, table.users.len(), alive)?;
    let items = Renumbered::new(&table.item, table.items.len(), alive)?;
    let kept = alive.iter().filter(|alive| **alive).count();
    let mut sequences = Sequences::default();
    reserve(&mut sequences.offsets, users.old.len() + 1)?;
    reserve(&mut sequences.items, kept)?;
    let mut times = table.time.as_ref().map(|_| Vec::new());
    if let Some(times) = &mut times {
        reserve(times, kept)?;
    }
    sequences.offsets.push(0);
    for &old in &users.old {
        let (start, end) = (offsets[old as usize], offsets[old as usize + 1]);
        for &row in &order[start as usize..end as usize] {
            let row = row as usize;
            if alive[row] {
                // 0 is PAD, so items count from 1.
                sequences.items.push(items.new[table.item[row] as usize] + 1);
                if let (Some(times), Some(time)) = (&mut times, &table.time) {
                    times.push(time[row]);
                }
            }
        }
        sequences.offsets.push(sequences.items.len() as u64);
    }
    Ok(Dataset {
        name,
        sha256: table.sha256.clone(),
        users: users.pick(&table.users)?,
        items: items.pick(&table.items)?,
        sequences,
        times,
    })
}

/// New numbers, from 0, in order of first appearance among the rows left.
struct Renumbered {
    /// New number of each old one.
    new: Vec<u32>,
    /// Old number of each new one.
    old: Vec<u32>,
}

impl Renumbered {
    fn new(column: &[u32], distinct: usize, alive: &[bool]) -> Result<Self> {
        let mut new = filled(distinct, NONE)?;
        let mut old = Vec::new();
        reserve(&mut old, distinct)?;
        for (&value, _) in column.iter().zip(alive).filter(|(_, alive)| **alive) {
            if new[value as usize] == NONE {
                new[value as usize] = old.len() as u32;
                old.push(value);
            }
        }
        Ok(Renumbered { new, old })
    }

    fn pick(&self, strings: &Vocabulary) -> Result<Vocabulary> {
        let mut picked = Vocabulary::default();
        for &old in &self.old {
            picked.try_push(strings.get(old as usize))?;
        }
        Ok(picked)
    }
}

/// No model can be trained and judged on less than this.
fn refuse_too_little(statistics: &Statistics, all_data: bool) -> Result<()> {
    let was = if statistics.dropped.total() > 0 {
        format!(" after the filters ({})", statistics.dropped)
    } else {
        String::new()
    };
    let (problem, remedy) = if statistics.interactions == 0 {
        ("no interaction is left".to_string(), "loosen the filters")
    } else if statistics.items < 2 {
        (
            "there is only 1 item, a model needs 2 at least".to_string(),
            "give a file with more items",
        )
    } else if statistics.short_users == statistics.users && !all_data {
        (
            format!(
                "none of the {} users has 3 interactions: one to learn from, one for validation, one for \
                 the test",
                statistics.users
            ),
            "give longer histories; if each line is a user followed by items, set format to `sequences`",
        )
    } else {
        return Ok(());
    };
    Err(Error::input(&statistics.path, problem + &was, remedy))
}
