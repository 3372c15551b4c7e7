//! Batching with a model that is none.

use super::*;

/// Knows 10 items; answers with the request's user, and notes what it was asked together.
#[derive(Default)]
struct Fake {
    calls: std::sync::Mutex<Vec<(usize, usize)>>,
}

impl Model for Arc<Fake> {
    fn item_count(&self) -> usize {
        10
    }

    fn query(&self, request: &Request) -> Result<Query> {
        match request.user.as_deref() {
            Some("unknown") => Err(Error::config("user", "unknown", "give a history")),
            _ => Ok(self.query_of(request)),
        }
    }

    fn top_k(
        &self,
        queries: &[Query],
        options: &Options,
    ) -> Result<(Vec<Recommendation>, Vec<String>)> {
        self.calls.lock().unwrap().push((queries.len(), options.k));
        let answer = |query: &Query| {
            assert!(query.user.as_deref() != Some("panic"), "as asked");
            let scored = |item: usize| Scored { item: item.to_string(), score: 0.0 };
            let items = (0..options.k).map(scored).collect();
            Recommendation { user: query.user.clone(), items, ..Recommendation::default() }
        };
        Ok((queries.iter().map(answer).collect(), options.deny.clone()))
    }

    fn score(&self, queries: &[Query], items: &[&[String]]) -> Result<Vec<Vec<Option<f32>>>> {
        assert_eq!(queries.len(), items.len());
        Ok(items.iter().map(|items| vec![Some(items.len() as f32)]).collect())
    }

    fn similar(&self, item: &str, _: usize) -> Result<Vec<Scored>> {
        Err(Error::config("item", format!("`{item}` is unknown"), "give another"))
    }

    fn has_failed(&self) -> bool {
        false
    }
}

impl Fake {
    fn query_of(&self, request: &Request) -> Query {
        let mut query = Query::default();
        query.user.clone_from(&request.user);
        query
    }
}

fn request(user: &str) -> Request {
    Request { user: Some(user.to_string()), ..Request::default() }
}

type Waiting<T> = oneshot::Receiver<Answer<T>>;

fn job(user: &str, k: usize, deny: &str) -> (Job, Waiting<Recommendation>) {
    let (reply, answer) = oneshot::channel();
    let options = Options { deny: vec![deny.to_string()], ..Options::default() };
    (Job::Recommend(request(user), options, Count::Asked(k), reply), answer)
}

#[test]
fn each_gets_its_own_answer_from_one_call() {
    let fake = Arc::new(Fake::default());
    let users = ["a", "b", "unknown", "c", "d"];
    let (jobs, answers): (Vec<_>, Vec<_>) =
        users.iter().zip([1, 3, 2, 11, 2]).map(|(user, k)| job(user, k, "x")).unzip();
    answer(jobs, &fake);
    let answers: Vec<_> =
        answers.into_iter().map(|mut answer| answer.try_recv().unwrap()).collect();
    for (index, k) in [(0, 1), (1, 3), (4, 2)] {
        let answer = answers[index].as_ref().unwrap();
        assert_eq!(answer.user.as_deref(), Some(users[index]));
        assert_eq!((answer.items.len(), &answer.unknown[..]), (k, &["x".to_string()][..]));
    }
    let key = |index: usize| match &answers[index] {
        Err(Failure::Refused(Error::Config { key, .. })) => key.clone(),
        other => panic!("{other:?}"),
    };
    assert_eq!((key(2), key(3)), ("user".to_string(), "k".to_string()));
    assert_eq!(*fake.calls.lock().unwrap(), [(3, 3)]);
}

#[test]
fn other_options_are_another_call_and_a_panic_spoils_no_other() {
    let fake = Arc::new(Fake::default());
    let (jobs, answers): (Vec<_>, Vec<_>) =
        [job("a", 1, "x"), job("panic", 1, "x"), job("b", 5, "x"), job("c", 1, "y")]
            .into_iter()
            .unzip();
    answer(jobs, &fake);
    let good: Vec<bool> = answers
        .into_iter()
        .map(|mut answer| match answer.try_recv().unwrap() {
            Ok(_) => true,
            Err(Failure::Panicked) => false,
            Err(other) => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(good, [true, false, true, true]);
    assert_eq!(*fake.calls.lock().unwrap(), [(3, 5), (1, 1), (1, 1), (1, 5), (1, 1)]);
}

#[test]
fn scores_and_similar_items_share_a_batch() {
    let fake = Arc::new(Fake::default());
    let (score, mut scores) = oneshot::channel();
    let (similar, mut similar_items) = oneshot::channel();
    let items = vec!["i".to_string(); 4];
    let jobs = vec![
        Job::Score(request("a"), items, score),
        Job::Similar("i".to_string(), Count::UpTo(20), similar),
    ];
    answer(jobs, &fake);
    assert_eq!(scores.try_recv().unwrap().unwrap(), [Some(4.0)]);
    assert!(matches!(similar_items.try_recv().unwrap(), Err(Failure::Refused(_))));
}

#[test]
fn what_waits_is_gathered_up_to_the_size_and_the_abandoned_left_out() {
    let (queue, jobs) = sync_channel(10);
    let metrics = Metrics::default();
    let mut answers = Vec::new();
    for user in ["a", "b", "c", "d"] {
        let (job, answer) = job(user, 1, "x");
        queue.send(job).unwrap();
        answers.push(answer);
    }
    answers.remove(1);
    let wait = Duration::from_secs(30);
    let rule = BatchRule { size: 3, wait, queue: 10 };
    let batch = gather(jobs.recv().unwrap(), &jobs, &metrics, rule);
    assert_eq!(batch.len(), 2, "b has hung up");
    // Nobody else is on the way: the last does not wait.
    let started = Instant::now();
    assert_eq!(gather(jobs.recv().unwrap(), &jobs, &metrics, rule).len(), 1);
    assert!(started.elapsed() < wait);
}

#[test]
fn a_full_queue_is_busy() {
    let (queue, _jobs) = sync_channel(1);
    let batcher = Batcher { queue };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let ask = || {
            batcher.ask(|reply| {
                Job::Recommend(request("a"), Options::default(), Count::UpTo(1), reply)
            })
        };
        let first = tokio::time::timeout(Duration::from_millis(1), ask());
        assert!(first.await.is_err(), "it waits");
        assert!(matches!(ask().await, Err(Failure::Busy)));
    });
}
