//! Batches that the CUDA engine refuses before a kernel could read or write beside its buffers.

use super::{ITEMS, batch, cuda};
use b4r::batch::Batch;
use b4r::model::engine::{Engine, Step};

/// Lists that contradict one another would have kernels read anywhere.
#[test]
fn batches_that_are_not_whole_are_refused() {
    type Break = (&'static str, fn(&mut Batch));
    let mut engine = cuda::<f32>();
    let breaks: [Break; 8] = [
        ("positions", |batch| batch.positions.truncate(3)),
        ("cu_seqlens", |batch| batch.cu_seqlens[1] = 10_000),
        ("cu_rows", |batch| batch.cu_rows[0] = 1),
        ("cu_rows", |batch| batch.cu_rows.insert(1, 0)),
        ("rows", |batch| batch.rows[0] = batch.ids.len() as u32),
        ("targets", |batch| batch.targets.push(1)),
        ("token_segments", |batch| batch.token_segments.offsets.truncate(3)),
        ("token_segments", |batch| batch.token_segments.indices[0] = 1 << 30),
    ];
    for (list, change) in breaks {
        let mut broken = batch(1);
        change(&mut broken);
        let error = engine.loss_and_gradient(&broken, None).unwrap_err().to_string();
        let sizes = format!("{} tokens, {} sequences", broken.ids.len(), broken.sequence_count());
        assert!(error.contains(&format!("its {list} do not fit {sizes}")), "{list}: {error}");
    }
    engine.loss_and_gradient(&batch(1), None).unwrap();
}

/// So would indices beyond their tables, wherever the batch comes from.
#[test]
fn batches_whose_indices_have_no_table_row_are_refused() {
    type Break = (&'static str, fn(&mut Batch));
    let mut engine = cuda::<f32>();
    let last = ITEMS as u32;
    let breaks: [Break; 6] = [
        ("ids", |batch| batch.ids[2] = ITEMS as u32 + 2),
        ("positions", |batch| batch.positions[0] = 1 << 20),
        ("targets", |batch| batch.targets[0] = ITEMS as u32 + 1),
        ("targets", |batch| batch.targets[0] = 0),
        ("token_segments", |batch| batch.token_segments.keys[0] = u32::MAX),
        ("targets", |batch| batch.targets.truncate(1)),
    ];
    for (list, change) in breaks {
        let mut broken = batch(1);
        change(&mut broken);
        let step = Step { number: 1, seed: 3, learning_rate: 2e-3 };
        let none = vec![&[][..]; broken.row_count()];
        let errors = [
            engine.loss_and_gradient(&broken, None).map(|_| ()),
            engine.train_step(&broken, &step),
            engine.rank(&broken, &none).map(|_| ()),
        ];
        for error in errors.map(|result| result.unwrap_err().to_string()) {
            let told = [" have ", " do not fit "]
                .iter()
                .any(|why| error.contains(&format!("its {list}{why}")));
            assert!(told, "{list}: {error}");
        }
    }
    let mut whole = batch(1);
    (whole.targets[0], whole.ids[0]) = (last, last + 1);
    engine.rank(&whole, &vec![&[][..]; whole.row_count()]).unwrap();
}
