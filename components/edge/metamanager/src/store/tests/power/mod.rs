//! Nothing acknowledged is lost, and nothing is there by half. Three ways to take the power away:
//!
//! - [`kill`]: a process is killed with SIGKILL at random points, in its start too. What the kernel has is kept, so this
//!   shows that an acknowledgement never runs ahead of the write, not that the write is on the disk.
//! - [`torn`]: one commit, and any part of its writes that had not been synced: the log cut at any byte, any selection of
//!   its sectors, or any selection of the sectors that a checkpoint writes into the file.
//! - [`disk`]: a real file system on a disk image, of which a copy is taken when the writer was killed. What was written
//!   and not synced is in the kernel only, and so is not in the copy. Needs root.
//!
//! Left out: a drive that acknowledges a flush it has not done, one that damages sectors it does not write, and file
//! systems other than ext4 with its usual settings.

mod disk;
mod kill;
mod torn;

use std::collections::BTreeMap;
use std::env;
use std::fmt::Write as _;
use std::io::{BufRead as _, BufReader, Write as _};
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::thread;

use super::*;

/// Callers of each kind that write at the same time, so that commits hold several.
const LANES: usize = 2;

/// Objects of one apply, which are there all or none.
const TOGETHER: usize = 3;

/// Set for the child: the path of the store.
const STORE: &str = "APIARY_TEST_STORE";

/// What was acknowledged: the newest number of each lane.
type Acknowledged = BTreeMap<String, u64>;

/// One figure, as every benchmark of this repository prints it.
fn print_lost(metric: &str, lost: usize) {
    println!(
        "{{\"metric\":\"{metric}\",\"value\":{lost},\"unit\":\"states\",\"goal\":0,\"ok\":{}}}",
        lost == 0
    );
}

/// When the writer dies.
enum End {
    After {
        acknowledgements: u32,
    },
    /// Counted from its start.
    At(Duration),
}

impl End {
    fn random() -> Self {
        if fastrand::bool() {
            Self::After { acknowledgements: fastrand::u32(1..30) }
        } else {
            Self::At(Duration::from_micros(fastrand::u64(0..20_000)))
        }
    }
}

/// Starts this test binary as the writer, kills it, and adds what it has acknowledged. Returns how often it has.
fn write_until_killed(path: &Path, end: &End, acknowledged: &mut Acknowledged) -> u64 {
    let mut child = Command::new(env::current_exe().unwrap())
        .args(["--exact", "store::tests::power::writes_until_it_is_killed", "--nocapture"])
        .env(STORE, path)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let stdout = BufReader::new(child.stdout.take().unwrap());
    let (acknowledgement, came) = mpsc::channel();
    let reader = thread::spawn(move || {
        let mut last = Acknowledged::new();
        let mut count = 0;
        for text in stdout.lines() {
            let text = text.unwrap();
            // The last line may be cut short.
            let Some((lane, n)) =
                text.strip_prefix("ack ").and_then(|ack| ack.strip_suffix('.')?.split_once(' '))
            else {
                continue;
            };
            last.insert(lane.to_owned(), n.parse().unwrap());
            count += 1;
            let _ = acknowledgement.send(());
        }
        (last, count)
    });
    match end {
        End::After { acknowledgements } => {
            for _ in 0..*acknowledgements {
                came.recv_timeout(Duration::from_secs(30)).expect("the child writes");
            }
        }
        End::At(after) => thread::sleep(*after),
    }
    child.kill().unwrap();
    child.wait().unwrap();
    let (last, count) = reader.join().unwrap();
    acknowledged.extend(last);
    count
}

/// The child. As a test of its own it does nothing.
#[test]
fn writes_until_it_is_killed() {
    let Some(path) = env::var_os(STORE) else { return };
    block_on(async {
        let store = Arc::new(Store::open(Path::new(&path)).unwrap());
        let start = Found::read(&store).await.newest();
        let mut lanes = tokio::task::JoinSet::new();
        for lane in 0..LANES {
            let writer = Arc::clone(&store);
            lanes.spawn(async move {
                for n in start + 1.. {
                    writer.apply(together(lane, n, 0)).await.unwrap();
                    acknowledge("objects", lane, n);
                }
            });
            let writer = Arc::clone(&store);
            lanes.spawn(async move {
                for n in start + 1.. {
                    writer.submit(status(lane, n)).await.unwrap();
                    acknowledge("status", lane, n);
                }
            });
            let writer = Arc::clone(&store);
            lanes.spawn(async move {
                for n in start + 1.. {
                    let seq = writer.submit(lease(lane, n)).await.unwrap();
                    acknowledge("lease", lane, n);
                    writer.delivered(seq, Some(answer(lane, n)), |_| {}).await.unwrap();
                    acknowledge("answer", lane, n);
                }
            });
        }
        lanes.join_all().await;
    });
}

fn acknowledge(what: &str, lane: usize, n: u64) {
    let mut stdout = std::io::stdout().lock();
    writeln!(stdout, "ack {what}-{lane} {n}.").unwrap();
    stdout.flush().unwrap();
}

/// The objects of one apply, each with `n` and so many bytes more.
fn together(lane: usize, n: u64, padding: usize) -> Vec<Change> {
    let body = format!("{n}{}", " ".repeat(padding));
    (0..TOGETHER).flat_map(|part| put(&format!("p{lane}-{part}"), n, body.as_bytes())).collect()
}

fn status(lane: usize, n: u64) -> Upload {
    upload(UploadKind::PodStatus, &format!("s{lane}"), &n.to_string())
}

fn lease(lane: usize, n: u64) -> Upload {
    upload(UploadKind::Lease, &format!("l{lane}"), &n.to_string())
}

fn answer(lane: usize, n: u64) -> Change {
    put(&format!("l{lane}"), n, n.to_string().as_bytes()).remove(0)
}

/// The numbers that a store holds, 0 for what is not there.
#[derive(Debug)]
struct Found {
    objects: Vec<[u64; TOGETHER]>,
    statuses: Vec<u64>,
    leases: Vec<u64>,
    answers: Vec<u64>,
}

impl Found {
    async fn read(store: &Store) -> Self {
        let mut found = Self {
            objects: Vec::new(),
            statuses: vec![0; LANES],
            leases: vec![0; LANES],
            answers: Vec::new(),
        };
        for lane in 0..LANES {
            let mut parts = [0; TOGETHER];
            for (part, n) in parts.iter_mut().enumerate() {
                *n = object(store, &format!("p{lane}-{part}")).await;
            }
            found.objects.push(parts);
            found.answers.push(object(store, &format!("l{lane}")).await);
        }
        for (_, upload) in store.outbox(0).await.unwrap() {
            let lane: usize = upload.slot.key.name[1..].parse().unwrap();
            let n = std::str::from_utf8(&upload.json.0).unwrap().parse().unwrap();
            match upload.slot.kind {
                UploadKind::Lease => found.leases[lane] = n,
                _ => found.statuses[lane] = n,
            }
        }
        found
    }

    fn newest(&self) -> u64 {
        let objects = self.objects.iter().flatten();
        objects.chain(&self.statuses).chain(&self.leases).chain(&self.answers).copied().max().unwrap_or(0)
    }

    /// What of `acknowledged` is not here, or here by half: one line each.
    fn lost(&self, acknowledged: &Acknowledged) -> Vec<String> {
        let mut lost = Vec::new();
        for (lane, parts) in self.objects.iter().enumerate() {
            if parts.iter().any(|n| *n != parts[0]) {
                lost.push(format!("objects-{lane} are of different applies: {parts:?}"));
            }
        }
        for lane in 0..LANES {
            let mut check = |what: &str, found: u64| {
                let known = acknowledged.get(&format!("{what}-{lane}")).copied().unwrap_or(0);
                if found < known {
                    lost.push(format!("{what}-{lane} was acknowledged at {known}, the store has {found}"));
                }
            };
            check("objects", self.objects[lane][0]);
            check("status", self.statuses[lane]);
            check("answer", self.answers[lane]);
            // Its answer removes a lease and brings an object at once: one of the two is always there.
            check("lease", self.leases[lane].max(self.answers[lane]));
        }
        lost
    }
}

async fn object(store: &Store, name: &str) -> u64 {
    let Some(object) = store.get(key(name)).await.unwrap() else { return 0 };
    let n = std::str::from_utf8(&object.json.0).unwrap().trim_end().parse().unwrap();
    assert_eq!(object.resource_version, n, "{name} is half of two");
    n
}

/// Opens the store that was left behind, checks all of its file, and returns what it has lost.
fn lost(path: &Path, acknowledged: &Acknowledged) -> Vec<String> {
    let found = block_on(async {
        let store = Store::open(path).unwrap();
        match store.set_aside() {
            Some(aside) => Err(format!("the file was corrupt: {}", aside.display())),
            None => Ok(Found::read(&store).await),
        }
    });
    let mut lost = found.map_or_else(|corrupt| vec![corrupt], |found| found.lost(acknowledged));
    let connection = Connection::open(path).unwrap();
    let integrity: String = connection.query_row("PRAGMA integrity_check", [], |row| row.get(0)).unwrap();
    if integrity != "ok" {
        lost.push(integrity);
    }
    lost
}

fn block_on<T>(work: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(work)
}

/// Fails with everything that was lost, after the figure is printed.
fn conclude(metric: &str, rounds: u32, lost: &[String]) {
    print_lost(metric, lost.len());
    let mut text = String::new();
    for line in lost {
        let _ = writeln!(text, "{line}");
    }
    assert!(lost.is_empty(), "in {rounds} rounds:\n{text}");
}
