//! How often one item came right after another, kept sparse.

/// An item and how often it came next.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Next {
    /// Index, from 1.
    pub item: u32,
    /// How often.
    pub count: u32,
}

/// For each item the distinct items that came next, ascending.
#[derive(Debug)]
pub struct Transitions {
    /// `[V + 2]` where each item's list begins; item 0 stands for no item and has none.
    offsets: Vec<usize>,
    next: Vec<Next>,
}

impl Transitions {
    /// Counts the pairs of neighbours in all histories, which `histories` goes through once for each call.
    pub fn count<'a, H: Iterator<Item = &'a [u32]>>(
        histories: impl Fn() -> H,
        items: usize,
    ) -> Self {
        let pairs = || histories().flat_map(|history| history.windows(2));
        let mut starts = vec![0usize; items + 2];
        pairs().for_each(|pair| starts[pair[0] as usize + 1] += 1);
        (1..starts.len()).for_each(|item| starts[item] += starts[item - 1]);
        // A counting sort by the first item; each list is then sorted by the second.
        let (mut free, mut successors) = (starts.clone(), vec![0; starts[items + 1]]);
        for pair in pairs() {
            let place = &mut free[pair[0] as usize];
            successors[*place] = pair[1];
            *place += 1;
        }
        let (mut offsets, mut next) = (vec![0; items + 2], Vec::new());
        for item in 0..=items {
            let list = &mut successors[starts[item]..starts[item + 1]];
            list.sort_unstable();
            let runs = list.chunk_by(|a, b| a == b);
            next.extend(runs.map(|run| Next { item: run[0], count: run.len() as u32 }));
            offsets[item + 1] = next.len();
        }
        Transitions { offsets, next }
    }

    /// What came after `item`.
    pub fn after(&self, item: u32) -> &[Next] {
        &self.next[self.offsets[item as usize]..self.offsets[item as usize + 1]]
    }

    /// How often `next` came after `item`.
    pub fn get(&self, item: u32, next: u32) -> u32 {
        let list = self.after(item);
        list.binary_search_by_key(&next, |next| next.item).map_or(0, |at| list[at].count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn neighbours_are_counted() {
        let histories: [&[u32]; 4] = [&[1, 2, 1, 2, 2], &[3], &[], &[1, 3]];
        let transitions = Transitions::count(|| histories.into_iter(), 4);
        let next = |item, count| Next { item, count };
        assert_eq!(transitions.after(1), [next(2, 2), next(3, 1)]);
        assert_eq!(transitions.after(2), [next(1, 1), next(2, 1)]);
        assert!(transitions.after(0).is_empty() && transitions.after(4).is_empty());
        assert_eq!(
            [transitions.get(1, 2), transitions.get(1, 4), transitions.get(3, 1)],
            [2, 0, 0]
        );
    }
}
