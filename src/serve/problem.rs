//! Errors as HTTP tells them: a status, and a JSON body that names the trouble but nothing of the machine behind it.

use super::batcher::Failure;
use crate::Error;
use crate::train::progress::say;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde_json::json;

/// Longest message, in characters: a request may not have its own length echoed.
const MESSAGE: usize = 300;

/// A request that cannot be answered as asked.
#[derive(Debug, PartialEq)]
pub struct Problem {
    /// The HTTP status.
    pub status: StatusCode,
    /// A word for programs, such as `unknown_item`.
    pub code: &'static str,
    /// A sentence for people.
    pub message: String,
}

impl Problem {
    /// A problem from anything printable.
    pub fn new(status: StatusCode, code: &'static str, message: impl Into<String>) -> Self {
        let message: String = message.into();
        let message = match message.char_indices().nth(MESSAGE) {
            Some((end, _)) => format!("{}...", &message[..end]),
            None => message,
        };
        Problem { status, code, message }
    }

    /// 422: well-formed, but not a request that can be answered.
    pub fn unprocessable(message: impl Into<String>) -> Self {
        Problem::new(StatusCode::UNPROCESSABLE_ENTITY, "bad_value", message)
    }

    /// The same body as `{"error":{"code":...,"message":...}}`.
    pub fn body(&self) -> String {
        json!({"error": {"code": self.code, "message": self.message}}).to_string()
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let json = (header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        let mut response = (self.status, [json], self.body()).into_response();
        let more = match self.status {
            StatusCode::UNAUTHORIZED => Some((header::WWW_AUTHENTICATE, "Bearer realm=\"b4r\"")),
            StatusCode::SERVICE_UNAVAILABLE => Some((header::RETRY_AFTER, "1")),
            _ => None,
        };
        if let Some((name, value)) = more {
            response.headers_mut().insert(name, HeaderValue::from_static(value));
        }
        response
    }
}

impl From<Failure> for Problem {
    fn from(failure: Failure) -> Self {
        let internal =
            |message| Problem::new(StatusCode::INTERNAL_SERVER_ERROR, "internal", message);
        match failure {
            Failure::Busy => busy(),
            Failure::Ended => Problem::new(
                StatusCode::SERVICE_UNAVAILABLE,
                "ending",
                "the server is shutting down",
            ),
            Failure::Panicked => internal("the server failed on this request"),
            Failure::Refused(Error::Config { key, problem, remedy }) if of_request(&key) => {
                let (status, code) = match key.as_str() {
                    "user" => (StatusCode::NOT_FOUND, "unknown_user"),
                    "item" => (StatusCode::NOT_FOUND, "unknown_item"),
                    _ => (StatusCode::UNPROCESSABLE_ENTITY, "bad_value"),
                };
                Problem::new(status, code, format!("{key}: {problem}; {remedy}"))
            }
            Failure::Refused(error) => {
                say(format_args!("error: {error}"));
                internal("the server failed on this request; its log says why")
            }
        }
    }
}

/// Whether an error is about something that the request says, and so the client's to know.
fn of_request(key: &str) -> bool {
    ["user", "item", "k", "allow", "deny"].contains(&key)
}

/// 503: come back later.
pub fn busy() -> Problem {
    Problem::new(
        StatusCode::SERVICE_UNAVAILABLE,
        "busy",
        "too many requests are waiting; try again",
    )
}
