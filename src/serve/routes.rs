//! The endpoints.

use super::batcher::{Answer, Batcher, Failure, Job};
use super::guard::{Hosts, Token};
use super::limits::Limits;
use super::metrics::{self, EndpointLabel, Metrics, RequestLabels};
use super::model::Slot;
use super::parse;
use super::problem::{Problem, busy};
use crate::recommend::Scored;
use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::rejection::PathRejection;
use axum::extract::{MatchedPath, Path, RawQuery, Request, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use http_body_util::{BodyExt, LengthLimitError, Limited};
use prometheus_client::metrics::gauge::Gauge;
use serde::Serialize;
use serde_json::json;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Instant;
use tokio::time::timeout;
use tower_http::cors::CorsLayer;

const RECOMMEND: &str = "/recommend";
const SCORE: &str = "/score";
const SIMILAR: &str = "/items/{id}/similar";
/// What a request that no route took is counted as.
const OTHER: &str = "other";
/// All routes; metrics know no others, so that nobody can invent labels.
const ROUTES: [&str; 9] = [
    RECOMMEND,
    SCORE,
    SIMILAR,
    "/health",
    "/metrics",
    "/openapi.json",
    "/",
    "/page.js",
    "/page.css",
];

/// The page runs only its own script, talks only to this server, and cannot be framed.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; \
    img-src data:; base-uri 'none'; form-action 'self'; frame-ancestors 'none'";

/// The address at which a connection came in; set on every request.
#[derive(Clone, Copy, Debug)]
pub struct LocalAddress(pub IpAddr);

/// What the handlers share.
pub struct App {
    /// The model in use.
    pub model: Arc<Slot>,
    /// The way to it.
    pub batcher: Batcher,
    /// Counters.
    pub metrics: Arc<Metrics>,
    /// What a request may ask for.
    pub limits: Limits,
    /// The server's names.
    pub hosts: Hosts,
    /// What `Authorization` must say, where anything.
    pub token: Option<Token>,
}

/// All endpoints with their guards.
pub fn router(app: Arc<App>, cors: Option<CorsLayer>) -> Router {
    let guarded = Router::new()
        .route(RECOMMEND, post(recommend))
        .route(SCORE, post(score))
        .route(SIMILAR, get(similar))
        .route("/metrics", get(metrics_text))
        .route_layer(middleware::from_fn_with_state(app.clone(), check_token));
    let open = Router::new()
        .route("/health", get(health))
        .route("/openapi.json", get(|| asset("application/json", include_str!("openapi.json"))))
        .route("/", get(|| asset("text/html; charset=utf-8", include_str!("page/index.html"))))
        .route(
            "/page.js",
            get(|| asset("text/javascript; charset=utf-8", include_str!("page/page.js"))),
        )
        .route(
            "/page.css",
            get(|| asset("text/css; charset=utf-8", include_str!("page/page.css"))),
        );
    let router = guarded
        .merge(open)
        .method_not_allowed_fallback(|| async {
            let message = "this path has other methods: see the Allow header";
            Problem::new(StatusCode::METHOD_NOT_ALLOWED, "bad_method", message)
        })
        .fallback(|| async {
            Problem::new(StatusCode::NOT_FOUND, "not_found", "no such path; see /openapi.json")
        });
    let router = match cors {
        Some(cors) => router.layer(cors),
        None => router,
    };
    router
        .layer(middleware::from_fn_with_state(app.clone(), check_host))
        .layer(middleware::from_fn_with_state(app.clone(), observe))
        .with_state(app)
}

#[derive(Serialize)]
struct ItemScore<'a> {
    item: &'a str,
    score: Option<f32>,
}

#[derive(Serialize)]
struct Scores<'a> {
    scores: &'a [ItemScore<'a>],
    unknown: Vec<&'a str>,
}

#[derive(Serialize)]
struct Similar<'a> {
    item: &'a str,
    items: &'a [Scored],
}

async fn recommend(State(app): State<Arc<App>>, request: Request) -> Result<Response, Problem> {
    let body = read(request, &app.limits).await?;
    let (request, options, count) = parse::recommend(&body, &app.limits)?;
    let found = app.ask(|reply| Job::Recommend(request, options, count, reply)).await?;
    Ok(json_response(&found))
}

async fn score(State(app): State<Arc<App>>, request: Request) -> Result<Response, Problem> {
    let body = read(request, &app.limits).await?;
    let (request, items) = parse::score(&body, &app.limits)?;
    let names = items.clone();
    let scores = app.ask(|reply| Job::Score(request, items, reply)).await?;
    let pairs = names.iter().zip(scores);
    let scores: Vec<ItemScore<'_>> = pairs.map(|(item, score)| ItemScore { item, score }).collect();
    let unknown = scores.iter().filter(|scored| scored.score.is_none());
    let unknown = unknown.map(|scored| scored.item).collect();
    Ok(json_response(&Scores { scores: &scores, unknown }))
}

async fn similar(
    State(app): State<Arc<App>>,
    item: Result<Path<String>, PathRejection>,
    RawQuery(query): RawQuery,
) -> Result<Response, Problem> {
    let Path(item) = item.map_err(|_| {
        let message = "the item id in the path is not percent-encoded UTF-8";
        Problem::new(StatusCode::BAD_REQUEST, "bad_path", message)
    })?;
    let count = parse::similar(query.as_deref(), &app.limits)?;
    let found = app.ask(|reply| Job::Similar(item.clone(), count, reply)).await?;
    Ok(json_response(&Similar { item: &item, items: &found }))
}

/// A GPU that failed once mostly fails ever after, so whoever watches the server has to learn of it.
async fn health(State(app): State<Arc<App>>) -> Result<Response, Problem> {
    if app.model.current().has_failed() {
        let message = "the GPU failed; the log says why; load the model anew, or restart";
        return Err(Problem::new(StatusCode::SERVICE_UNAVAILABLE, "device_failed", message));
    }
    Ok(json_response(&json!({"status": "ok"})))
}

async fn metrics_text(State(app): State<Arc<App>>) -> Response {
    ([(header::CONTENT_TYPE, metrics::CONTENT_TYPE)], app.metrics.text()).into_response()
}

async fn asset(kind: &'static str, text: &'static str) -> Response {
    ([(header::CONTENT_TYPE, kind), (header::CACHE_CONTROL, "no-cache")], text).into_response()
}

impl App {
    /// The model's answer, within the time limit.
    async fn ask<T>(
        &self,
        job: impl FnOnce(tokio::sync::oneshot::Sender<Answer<T>>) -> Job,
    ) -> Result<T, Problem> {
        match timeout(self.limits.answer_time, self.batcher.ask(job)).await {
            Ok(answer) => answer.map_err(Failure::into),
            Err(_) => Err(busy()),
        }
    }
}

/// Answers are serialized from here, not by way of a [`serde_json::Value`], which would widen scores to f64.
fn json_response(answer: &impl Serialize) -> Response {
    match serde_json::to_string(answer) {
        Ok(text) => ([(header::CONTENT_TYPE, "application/json")], text).into_response(),
        // Strings and numbers always serialize.
        Err(_) => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
    }
}

/// The whole body, if it is called JSON and keeps to the limits.
async fn read(request: Request, limits: &Limits) -> Result<Bytes, Problem> {
    if !is_json(request.headers()) {
        let message = "send the body with Content-Type: application/json";
        return Err(Problem::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "bad_content_type", message));
    }
    let too_large = || {
        let message = format!("the body is larger than this server's {} bytes", limits.body);
        Problem::new(StatusCode::PAYLOAD_TOO_LARGE, "too_large", message)
    };
    // Told by its head, a body is refused before any of it is read.
    let declared = request.headers().get(header::CONTENT_LENGTH);
    let declared = declared.and_then(|length| length.to_str().ok()?.parse::<u64>().ok());
    if declared.is_some_and(|length| length > limits.body as u64) {
        return Err(too_large());
    }
    let body: Limited<Body> = Limited::new(request.into_body(), limits.body);
    match timeout(limits.body_time, body.collect()).await {
        Ok(Ok(body)) => Ok(body.to_bytes()),
        Ok(Err(error)) if error.is::<LengthLimitError>() => Err(too_large()),
        Ok(Err(_)) => {
            let message = "the body ended early, or was not what its head said";
            Err(Problem::new(StatusCode::BAD_REQUEST, "bad_body", message))
        }
        Err(_) => {
            let message = "the body took too long to arrive";
            Err(Problem::new(StatusCode::REQUEST_TIMEOUT, "too_slow", message))
        }
    }
}

fn is_json(headers: &HeaderMap) -> bool {
    let kind = headers.get(header::CONTENT_TYPE).and_then(|kind| kind.to_str().ok());
    let kind = kind.and_then(|kind| kind.split(';').next()).unwrap_or_default();
    kind.trim().eq_ignore_ascii_case("application/json")
}

async fn check_token(State(app): State<Arc<App>>, request: Request, next: Next) -> Response {
    if app.token.as_ref().is_none_or(|token| token.admits(request.headers())) {
        return next.run(request).await;
    }
    let message = "send the token as: Authorization: Bearer TOKEN";
    Problem::new(StatusCode::UNAUTHORIZED, "bad_token", message).into_response()
}

async fn check_host(State(app): State<Arc<App>>, request: Request, next: Next) -> Response {
    let local = request.extensions().get::<LocalAddress>();
    let local = local.map_or(IpAddr::from([127, 0, 0, 1]), |local| local.0);
    match app.hosts.check(request.uri(), request.headers(), local) {
        Ok(()) => next.run(request).await,
        Err(problem) => problem.into_response(),
    }
}

/// Goes up for as long as it lives, also when the client hangs up.
struct Raised<'a>(&'a Gauge);

impl<'a> Raised<'a> {
    fn new(gauge: &'a Gauge) -> Self {
        gauge.inc();
        Raised(gauge)
    }
}

impl Drop for Raised<'_> {
    fn drop(&mut self) {
        self.0.dec();
    }
}

/// Counts and times every request, and gives every response the headers that keep browsers careful.
async fn observe(State(app): State<Arc<App>>, request: Request, next: Next) -> Response {
    let started = Instant::now();
    let route = request.extensions().get::<MatchedPath>();
    let route = route.and_then(|route| ROUTES.into_iter().find(|&known| known == route.as_str()));
    let endpoint = route.unwrap_or(OTHER);
    let for_model = [RECOMMEND, SCORE, SIMILAR].contains(&endpoint);
    let raised = for_model.then(|| Raised::new(&app.metrics.in_progress));
    let mut response = next.run(request).await;
    drop(raised);
    let labels = RequestLabels { endpoint, status: response.status().as_u16() };
    app.metrics.requests.get_or_create(&labels).inc();
    let seconds = started.elapsed().as_secs_f64();
    app.metrics.seconds.get_or_create(&EndpointLabel { endpoint }).observe(seconds);
    let headers = response.headers_mut();
    for (name, value) in [
        (header::CONTENT_SECURITY_POLICY, POLICY),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::REFERRER_POLICY, "no-referrer"),
        (HeaderName::from_static("cross-origin-resource-policy"), "same-origin"),
    ] {
        headers.insert(name, HeaderValue::from_static(value));
    }
    let storing = headers.entry(header::CACHE_CONTROL);
    storing.or_insert(HeaderValue::from_static("no-store"));
    response
}
