//! What the store costs: a metamanager in its own process, started as the supervisor starts it and reached over its
//! links, on the file system of the temporary directory (`TMPDIR`). One line of JSON per figure on standard output.
//!
//! `store.disk_fsync_per_s` is the floor under single upserts: 4 KiB written in place and synced with `fdatasync`, in
//! turns with them, for a disk is shared and its pace changes. The batches come first, so that the log has its size: a log
//! that still grows costs the file system more per sync. Build it optimised, with `--profile tested`.

use std::fs::{self, File};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt as _;
use std::os::unix::net::{UnixDatagram, UnixListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use harness::{Figure, measure};
use ipc::{Channel, Identity, Streaming};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use proto::metamanager::watch_event::Event;
use proto::metamanager::{
    ApplyRequest, Change, Key, MetaManagerClient, MetaManagerError, WatchEvent, WatchRequest,
};
use tempfile::TempDir;
use tokio::task::JoinSet;

const OBJECTS: usize = 10_000;

/// Bytes of a body: a pod as the cloud sends it has a few of these.
const BODY: usize = 1024;

/// Objects of one batched apply, and how many of those are under way at a time.
const BATCH: usize = 100;
const AT_ONCE: usize = 4;

/// Turns of single upserts and of the floor, and how long each takes.
const TURNS: u32 = 20;
const TURN: Duration = Duration::from_millis(200);

const WATCHERS: usize = 8;
const WATCHED: usize = 500;

const STARTS: usize = 5;

const PATIENCE: Duration = Duration::from_secs(30);

fn main() -> ExitCode {
    // The same program is the server: see `Server::start`.
    if std::env::var_os("LISTEN_FDS").is_some() {
        return metamanager::main();
    }
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<()> {
    let dir = tempfile::tempdir()?;
    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(measure_all(&dir))
}

async fn measure_all(dir: &TempDir) -> Result<()> {
    let server = Server::start(dir.path())?;
    let hub = server.client("edgehub");

    let batched = batches(&hub).await?;
    print(&Figure::new("store.upsert.batched_per_s", batched, "1/s").at_least(5_000.0));

    let mut floor = Floor::new(dir.path())?;
    let mut singles = Singles::default();
    for _ in 0..TURNS {
        floor.turn()?;
        singles.turn(&hub).await?;
    }
    let (floor, single) = (floor.rate.per_second(), singles.rate.per_second());
    print(&Figure::new("store.disk_fsync_per_s", floor, "1/s"));
    print(
        &Figure::new("store.upsert.single_per_s", single, "1/s").at_least((0.9 * floor).round().min(1_000.0)),
    );

    let p99 = fan_out(&hub, &server.client("edged")).await?;
    print(&Figure::new("store.watch.p99_ms", milliseconds(p99), "ms").at_most(5.0));
    server.stop()?;

    let (start, pss) = starts(dir.path()).await?;
    print(&Figure::new("store.start_10k_ms", milliseconds(start), "ms").at_most(200.0));
    print(&Figure::new("store.pss_10k_kb", f64::from(pss), "KiB").at_most(12.0 * 1024.0));
    Ok(())
}

fn print(figure: &Figure) {
    println!("{}", figure.json());
}

fn milliseconds(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

/// How often something was done, and in which time.
#[derive(Default)]
struct Rate {
    count: u32,
    time: Duration,
}

impl Rate {
    fn add(&mut self, count: u32, begun: Instant) {
        self.count += count;
        self.time += begun.elapsed();
    }

    fn per_second(&self) -> f64 {
        f64::from(self.count) / self.time.as_secs_f64()
    }
}

/// A page written in place and synced, as a write-ahead log that has its size is written.
struct Floor {
    file: File,
    rate: Rate,
}

impl Floor {
    const PAGE: [u8; 4096] = [b'x'; 4096];
    const PAGES: u64 = 1_000;

    fn new(dir: &Path) -> Result<Self> {
        let file = File::create(dir.join("floor"))?;
        for page in 0..Self::PAGES {
            file.write_all_at(&Self::PAGE, page * 4096)?;
            // Grown commit by commit, as the log is: a file that was made at once may be synced at another pace.
            if page % 8 == 7 {
                file.sync_all()?;
            }
        }
        Ok(Self { file, rate: Rate::default() })
    }

    fn turn(&mut self) -> Result<()> {
        let begun = Instant::now();
        let mut count = 0;
        while begun.elapsed() < TURN {
            let page = u64::from(self.rate.count + count) % Self::PAGES;
            self.file.write_all_at(&Self::PAGE, page * 4096)?;
            self.file.sync_data()?;
            count += 1;
        }
        self.rate.add(count, begun);
        Ok(())
    }
}

/// One object after the other, each acknowledged before the next.
#[derive(Default)]
struct Singles {
    rate: Rate,
}

impl Singles {
    async fn turn(&mut self, hub: &MetaManagerClient) -> Result<()> {
        let begun = Instant::now();
        let mut count = 0;
        while begun.elapsed() < TURN {
            let n = self.rate.count + count;
            let changes = vec![pod(&format!("single-{}", n % 1_000), u64::from(n) + 1)];
            hub.apply(ApplyRequest { changes }).await?;
            count += 1;
        }
        self.rate.add(count, begun);
        Ok(())
    }
}

/// Fills the store, and changes each object once.
async fn batches(hub: &MetaManagerClient) -> Result<f64> {
    let begun = Instant::now();
    let mut under_way = JoinSet::new();
    for version in 1..=2 {
        for first in (0..OBJECTS).step_by(BATCH) {
            if under_way.len() == AT_ONCE
                && let Some(done) = under_way.join_next().await
            {
                done??;
            }
            let changes = (first..first + BATCH).map(|n| pod(&format!("batched-{n}"), version)).collect();
            let hub = hub.clone();
            under_way.spawn(async move { hub.apply(ApplyRequest { changes }).await });
        }
    }
    while let Some(done) = under_way.join_next().await {
        done??;
    }
    Ok(2.0 * f64::from(u32::try_from(OBJECTS)?) / begun.elapsed().as_secs_f64())
}

/// From the acknowledgement of a change to its event at the last of the watchers; the 99th percentile.
async fn fan_out(hub: &MetaManagerClient, edged: &MetaManagerClient) -> Result<Duration> {
    const KIND: &str = "watched";
    let mut watchers = Vec::new();
    for _ in 0..WATCHERS {
        let mut events = watch(edged, KIND).await?;
        until_bookmark(&mut events).await?;
        watchers.push(events);
    }
    let mut delays = Vec::with_capacity(WATCHED);
    for version in (1..).take(WATCHED) {
        let mut change = pod("one", version);
        change.key = Some(Key { kind: KIND.to_owned(), ..change.key.unwrap_or_default() });
        let acknowledged = async {
            hub.apply(ApplyRequest { changes: vec![change] }).await?;
            anyhow::Ok(Instant::now())
        };
        let arrived = async {
            for events in &mut watchers {
                let Some(Event::Put(_)) = next(events).await? else { bail!("something else than a change") };
            }
            anyhow::Ok(Instant::now())
        };
        let (acknowledged, arrived) = tokio::try_join!(acknowledged, arrived)?;
        delays.push(arrived.saturating_duration_since(acknowledged));
    }
    delays.sort_unstable();
    Ok(delays[delays.len() * 99 / 100])
}

/// From the start of a process to its word that it is ready, the median; and what it takes once a watcher has listed.
async fn starts(dir: &Path) -> Result<(Duration, u32)> {
    let mut times = Vec::new();
    loop {
        let begun = Instant::now();
        let server = Server::start(dir)?;
        times.push(begun.elapsed());
        if times.len() == STARTS {
            times.sort_unstable();
            let mut events = watch(&server.client("edged"), "pod").await?;
            let listed = until_bookmark(&mut events).await?;
            if listed < OBJECTS {
                bail!("only {listed} objects were listed");
            }
            let pss = measure::pss_kib(i32::try_from(server.process.id())?)?;
            server.stop()?;
            return Ok((times[STARTS / 2], pss));
        }
        server.stop()?;
    }
}

type Events = Streaming<WatchEvent, MetaManagerError>;

async fn watch(client: &MetaManagerClient, kind: &str) -> Result<Events> {
    let kinds = vec![kind.to_owned()];
    Ok(client.watch(WatchRequest { kinds, from_revision: 0, deliveries: false }).await?)
}

async fn next(events: &mut Events) -> Result<Option<Event>> {
    let item = tokio::time::timeout(PATIENCE, events.next()).await?;
    Ok(item.context("the watch ended")??.event)
}

/// How many events came before it.
async fn until_bookmark(events: &mut Events) -> Result<usize> {
    let mut count = 0;
    while !matches!(next(events).await?, Some(Event::Bookmark(_))) {
        count += 1;
    }
    Ok(count)
}

fn pod(name: &str, version: u64) -> Change {
    let key = Key { kind: "pod".into(), namespace: "default".into(), name: name.into() };
    let mut json = format!("{{\"version\":{version},\"padding\":\"").into_bytes();
    json.resize(BODY - 2, b'x');
    json.extend(b"\"}");
    Change { key: Some(key), uid: name.into(), resource_version: version, json: Some(json.into()) }
}

/// A metamanager in a process of its own, killed when dropped.
struct Server {
    process: Child,
    dir: PathBuf,
}

impl Server {
    /// Starts it and waits until it is ready.
    fn start(dir: &Path) -> Result<Self> {
        // A file of its own, so that no page of the program counts as shared with this process.
        let program = dir.join("metamanager");
        if !program.exists() {
            fs::copy(std::env::current_exe()?, &program)?;
        }
        let notify = dir.join("notify");
        remove(&notify)?;
        let ready = UnixDatagram::bind(&notify)?;
        ready.set_read_timeout(Some(PATIENCE))?;
        let listener = |client: &str| -> Result<OwnedFd> {
            let path = socket(dir, client);
            remove(&path)?;
            Ok(UnixListener::bind(path)?.into())
        };
        let uid = nix::unistd::getuid();
        // What an inherited listener needs cannot be said with `Command`: descriptors from 3 on, and one's own pid.
        let process = Command::new("/bin/sh")
            .args(["-c", r#"exec 3<&0 4<&1 </dev/null >/dev/null; LISTEN_PID=$$ exec "$0""#])
            .arg(&program)
            .stdin(Stdio::from(listener("edgehub")?))
            .stdout(Stdio::from(listener("edged")?))
            .env("APIARY_COMPONENT", "metamanager")
            .env("APIARY_LINKS", format!("edgehub:{uid}:Apply;edged:{uid}:Watch"))
            .env("LISTEN_FDS", "2")
            .env("LISTEN_FDNAMES", "edgehub:edged")
            .env("NOTIFY_SOCKET", &notify)
            .env("STATE_DIRECTORY", dir)
            .env("RUNTIME_DIRECTORY", dir)
            .env("RUST_LOG", "warn")
            .spawn()?;
        let server = Self { process, dir: dir.to_owned() };
        let mut message = [0; 4096];
        loop {
            let len = ready.recv(&mut message).context("metamanager did not become ready")?;
            if message[..len].split(|&byte| byte == b'\n').any(|line| line == b"READY=1") {
                return Ok(server);
            }
        }
    }

    fn client(&self, component: &str) -> MetaManagerClient {
        MetaManagerClient::new(Channel::new(socket(&self.dir, component), Identity::new(component, 1)))
    }

    fn stop(mut self) -> Result<()> {
        kill(Pid::from_raw(i32::try_from(self.process.id())?), Signal::SIGTERM)?;
        let status = self.process.wait()?;
        if !status.success() {
            bail!("metamanager ended with {status}");
        }
        Ok(())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // Both fail when it has been stopped, which is what they are for.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn socket(dir: &Path, component: &str) -> PathBuf {
    dir.join(format!("{component}.sock"))
}

fn remove(path: &Path) -> Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error.into()),
        _ => Ok(()),
    }
}
