//! The store on real files.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::time::Duration;

use proto::metamanager::UploadKind;
use tempfile::TempDir;

use super::*;
use crate::object::{Event, Json};

mod full_disk;
mod model;
mod power;

pub(super) fn key(name: &str) -> Key {
    Key { kind: "pod".into(), namespace: "default".into(), name: name.into() }
}

pub(super) fn put(name: &str, resource_version: u64, json: &[u8]) -> Vec<Change> {
    vec![Change { key: key(name), uid: "a".into(), resource_version, json: Some(json.to_vec().into()) }]
}

pub(super) fn upload(kind: UploadKind, name: &str, json: &str) -> Upload {
    let json: Json = json.as_bytes().to_vec().into();
    Upload { slot: Slot { kind, key: key(name), uid: "a".into() }, json }
}

pub(super) async fn outbox(store: &Store) -> Vec<(u64, String)> {
    let text = |(seq, upload): (u64, Upload)| (seq, String::from_utf8(upload.json.0.to_vec()).unwrap());
    let mut all = Vec::new();
    let mut after = 0;
    loop {
        let page = store.outbox(after).await.unwrap();
        let Some(&(last, _)) = page.last() else { return all };
        after = last;
        all.extend(page.into_iter().map(text));
    }
}

fn bodies(outbox: &[(u64, String)]) -> Vec<&str> {
    outbox.iter().map(|(_, body)| body.as_str()).collect()
}

fn pods() -> Arc<[String]> {
    ["pod".to_owned()].into()
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o777
}

/// A folder whose syncs cost nothing, where there is one: for tests of what is written, not of how it lasts.
pub(super) fn quick_dir() -> TempDir {
    tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap()
}

struct Rig {
    dir: TempDir,
    store: Store,
}

impl Rig {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(&dir.path().join("state.db")).unwrap();
        Self { dir, store }
    }

    fn path(&self) -> PathBuf {
        self.dir.path().join("state.db")
    }

    /// Closes the store, does something to its file, and opens it again.
    fn reopen(self, meanwhile: impl FnOnce(&Path)) -> Self {
        let path = self.path();
        let Self { dir, store } = self;
        drop(store);
        meanwhile(&path);
        Self { dir, store: Store::open(&path).unwrap() }
    }
}

#[tokio::test]
async fn what_was_committed_is_there_after_reopening() {
    let rig = Rig::new();
    let revision = rig.store.apply(put("web", 7, b"{}")).await.unwrap();
    let seq = rig.store.submit(upload(UploadKind::PodStatus, "web", "{1}")).await.unwrap();
    let epoch = rig.store.epoch().to_owned();

    let rig = rig.reopen(|_| {});
    let object = rig.store.get(key("web")).await.unwrap().unwrap();
    assert_eq!((object.revision, object.resource_version), (revision, 7));
    assert_eq!(outbox(&rig.store).await, [(seq, "{1}".to_owned())]);
    assert_eq!(rig.store.epoch(), epoch);
    assert_eq!(rig.store.revision(), revision);
}

#[tokio::test]
async fn file_is_for_its_user_only_even_if_it_was_not() {
    let rig = Rig::new();
    rig.store.apply(put("web", 1, b"{}")).await.unwrap();
    let rig = rig.reopen(|path| fs::set_permissions(path, fs::Permissions::from_mode(0o644)).unwrap());
    for suffix in ["", "-wal", "-shm"] {
        let path = rig.dir.path().join(format!("state.db{suffix}"));
        assert_eq!(mode(&path), 0o600, "{}", path.display());
    }
}

#[tokio::test]
async fn concurrent_writes_are_all_answered_and_all_stored() {
    let rig = Rig::new();
    let store = Arc::new(rig.store);
    let mut writes = tokio::task::JoinSet::new();
    for n in 0..1_000_u64 {
        let store = Arc::clone(&store);
        writes.spawn(async move { store.apply(put(&format!("p{n}"), n + 1, b"{}")).await.unwrap() });
    }
    let mut revisions = writes.join_all().await;
    revisions.sort_unstable();
    revisions.dedup();
    assert_eq!(revisions.len(), 1_000);
    for n in 0..1_000 {
        assert!(store.get(key(&format!("p{n}"))).await.unwrap().is_some());
    }
}

#[tokio::test]
async fn repeated_change_is_acknowledged_and_makes_no_revision() {
    let rig = Rig::new();
    let first = rig.store.apply(put("web", 7, b"{}")).await.unwrap();
    assert_eq!(rig.store.apply(put("web", 7, b"{}")).await.unwrap(), first);
    assert_eq!(rig.store.apply(put("web", 6, b"{old}")).await.unwrap(), first);
}

#[tokio::test]
async fn uploads_come_in_order_and_the_newest_of_a_place_goes_to_the_end() {
    let rig = Rig::new();
    for (name, body) in [("a", "{a1}"), ("b", "{b1}"), ("a", "{a2}")] {
        rig.store.submit(upload(UploadKind::PodStatus, name, body)).await.unwrap();
    }
    rig.store.submit(upload(UploadKind::PodDelete, "a", "{gone}")).await.unwrap();
    assert_eq!(bodies(&outbox(&rig.store).await), ["{b1}", "{a2}", "{gone}"]);
}

#[tokio::test]
async fn status_of_another_uid_has_a_place_of_its_own() {
    let rig = Rig::new();
    rig.store.submit(upload(UploadKind::PodStatus, "a", "{old}")).await.unwrap();
    let mut new = upload(UploadKind::PodStatus, "a", "{new}");
    new.slot.uid = "b".into();
    rig.store.submit(new).await.unwrap();
    assert_eq!(bodies(&outbox(&rig.store).await), ["{old}", "{new}"]);
}

#[tokio::test]
async fn answer_to_a_replaced_upload_leaves_the_newer_one() {
    let rig = Rig::new();
    let old = rig.store.submit(upload(UploadKind::PodStatus, "a", "{1}")).await.unwrap();
    let new = rig.store.submit(upload(UploadKind::PodStatus, "a", "{2}")).await.unwrap();
    assert!(new > old);
    rig.store.delivered(old, None, |_| panic!("nobody's upload")).await.unwrap();
    assert_eq!(outbox(&rig.store).await, [(new, "{2}".to_owned())]);
    rig.store.delivered(new, None, |slot| assert_eq!(slot.key, key("a"))).await.unwrap();
    assert_eq!(outbox(&rig.store).await, []);
}

#[tokio::test]
async fn object_in_an_answer_is_committed_with_it() {
    let rig = Rig::new();
    let seq = rig.store.submit(upload(UploadKind::Lease, "a", "{1}")).await.unwrap();
    let object = put("a", 9, b"{answer}").remove(0);
    rig.store.delivered(seq, Some(object), |_| {}).await.unwrap();
    assert_eq!(rig.store.get(key("a")).await.unwrap().unwrap().json.0, &b"{answer}"[..]);
}

#[tokio::test]
async fn event_said_again_replaces_itself() {
    let rig = Rig::new();
    rig.store.submit(upload(UploadKind::Event, "e", "{count:1}")).await.unwrap();
    rig.store.submit(upload(UploadKind::Event, "e", "{count:2}")).await.unwrap();
    assert_eq!(bodies(&outbox(&rig.store).await), ["{count:2}"]);
}

/// Fills the store with a few hundred pages.
async fn fill(store: &Store) {
    for n in 0..100 {
        store.apply(put(&format!("p{n}"), 1, &vec![b'x'; 8 * 1024])).await.unwrap();
    }
}

fn overwrite(path: &Path, from: usize, len: usize) {
    let mut bytes = fs::read(path).unwrap();
    let to = bytes.len().min(from + len);
    bytes[from..to].fill(0xa5);
    fs::write(path, bytes).unwrap();
}

/// No part of this is a database.
fn ruin(path: &Path) {
    fs::write(path, vec![b'?'; 8192]).unwrap();
}

#[tokio::test]
async fn corrupt_file_is_set_aside_and_a_new_one_begun() {
    let rig = Rig::new();
    fill(&rig.store).await;
    let (epoch, revision) = (rig.store.epoch().to_owned(), rig.store.revision());
    let rig = rig.reopen(|path| overwrite(path, 4096 * 100, 4096 * 40));

    let aside = rig.store.set_aside().unwrap();
    assert!(aside.to_string_lossy().contains("state.db.corrupt-"), "{}", aside.display());
    assert!(aside.exists());
    assert_eq!(mode(aside), 0o600);
    assert_ne!(rig.store.epoch(), epoch);
    assert!(rig.store.get(key("p1")).await.unwrap().is_none());
    let page = rig.store.page(Cursor::resume(revision), ["pod".to_owned()].into()).await.unwrap();
    assert!(matches!(page, Paged::Compacted));
    rig.store.apply(put("web", 1, b"{}")).await.unwrap();
    assert!(rig.reopen(|_| {}).store.set_aside().is_none());
}

#[tokio::test]
async fn file_that_is_no_database_is_set_aside() {
    let rig = Rig::new().reopen(ruin);
    assert!(rig.store.set_aside().is_some());
    rig.store.apply(put("web", 1, b"{}")).await.unwrap();
}

/// What a killed process leaves: a file and a log with commits that are not in the file yet.
#[tokio::test]
async fn log_of_a_corrupt_file_does_not_get_into_the_new_one() {
    let rig = Rig::new();
    fill(&rig.store).await;
    let rig = rig.reopen(|_| {});
    rig.store.apply(put("p1", 2, b"{}")).await.unwrap();
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("state.db");
    for suffix in ["", "-wal"] {
        fs::copy(
            rig.dir.path().join(format!("state.db{suffix}")),
            dir.path().join(format!("state.db{suffix}")),
        )
        .unwrap();
    }
    overwrite(&path, 4096 * 100, 4096 * 40);

    let store = Store::open(&path).unwrap();
    assert!(store.set_aside().is_some());
    assert!(store.get(key("p1")).await.unwrap().is_none());
}

#[tokio::test]
async fn empty_file_is_a_new_store() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("state.db");
    fs::write(&path, b"").unwrap();
    let store = Store::open(&path).unwrap();
    assert!(store.set_aside().is_none());
    store.apply(put("web", 1, b"{}")).await.unwrap();
}

#[tokio::test]
async fn only_the_latest_corrupt_files_are_kept() {
    let mut rig = Rig::new();
    for second in 1..=4_u64 {
        let path = rig.dir.path().join(format!("state.db.corrupt-{second}"));
        fs::write(path, b"").unwrap();
    }
    rig = rig.reopen(ruin);
    let left = |second: u32| rig.dir.path().join(format!("state.db.corrupt-{second}")).exists();
    assert_eq!([left(1), left(2), left(3), left(4)], [false, false, true, true]);
    assert!(rig.store.set_aside().unwrap().exists());
}

#[tokio::test]
async fn store_that_failed_in_use_gets_the_full_check_once() {
    let rig = Rig::new();
    let mut told = rig.store.follow(pods());
    rig.store.signals.corrupt.send_replace(true);
    tokio::time::timeout(Duration::from_secs(5), rig.store.corrupt()).await.unwrap();
    let mark = rig.dir.path().join("state.db.suspect");
    assert!(mark.exists());
    // An index that misses a row passes the quick check only.
    rig.store.apply(put("web", 1, b"{}")).await.unwrap();
    told.changed().await.unwrap();
    let rig = rig.reopen(|path| {
        let connection = Connection::open(path).unwrap();
        connection.pragma_update(None, "writable_schema", true).unwrap();
        connection
            .execute("UPDATE sqlite_schema SET rootpage = (SELECT rootpage FROM sqlite_schema WHERE name = 'tombstones_by_key') WHERE name = 'sqlite_autoindex_objects_1'", [])
            .unwrap();
    });
    assert!(rig.store.set_aside().is_some());
    assert!(!mark.exists());
}

#[tokio::test]
async fn watcher_reads_what_another_task_commits() {
    let rig = Rig::new();
    let mut revisions = rig.store.follow(pods());
    let before = *revisions.borrow_and_update();
    rig.store.apply(put("web", 1, b"{}")).await.unwrap();
    revisions.changed().await.unwrap();
    let Paged::Page(page) = rig.store.page(Cursor::resume(before), pods()).await.unwrap() else {
        panic!("compacted")
    };
    assert!(matches!(&page.events[..], [Event::Put(object)] if object.key == key("web")));
    assert_eq!(page.complete, Some(*revisions.borrow()));
}

#[tokio::test]
async fn commit_wakes_those_who_watch_what_it_changed() {
    let rig = Rig::new();
    let node = |resource_version, json: Option<&[u8]>| {
        let key = Key { kind: "node".into(), namespace: String::new(), name: "n".into() };
        Change { key, uid: "a".into(), resource_version, json: json.map(|json| json.to_vec().into()) }
    };
    let mut follow = rig.store.follow(pods());
    let mut woken = move || {
        let woken = follow.has_changed().unwrap();
        follow.mark_unchanged();
        woken
    };

    rig.store.apply(put("web", 1, b"{}")).await.unwrap();
    assert!(woken(), "put");
    rig.store.apply(put("web", 1, b"{}")).await.unwrap();
    assert!(!woken(), "nothing new");
    rig.store.apply(vec![node(1, Some(b"{}"))]).await.unwrap();
    rig.store.submit(upload(UploadKind::PodStatus, "web", "{}")).await.unwrap();
    rig.store.apply(vec![node(1, None)]).await.unwrap();
    assert!(!woken(), "another kind, and an upload");
    let mut both = put("web", 2, b"{}");
    both.push(node(2, Some(b"{}")));
    rig.store.apply(both).await.unwrap();
    assert!(woken(), "one of two kinds");
    rig.store.absent(key("web"), rig.store.revision()).await.unwrap();
    assert!(woken(), "end");
}
