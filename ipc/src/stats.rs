//! What a server counts on each of its links.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::Notify;

use crate::transport::lock;
use crate::{Interface, Method};

/// Upper bounds of the latency buckets; a slower call is in one more, the last.
pub const LATENCY_BOUNDS: [Duration; 12] = [
    Duration::from_micros(50),
    Duration::from_micros(100),
    Duration::from_micros(250),
    Duration::from_micros(500),
    Duration::from_millis(1),
    Duration::from_micros(2500),
    Duration::from_millis(5),
    Duration::from_millis(10),
    Duration::from_millis(25),
    Duration::from_millis(50),
    Duration::from_millis(100),
    Duration::from_secs(1),
];

/// What a server has counted since it began.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Stats {
    /// Connections accepted.
    pub connections_total: u64,
    /// Calls started.
    pub calls_total: u64,
    /// Peers disconnected because they broke a rule.
    pub violations_total: u64,
}

/// What a server has counted on one of its listeners since it began.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LinkStats {
    /// The client the listener is for; empty where any user may connect.
    pub client: String,
    /// Connections accepted.
    pub connections_total: u64,
    /// Those that are open now.
    pub connections_open: u64,
    /// Bytes read, frames and all.
    pub received_bytes: u64,
    /// Bytes written, frames and all.
    pub sent_bytes: u64,
    /// Connections and calls that were refused because a rule was broken.
    pub refusals_total: u64,
    /// Why the last one was, at most 200 bytes.
    pub last_refusal: String,
    /// How many unary calls took how long in the server, by [`LATENCY_BOUNDS`]; each call is in one bucket.
    pub latency: [u64; LATENCY_BOUNDS.len() + 1],
    /// The sum of those times.
    pub latency_sum: Duration,
    /// The methods the link allows, in the interface's order.
    pub methods: Vec<MethodStats>,
}

/// What a server has counted of one method on one link.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct MethodStats {
    /// As in the `.proto` file.
    pub name: &'static str,
    /// Calls started.
    pub calls_total: u64,
    /// Those answered with an error of the interface, late, or cancelled; the end of the connection cancels them too.
    pub failures_total: u64,
}

/// The counters of one listener. Relaxed atomics: a count may be read a moment before another it belongs to.
#[derive(Debug)]
pub(crate) struct Counters {
    client: String,
    connections: AtomicU64,
    closed: AtomicU64,
    received: AtomicU64,
    sent: AtomicU64,
    refusals: AtomicU64,
    last_refusal: Mutex<String>,
    latency: [AtomicU64; LATENCY_BOUNDS.len() + 1],
    latency_sum_ns: AtomicU64,
    /// By method index; `None` where the link does not allow the method.
    methods: Box<[Option<MethodCounters>]>,
    /// Something was counted since the last look, so that an idle process has nothing to report and no timer.
    changed: AtomicBool,
    look: std::sync::Arc<Notify>,
}

#[derive(Debug, Default)]
struct MethodCounters {
    calls: AtomicU64,
    failures: AtomicU64,
}

/// How a call ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Outcome {
    Answered,
    /// Answered with an error of the interface, late, or cancelled.
    Failed,
}

impl Counters {
    pub(crate) fn new(client: String, allowed: &[bool], look: std::sync::Arc<Notify>) -> Self {
        Self {
            client,
            connections: AtomicU64::new(0),
            closed: AtomicU64::new(0),
            received: AtomicU64::new(0),
            sent: AtomicU64::new(0),
            refusals: AtomicU64::new(0),
            last_refusal: Mutex::default(),
            latency: Default::default(),
            latency_sum_ns: AtomicU64::new(0),
            methods: allowed.iter().map(|allowed| allowed.then(MethodCounters::default)).collect(),
            changed: AtomicBool::new(false),
            look,
        }
    }

    /// Whether the link allows this method.
    pub(crate) fn allows(&self, method: &Method) -> bool {
        self.methods[method.index()].is_some()
    }

    fn add(&self, counter: &AtomicU64, count: u64) {
        counter.fetch_add(count, Ordering::Relaxed);
        // Read first: the line stays shared, and the store is rare.
        if !self.changed.load(Ordering::Relaxed) {
            self.changed.store(true, Ordering::Relaxed);
            self.look.notify_one();
        }
    }

    pub(crate) fn connected(&self) {
        self.add(&self.connections, 1);
    }

    pub(crate) fn disconnected(&self) {
        self.add(&self.closed, 1);
    }

    pub(crate) fn received(&self, bytes: usize) {
        self.add(&self.received, bytes as u64);
    }

    pub(crate) fn sent(&self, bytes: u64) {
        self.add(&self.sent, bytes);
    }

    pub(crate) fn refused(&self, reason: &str) {
        /// A report names several links and must fit a datagram.
        const MAX_REASON: usize = 200;
        reason[..reason.floor_char_boundary(MAX_REASON)].clone_into(&mut lock(&self.last_refusal));
        self.add(&self.refusals, 1);
    }

    pub(crate) fn called(&self, method: &Method) {
        if let Some(counters) = &self.methods[method.index()] {
            self.add(&counters.calls, 1);
        }
    }

    pub(crate) fn failed(&self, method: usize) {
        if let Some(counters) = &self.methods[method] {
            self.add(&counters.failures, 1);
        }
    }

    /// A unary call ended after `took`.
    pub(crate) fn answered(&self, took: Duration) {
        let bucket = LATENCY_BOUNDS.iter().position(|bound| took <= *bound).unwrap_or(LATENCY_BOUNDS.len());
        self.latency[bucket].fetch_add(1, Ordering::Relaxed);
        let ns = u64::try_from(took.as_nanos()).unwrap_or(u64::MAX);
        self.latency_sum_ns.fetch_add(ns, Ordering::Relaxed);
    }

    pub(crate) fn connections_total(&self) -> u64 {
        self.connections.load(Ordering::Relaxed)
    }

    pub(crate) fn calls_total(&self) -> u64 {
        self.methods.iter().flatten().map(|method| method.calls.load(Ordering::Relaxed)).sum()
    }

    pub(crate) fn refusals_total(&self) -> u64 {
        self.refusals.load(Ordering::Relaxed)
    }

    /// Reads everything. What is counted from now on wakes [`crate::Server::counted`] again.
    pub(crate) fn read(&self, interface: &'static Interface) -> LinkStats {
        self.changed.store(false, Ordering::Relaxed);
        let load = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let (closed, connections) = (load(&self.closed), load(&self.connections));
        LinkStats {
            client: self.client.clone(),
            connections_total: connections,
            connections_open: connections.saturating_sub(closed),
            received_bytes: load(&self.received),
            sent_bytes: load(&self.sent),
            refusals_total: load(&self.refusals),
            last_refusal: lock(&self.last_refusal).clone(),
            latency: std::array::from_fn(|bucket| load(&self.latency[bucket])),
            latency_sum: Duration::from_nanos(load(&self.latency_sum_ns)),
            methods: interface
                .methods
                .iter()
                .zip(&self.methods)
                .filter_map(|(method, counters)| {
                    let counters = counters.as_ref()?;
                    Some(MethodStats {
                        name: method.name,
                        calls_total: load(&counters.calls),
                        failures_total: load(&counters.failures),
                    })
                })
                .collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tests::TEST;

    fn counters() -> Counters {
        Counters::new("edged".into(), &[true, false, true, true], std::sync::Arc::default())
    }

    #[test]
    fn a_call_is_in_the_first_bucket_that_holds_it() {
        let counters = counters();
        for micros in [1, 50, 51, 2_000_000] {
            counters.answered(Duration::from_micros(micros));
        }
        let stats = counters.read(&TEST);
        assert_eq!((stats.latency[0], stats.latency[1], stats.latency[12]), (2, 1, 1));
        assert_eq!(stats.latency_sum, Duration::from_micros(2_000_102));
    }

    #[test]
    fn only_what_the_link_allows_is_listed() {
        let counters = counters();
        counters.called(&TEST.methods[0]);
        let methods = counters.read(&TEST).methods;
        assert_eq!(methods.iter().map(|method| method.name).collect::<Vec<_>>(), ["Echo", "Count", "Fail"]);
        assert_eq!(methods[0].calls_total, 1);
    }

    #[test]
    fn a_long_reason_is_cut_at_a_character() {
        let counters = counters();
        counters.refused(&"ä".repeat(500));
        assert_eq!(counters.read(&TEST).last_refusal.len(), 200);
    }
}
