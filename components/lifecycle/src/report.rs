//! What this server counted on its links, told to the supervisor, who shows it in `edgectl links` and counts it for
//! the metrics exporter.

use std::time::Duration;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use ipc::{LinkStats, Server, Service};
use prost::Message as _;
use proto::control::{Link, LinkReport};

use crate::notify::notify;

/// At most one report a second: figures for people and for a scraper that comes every few seconds.
const INTERVAL: Duration = Duration::from_secs(1);

/// The supervisor takes datagrams of 16 KiB, and base64 makes four bytes of three.
const MAX_REPORT: usize = 11 * 1024;

/// Reports whenever something was counted. An idle server has no timer and sends nothing.
pub(crate) async fn links<S: Service>(server: Server<S>) {
    loop {
        server.counted().await;
        tokio::time::sleep(INTERVAL).await;
        notify(&format!("{}\n", variable(&server.links())));
    }
}

fn variable(links: &[LinkStats]) -> String {
    let mut report = LinkReport { links: links.iter().map(Link::from).collect() };
    if report.encoded_len() > MAX_REPORT {
        // Ten links of ten methods are 5 KiB; only reasons are long.
        report.links.iter_mut().for_each(|link| link.last_refusal.clear());
    }
    format!("X_APIARY_LINKS={}", BASE64_STANDARD.encode(report.encode_to_vec()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decoded(variable: &str) -> LinkReport {
        let base64 = variable.strip_prefix("X_APIARY_LINKS=").unwrap();
        LinkReport::decode(BASE64_STANDARD.decode(base64).unwrap().as_slice()).unwrap()
    }

    #[test]
    fn report_carries_the_counters_by_client() {
        let method = ipc::MethodStats { name: "Get", calls_total: 3, failures_total: 1 };
        let stats = LinkStats {
            client: "edged".into(),
            connections_total: 2,
            connections_open: 1,
            latency_sum: Duration::from_millis(2),
            methods: vec![method],
            ..LinkStats::default()
        };
        let report = decoded(&variable(&[stats]));
        let [link] = report.links.as_slice() else { panic!("{report:?}") };
        assert_eq!((link.client.as_str(), link.connections_open, link.latency_sum_us), ("edged", 1, 2000));
        assert_eq!((link.methods[0].name.as_str(), link.methods[0].calls_total), ("Get", 3));
        assert_eq!(link.latency.len(), 13);
    }

    #[test]
    fn reasons_are_left_out_when_the_report_would_not_fit() {
        let stats = LinkStats { last_refusal: "x".repeat(200), ..LinkStats::default() };
        let report = decoded(&variable(&vec![stats; 100]));
        assert!(report.links.iter().all(|link| link.last_refusal.is_empty()));
        assert_eq!(report.links.len(), 100);
    }
}
