//! A disk that is full: by SQLite's own limit, and for real.

use std::fs;
use std::io::Write as _;
use std::thread;

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, unshare};
use rusqlite::ErrorCode;

use super::*;

fn is_full(error: &StoreError) -> bool {
    matches!(error, StoreError::Sqlite(error) if error.sqlite_error_code() == Some(ErrorCode::DiskFull))
}

/// Writes until one fails; returns the names that were acknowledged, and the failure.
async fn write_until_full(store: &Store, prefix: &str) -> (Vec<String>, StoreError) {
    let mut stored = Vec::new();
    loop {
        let name = format!("{prefix}{}", stored.len());
        match store.apply(put(&name, 1, &vec![b'x'; 16 * 1024])).await {
            Ok(_) => stored.push(name),
            Err(error) => return (stored, error),
        }
        assert!(stored.len() < 10_000, "the disk does not fill");
    }
}

async fn assert_all_stored(store: &Store, names: &[String]) {
    for name in names {
        assert!(store.get(key(name)).await.unwrap().is_some(), "{name} was acknowledged");
    }
}

#[tokio::test]
async fn write_beyond_the_limit_fails_and_the_next_one_works_when_there_is_room() {
    let rig = Rig::new();
    let limit = |pages: u32| {
        rig.store
            .writer
            .call(move |connection| connection.pragma_update(None, "max_page_count", pages), |()| {})
    };
    limit(100).await.unwrap();
    let (stored, error) = write_until_full(&rig.store, "p").await;
    assert!(is_full(&error), "{error}");
    assert_all_stored(&rig.store, &stored).await;
    assert!(rig.store.get(key(&format!("p{}", stored.len()))).await.unwrap().is_none());

    limit(1_000_000).await.unwrap();
    rig.store.apply(put("later", 1, b"{}")).await.unwrap();
    assert_all_stored(&rig.store, &["later".to_owned()]).await;
}

/// Runs in a mount namespace of its own thread, so nothing is left behind whatever happens.
#[test]
fn full_file_system_fails_writes_only_until_there_is_room() {
    if !nix::unistd::geteuid().is_root() {
        println!("skipped: mounting a small tmpfs needs root");
        return;
    }
    let work = || {
        unshare(CloneFlags::CLONE_NEWNS).unwrap();
        let none: Option<&str> = None;
        mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none).unwrap();
        let dir = tempfile::tempdir().unwrap();
        mount(Some("tmpfs"), dir.path(), Some("tmpfs"), MsFlags::empty(), Some("size=4m")).unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(fill_and_free(dir.path()));
        // Lazily: a process that another test is starting has our files too, until it executes.
        umount2(dir.path(), MntFlags::MNT_DETACH).unwrap();
    };
    thread::Builder::new().name("own-mounts".into()).spawn(work).unwrap().join().unwrap();
}

async fn fill_and_free(dir: &Path) {
    let path = dir.join("state.db");
    let filler = dir.join("filler");
    let store = Store::open(&path).unwrap();
    store.apply(put("before", 1, b"{}")).await.unwrap();
    let seq = store.submit(upload(UploadKind::PodStatus, "before", "{}")).await.unwrap();

    // Full: what is stored can be read, what is written fails, by its name.
    let mut file = fs::File::create(&filler).unwrap();
    while file.write(&[0; 4096]).is_ok() {}
    let (stored, error) = write_until_full(&store, "p").await;
    assert!(is_full(&error), "{error}");
    assert_all_stored(&store, &stored).await;
    assert_all_stored(&store, &["before".to_owned()]).await;
    assert_eq!(outbox(&store).await, [(seq, "{}".to_owned())]);

    // Started again, on a disk that is still full.
    drop(store);
    while file.write(&[0; 4096]).is_ok() {}
    let store = Store::open(&path).unwrap();
    assert!(store.set_aside().is_none(), "a full disk is no corruption");
    assert_all_stored(&store, &stored).await;
    let (more, error) = write_until_full(&store, "q").await;
    assert!(is_full(&error), "{error}");

    // Room again: no restart needed.
    fs::remove_file(&filler).unwrap();
    drop(file);
    store.apply(put("after", 1, b"{}")).await.unwrap();
    drop(store);
    let store = Store::open(&path).unwrap();
    for names in [&stored, &more, &vec!["before".to_owned(), "after".to_owned()]] {
        assert_all_stored(&store, names).await;
    }
}
