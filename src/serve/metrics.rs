//! What `GET /metrics` tells, in the text format of OpenMetrics, which Prometheus reads.

use prometheus_client::encoding::{EncodeLabelSet, text::encode};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::{Registry, Unit};
use std::time::{SystemTime, UNIX_EPOCH};

/// The `Content-Type` of [`Metrics::text`].
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Labels of a finished request.
#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
pub struct RequestLabels {
    /// The route, or `other`: never what a client made up.
    pub endpoint: &'static str,
    /// The status code.
    pub status: u16,
}

/// Label of a duration.
#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
pub struct EndpointLabel {
    /// As in [`RequestLabels`].
    pub endpoint: &'static str,
}

/// Label of a model load.
#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
pub struct LoadLabel {
    /// `ok` or `failed`.
    pub outcome: &'static str,
}

/// Counters of one server.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    /// Requests by endpoint and status.
    pub requests: Family<RequestLabels, Counter>,
    /// From the request's head to the response's head.
    pub seconds: Family<EndpointLabel, Histogram, fn() -> Histogram>,
    /// Requests for the model whose head has come and that are not answered yet.
    pub in_progress: Gauge,
    /// Requests in one forward pass.
    pub batch_size: Histogram,
    /// Open connections.
    pub connections: Gauge,
    /// Connections turned away because there were too many.
    pub turned_away: Counter,
    /// Loads of a model.
    pub loads: Family<LoadLabel, Counter>,
    loaded_at: Gauge,
}

impl Default for Metrics {
    fn default() -> Self {
        let mut metrics = Metrics {
            registry: Registry::with_prefix("b4r"),
            requests: Family::default(),
            seconds: Family::new_with_constructor(durations),
            in_progress: Gauge::default(),
            batch_size: Histogram::new(exponential_buckets(1.0, 2.0, 9)),
            connections: Gauge::default(),
            turned_away: Counter::default(),
            loads: Family::default(),
            loaded_at: Gauge::default(),
        };
        metrics.register();
        metrics
    }
}

/// 0.25 ms to 4 s.
fn durations() -> Histogram {
    Histogram::new(exponential_buckets(0.000_25, 2.0, 15))
}

impl Metrics {
    fn register(&mut self) {
        let registry = &mut self.registry;
        registry.register("requests", "Requests answered", self.requests.clone());
        registry.register_with_unit(
            "request_duration",
            "Time from a request's head to its response's head",
            Unit::Seconds,
            self.seconds.clone(),
        );
        registry.register(
            "requests_in_progress",
            "Requests for the model that are not answered yet",
            self.in_progress.clone(),
        );
        registry.register("batch_size", "Requests in one batch", self.batch_size.clone());
        registry.register("connections", "Open connections", self.connections.clone());
        registry.register(
            "connections_turned_away",
            "Connections closed at once because too many were open",
            self.turned_away.clone(),
        );
        registry.register("model_loads", "Loads of a model, by outcome", self.loads.clone());
        registry.register_with_unit(
            "model_loaded_at",
            "When the model in use was loaded, since 1970",
            Unit::Seconds,
            self.loaded_at.clone(),
        );
    }

    /// Counts a load of a model.
    pub fn loaded(&self, good: bool) {
        let outcome = if good { "ok" } else { "failed" };
        self.loads.get_or_create(&LoadLabel { outcome }).inc();
        if let (true, Ok(now)) = (good, SystemTime::now().duration_since(UNIX_EPOCH)) {
            self.loaded_at.set(now.as_secs() as i64);
        }
    }

    /// Everything, as text.
    pub fn text(&self) -> String {
        let mut text = String::new();
        // Writing into a string does not fail.
        let _ = encode(&mut text, &self.registry);
        text
    }
}
