//! Which interactions train, and which are predicted.

use super::{EvalRow, Sequences, Split};
use crate::config::SplitRule;

/// Divides each history by `rule`. Users with fewer than 3 interactions only train.
pub fn split(sequences: &Sequences, rule: SplitRule) -> Split {
    match rule {
        SplitRule::LeaveOneOut => leave_one_out(sequences),
    }
}

/// All of every history trains, for a model that is only going to be used.
pub fn keep_all(sequences: &Sequences) -> Split {
    let lengths = sequences.offsets.windows(2).map(|ends| (ends[1] - ends[0]) as u32);
    Split { train_lengths: lengths.collect(), ..Split::default() }
}

/// The last item is the test, the one before it validation.
fn leave_one_out(sequences: &Sequences) -> Split {
    let mut split = Split::default();
    split.train_lengths.reserve_exact(sequences.len());
    for (user, ends) in sequences.offsets.windows(2).enumerate() {
        let length = (ends[1] - ends[0]) as u32;
        if length < 3 {
            split.train_lengths.push(length);
            continue;
        }
        let user = user as u32;
        split.train_lengths.push(length - 2);
        split.valid.push(EvalRow { user, position: length - 2 });
        split.test.push(EvalRow { user, position: length - 1 });
    }
    split
}
