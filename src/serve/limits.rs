//! What one client may ask for, so that no client can take the server from the others.

use std::time::Duration;

/// Limits on requests and connections.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Limits {
    /// Bytes of a request's body.
    pub body: usize,
    /// Items of a history.
    pub history: usize,
    /// Largest `k`.
    pub k: usize,
    /// Open connections.
    pub connections: usize,
    /// Time for a request's head to arrive, which is also how long a connection may idle.
    pub head_time: Duration,
    /// Time for a request's body to arrive.
    pub body_time: Duration,
    /// Time for an answer to be found.
    pub answer_time: Duration,
    /// Time that a client may leave a response unread.
    pub write_time: Duration,
    /// Time for requests under way to be finished when the server ends.
    pub drain_time: Duration,
}

impl Limits {
    /// Room for a history of thousands of items, and for some ten thousand items to allow or deny.
    pub const DEFAULT: Limits = Limits {
        body: 256 * 1024,
        history: 5_000,
        k: 1_000,
        connections: 512,
        head_time: Duration::from_secs(10),
        body_time: Duration::from_secs(10),
        answer_time: Duration::from_secs(30),
        write_time: Duration::from_secs(30),
        drain_time: Duration::from_secs(30),
    };
}
