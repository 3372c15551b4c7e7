//! Recommendations over HTTP: `b4r-recommend RUN --serve ADDR`.
//!
//! A connection ([`connections`]) is held to time limits, each request ([`routes`]) checked ([`guard`]), parsed
//! ([`parse`]) and queued for one thread ([`batcher`]) that asks the model ([`model`]) once for all that came together.
//! [`reload`] puts a new model in the old one's place.

pub mod args;
pub mod batcher;
pub mod connections;
pub mod guard;
pub mod limits;
pub mod metrics;
pub mod model;
pub mod parse;
pub mod problem;
pub mod reload;
pub mod routes;

pub use args::{arguments, options};

use crate::recommend::Recommender;
use crate::train::progress::say;
use crate::{Error, Result};
use batcher::{BatchRule, Batcher};
use guard::{Hosts, Token};
use limits::Limits;
use metrics::Metrics;
use model::Slot;
use reload::{Stamp, Watched};
use routes::App;
use std::net::{SocketAddr, TcpListener, ToSocketAddrs};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio::signal::unix::{Signal, SignalKind, signal};

/// How often to look whether the model's files have changed.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// A signal this soon after the first is its echo: job schedulers send one to the process and another to its group.
const ECHO: Duration = Duration::from_millis(500);

/// What to serve, where and to whom.
#[derive(Clone, Debug)]
pub struct ServeOptions {
    /// The run directory.
    pub run: PathBuf,
    /// Threads of the model; 0 takes every core.
    pub threads: usize,
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
    let read = Stamp::of(&options.run);
    let recommender = Recommender::open(&options.run, options.threads)?;
    let (listener, address) = listen(&options.address)?;
    let hosts = Hosts::new(address, &options.allow_hosts)?;
    let cors = guard::cors(&options.allow_origins)?;
    if options.token.is_none() && !address.ip().is_loopback() {
        say(format_args!(
            "warning: anybody who reaches {address} can use this server; --token-file asks for a token"
        ));
    }
    let metrics = Arc::new(Metrics::default());
    metrics.loaded(true);
    let slot = Arc::new(Slot::new(recommender));
    let started = Batcher::start(slot.clone(), metrics.clone(), options.batch);
    let (batcher, thread) = started.map_err(Error::io("start", &options.run))?;
    let app = App {
        batcher,
        metrics: metrics.clone(),
        limits: options.limits,
        hosts,
        token: options.token,
    };
    let router = routes::router(Arc::new(app), cors);
    let watched =
        Watched { run: options.run.clone(), threads: options.threads, read, interval: LOOK_EVERY };

    let threads = std::thread::available_parallelism().map_or(1, usize::from).min(4);
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(threads).enable_all().build();
    let runtime = runtime.map_err(Error::io("start", &options.run))?;
    let outcome = runtime.block_on(async {
        let refused = |error| Error::io("listen to", &PathBuf::from("signals"))(error);
        let hangup = signal(SignalKind::hangup()).map_err(refused)?;
        let mut ends = Ends::listen().map_err(refused)?;
        let listener = tokio::net::TcpListener::from_std(listener);
        let listener = listener.map_err(|error| cannot_listen(&options.address, &error))?;
        tokio::spawn(reload::watch(watched, slot, metrics.clone(), hangup));
        say(format_args!("listening on http://{address}"));
        let (first, told) = tokio::sync::oneshot::channel();
        let ended = async {
            // Dropped without a word only when the runtime ends.
            let _ = told.await;
            say("ending: requests under way are finished first");
        };
        let serving = connections::serve(listener, router, options.limits, metrics, ended);
        tokio::pin!(serving);
        let signal = tokio::select! {
            _ = &mut serving => return Ok(()),
            signal = ends.next() => signal,
        };
        let _ = first.send(());
        tokio::select! {
            finished = &mut serving => if finished { Ok(()) } else { Err(Error::Interrupted { signal }) },
            signal = ends.second() => Err(Error::Interrupted { signal }),
        }
    });
    runtime.shutdown_background();
    if outcome.is_ok() {
        // With the connections the ways into the queue are gone, so that the thread ends; a panic there was reported.
        let _ = thread.join();
        say("ended");
    }
    outcome
}

/// SIGTERM and SIGINT.
struct Ends {
    terminate: Signal,
    interrupt: Signal,
}

impl Ends {
    fn listen() -> std::io::Result<Self> {
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

fn cannot_listen(address: &str, error: &std::io::Error) -> Error {
    let problem = format!("cannot listen on `{address}`: {error}");
    Error::config("serve", problem, "give an address and a free port, such as 127.0.0.1:8080")
}
