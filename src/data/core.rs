//! The k-core and the removal of consecutive duplicates, taken to a common fixed point.
//!
//! Each can undo the other: a user who loses items may get two equal neighbours, and collapsing them may
//! push an item below its bound. Work goes in rounds, as in RecBole: all users and items whose counts lie
//! outside their interval are banned at once, then the counts are judged anew. Only counts that changed in
//! a round are looked at in the next, and nobody is banned twice, so the whole costs time linear in the
//! rows, however many rounds a chain of removals takes.

use super::table::reserve;
use crate::Result;
use crate::config::Interval;

/// No row.
const NONE: u32 = u32::MAX;

/// The rows to reduce. Row numbers are positions in the file.
pub(super) struct Rows<'a> {
    /// `[rows]` user of each row.
    pub user: &'a [u32],
    /// `[rows]` item of each row.
    pub item: &'a [u32],
    /// `[rows]` rows sorted by user, then time.
    pub order: &'a [u32],
    /// `[users + 1]` where each user begins in `order`.
    pub offsets: &'a [u32],
    /// Number of items.
    pub items: usize,
}

/// What remains is what [`reduce`] keeps `alive`.
pub(super) struct Bounds {
    pub user: Interval,
    pub item: Interval,
    pub remove_consecutive: bool,
}

/// Rows removed, by cause.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Removed {
    pub consecutive: u64,
    pub core: u64,
}

/// Clears `alive` for every row that the bounds ask to remove.
pub(super) fn reduce(rows: &Rows, bounds: &Bounds, alive: &mut [bool]) -> Result<Removed> {
    let bounded = [bounds.user, bounds.item].iter().any(|interval| excludes_some(*interval));
    if !bounded && !bounds.remove_consecutive {
        return Ok(Removed::default());
    }
    let mut work = Work::new(rows, bounds.remove_consecutive, alive)?;
    if bounds.remove_consecutive {
        work.collapse_all();
    }
    if bounded {
        work.peel(bounds)?;
    }
    Ok(work.removed)
}

/// Whether some positive count lies outside.
fn excludes_some(interval: Interval) -> bool {
    !interval.contains(1.0) || interval.high != f64::INFINITY
}

/// How often each user or item occurs, and whose count changed since the last look.
struct Counts {
    count: Vec<u32>,
    touched: Vec<u32>,
    is_touched: Vec<bool>,
}

impl Counts {
    fn new(length: usize) -> Result<Self> {
        Ok(Counts {
            count: filled(length, 0)?,
            touched: Vec::new(),
            is_touched: filled(length, true)?,
        })
    }

    fn decrease(&mut self, index: u32) {
        let i = index as usize;
        self.count[i] -= 1;
        if !self.is_touched[i] {
            self.is_touched[i] = true;
            self.touched.push(index);
        }
    }

    /// Those among the changed whose count is outside `interval`; the changes are forgotten.
    fn outside(&mut self, interval: Interval) -> Vec<u32> {
        let touched = std::mem::take(&mut self.touched);
        touched
            .into_iter()
            .filter(|&index| {
                self.is_touched[index as usize] = false;
                let count = self.count[index as usize];
                count > 0 && !interval.contains(f64::from(count))
            })
            .collect()
    }
}

struct Work<'a> {
    rows: &'a Rows<'a>,
    alive: &'a mut [bool],
    users: Counts,
    items: Counts,
    /// `[rows]` neighbours within the user's history; empty unless neighbours are compared.
    next: Vec<u32>,
    previous: Vec<u32>,
    removed: Removed,
}

impl<'a> Work<'a> {
    fn new(rows: &'a Rows<'a>, linked: bool, alive: &'a mut [bool]) -> Result<Self> {
        let mut users = Counts::new(rows.offsets.len() - 1)?;
        let mut items = Counts::new(rows.items)?;
        users.touched.extend(0..users.count.len() as u32);
        items.touched.extend(0..items.count.len() as u32);
        for row in (0..alive.len()).filter(|&row| alive[row]) {
            users.count[rows.user[row] as usize] += 1;
            items.count[rows.item[row] as usize] += 1;
        }
        let links = if linked { alive.len() } else { 0 };
        let (mut next, mut previous) = (filled(links, NONE)?, filled(links, NONE)?);
        if linked {
            for range in rows.offsets.windows(2) {
                let mut last = NONE;
                for &row in &rows.order[range[0] as usize..range[1] as usize] {
                    if alive[row as usize] {
                        previous[row as usize] = last;
                        if last != NONE {
                            next[last as usize] = row;
                        }
                        last = row;
                    }
                }
            }
        }
        Ok(Work { rows, alive, users, items, next, previous, removed: Removed::default() })
    }

    /// Keeps the first of each run of equal neighbours.
    fn collapse_all(&mut self) {
        for &row in self.rows.order {
            if self.alive[row as usize] && self.repeats(row) {
                self.take_out(row);
                self.removed.consecutive += 1;
            }
        }
    }

    /// Bans users and items in rounds until all counts lie inside.
    fn peel(&mut self, bounds: &Bounds) -> Result<()> {
        let mut by_item: Option<(Vec<u32>, Vec<u32>)> = None;
        loop {
            let users = self.users.outside(bounds.user);
            let items = self.items.outside(bounds.item);
            if users.is_empty() && items.is_empty() {
                return Ok(());
            }
            for user in users {
                let range = self.rows.offsets[user as usize]..self.rows.offsets[user as usize + 1];
                for position in range {
                    self.ban(self.rows.order[position as usize]);
                }
            }
            if items.is_empty() {
                continue;
            }
            if by_item.is_none() {
                by_item = Some(group(self.rows.item, self.rows.items)?);
            }
            if let Some((offsets, grouped)) = &by_item {
                for item in items {
                    let (start, end) = (offsets[item as usize], offsets[item as usize + 1]);
                    for &row in &grouped[start as usize..end as usize] {
                        self.ban(row);
                    }
                }
            }
        }
    }

    fn ban(&mut self, row: u32) {
        if !self.alive[row as usize] {
            return;
        }
        let after = self.next.get(row as usize).copied().unwrap_or(NONE);
        self.take_out(row);
        self.removed.core += 1;
        // No two neighbours were equal before, so at most the pair that has just met is.
        if after != NONE && self.repeats(after) {
            self.take_out(after);
            self.removed.consecutive += 1;
        }
    }

    /// Whether the row before `row` in the user's history has the same item.
    fn repeats(&self, row: u32) -> bool {
        let before = self.previous[row as usize];
        before != NONE && self.rows.item[before as usize] == self.rows.item[row as usize]
    }

    fn take_out(&mut self, row: u32) {
        let r = row as usize;
        self.alive[r] = false;
        self.users.decrease(self.rows.user[r]);
        self.items.decrease(self.rows.item[r]);
        if self.next.is_empty() {
            return;
        }
        let (before, after) = (self.previous[r], self.next[r]);
        if before != NONE {
            self.next[before as usize] = after;
        }
        if after != NONE {
            self.previous[after as usize] = before;
        }
    }
}

/// Counting sort of `0..keys.len()` by key, stable: `[groups + 1]` offsets and the sorted indices.
pub(super) fn group(keys: &[u32], groups: usize) -> Result<(Vec<u32>, Vec<u32>)> {
    let mut offsets = filled(groups + 1, 0u32)?;
    for &key in keys {
        offsets[key as usize + 1] += 1;
    }
    for i in 0..groups {
        offsets[i + 1] += offsets[i];
    }
    let mut sorted = filled(keys.len(), 0u32)?;
    for (index, &key) in keys.iter().enumerate() {
        // Each start moves on to its group's end, which is the next group's start.
        let place = &mut offsets[key as usize];
        sorted[*place as usize] = index as u32;
        *place += 1;
    }
    offsets.copy_within(0..groups, 1);
    offsets[0] = 0;
    Ok((offsets, sorted))
}

/// A vector of one value, refused rather than aborted on when there is no memory for it.
pub(super) fn filled<T: Clone>(length: usize, value: T) -> Result<Vec<T>> {
    let mut vector = Vec::new();
    reserve(&mut vector, length)?;
    vector.resize(length, value);
    Ok(vector)
}
