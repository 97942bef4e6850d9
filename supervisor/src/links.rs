//! The links as `edgectl links` shows them: what the manifest grants, with what the servers say they counted.

use std::path::Path;

use proto::control::{Link as Shown, LinkReport, MethodUse};

use crate::wiring::{self, Link};

/// Longest text of a refusal that is kept, in bytes.
const LONGEST_REFUSAL: usize = 512;
/// Buckets of the latency histogram in the control interface.
const BUCKETS: usize = 13;

/// Every link into `server` with its counters. A report is the server's own word: a link or a method that was not
/// granted is left out, and no text or list is longer than it may be.
pub fn merged(run_dir: &Path, server: &str, links: &[Link], report: &LinkReport) -> Vec<Shown> {
    let one = |link: &Link| {
        let said = report.links.iter().find(|said| said.client == link.client).cloned().unwrap_or_default();
        let methods = link.methods.iter().map(|name| {
            let said = said.methods.iter().find(|method| method.name == *name).cloned();
            MethodUse { name: name.clone(), ..said.unwrap_or_default() }
        });
        Shown {
            server: server.to_owned(),
            client: link.client.clone(),
            socket: wiring::path(run_dir, server, &link.client).display().to_string(),
            methods: methods.collect(),
            last_refusal: one_line(&said.last_refusal, LONGEST_REFUSAL),
            latency: said.latency.into_iter().take(BUCKETS).collect(),
            connections_total: said.connections_total,
            connections_open: said.connections_open,
            received_bytes: said.received_bytes,
            sent_bytes: said.sent_bytes,
            refusals_total: said.refusals_total,
            latency_sum_us: said.latency_sum_us,
        }
    };
    links.iter().map(one).collect()
}

/// A text of somebody else's, fit for a terminal: no control characters, at most so many bytes.
pub(crate) fn one_line(text: &str, longest: usize) -> String {
    let mut text: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    text.truncate(text.floor_char_boundary(longest));
    text
}

#[cfg(test)]
mod tests {
    use std::fs::File;

    use super::*;

    fn link(client: &str, methods: &[&str]) -> Link {
        Link {
            client: client.to_owned(),
            client_uid: 1,
            methods: methods.iter().map(|&method| method.to_owned()).collect(),
            listener: File::open("/dev/null").expect("null").into(),
        }
    }

    fn used(name: &str, calls_total: u64) -> MethodUse {
        MethodUse { name: name.to_owned(), calls_total, failures_total: 1 }
    }

    #[test]
    fn counters_stand_at_the_methods_that_were_granted() {
        let said = Shown {
            client: "hub".to_owned(),
            methods: vec![used("Put", 7), used("Drop", 9)],
            received_bytes: 5,
            ..Shown::default()
        };
        let stranger = Shown { client: "stranger".to_owned(), ..Shown::default() };
        let links = [link("hub", &["Get", "Put"]), link("mesh", &["Get"])];
        let shown = merged(Path::new("/r"), "store", &links, &LinkReport { links: vec![stranger, said] });
        assert_eq!(shown.len(), 2);
        assert_eq!((shown[0].server.as_str(), shown[0].received_bytes), ("store", 5));
        assert_eq!(shown[0].socket, "/r/link/store.hub.sock");
        let never = MethodUse { name: "Get".to_owned(), ..MethodUse::default() };
        assert_eq!(shown[0].methods, [never.clone(), used("Put", 7)]);
        assert_eq!((shown[1].client.as_str(), &shown[1].methods[..]), ("mesh", &[never][..]));
    }

    #[test]
    fn report_is_cut_to_size() {
        let said = Shown {
            client: "hub".to_owned(),
            last_refusal: "\u{1b}[2Jx".repeat(1000),
            latency: vec![1; 100],
            ..Shown::default()
        };
        let shown = merged(Path::new("/r"), "s", &[link("hub", &[])], &LinkReport { links: vec![said] });
        assert!(shown[0].last_refusal.len() <= LONGEST_REFUSAL && !shown[0].last_refusal.contains('\u{1b}'));
        assert_eq!(shown[0].latency.len(), BUCKETS);
    }
}
