//! What a process has open at this moment.

use std::collections::HashSet;
use std::path::{Path, PathBuf};

use super::facts::text;

/// Its open files and sockets.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Open {
    /// Paths of open files, as seen from its root.
    pub files: Vec<PathBuf>,
    /// IP sockets that wait for connections or datagrams.
    pub listening: usize,
    /// TCP connections.
    pub connected: usize,
    /// Listening Unix sockets, by path.
    pub unix: Vec<PathBuf>,
}

/// More descriptors than this are not looked at; the largest limit of the manifests is far above what is ever open.
const MOST: usize = 8192;

impl Open {
    /// Looks. What ends in between is left out, and all of it when the process does.
    pub fn read(pid: u32) -> Self {
        let base = PathBuf::from(format!("/proc/{pid}"));
        let mut open = Self::default();
        let mut sockets = HashSet::new();
        for entry in std::fs::read_dir(base.join("fd")).into_iter().flatten().flatten().take(MOST) {
            let Ok(target) = std::fs::read_link(entry.path()) else { continue };
            match target.to_str().and_then(|name| name.strip_prefix("socket:[")?.strip_suffix(']')) {
                Some(inode) => drop(inode.parse::<u64>().map(|inode| sockets.insert(inode))),
                None if target.is_absolute() => open.files.push(target),
                None => {}
            }
        }
        // An inherited listener belongs to the supervisor's network, whatever the process has now.
        let mut seen = HashSet::new();
        for net in [base.join("net"), PathBuf::from("/proc/self/net")] {
            let read = |name: &str| text(&net.join(name)).unwrap_or_default();
            for name in ["tcp", "tcp6"] {
                open.count_tcp(&read(name), &sockets, &mut seen);
            }
            for name in ["udp", "udp6"] {
                open.count_udp(&read(name), &sockets, &mut seen);
            }
            open.note_unix(&read("unix"), &sockets, &mut seen);
        }
        open
    }

    fn count_tcp(&mut self, table: &str, own: &HashSet<u64>, seen: &mut HashSet<u64>) {
        for (state, inode) in table.lines().skip(1).filter_map(row) {
            if own.contains(&inode) && seen.insert(inode) {
                // TCP_ESTABLISHED, TCP_LISTEN; what is being opened or closed counts as connected.
                if state == 0x0a { self.listening += 1 } else { self.connected += 1 }
            }
        }
    }

    fn count_udp(&mut self, table: &str, own: &HashSet<u64>, seen: &mut HashSet<u64>) {
        let rows = table.lines().skip(1).filter_map(row);
        self.listening += rows.filter(|(_, inode)| own.contains(inode) && seen.insert(*inode)).count();
    }

    fn note_unix(&mut self, table: &str, own: &HashSet<u64>, seen: &mut HashSet<u64>) {
        for line in table.lines().skip(1) {
            let mut fields = line.split_whitespace();
            // Num RefCount Protocol Flags Type St Inode Path
            let (Some(flags), Some(inode)) = (fields.nth(3), fields.nth(2)) else { continue };
            let (Ok(flags), Ok(inode)) = (u32::from_str_radix(flags, 16), inode.parse::<u64>()) else {
                continue;
            };
            // __SO_ACCEPTCON
            if flags & 0x1_0000 != 0
                && own.contains(&inode)
                && seen.insert(inode)
                && let Some(path) = fields.next()
            {
                self.unix.push(path.into());
            }
        }
    }

    /// Whether something at or below `path` is open.
    pub fn holds(&self, path: &Path) -> bool {
        self.files.iter().chain(&self.unix).any(|file| file.starts_with(path))
    }
}

/// State and inode of a line of `/proc/net/tcp` or `/proc/net/udp`.
fn row(line: &str) -> Option<(u32, u64)> {
    let mut fields = line.split_whitespace();
    // sl local_address rem_address st tx_queue:rx_queue tr:tm->when retrnsmt uid timeout inode
    let state = u32::from_str_radix(fields.nth(3)?, 16).ok()?;
    Some((state, fields.nth(5)?.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream, UdpSocket};
    use std::os::unix::net::UnixListener;

    use super::*;

    #[test]
    fn open_files_and_sockets_of_this_process_are_found() {
        let before = Open::read(std::process::id());
        let temp = tempfile::tempdir().expect("tempdir");
        let (file, socket) = (temp.path().join("file"), temp.path().join("socket"));
        let _file = std::fs::File::create(&file).expect("file");
        let _unix = UnixListener::bind(&socket).expect("unix");
        let listener = TcpListener::bind("127.0.0.1:0").expect("tcp");
        let _stream = TcpStream::connect(listener.local_addr().expect("address")).expect("connected");
        let _udp = UdpSocket::bind("[::1]:0").or_else(|_| UdpSocket::bind("127.0.0.1:0")).expect("udp");
        let open = Open::read(std::process::id());
        assert!(open.files.contains(&file) && open.unix.contains(&socket));
        assert!(open.holds(temp.path()) && !open.holds(Path::new("/nowhere")));
        // Other tests of this process may open and close sockets, too.
        assert!(open.listening >= 2 && open.connected >= 1, "{open:?} after {before:?}");
    }

    #[test]
    fn process_that_ended_has_nothing_open() {
        assert_eq!(Open::read(0), Open::default());
    }

    #[test]
    fn odd_lines_of_a_table_are_passed_over() {
        let mut open = Open::default();
        let (own, mut seen) = (HashSet::from([7]), HashSet::new());
        open.count_tcp(
            "head\n\nx\n0: A B 0A 0:0 0:0 0 0 0 7 1\n0: A B 0A 0:0 0:0 0 0 0 8 1",
            &own,
            &mut seen,
        );
        open.note_unix("head\nx y\nn: 2 0 zz 1 1 7 /x", &own, &mut seen);
        assert_eq!((open.listening, open.unix.len()), (1, 0));
    }
}
