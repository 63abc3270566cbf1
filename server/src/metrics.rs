//! Counters and gauges of the process, rendered for Prometheus.

use std::fmt;

use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle};

/// Upper bounds of the buckets of durations, in seconds: from a fast step to a stuck one.
const DURATION_BUCKETS: [f64; 12] = [
    0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0,
];

/// The process's metrics.
#[derive(Clone)]
pub struct Metrics {
    handle: PrometheusHandle,
}

impl fmt::Debug for Metrics {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("Metrics")
    }
}

impl Metrics {
    /// Makes the recorder and installs it for the process; a second one records nothing, as tests in one process do.
    ///
    /// # Errors
    /// Only if the buckets were empty.
    pub fn install() -> anyhow::Result<Self> {
        let recorder = PrometheusBuilder::new()
            .set_buckets(&DURATION_BUCKETS)?
            .build_recorder();
        let handle = recorder.handle();
        if metrics::set_global_recorder(recorder).is_err() {
            tracing::debug!("metrics are recorded elsewhere in this process");
        }
        describe();
        Ok(Self { handle })
    }

    /// The text of `GET /metrics`.
    pub fn render(&self) -> String {
        self.handle.run_upkeep();
        self.handle.render()
    }
}

fn describe() {
    metrics::describe_counter!("waxwing_refused_requests_total", "Requests refused, by code");
    metrics::describe_counter!("waxwing_sessions_total", "Native sessions ended, by how");
    metrics::describe_gauge!("waxwing_sessions_open", "Native sessions that are open");
    metrics::describe_counter!("waxwing_files_total", "Files transcribed, by how they ended");
    metrics::describe_counter!(
        "waxwing_promise_broken_total",
        "Invariants found broken in production, by name; 0 is right"
    );
}
