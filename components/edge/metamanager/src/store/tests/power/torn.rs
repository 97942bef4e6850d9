//! One commit and the writes of it that reach the disk: any of them, for none was synced. SQLite promises the order log,
//! sync, acknowledgement, and for a checkpoint file, sync, and only then the log again from its start; so what is on the
//! disk during one commit is the state before it with some of its writes to the log, or the whole log and some of the
//! writes to the file.

use super::*;

const ROUNDS: u32 = 200;

/// What a disk writes as a whole.
const SECTOR: usize = 512;

/// Bytes that a commit adds to each of its objects: some tens of pages, so that the log is checkpointed several times.
const PADDING: usize = 40 * 1024;

/// The two files that count. The third, `-shm`, is an index of the log and is made anew.
#[derive(Clone, PartialEq, Eq)]
struct Files {
    file: Vec<u8>,
    log: Vec<u8>,
}

impl Files {
    fn read(path: &Path) -> Self {
        Self { file: fs::read(path).unwrap(), log: fs::read(log_of(path)).unwrap() }
    }

    fn write(&self, path: &Path) {
        fs::write(path, &self.file).unwrap();
        fs::write(log_of(path), &self.log).unwrap();
    }
}

fn log_of(path: &Path) -> PathBuf {
    path.with_extension("db-wal")
}

#[test]
fn commit_that_is_cut_anywhere_is_there_or_not() {
    let dir = quick_dir();
    let path = dir.path().join("state.db");
    let store = Store::open(&path).unwrap();
    let mut complaints = Vec::new();
    let (mut checkpoints, mut kept) = (0, 0);
    let mut acknowledged = Acknowledged::new();
    let mut before = Files::read(&path);
    for (round, n) in (0..ROUNDS).zip(1..) {
        let lane = round as usize % LANES;
        // One call and one commit: the writer does nothing else until it returns.
        block_on(store.apply(together(lane, n, fastrand::usize(0..PADDING)))).unwrap();
        let after = Files::read(&path);
        checkpoints += u32::from(before.file != after.file);

        let cut = tempfile::tempdir_in(dir.path()).unwrap();
        let path = cut.path().join("state.db");
        cut_between(&before, &after).write(&path);
        let lost = lost(&path, &acknowledged);
        complaints.extend(lost.into_iter().map(|lost| format!("commit {n}: {lost}")));
        let found = block_on(async { Found::read(&Store::open(&path).unwrap()).await });
        kept += u32::from(found.newest() == n);

        acknowledged.insert(format!("objects-{lane}"), n);
        before = after;
    }
    println!("{ROUNDS} commits cut, {checkpoints} with a checkpoint; {kept} were there, the others were not");
    assert!(checkpoints > 2 && kept > 0 && kept < ROUNDS);
    conclude("store.powercut.torn.lost", ROUNDS, &complaints);
}

/// What a disk may hold when the power goes during the one commit between the two.
fn cut_between(before: &Files, after: &Files) -> Files {
    if before.file != after.file && fastrand::bool() {
        return Files { file: sectors(&before.file, &after.file), log: after.log.clone() };
    }
    let log =
        if fastrand::bool() { prefix(&before.log, &after.log) } else { sectors(&before.log, &after.log) };
    Files { file: before.file.clone(), log }
}

/// Cut at any byte behind the sectors that are the same: new up to it, old beyond.
fn prefix(old: &[u8], new: &[u8]) -> Vec<u8> {
    let same =
        SECTOR * old.chunks(SECTOR).zip(new.chunks(SECTOR)).take_while(|(old, new)| old == new).count();
    let cut = fastrand::usize(same.min(new.len())..=new.len());
    let mut bytes = new[..cut].to_vec();
    bytes.extend_from_slice(old.get(cut..).unwrap_or_default());
    bytes
}

/// Each sector old or new, in whatever proportion. A sector that is beyond the old end and was not written is zeros.
fn sectors(old: &[u8], new: &[u8]) -> Vec<u8> {
    let share = fastrand::f64();
    let mut bytes = old.to_vec();
    bytes.resize(old.len().max(new.len()), 0);
    for (to, from) in bytes.chunks_mut(SECTOR).zip(new.chunks(SECTOR)) {
        if fastrand::f64() < share {
            to[..from.len()].copy_from_slice(from);
        }
    }
    bytes
}
