//! A process that is killed while it writes: what it acknowledged is there, round after round.

use std::collections::BTreeMap;
use std::env;
use std::io::{BufRead as _, BufReader, Write as _};
use std::process::{Command, Stdio};
use std::thread;

use super::*;

const ROUNDS: u32 = 50;

/// Names of objects and uploads that are written at the same time, so that commits hold several.
const LANES: u64 = 4;

/// Set for the child: the path of the store.
const STORE: &str = "APIARY_TEST_STORE";

#[test]
fn what_was_acknowledged_survives_kill_9_at_any_point() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("state.db");
    let mut acknowledged = BTreeMap::new();
    for round in 0..ROUNDS {
        for (lane, n) in write_until_killed(&path, fastrand::u32(0..150)) {
            acknowledged.insert(lane, n);
        }
        for (lane, n) in &acknowledged {
            let found = stored(&path).get(lane).copied().unwrap_or(0);
            assert!(found >= *n, "round {round}: {lane} was acknowledged at {n}, the store has {found}");
        }
    }
    assert_eq!(acknowledged.len() as u64, 2 * LANES, "every lane got somewhere: {acknowledged:?}");
    println!("{ROUNDS} kills, nothing lost: {acknowledged:?}");
}

/// Starts this test binary as the writer, kills it after `acknowledgements`, and returns the last number of each lane.
fn write_until_killed(path: &Path, acknowledgements: u32) -> BTreeMap<String, u64> {
    let mut child = Command::new(env::current_exe().unwrap())
        .args(["--exact", "store::tests::killed::writes_until_it_is_killed", "--nocapture"])
        .env(STORE, path)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let stdout = BufReader::new(child.stdout.take().unwrap());
    let (enough, reached) = std::sync::mpsc::channel();
    let reader = thread::spawn(move || {
        let mut last = BTreeMap::new();
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
            if count == acknowledgements {
                let _ = enough.send(());
            }
        }
        last
    });
    if acknowledgements > 0 {
        reached.recv_timeout(Duration::from_secs(30)).expect("the child writes");
    } else {
        // Somewhere in its start: opening, migrating, or before the first answer.
        thread::sleep(Duration::from_micros(fastrand::u64(0..8_000)));
    }
    child.kill().unwrap();
    child.wait().unwrap();
    reader.join().unwrap()
}

/// The newest number of each lane in the store.
fn stored(path: &Path) -> BTreeMap<String, u64> {
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    runtime.block_on(async {
        let store = Store::open(path).unwrap();
        assert!(store.set_aside().is_none(), "a kill does not corrupt");
        numbers(&store).await
    })
}

async fn numbers(store: &Store) -> BTreeMap<String, u64> {
    let mut numbers = BTreeMap::new();
    for lane in 0..LANES {
        if let Some(object) = store.get(key(&format!("p{lane}"))).await.unwrap() {
            assert_eq!(&object.json.0[..], object.resource_version.to_string().as_bytes());
            numbers.insert(format!("object-{lane}"), object.resource_version);
        }
    }
    for (_, upload) in store.outbox(0).await.unwrap() {
        let n = String::from_utf8(upload.json.0.to_vec()).unwrap().parse().unwrap();
        numbers.insert(format!("upload-{}", &upload.slot.key.name[1..]), n);
    }
    numbers
}

/// The child. As a test of its own it does nothing.
#[test]
fn writes_until_it_is_killed() {
    let Some(path) = env::var_os(STORE) else { return };
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    runtime.block_on(async {
        let store = Arc::new(Store::open(Path::new(&path)).unwrap());
        let start = numbers(&store).await.into_values().max().unwrap_or(0);
        let mut lanes = tokio::task::JoinSet::new();
        for lane in 0..LANES {
            let name = format!("p{lane}");
            let (objects, uploads, copy) = (Arc::clone(&store), Arc::clone(&store), name.clone());
            lanes.spawn(async move {
                for n in start + 1.. {
                    objects.apply(put(&name, n, n.to_string().as_bytes())).await.unwrap();
                    acknowledge("object", lane, n);
                }
            });
            lanes.spawn(async move {
                for n in start + 1.. {
                    uploads.submit(upload(UploadKind::PodStatus, &copy, &n.to_string())).await.unwrap();
                    acknowledge("upload", lane, n);
                }
            });
        }
        lanes.join_all().await;
    });
}

fn acknowledge(what: &str, lane: u64, n: u64) {
    let mut stdout = std::io::stdout().lock();
    writeln!(stdout, "ack {what}-{lane} {n}.").unwrap();
    stdout.flush().unwrap();
}
