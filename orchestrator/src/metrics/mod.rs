//! What operators watch: numbers of the process and of each tenant, for Prometheus.
//!
//! Every tenant has a registry of its own, so that one scrape cannot show another's. Labels are words of closed sets:
//! no name that somebody chose becomes a label. The driver tells what it committed, the REST interface what it
//! answered; gauges of agents are taken when somebody asks.

mod live;
mod observed;
mod procfs;
mod tenant;
mod text;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use outpost_orchestrator_core::event::{AgentView, Alarm, WorkflowView};
use outpost_orchestrator_core::record::{Snapshot, Write};
use outpost_proto::name::TenantName;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::{Registry, Unit};

use crate::driver::Counters;
use live::Live;
pub(crate) use observed::Observed;
use tenant::TenantMetrics;

/// 0.1 ms to 3.3 s: an API call, a commit.
const FAST: (f64, f64, u16) = (0.0001, 2.0, 16);
/// 1 to 2048: a burst.
const COUNTS: (f64, f64, u16) = (1.0, 2.0, 12);

fn fast() -> Histogram {
    Histogram::new(exponential_buckets(FAST.0, FAST.1, FAST.2))
}

fn counts() -> Histogram {
    Histogram::new(exponential_buckets(COUNTS.0, COUNTS.1, COUNTS.2))
}

/// One request's kind. Only routes of the table become labels.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Asked {
    method: &'static str,
    route: &'static str,
    status: u16,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Route {
    method: &'static str,
    route: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Build {
    version: &'static str,
}

/// All numbers. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Metrics {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    process: Mutex<Registry>,
    commit_duration: Histogram,
    burst_events: Histogram,
    burst_writes: Histogram,
    failed_commits: Counter,
    renewals: Counter,
    renewals_refused: Counter,
    recoveries: Counter,
    recoveries_refused: Counter,
    requests: Family<Asked, Counter>,
    request_duration: Family<Route, Histogram, fn() -> Histogram>,
    event_streams: Gauge,
    sessions: Gauge,
    server_certificate: Gauge,
    live: Mutex<Live>,
    tenants: Mutex<BTreeMap<TenantName, Arc<TenantMetrics>>>,
}

/// What is taken at the moment of a scrape.
#[derive(Debug)]
pub(crate) struct Now<'a> {
    /// The tenant's.
    pub(crate) agents: &'a [AgentView],
    /// The tenant's.
    pub(crate) workflows: &'a [WorkflowView],
    /// Event streams that are open.
    pub(crate) streams: usize,
    /// Agents' streams that are open.
    pub(crate) sessions: usize,
    /// What other parts of the process count.
    pub(crate) counters: &'a Counters,
    /// Microseconds since 1970.
    pub(crate) now: u64,
}

impl Default for Metrics {
    fn default() -> Self {
        let mut registry = Registry::with_prefix("outpost");
        let inner = Inner {
            commit_duration: fast(),
            burst_events: counts(),
            burst_writes: counts(),
            failed_commits: Counter::default(),
            renewals: Counter::default(),
            renewals_refused: Counter::default(),
            recoveries: Counter::default(),
            recoveries_refused: Counter::default(),
            requests: Family::default(),
            request_duration: Family::new_with_constructor(fast),
            event_streams: Gauge::default(),
            sessions: Gauge::default(),
            server_certificate: Gauge::default(),
            live: Mutex::default(),
            tenants: Mutex::default(),
            process: Mutex::default(),
        };
        inner.register(&mut registry);
        *inner.registry() = registry;
        Self {
            inner: Arc::new(inner),
        }
    }
}

impl Inner {
    fn register(&self, registry: &mut Registry) {
        let build = Family::<Build, Gauge>::default();
        let version = env!("CARGO_PKG_VERSION");
        build.get_or_create(&Build { version }).set(1);
        registry.register("build_info", "The version that runs, always 1", build);
        registry.register_with_unit(
            "commit_duration",
            "How long transactions of the driver took",
            Unit::Seconds,
            self.commit_duration.clone(),
        );
        registry.register(
            "burst_events",
            "Events that were decided together and share one commit",
            self.burst_events.clone(),
        );
        registry.register(
            "burst_writes",
            "Records written by one commit",
            self.burst_writes.clone(),
        );
        registry.register(
            "commits_failed",
            "Transactions of the driver that failed",
            self.failed_commits.clone(),
        );
        registry.register(
            "certificate_renewals",
            "Certificates of agents that were renewed",
            self.renewals.clone(),
        );
        registry.register(
            "certificate_renewals_refused",
            "Renewals that were refused or had to be tried again",
            self.renewals_refused.clone(),
        );
        registry.register(
            "certificate_recoveries",
            "Certificates of agents that were issued in place of ones that had ended",
            self.recoveries.clone(),
        );
        registry.register(
            "certificate_recoveries_refused",
            "Requests for such ones that were refused or had to be tried again",
            self.recoveries_refused.clone(),
        );
        registry.register(
            "http_requests",
            "Requests answered by the API, by route and status",
            self.requests.clone(),
        );
        registry.register_with_unit(
            "http_request_duration",
            "Time to answer a request of the API, event streams apart",
            Unit::Seconds,
            self.request_duration.clone(),
        );
        registry.register(
            "event_streams",
            "Event streams that are open",
            self.event_streams.clone(),
        );
        registry.register(
            "sessions",
            "Streams of agents that are open",
            self.sessions.clone(),
        );
        registry.register_with_unit(
            "server_certificate_remaining",
            "How long the server's own certificate holds",
            Unit::Seconds,
            self.server_certificate.clone(),
        );
    }

    fn registry(&self) -> MutexGuard<'_, Registry> {
        self.process.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn live(&self) -> MutexGuard<'_, Live> {
        self.live.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn tenant(&self, tenant: &TenantName) -> Arc<TenantMetrics> {
        let mut tenants = self.tenants.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = tenants.get(tenant) {
            return known.clone();
        }
        let metrics = Arc::new(TenantMetrics::default());
        tenants.insert(tenant.clone(), metrics.clone());
        metrics
    }
}

impl Metrics {
    /// Counts what is alive anew, as the store has it.
    pub(crate) fn loaded(&self, snapshot: &Snapshot) {
        let mut live = self.inner.live();
        live.clear();
        for run in &snapshot.runs {
            live.run(run, |tenant| self.inner.tenant(tenant));
        }
        for task in &snapshot.tasks {
            live.task(task, None);
        }
        for attempt in &snapshot.attempts {
            live.known(attempt);
        }
        live.end_of_commit();
    }

    /// Counts what became durable.
    pub(crate) fn committed(&self, writes: &[Write], events: usize, took: Duration) {
        let inner = &*self.inner;
        inner.commit_duration.observe(took.as_secs_f64());
        inner.burst_events.observe(number(events));
        inner.burst_writes.observe(number(writes.len()));
        inner
            .live()
            .committed(writes, |tenant| inner.tenant(tenant));
    }

    /// A transaction did not happen.
    pub(crate) fn not_committed(&self) {
        self.inner.failed_commits.inc();
    }

    /// An agent did what no honest agent does.
    pub(crate) fn alarm(&self, tenant: &TenantName, what: Alarm) {
        self.inner.tenant(tenant).alarm(what);
    }

    /// A request was answered. `took` is `None` for a stream.
    pub(crate) fn answered(
        &self,
        method: &'static str,
        route: &'static str,
        status: u16,
        took: Option<Duration>,
    ) {
        let asked = Asked {
            method,
            route,
            status,
        };
        self.inner.requests.get_or_create(&asked).inc();
        if let Some(took) = took {
            let route = Route { method, route };
            let duration = self.inner.request_duration.get_or_create(&route);
            duration.observe(took.as_secs_f64());
        }
    }

    /// Everything that one tenant may see, in Prometheus' text format.
    pub(crate) fn text(&self, tenant: &TenantName, now: &Now<'_>) -> String {
        let inner = &*self.inner;
        let set = |gauge: &Gauge, value: usize| gauge.set(i64::try_from(value).unwrap_or(i64::MAX));
        set(&inner.event_streams, now.streams);
        set(&inner.sessions, now.sessions);
        let counters = now.counters;
        let ends_s = counters
            .server_certificate_not_after_s
            .load(Ordering::Relaxed);
        let left_s = ends_s.saturating_sub(now.now / 1_000_000);
        inner
            .server_certificate
            .set(i64::try_from(left_s).unwrap_or(i64::MAX));
        let copy = |to: &Counter, from: &AtomicU64| {
            to.inner()
                .store(from.load(Ordering::Relaxed), Ordering::Relaxed);
        };
        copy(&inner.renewals, &counters.renewals);
        copy(&inner.renewals_refused, &counters.renewals_refused);
        copy(&inner.recoveries, &counters.recoveries);
        copy(&inner.recoveries_refused, &counters.recoveries_refused);
        let metrics = inner.tenant(tenant);
        metrics.take(now);
        let mut text = String::new();
        text::append(&mut text, &inner.registry());
        metrics.append(&mut text);
        procfs::append(&mut text);
        text
    }
}

#[expect(
    clippy::cast_precision_loss,
    reason = "counts of one burst are far below 2^52"
)]
fn number(count: usize) -> f64 {
    count as f64
}

#[cfg(test)]
mod tests;
