//! Recommendations over HTTP: `b4r-recommend RUN --serve ADDR`.
//!
//! A connection ([`connections`]) is held to time limits, each request ([`routes`]) checked ([`guard`]), parsed
//! ([`parse`]) and queued for one thread ([`batcher`]) that asks the model ([`model`]) once for all that came together.
//! [`reload`] puts a new model in the old one's place.

pub mod args;
pub mod batcher;
pub mod connections;
pub mod explained;
pub mod guard;
pub mod limits;
pub mod metrics;
pub mod model;
pub mod parse;
pub mod problem;
pub mod reload;
pub mod routes;

pub use args::{arguments, options};

use crate::recommend::{Computing, Recommender};
use crate::train::progress::say;
use crate::{Error, Result};
use batcher::{BatchRule, Batcher};
use guard::{Hosts, Token};
use limits::Limits;
use metrics::Metrics;
use model::Slot;
use reload::{Stamp, Watched};
use routes::App;
use std::io;
use std::net::{SocketAddr, TcpListener, ToSocketAddrs};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::oneshot;

/// How often to look whether the model's files have changed.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// A signal this soon after the first is its echo: job schedulers send one to the process and another to its group.
const ECHO: Duration = Duration::from_millis(500);

/// What to serve, where and to whom.
#[derive(Clone, Debug)]
pub struct ServeOptions {
    /// The run directory.
    pub run: PathBuf,
    /// What the model is to compute on.
    pub computing: Computing,
    /// Where to listen, such as `127.0.0.1:8080`; port 0 takes a free one.
    pub address: String,
    /// What clients must know, where anything.
    pub token: Option<Token>,
    /// Further names of the server.
    pub allow_hosts: Vec<String>,
    /// Web sites whose pages may use the server.
    pub allow_origins: Vec<String>,
    /// What a client may ask for.
    pub limits: Limits,
    /// How requests are batched.
    pub batch: BatchRule,
}

/// [`serve`] for a program: says what went wrong and returns the exit code.
pub fn run(options: Result<ServeOptions>) -> u8 {
    match options.and_then(serve) {
        Ok(()) => 0,
        Err(error) => {
            say(format_args!("error: {error}"));
            // Whatever else kept it from starting, nothing has been answered.
            if let Error::Interrupted { .. } = error { error.exit_code() } else { 2 }
        }
    }
}

/// Serves until SIGTERM or SIGINT, then finishes the requests under way.
///
/// # Errors
/// Where the run cannot be opened or the address not be had; [`Error::Interrupted`] when requests were left unfinished.
pub fn serve(options: ServeOptions) -> Result<()> {
    let ServeOptions { run, computing, address, token, limits, .. } = options;
    // Before the files are read: what changes in the meantime is then read again.
    let read = Stamp::of(&run);
    let recommender = Recommender::open_on(&run, computing)?;
    say(recommender.choice());
    let slot = Arc::new(Slot::new(recommender));
    let (listener, bound) = listen(&address)?;
    let hosts = Hosts::new(bound, &options.allow_hosts)?;
    let cors = guard::cors(&options.allow_origins)?;
    if token.is_none() && !bound.ip().is_loopback() {
        let who = "warning: anybody who reaches";
        say(format_args!("{who} {bound} can use this server; --token-file asks for a token"));
    }
    let metrics = Arc::new(Metrics::default());
    metrics.loaded(true);
    let started = Batcher::start(slot.clone(), metrics.clone(), options.batch);
    let (batcher, batching) = started.map_err(no_threads)?;
    let app = Arc::new(App {
        model: slot.clone(),
        batcher,
        metrics: metrics.clone(),
        limits,
        hosts,
        token,
    });
    let router = routes::router(app, cors);
    let watched = Watched { run, computing, read, interval: LOOK_EVERY };

    // Connections are little work beside the model.
    let workers = std::thread::available_parallelism().map_or(1, usize::from).min(4);
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(workers).enable_all().build();
    let runtime = runtime.map_err(no_threads)?;
    let outcome = runtime.block_on(async {
        let hangup = signal(SignalKind::hangup()).map_err(no_signals)?;
        let ends = Ends::listen().map_err(no_signals)?;
        let listener = tokio::net::TcpListener::from_std(listener);
        let listener = listener.map_err(|error| cannot_listen(&address, &error))?;
        tokio::spawn(reload::watch(watched, slot, metrics.clone(), hangup));
        say(format_args!("listening on http://{bound}"));
        let serve = |ended| connections::serve(listener, router, limits, metrics, ended);
        until_signal(serve, ends).await
    });
    runtime.shutdown_background();
    if outcome.is_ok() {
        // With the connections the ways into the queue are gone, so that the thread ends; a panic was reported.
        let _ = batching.join();
        say("ended");
    }
    outcome
}

/// Lets `serve` run until a signal comes, and then finish, unless another comes.
async fn until_signal<F: Future<Output = bool>>(
    serve: impl FnOnce(oneshot::Receiver<()>) -> F,
    mut ends: Ends,
) -> Result<()> {
    let (end, ended) = oneshot::channel();
    let serving = serve(ended);
    tokio::pin!(serving);
    let signal = tokio::select! {
        // It does not end by itself.
        _ = &mut serving => return Ok(()),
        signal = ends.next() => signal,
    };
    say("ending: requests under way are finished first");
    let _ = end.send(());
    tokio::select! {
        finished = &mut serving => finished.then_some(()).ok_or(Error::Interrupted { signal }),
        signal = ends.second() => Err(Error::Interrupted { signal }),
    }
}

/// SIGTERM and SIGINT.
struct Ends {
    terminate: Signal,
    interrupt: Signal,
}

impl Ends {
    fn listen() -> io::Result<Self> {
        let (terminate, interrupt) = (SignalKind::terminate(), SignalKind::interrupt());
        Ok(Ends { terminate: signal(terminate)?, interrupt: signal(interrupt)? })
    }

    /// The number of the next to come.
    async fn next(&mut self) -> i32 {
        tokio::select! {
            _ = self.terminate.recv() => SignalKind::terminate().as_raw_value(),
            _ = self.interrupt.recv() => SignalKind::interrupt().as_raw_value(),
        }
    }

    /// The number of the next that is no echo of the one before.
    async fn second(&mut self) -> i32 {
        let first = tokio::time::Instant::now();
        loop {
            let signal = self.next().await;
            if first.elapsed() >= ECHO {
                return signal;
            }
        }
    }
}

/// A listener at the first address that `address` stands for and that can be had.
fn listen(address: &str) -> Result<(TcpListener, SocketAddr)> {
    let all: Vec<SocketAddr> =
        address.to_socket_addrs().map_err(|error| cannot_listen(address, &error))?.collect();
    let listener = TcpListener::bind(&all[..]).map_err(|error| cannot_listen(address, &error))?;
    let bound = listener.set_nonblocking(true).and_then(|()| listener.local_addr());
    let bound = bound.map_err(|error| cannot_listen(address, &error))?;
    Ok((listener, bound))
}

fn no_threads(error: io::Error) -> Error {
    Error::io("start", Path::new("threads"))(error)
}

fn no_signals(error: io::Error) -> Error {
    Error::io("listen to", Path::new("signals"))(error)
}

fn cannot_listen(address: &str, error: &io::Error) -> Error {
    let problem = format!("cannot listen on `{address}`: {error}");
    Error::config("serve", problem, "give an address and a free port, such as 127.0.0.1:8080")
}
