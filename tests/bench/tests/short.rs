//! One round of the benchmark, so that it is known to work before somebody needs it. How quick it is says nothing here.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use harness::{Figure, Run};

#[test]
fn one_round_prints_figures_and_loses_nothing() {
    let printed = Run::new(env!("CARGO_BIN_EXE_ipc-bench")).args(["--rounds", "1"]).output().unwrap();
    let figures: Vec<Figure> = printed.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let value = |metric: &str| {
        let figure = figures.iter().find(|figure| figure.metric == metric);
        figure.unwrap_or_else(|| panic!("no {metric} in\n{printed}")).value
    };
    assert_eq!(printed.lines().filter(|line| line.starts_with(r#"{"metric":""#)).count(), figures.len());
    for bytes in [256, 3072, 65_536] {
        assert!(value(&format!("ipc.rtt.{bytes}.p50_us")) > 0.0);
        assert!(value(&format!("ipc.rtt.{bytes}.p99_us")) > 0.0);
        assert!(value(&format!("ipc.rtt.{bytes}.p999_us")) > 0.0);
        assert!(value(&format!("ipc.floor.rtt.{bytes}.p50_us")) > 0.0);
        assert!(value(&format!("ipc.floor.rtt.{bytes}.p99_us")) > 0.0);
        assert!(value(&format!("ipc.tonic.rtt.{bytes}.p50_us")) > 0.0);
        assert!(value(&format!("ipc.rtt.{bytes}.p50_over_floor")) > 0.0);
        assert!(value(&format!("ipc.oneway.{bytes}.per_s")) > 0.0);
    }
    assert!(value("ipc.inflight64.256.per_s") > 0.0);
    assert!(value("ipc.lost").abs() < f64::EPSILON);
}
