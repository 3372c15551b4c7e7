//! Accepting connections, holding each to its time limits, and letting them finish when the server ends.

use super::explained::Explained;
use super::limits::Limits;
use super::metrics::Metrics;
use super::problem::busy;
use super::routes::LocalAddress;
use crate::train::progress::say;
use axum::Router;
use hyper::Request;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::{Service, service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulShutdown;
use hyper_util::service::TowerToHyperService;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, oneshot};
use tokio::time::timeout;
use tokio_io_timeout::TimeoutStream;

/// Headers of a request; more are refused with status 431.
const HEADERS: usize = 64;
/// Bytes of a request's head; more are refused with status 431.
const HEAD: usize = 32 * 1024;
/// Pause after the system refused to accept, most likely for want of file descriptors.
const REFUSED: Duration = Duration::from_millis(100);

/// Serves until `ended`, then finishes what is under way; false where that took longer than the limit.
pub async fn serve(
    listener: TcpListener,
    router: Router,
    limits: Limits,
    metrics: Arc<Metrics>,
    mut ended: oneshot::Receiver<()>,
) -> bool {
    let graceful = GracefulShutdown::new();
    let places = Arc::new(Semaphore::new(limits.connections));
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            _ = &mut ended => break,
        };
        let stream = match accepted {
            Ok((stream, _)) => stream,
            Err(error) => {
                say(format_args!("warning: a connection could not be accepted: {error}"));
                tokio::time::sleep(REFUSED).await;
                continue;
            }
        };
        let Ok(place) = places.clone().try_acquire_owned() else {
            metrics.turned_away.inc();
            tokio::spawn(turn_away(stream));
            continue;
        };
        metrics.connections.inc();
        let (connection, metrics) = (connection(stream, &router, &limits), metrics.clone());
        let connection = connection.map(|connection| graceful.watch(connection));
        tokio::spawn(async move {
            if let Some(connection) = connection {
                // A client that breaks off or speaks no HTTP is no news.
                let _ = connection.await;
            }
            metrics.connections.dec();
            drop(place);
        });
    }
    drop(listener);
    timeout(limits.drain_time, graceful.shutdown()).await.is_ok()
}

/// A future that serves one connection; `None` where it is gone already.
fn connection(
    stream: TcpStream,
    router: &Router,
    limits: &Limits,
) -> Option<impl hyper_util::server::graceful::GracefulConnection<Error = hyper::Error> + use<>> {
    let local = LocalAddress(stream.local_addr().ok()?.ip().to_canonical());
    // Answers are small; waiting to fill a packet only delays them.
    let _ = stream.set_nodelay(true);
    let mut stream = TimeoutStream::new(stream);
    stream.set_write_timeout(Some(limits.write_time));
    let inner = TowerToHyperService::new(router.clone());
    let service = service_fn(move |mut request: Request<Incoming>| {
        request.extensions_mut().insert(local);
        inner.call(request)
    });
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new()).header_read_timeout(limits.head_time);
    http.max_headers(HEADERS).max_buf_size(HEAD);
    let stream = Explained::new(Box::pin(stream));
    Some(http.serve_connection(TokioIo::new(stream), service))
}

async fn turn_away(mut stream: TcpStream) {
    let body = busy().body();
    let response = format!(
        "HTTP/1.1 503 Service Unavailable\r\ncontent-type: application/json\r\nretry-after: 1\r\n\
         connection: close\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    );
    // The client may be gone or not listening; there is nothing more to do for it.
    let _ = timeout(Duration::from_secs(1), stream.write_all(response.as_bytes())).await;
    let _ = timeout(Duration::from_secs(1), stream.shutdown()).await;
}
