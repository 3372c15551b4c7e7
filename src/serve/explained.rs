//! A body for the refusals that hyper writes by itself.
//!
//! What is no HTTP, or has too large a head, never becomes a request: hyper answers it with a bare status line and hangs
//! up, and has no hook for that. So its bytes are looked at on their way out. All answers of this server have bodies; a
//! status 4xx without one is hyper's, and goes out with the JSON that every other refusal has.

use super::problem::Problem;
use axum::http::StatusCode;
use memchr::memmem;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// A stream that sees to it that no refusal goes out without a body.
pub struct Explained<S> {
    inner: S,
    /// What is left to be written in place of hyper's refusal.
    rest: Vec<u8>,
    /// Bytes of hyper's that it stands for.
    stands_for: usize,
}

impl<S> Explained<S> {
    /// Around the stream that hyper is to write to.
    pub fn new(inner: S) -> Self {
        Explained { inner, rest: Vec::new(), stands_for: 0 }
    }
}

/// Where in `bytes` a refusal without a body begins, with which they end. Bodies before it are JSON or text that ends
/// otherwise, so what ends in an empty line is a head.
fn bare_refusal(bytes: &[u8]) -> Option<usize> {
    if !bytes.ends_with(b"\r\n\r\n") {
        return None;
    }
    let start = memmem::rfind(bytes, b"HTTP/1.1 4")?;
    memmem::find(&bytes[start..], b"\r\ncontent-length: 0\r\n").map(|_| start)
}

/// The same refusal with a body. `head` begins with the status line.
fn with_body(head: &[u8]) -> Vec<u8> {
    let status = head.get(9..12).and_then(|digits| StatusCode::from_bytes(digits).ok());
    let status = status.unwrap_or(StatusCode::BAD_REQUEST);
    let (code, message) = match status {
        StatusCode::BAD_REQUEST => ("bad_request", "this is not an HTTP/1.1 request"),
        _ => ("head_too_large", "the head of the request is too large, or has too many lines"),
    };
    let body = Problem::new(status, code, message).body();
    let length = body.len();
    format!(
        "HTTP/1.1 {status}\r\ncontent-type: application/json\r\nconnection: close\r\n\
         content-length: {length}\r\n\r\n{body}"
    )
    .into_bytes()
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Explained<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let this = &mut *self;
        if this.rest.is_empty() {
            match bare_refusal(bytes) {
                None => return Pin::new(&mut this.inner).poll_write(context, bytes),
                Some(0) => (this.rest, this.stands_for) = (with_body(bytes), bytes.len()),
                // What comes before goes first; hyper then offers the refusal again.
                Some(start) => {
                    return Pin::new(&mut this.inner).poll_write(context, &bytes[..start]);
                }
            }
        }
        while !this.rest.is_empty() {
            let written = ready!(Pin::new(&mut this.inner).poll_write(context, &this.rest))?;
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            this.rest.drain(..written);
        }
        Poll::Ready(Ok(this.stands_for))
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(context)
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Explained<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_read(context, buffer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BARE: &str = "HTTP/1.1 431 Request Header Fields Too Large\r\nconnection: close\r\n\
        content-length: 0\r\ndate: Tue, 24 Nov 2026 14:00:00 GMT\r\n\r\n";

    /// Whatever comes before it in the same buffer, and however few bytes the socket takes at a time.
    #[tokio::test]
    async fn only_bare_refusals_get_a_body() {
        use tokio::io::{AsyncReadExt, AsyncWriteExt};
        let good = "HTTP/1.1 404 Not Found\r\ncontent-length: 13\r\n\r\n{\"error\": {}}";
        for before in ["", good, "HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n"] {
            let (near, mut far) = tokio::io::duplex(7);
            let sent = format!("{before}{BARE}");
            let writing = tokio::spawn(async move {
                let mut stream = Explained::new(near);
                stream.write_all(sent.as_bytes()).await.unwrap();
                stream.shutdown().await.unwrap();
            });
            let mut got = String::new();
            far.read_to_string(&mut got).await.unwrap();
            writing.await.unwrap();
            let refusal = got.strip_prefix(before).unwrap();
            let (head, body) = refusal.split_once("\r\n\r\n").unwrap();
            assert!(head.starts_with("HTTP/1.1 431 Request Header Fields Too Large\r\n"), "{got}");
            assert!(head.ends_with(&format!("content-length: {}", body.len())), "{got}");
            let body: serde_json::Value = serde_json::from_str(body).unwrap();
            assert_eq!(body["error"]["code"], "head_too_large");
        }
    }
}
