//! The ports we need for ourselves.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::finding::Finding;
use crate::cli::Side;

/// One that a component binds.
#[derive(Debug, Clone)]
pub(super) struct Port {
    /// Where it is configured.
    pub(super) key: &'static str,
    pub(super) component: &'static str,
    pub(super) address: IpAddr,
    pub(super) number: u16,
    /// Who listens where we want to.
    pub(super) holders: Vec<Holder>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Holder {
    pub(super) address: IpAddr,
    /// Process id and name; none when it is not ours to see.
    pub(super) process: Option<(u32, String)>,
}

/// A listening socket of `/proc/net/tcp` or `tcp6`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Listener {
    pub(super) address: IpAddr,
    pub(super) port: u16,
    pub(super) inode: u64,
}

/// The listeners of such a file.
pub(super) fn listeners(text: &str) -> Vec<Listener> {
    /// `TCP_LISTEN`
    const LISTEN: &str = "0A";
    let one = |line: &str| {
        let mut fields = line.split_whitespace();
        let (address, port) = fields.nth(1)?.split_once(':')?;
        if fields.nth(1)? != LISTEN {
            return None;
        }
        let inode = fields.nth(5)?.parse().ok()?;
        Some(Listener { address: hex_address(address)?, port: u16::from_str_radix(port, 16).ok()?, inode })
    };
    text.lines().skip(1).filter_map(one).collect()
}

/// Words of four bytes, each in the machine's order.
fn hex_address(text: &str) -> Option<IpAddr> {
    let word = |at: usize| Some(u32::from_str_radix(text.get(at..at + 8)?, 16).ok()?.to_ne_bytes());
    match text.len() {
        8 => Some(Ipv4Addr::from(word(0)?).into()),
        32 => {
            let mut bytes = [0; 16];
            for (at, chunk) in bytes.chunks_exact_mut(4).enumerate() {
                chunk.copy_from_slice(&word(at * 8)?);
            }
            let address = Ipv6Addr::from(bytes);
            Some(address.to_ipv4_mapped().map_or(address.into(), IpAddr::from))
        }
        _ => None,
    }
}

/// Whether a listener there keeps us from binding here.
pub(super) fn in_the_way(wanted: IpAddr, held: IpAddr) -> bool {
    wanted == held
        || held.is_unspecified() && (held.is_ipv6() || wanted.is_ipv4())
        || wanted.is_unspecified() && (wanted.is_ipv6() || held.is_ipv4())
}

pub(super) fn judge(side: Side, ports: &[Port]) -> Vec<Finding> {
    let id = "ports.free";
    if ports.is_empty() {
        return match side {
            Side::Edge => vec![Finding::ok(id, "none is needed: this side only connects")],
            Side::Cloud => Vec::new(),
        };
    }
    ports.iter().map(|port| one(id, port)).collect()
}

fn one(id: &'static str, port: &Port) -> Finding {
    let Port { key, component, address, number: port, holders } = port;
    let Some(holder) = holders.first() else {
        return Finding::ok(id, format!("{address} port {port} is free for {component}"));
    };
    let fix = |who: &str| format!("end {who}, or choose another {key}");
    match &holder.process {
        Some((pid, name)) if name == component => {
            Finding::ok(id, format!("{address} port {port} is held by {component} itself, pid {pid}"))
        }
        Some((pid, name)) => Finding::error(
            id,
            format!("{} port {port} is held by {name}, pid {pid}", holder.address),
            format!("{component} cannot listen there, and is started again and again"),
            fix(&format!("pid {pid}")),
        ),
        None => Finding::unseen(
            id,
            format!(
                "{} port {port} is held, by whom is not ours to see; if not by {component}: {}",
                holder.address,
                fix("that program")
            ),
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::super::finding::Severity;
    use super::*;

    #[test]
    fn listeners_are_read_from_the_kernels_table() {
        let text = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n\
             0: 0100007F:192B 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 4711 1 0 100\n\
             1: 0100007F:2710 0100007F:8000 01 00000000:00000000 00:00000000 00000000     0        0 4712 1 0 100\n\
             broken\n";
        let expected = if cfg!(target_endian = "little") { [127, 0, 0, 1] } else { [1, 0, 0, 127] };
        assert_eq!(listeners(text), [Listener { address: expected.into(), port: 6443, inode: 4711 }]);
    }

    #[test]
    fn addresses_of_both_families_are_read() {
        assert_eq!(hex_address("00000000"), Some([0, 0, 0, 0].into()));
        assert_eq!(hex_address(&"0".repeat(32)), Some(Ipv6Addr::UNSPECIFIED.into()));
        assert_eq!(hex_address("0000"), None);
        assert_eq!(hex_address("äöüäöüäöüä"), None);
    }

    #[test]
    fn any_address_meets_every_other() {
        let (any4, any6) = (IpAddr::from([0, 0, 0, 0]), IpAddr::from(Ipv6Addr::UNSPECIFIED));
        let (local, other) = (IpAddr::from([127, 0, 0, 1]), IpAddr::from([10, 0, 0, 1]));
        assert!(in_the_way(any4, local) && in_the_way(local, any4) && in_the_way(any4, any6));
        assert!(!in_the_way(local, other));
    }

    fn port(process: Option<(u32, &str)>) -> Port {
        let address = [0, 0, 0, 0].into();
        let holder = Holder { address, process: process.map(|(pid, name)| (pid, name.to_owned())) };
        Port {
            key: "modules.cloudHub.websocket.port",
            component: "cloudhub",
            address,
            number: 10000,
            holders: vec![holder],
        }
    }

    #[test]
    fn stranger_on_our_port_is_an_error_we_ourselves_are_not() {
        assert_eq!(one("x", &port(Some((7, "nginx")))).severity, Severity::Error);
        assert_eq!(one("x", &port(Some((7, "cloudhub")))).severity, Severity::Ok);
        assert_eq!(one("x", &port(None)).severity, Severity::Unseen);
    }
}
