//! Which metrics there are, and how each is read off the supervisor's answers.

use ipc::LATENCY_BOUNDS;
use proto::control::{Component, Link, LinksReply, MethodUse, StatusReply};

use crate::text::{Kind, Samples, write_family};

/// Every state a component can be in; one of them has the value 1.
const STATES: [&str; 6] = ["starting", "ready", "backoff", "stopping", "stopped", "failed"];

/// 4096 samples of one family: a supervisor has some ten components and twenty links. Bounds the answer should the
/// supervisor's ever be wrong.
const MOST_SAMPLES: usize = 4096;

/// What the supervisor answered.
#[derive(Clone, Debug, Default)]
pub(crate) struct Snapshot {
    pub(crate) status: StatusReply,
    pub(crate) links: LinksReply,
}

/// One metric.
struct Family {
    name: &'static str,
    kind: Kind,
    help: &'static str,
    samples: fn(&Snapshot, &mut Samples),
}

/// The answer to a scrape.
pub(crate) fn render(snapshot: &Snapshot) -> String {
    let mut text = String::new();
    for family in &FAMILIES {
        write_family(&mut text, family.name, family.kind, family.help, |out| (family.samples)(snapshot, out));
    }
    text
}

const FAMILIES: [Family; 28] = [
    Family {
        name: "apiary_supervisor_info",
        kind: Kind::Gauge,
        help: "Always 1; the labels tell which supervisor this is, its version, and the cgroup mode it enforces limits with.",
        samples: |now, out| {
            let status = &now.status;
            let labels = [
                ("supervisor", &*status.supervisor),
                ("version", &status.version),
                ("cgroup", &status.cgroup),
            ];
            out.add(&labels, 1);
        },
    },
    Family {
        name: "apiary_supervisor_start_time_seconds",
        kind: Kind::Gauge,
        help: "Unix time of the supervisor's start; replacing its program under running components does not change it.",
        samples: |now, out| out.add_decimal(&[], now.status.started_ms, 3),
    },
    Family {
        name: "apiary_supervisor_reexecs_total",
        kind: Kind::Counter,
        help: "How often the supervisor's program was replaced under running components.",
        samples: |now, out| out.add(&[], now.status.reexecs),
    },
    Family {
        name: "apiary_supervisor_single_uid",
        kind: Kind::Gauge,
        help: "1 when everything runs under one user because the supervisor was not started as root.",
        samples: |now, out| out.add(&[], now.status.single_uid.into()),
    },
    Family {
        name: "apiary_component_state",
        kind: Kind::Gauge,
        help: "1 for the state a component is in, 0 for the others.",
        samples: |now, out| {
            for component in components(now) {
                for state in STATES {
                    out.add(
                        &[("component", &component.name), ("state", state)],
                        (component.state == state).into(),
                    );
                }
            }
        },
    },
    Family {
        name: "apiary_component_ready",
        kind: Kind::Gauge,
        help: "1 when the component has said that it serves.",
        samples: |now, out| each(now, out, |component| (component.state == "ready").into()),
    },
    Family {
        name: "apiary_component_ready_seconds",
        kind: Kind::Gauge,
        help: "How long the component's last start took until it was ready.",
        samples: |now, out| each_known_decimal(now, out, 6, |component| component.ready_us),
    },
    Family {
        name: "apiary_component_ready_timestamp_seconds",
        kind: Kind::Gauge,
        help: "Unix time at which the component last became ready.",
        samples: |now, out| each_known_decimal(now, out, 3, |component| component.ready_since_ms),
    },
    Family {
        name: "apiary_component_restarts_total",
        kind: Kind::Counter,
        help: "Starts of the component after its first.",
        samples: |now, out| each(now, out, |component| component.restarts),
    },
    Family {
        name: "apiary_component_memory_kills_total",
        kind: Kind::Counter,
        help: "How often the component was ended for reaching its memory ceiling.",
        samples: |now, out| each(now, out, |component| component.memory_kills),
    },
    Family {
        name: "apiary_component_hang_kills_total",
        kind: Kind::Counter,
        help: "How often the component was killed for being silent or late.",
        samples: |now, out| each(now, out, |component| component.hang_kills),
    },
    Family {
        name: "apiary_component_backoff_seconds",
        kind: Kind::Gauge,
        help: "Time until the component's next start; 0 when none is waited for.",
        samples: |now, out| each_decimal(now, out, 3, |component| component.next_start_ms),
    },
    Family {
        name: "apiary_component_degraded",
        kind: Kind::Gauge,
        help: "Kernel mechanisms the component runs without.",
        samples: |now, out| each(now, out, |component| component.degraded.len() as u64),
    },
    Family {
        name: "apiary_component_rolled_back",
        kind: Kind::Gauge,
        help: "1 when the component runs its previous program because the installed one did not become ready.",
        samples: |now, out| each(now, out, |component| component.rolled_back.into()),
    },
    Family {
        name: "apiary_component_memory_bytes",
        kind: Kind::Gauge,
        help: "Proportional set size: private memory, and each shared page divided by the processes that share it.",
        samples: |now, out| each_known(now, out, |component| bytes(component.pss_kib)),
    },
    Family {
        name: "apiary_component_cgroup_memory_bytes",
        kind: Kind::Gauge,
        help: "Memory counted against the component's ceiling.",
        samples: |now, out| each_known(now, out, |component| bytes(component.memory_kib)),
    },
    Family {
        name: "apiary_component_cgroup_memory_limit_bytes",
        kind: Kind::Gauge,
        help: "The component's memory ceiling.",
        samples: |now, out| each_known(now, out, |component| bytes(component.memory_limit_kib)),
    },
    Family {
        name: "apiary_component_cpu_seconds_total",
        kind: Kind::Counter,
        help: "CPU time of the component's present process.",
        samples: |now, out| each_known_decimal(now, out, 9, |component| component.cpu_ns),
    },
    Family {
        name: "apiary_component_threads",
        kind: Kind::Gauge,
        help: "Threads of the component.",
        samples: |now, out| each_known(now, out, |component| component.threads.into()),
    },
    Family {
        name: "apiary_component_threads_limit",
        kind: Kind::Gauge,
        help: "The most threads and processes the component may have.",
        samples: |now, out| each_known(now, out, |component| component.pids_limit.into()),
    },
    Family {
        name: "apiary_link_calls_total",
        kind: Kind::Counter,
        help: "Calls of a granted method since the server's process started.",
        samples: |now, out| each_method(now, out, |method| method.calls_total),
    },
    Family {
        name: "apiary_link_call_failures_total",
        kind: Kind::Counter,
        help: "Calls answered with an error, late, or cancelled.",
        samples: |now, out| each_method(now, out, |method| method.failures_total),
    },
    Family {
        name: "apiary_link_call_duration_seconds",
        kind: Kind::Histogram,
        help: "How long unary calls took in the server.",
        samples: |now, out| {
            for link in links(now) {
                out.add_histogram(&ends(link), &LATENCY_BOUNDS, &link.latency, link.latency_sum_us);
            }
        },
    },
    Family {
        name: "apiary_link_connections_total",
        kind: Kind::Counter,
        help: "Connections the client made.",
        samples: |now, out| each_link(now, out, |link| link.connections_total),
    },
    Family {
        name: "apiary_link_connections",
        kind: Kind::Gauge,
        help: "Connections that are open.",
        samples: |now, out| each_link(now, out, |link| link.connections_open.into()),
    },
    Family {
        name: "apiary_link_received_bytes_total",
        kind: Kind::Counter,
        help: "Bytes the server read from the client.",
        samples: |now, out| each_link(now, out, |link| link.received_bytes),
    },
    Family {
        name: "apiary_link_sent_bytes_total",
        kind: Kind::Counter,
        help: "Bytes the server wrote to the client.",
        samples: |now, out| each_link(now, out, |link| link.sent_bytes),
    },
    Family {
        name: "apiary_link_refusals_total",
        kind: Kind::Counter,
        help: "Calls and connections of the client that broke a rule.",
        samples: |now, out| each_link(now, out, |link| link.refusals_total),
    },
];

fn components(now: &Snapshot) -> impl Iterator<Item = &Component> {
    now.status.components.iter().take(MOST_SAMPLES / STATES.len())
}

fn links(now: &Snapshot) -> impl Iterator<Item = &Link> {
    now.links.links.iter().take(MOST_SAMPLES / (LATENCY_BOUNDS.len() + 3))
}

fn ends(link: &Link) -> [(&str, &str); 2] {
    [("server", &link.server), ("client", &link.client)]
}

fn each(now: &Snapshot, out: &mut Samples, value: impl Fn(&Component) -> u64) {
    for component in components(now) {
        out.add(&[("component", &component.name)], value(component));
    }
}

/// Only where the supervisor knows it: 0 is its word for "unknown", "never" and "no limit". Of a counter, Prometheus
/// would take it for a reset.
fn each_known(now: &Snapshot, out: &mut Samples, value: impl Fn(&Component) -> u64) {
    for component in components(now).filter(|component| value(component) > 0) {
        out.add(&[("component", &component.name)], value(component));
    }
}

fn each_decimal(now: &Snapshot, out: &mut Samples, digits: u32, value: impl Fn(&Component) -> u64) {
    for component in components(now) {
        out.add_decimal(&[("component", &component.name)], value(component), digits);
    }
}

/// As `each_known`.
fn each_known_decimal(now: &Snapshot, out: &mut Samples, digits: u32, value: impl Fn(&Component) -> u64) {
    for component in components(now).filter(|component| value(component) > 0) {
        out.add_decimal(&[("component", &component.name)], value(component), digits);
    }
}

fn each_link(now: &Snapshot, out: &mut Samples, value: impl Fn(&Link) -> u64) {
    for link in links(now) {
        out.add(&ends(link), value(link));
    }
}

fn each_method(now: &Snapshot, out: &mut Samples, value: impl Fn(&MethodUse) -> u64) {
    let methods = links(now).flat_map(|link| link.methods.iter().map(move |method| (link, method)));
    for (link, method) in methods.take(MOST_SAMPLES) {
        let labels = [("server", &*link.server), ("client", &link.client), ("method", &method.name)];
        out.add(&labels, value(method));
    }
}

/// The supervisor counts memory in KiB.
fn bytes(kib: u64) -> u64 {
    kib.saturating_mul(1024)
}

#[cfg(test)]
mod tests;
