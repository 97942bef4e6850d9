use std::collections::{BTreeMap, BTreeSet};

use super::*;

/// A supervisor with something in every field that is exported.
fn full() -> Snapshot {
    let component = Component {
        name: "edged".into(),
        state: "ready".into(),
        pid: 4242,
        uid: 0,
        user: "root".into(),
        generation: 9,
        restarts: 3,
        pss_kib: 4275,
        ready_since_ms: 1_792_000_000_123,
        last_exit: "killed by SIGKILL".into(),
        next_start_ms: 250,
        status_text: "12 pods".into(),
        degraded: vec!["memory limit (no cgroup)".into()],
        memory_kib: 6000,
        memory_limit_kib: 131_072,
        cpu_ns: 1_234_567_890,
        threads: 3,
        pids_limit: 64,
        ready_us: 12_500,
        exec: "/usr/libexec/apiary/edged".into(),
        rolled_back: true,
        memory_kills: 1,
        hang_kills: 2,
    };
    let link = Link {
        server: "metamanager".into(),
        client: "edged".into(),
        socket: "/run/apiary/edge/link/metamanager.edged.sock".into(),
        methods: vec![MethodUse { name: "Watch".into(), calls_total: 6, failures_total: 1 }],
        connections_total: 2,
        connections_open: 1,
        received_bytes: 4096,
        sent_bytes: 65_536,
        refusals_total: 4,
        last_refusal: "edged may not call Apply".into(),
        latency: vec![1, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1],
        latency_sum_us: 2_000_150,
    };
    Snapshot {
        status: StatusReply {
            components: vec![component],
            supervisor: "edgecore".into(),
            pid: 1,
            version: "0.1.0".into(),
            single_uid: true,
            reexecs: 5,
            cgroup: "v1".into(),
            started_ms: 1_792_000_000_000,
        },
        links: LinksReply { links: vec![link] },
    }
}

#[test]
fn answer_is_the_reviewed_one() {
    let golden = concat!(env!("CARGO_MANIFEST_DIR"), "/testdata/metrics.prom");
    let text = render(&full());
    if std::env::var_os("BLESS").is_some() {
        std::fs::write(golden, &text).unwrap();
    }
    let expected = std::fs::read_to_string(golden).unwrap();
    assert_eq!(text, expected, "if this is meant: BLESS=1 cargo test -p metrics, and read the difference");
}

#[test]
fn answer_keeps_every_rule_of_the_format() {
    parse(&render(&full()));
    parse(&render(&Snapshot::default()));
    let mut odd = full();
    odd.status.version = "1\"}\\\n".into();
    odd.status.components[0].name = "\u{1f41d} \"\\\n# TYPE x counter".into();
    odd.links.links[0].latency = vec![u64::MAX; 40];
    parse(&render(&odd));
}

#[test]
fn every_metric_is_set_by_something() {
    let metrics = parse(&render(&full()));
    for family in &FAMILIES {
        let samples = metrics.get(family.name).unwrap_or_else(|| panic!("{} has no sample", family.name));
        assert!(samples.iter().any(|sample| sample.value > 0.0), "nothing sets {}", family.name);
    }
}

#[test]
fn every_number_of_the_supervisor_is_shown() {
    let shown = |change: fn(&mut Snapshot)| {
        let mut changed = full();
        change(&mut changed);
        render(&changed) != render(&full())
    };
    let component: [fn(&mut Component); 14] = [
        |it| it.state = "backoff".into(),
        |it| it.restarts += 1,
        |it| it.pss_kib += 1,
        |it| it.ready_since_ms += 1,
        |it| it.next_start_ms += 1,
        |it| it.degraded.clear(),
        |it| it.memory_kib += 1,
        |it| it.memory_limit_kib += 1,
        |it| it.cpu_ns += 1,
        |it| it.threads += 1,
        |it| it.pids_limit += 1,
        |it| it.ready_us += 1,
        |it| it.memory_kills += 1,
        |it| it.hang_kills += 1,
    ];
    for (index, change) in component.into_iter().enumerate() {
        let mut changed = full();
        change(&mut changed.status.components[0]);
        assert_ne!(render(&changed), render(&full()), "number {index} of a component is not shown");
    }
    assert!(shown(|now| now.status.reexecs += 1));
    assert!(shown(|now| now.status.started_ms += 1));
    assert!(shown(|now| now.links.links[0].latency_sum_us += 1));
    assert!(shown(|now| now.links.links[0].latency[7] += 1));
    assert!(shown(|now| now.links.links[0].methods[0].calls_total += 1));
}

#[test]
fn what_the_supervisor_does_not_know_is_left_out_instead_of_zero() {
    type Known = (&'static str, fn(&mut Component));
    let known: [Known; 8] = [
        ("ready_seconds", |it| it.ready_us = 0),
        ("ready_timestamp_seconds", |it| it.ready_since_ms = 0),
        ("memory_bytes", |it| it.pss_kib = 0),
        ("cgroup_memory_bytes", |it| it.memory_kib = 0),
        ("cgroup_memory_limit_bytes", |it| it.memory_limit_kib = 0),
        ("cpu_seconds_total", |it| it.cpu_ns = 0),
        ("threads", |it| it.threads = 0),
        ("threads_limit", |it| it.pids_limit = 0),
    ];
    for (name, forget) in known {
        let mut unknown = full();
        let mut other = unknown.status.components[0].clone();
        other.name = "edgehub".into();
        forget(&mut unknown.status.components[0]);
        unknown.status.components.push(other);
        let metrics = parse(&render(&unknown));
        let samples = &metrics[&format!("apiary_component_{name}")];
        assert_eq!(samples.len(), 1, "{name}: {samples:?}");
        assert_eq!(samples[0].labels["component"], "edgehub", "{name}");
    }
}

#[test]
fn zero_is_shown_where_it_is_a_number() {
    let mut fresh = full();
    let component = &mut fresh.status.components[0];
    (component.restarts, component.next_start_ms) = (0, 0);
    let metrics = parse(&render(&fresh));
    for name in ["restarts_total", "backoff_seconds"] {
        assert_eq!(metrics[&format!("apiary_component_{name}")].len(), 1, "{name}");
    }
}

#[test]
fn absurd_number_of_links_is_cut() {
    let mut many = full();
    many.links.links = vec![many.links.links[0].clone(); 100_000];
    assert!(render(&many).len() < 4 << 20);
}

/// One line with a number.
#[derive(Debug)]
struct Sample {
    labels: BTreeMap<String, String>,
    suffix: String,
    value: f64,
}

/// Reads the format more strictly than Prometheus does, and panics at what breaks it or its naming conventions.
fn parse(text: &str) -> BTreeMap<String, Vec<Sample>> {
    assert!(text.is_empty() || text.ends_with('\n'), "the last line has no end");
    let mut families: BTreeMap<String, Vec<Sample>> = BTreeMap::new();
    let mut seen = BTreeSet::new();
    let mut current = (String::new(), String::new());
    let mut lines = text.lines();
    while let Some(line) = lines.next() {
        if let Some(help) = line.strip_prefix("# HELP ") {
            let (name, words) = help.split_once(' ').unwrap();
            assert!(!words.trim().is_empty() && !words.contains('\\') && words.ends_with('.'), "{line}");
            let kind = lines.next().and_then(|line| line.strip_prefix(&format!("# TYPE {name} "))).unwrap();
            assert!(["counter", "gauge", "histogram"].contains(&kind), "{kind}");
            assert_eq!(kind == "counter", name.ends_with("_total"), "{name} is a {kind}");
            assert!(name.starts_with("apiary_") && is_name(name), "{name}");
            assert!(families.insert(name.into(), Vec::new()).is_none(), "{name} is there twice");
            current = (name.into(), kind.into());
            continue;
        }
        let (series, value) = line.rsplit_once(' ').unwrap();
        assert!(seen.insert(series.to_owned()), "{series} is there twice");
        let (name, labels) = match series.split_once('{') {
            Some((name, labels)) => (name, labels_of(labels.strip_suffix('}').unwrap())),
            None => (series, BTreeMap::new()),
        };
        let suffix =
            name.strip_prefix(&*current.0).unwrap_or_else(|| panic!("{name} lies below {}", current.0));
        let suffixes: &[&str] = if current.1 == "histogram" { &["_bucket", "_sum", "_count"] } else { &[""] };
        assert!(suffixes.contains(&suffix), "{line}");
        assert_eq!(suffix == "_bucket", labels.contains_key("le"), "{line}");
        let value: f64 = value.parse().unwrap();
        assert!(value.is_finite() && value >= 0.0, "{line}");
        families.get_mut(&current.0).unwrap().push(Sample { labels, suffix: suffix.into(), value });
    }
    for samples in families.values() {
        check_histogram(samples);
    }
    families
}

fn is_name(name: &str) -> bool {
    name.starts_with(|first: char| first.is_ascii_lowercase())
        && name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_')
}

fn labels_of(text: &str) -> BTreeMap<String, String> {
    let mut labels = BTreeMap::new();
    let mut rest = text;
    while !rest.is_empty() {
        let (name, quoted) = rest.split_once("=\"").unwrap();
        assert!(is_name(name), "{text}");
        let (mut value, mut characters) = (String::new(), quoted.char_indices());
        let end = loop {
            match characters.next().unwrap() {
                (at, '"') => break at,
                (_, '\\') => value.push(match characters.next().unwrap().1 {
                    'n' => '\n',
                    escaped @ ('"' | '\\') => escaped,
                    other => panic!("\\{other} is no escape"),
                }),
                (_, other) => value.push(other),
            }
        };
        assert!(labels.insert(name.to_owned(), value).is_none(), "{text}");
        rest = &quoted[end + 1..];
        assert!(rest.is_empty() || rest.starts_with(','), "{text}");
        rest = rest.trim_start_matches(',');
    }
    labels
}

/// Per series: bounds rise, counts do not fall, and the last bucket holds as many as there are.
fn check_histogram(samples: &[Sample]) {
    let (mut bound, mut below) = (0.0, 0.0);
    for sample in samples.iter().filter(|sample| !sample.suffix.is_empty()) {
        match &*sample.suffix {
            "_bucket" => {
                let upper = match &*sample.labels["le"] {
                    "+Inf" => f64::INFINITY,
                    number => number.parse().unwrap(),
                };
                assert!(upper > bound && sample.value >= below, "{sample:?}");
                (bound, below) = (upper, sample.value);
            }
            "_count" => {
                assert!(bound.is_infinite() && sample.value.to_bits() == below.to_bits(), "{sample:?}");
                (bound, below) = (0.0, 0.0);
            }
            _ => {}
        }
    }
}
