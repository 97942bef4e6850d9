//! The exporter's answer, held against what the supervisor says itself.

use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use harness::{Cluster, Supervisor};

/// How long a scrape may take; the exporter itself gives up after 4 s.
const LIMIT: Duration = Duration::from_secs(10);

/// After a run of faults every counter of a component is the supervisor's own, and the links show that they were used.
pub(crate) fn agree_with_the_supervisors(cluster: &mut Cluster) -> Result<()> {
    for supervisor in [&cluster.edge, &cluster.cloud] {
        let text = scrape(supervisor)?;
        for component in supervisor.components()? {
            for (metric, expected) in [
                ("restarts", component.restarts),
                ("hang_kills", component.hang_kills),
                ("memory_kills", component.memory_kills),
            ] {
                let line =
                    format!("apiary_component_{metric}_total{{component=\"{}\"}} {expected}", component.name);
                ensure!(text.lines().any(|found| found == line), "no line {line} in\n{text}");
            }
            let ready = format!("apiary_component_ready{{component=\"{}\"}} 1", component.name);
            ensure!(text.lines().any(|found| found == ready), "no line {ready} in\n{text}");
        }
        let calls = text.lines().filter(|line| line.starts_with("apiary_link_calls_total{"));
        let used = calls.filter(|line| !line.ends_with(" 0")).count();
        ensure!(used > 0, "no call was counted on any link:\n{text}");
    }
    Ok(())
}

fn scrape(supervisor: &Supervisor) -> Result<String> {
    let socket = supervisor.control_socket().with_file_name("metrics.sock");
    let mut stream =
        UnixStream::connect(&socket).with_context(|| format!("could not connect to {}", socket.display()))?;
    stream.set_read_timeout(Some(LIMIT)).context("could not bound the answer")?;
    stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).with_context(|| format!("no answer of {}", socket.display()))?;
    let (head, body) = answer.split_once("\r\n\r\n").context("not an HTTP answer")?;
    ensure!(head.starts_with("HTTP/1.1 200"), "{head}: {body}");
    Ok(body.to_owned())
}
