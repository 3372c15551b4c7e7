//! Rows of the output table taken out for a list of items, and their gradients put back, against plain copies.

use crate::util::cuda::{Gpu, SPARE, count};
use crate::util::draw::uniform;
use b4r::cuda::memory::{Slice, Storage};
use b4r::cuda::shortlist::{List, Output, gather, scatter};
use b4r::cuda::step::{Size, StepBlock};
use half::bf16;

/// Items of the catalogue.
const ITEMS: usize = 200;
/// Widths: of less than a warp of threads, of many blocks, and the widest.
const WIDTHS: [usize; 3] = [16, 272, 1024];

/// Every seventh item, the first and the last, in no order.
fn items() -> Vec<u32> {
    let mut items: Vec<u32> = (1..=ITEMS as u32).filter(|item| item % 7 == 1).collect();
    items.push(ITEMS as u32);
    items.rotate_left(11);
    items
}

/// The list with room for more items.
fn list(gpu: &Gpu, items: &[u32]) -> List {
    let offset = |&item: &u32| if item % 2 == 0 { f32::NEG_INFINITY } else { item as f32 };
    let offsets: Vec<f32> = items.iter().map(offset).collect();
    List {
        count: count(Size::Items, items.len() + SPARE),
        items: gpu.copy(&[items, &[u32::MAX; SPARE]].concat()),
        offsets: gpu.copy(&[&offsets[..], &[f32::NAN; SPARE]].concat()),
    }
}

fn gpu(items: &[u32]) -> Gpu {
    Gpu::new(StepBlock { items: items.len() as u32, ..StepBlock::default() })
}

/// Rows of the list, from 1, are those of its items; what lies around them is left alone.
fn rows_are_gathered<S: Storage>() {
    for d in WIDTHS {
        let listed = items();
        let gpu = gpu(&listed);
        let list = list(&gpu, &listed);
        let values = uniform(1, "table", (ITEMS + 2) * d, 1.0, 0.0);
        let biases = uniform(1, "bias", ITEMS + 1, 1.0, 0.0);
        let whole = Output { table: gpu.store::<S>(&values), bias: gpu.copy(&biases) };
        let room = list.count.most;
        let to = Output {
            table: gpu.store::<S>(&vec![f32::NAN; (room + 2) * d]),
            bias: gpu.copy(&vec![f32::NAN; room + 1]),
        };
        gather(gpu.launcher(), list, d, whole, to).unwrap();
        let (table, bias) = (gpu.load(to.table), gpu.read(to.bias));
        for (place, row) in table.chunks(d).enumerate() {
            let item = place.checked_sub(1).and_then(|index| listed.get(index));
            let Some(&item) = item else {
                assert!(row.iter().all(|x| x.is_nan()), "D {d}: row {place} was written");
                assert!(bias.get(place).is_none_or(|x| x.is_nan()), "D {d}: bias {place}");
                continue;
            };
            let expected = &values[item as usize * d..][..d];
            let expected = expected.iter().map(|&x| S::from_f32(x).to_f32());
            assert!(row.iter().copied().eq(expected), "D {d}: item {item}");
            let offset = if item % 2 == 0 { f32::NEG_INFINITY } else { item as f32 };
            assert_eq!(bias[place], biases[item as usize] + offset, "D {d}: bias of item {item}");
        }
    }
}

#[test]
pub fn cuda_f32_gathers_rows() {
    rows_are_gathered::<f32>();
}

#[test]
pub fn cuda_bf16_gathers_rows() {
    rows_are_gathered::<bf16>();
}

/// The parts of a list's gradients are added up in order; other items keep theirs.
#[test]
pub fn cuda_f32_scatters_gradients() {
    for d in WIDTHS {
        let listed = items();
        let gpu = gpu(&listed);
        let list = list(&gpu, &listed);
        let room = list.count.most;
        let of_list = (gpu.partials((room + 2) * d), gpu.partials(room + 1));
        for (seed, partials) in [(2, of_list.0), (3, of_list.1)] {
            let all = partials.stride * partials.slots as usize;
            let mut whole: Slice<f32> = partials.first;
            whole.len = all;
            gpu.write(whole, &uniform(seed, "parts", all, 1.0, 0.0));
        }
        let (d_table, d_bias) =
            (gpu.copy(&vec![7.5f32; (ITEMS + 2) * d]), gpu.copy(&vec![7.5f32; ITEMS + 1]));
        scatter(gpu.launcher(), list, d, of_list, d_table, d_bias).unwrap();
        let (sums, bias_sums) = (gpu.sum(of_list.0), gpu.sum(of_list.1));
        let (d_table, d_bias) = (gpu.read(d_table), gpu.read(d_bias));
        for (item, row) in d_table.chunks(d).enumerate() {
            let place = listed.iter().position(|&listed| listed as usize == item);
            let Some(place) = place else {
                assert!(row.iter().all(|&x| x == 7.5), "D {d}: item {item} is not listed");
                assert!(d_bias.get(item).is_none_or(|&x| x == 7.5), "D {d}: bias {item}");
                continue;
            };
            assert_eq!(row, &sums[(place + 1) * d..][..d], "D {d}: item {item}");
            assert_eq!(d_bias[item], bias_sums[place + 1], "D {d}: bias of item {item}");
        }
    }
}

#[test]
fn cuda_refuses_buffers_of_other_lengths() {
    let listed = items();
    let gpu = gpu(&listed);
    let list = list(&gpu, &listed);
    let room = list.count.most;
    let output = |items: usize| Output {
        table: gpu.buffer::<f32>((items + 2) * 16),
        bias: gpu.buffer(items + 1),
    };
    gather(gpu.launcher(), list, 16, output(ITEMS), output(room)).unwrap();
    let short = List { offsets: list.offsets.part(0, 3), ..list };
    for (list, whole, listed, named) in [
        (short, output(ITEMS), output(room), "offsets"),
        (list, output(ITEMS), output(room - 1), "table of the list"),
        (list, Output { bias: gpu.buffer(9), ..output(ITEMS) }, output(room), "table"),
    ] {
        let error = gather(gpu.launcher(), list, 16, whole, listed).unwrap_err().to_string();
        assert!(error.contains(named), "{error}");
    }
}
