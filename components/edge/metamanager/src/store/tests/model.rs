//! The whole store, on a real file and through its threads, against plain maps: whatever is said to it, in whatever
//! order, across openings, and whoever watches meanwhile.

use std::collections::{BTreeMap, VecDeque};
use std::sync::mpsc;

use proptest::prelude::*;
use proptest::test_runner::TestCaseResult;
use tokio::task::JoinSet;

use super::*;
use crate::object::Object;

/// The bounds as documented.
const DELETES_KNOWN: usize = 1_000;
const EVENTS_WAITING: usize = 1_000;

const WATCHERS: usize = 3;

/// Revisions at the end from which watchers resume, spread over all there were.
const RESUMED: usize = 16;

/// Something the cloud says of one of three names.
#[derive(Clone, Debug)]
struct Say {
    name: String,
    uid: String,
    version: u64,
    body: Option<String>,
}

#[derive(Clone, Debug)]
enum Op {
    Apply(Vec<Say>),
    /// Puts this many more objects.
    Fill(usize),
    /// Puts this many more objects and deletes them.
    Churn(usize),
    /// The cloud was asked for a name, now or this many revisions ago, and does not have it.
    Absent {
        name: String,
        ago: u64,
    },
    Submit {
        kind: UploadKind,
        name: String,
        uid: String,
        body: String,
    },
    Events(usize),
    /// Of an upload that waits or has waited.
    Delivered {
        which: prop::sample::Index,
        object: Option<Say>,
    },
    /// One page for one watcher.
    Watch(usize),
    Reopen,
}

fn say() -> impl Strategy<Value = Say> {
    ("[xyz]", "[abc]?", 0_u64..6, proptest::option::weighted(0.7, "[{][0-9]?[}]"))
        .prop_map(|(name, uid, version, body)| Say { name, uid, version, body })
}

fn ops() -> impl Strategy<Value = Vec<Op>> {
    let kind = prop::sample::select(vec![
        UploadKind::PodStatus,
        UploadKind::PodDelete,
        UploadKind::Lease,
        UploadKind::Event,
    ]);
    let op = prop_oneof![
        12 => proptest::collection::vec(say(), 1..4).prop_map(Op::Apply),
        1 => (1_usize..200).prop_map(Op::Fill),
        2 => (100_usize..500).prop_map(Op::Churn),
        2 => ("[xyz]", 0_u64..4).prop_map(|(name, ago)| Op::Absent { name, ago }),
        8 => (kind, "[xyz]", "[ab]", "[{][0-9]?[}]")
            .prop_map(|(kind, name, uid, body)| Op::Submit { kind, name, uid, body }),
        1 => (100_usize..600).prop_map(Op::Events),
        6 => (any::<prop::sample::Index>(), proptest::option::of(say()))
            .prop_map(|(which, object)| Op::Delivered { which, object }),
        10 => (0..WATCHERS).prop_map(Op::Watch),
        2 => Just(Op::Reopen),
    ];
    proptest::collection::vec(op, 1..60)
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Held {
    uid: String,
    version: u64,
    body: String,
    revision: u64,
}

type Objects = BTreeMap<String, Held>;

/// What the store should hold, the plain way.
#[derive(Debug, Default)]
struct Plain {
    objects: Objects,
    revision: u64,
    /// Revision, name, uid and version of what ended, oldest first.
    ended: VecDeque<(u64, String, String, u64)>,
    compacted: u64,
    /// What there was at each revision; of many objects put at once only the end.
    history: BTreeMap<u64, Objects>,
    uploads: BTreeMap<u64, (Slot, String)>,
    /// Numbers that were given out.
    seqs: Vec<u64>,
    events_dropped: u64,
}

impl Plain {
    fn set(&mut self, say: &Say, body: &str) {
        self.revision += 1;
        let known = self.objects.get(&say.name).map(|held| held.uid.clone()).unwrap_or_default();
        let uid = if say.uid.is_empty() { known } else { say.uid.clone() };
        let held = Held { uid, version: say.version, body: body.to_owned(), revision: self.revision };
        self.objects.insert(say.name.clone(), held);
    }

    fn end(&mut self, name: &str, version: u64) {
        self.revision += 1;
        let held = self.objects.remove(name).expect("only what is there ends");
        self.ended.push_back((self.revision, name.to_owned(), held.uid, version));
    }

    /// At the end of a commit: only so many deletes are remembered.
    fn forget(&mut self) {
        while self.ended.len() > DELETES_KNOWN {
            self.compacted = self.ended.pop_front().expect("there is one too many").0;
        }
    }

    fn remember(&mut self) {
        self.history.insert(self.revision, self.objects.clone());
    }

    fn say(&mut self, say: &Say) {
        let held = self.objects.get(&say.name).cloned();
        let same = held
            .as_ref()
            .is_some_and(|held| held.uid == say.uid || held.uid.is_empty() || say.uid.is_empty());
        let ended = self
            .ended
            .iter()
            .filter(|(_, name, uid, _)| !uid.is_empty() && *name == say.name && *uid == say.uid)
            .map(|&(.., version)| version)
            .max();
        match (&say.body, held) {
            (None, Some(held)) if same => {
                let of_an_earlier = say.uid.is_empty() && say.version != 0 && say.version < held.version;
                if !of_an_earlier {
                    self.end(&say.name, held.version.max(say.version));
                }
            }
            (None, _) => {
                // Never here, or long gone: remembered once.
                if !say.uid.is_empty() && ended.is_none_or(|version| version < say.version) {
                    self.revision += 1;
                    self.ended.push_back((self.revision, say.name.clone(), say.uid.clone(), say.version));
                }
            }
            (Some(body), held) => {
                let late = ended.is_some_and(|version| say.version != 0 && say.version < version);
                match held {
                    _ if late => {}
                    None => self.set(say, body),
                    Some(held) if same => {
                        let newer = match say.version {
                            0 => held.version != 0 || held.body != *body,
                            version => version > held.version,
                        };
                        if newer {
                            self.set(say, body);
                        }
                    }
                    Some(held) if ended.is_some_and(|version| say.version <= version.max(held.version)) => {}
                    Some(held) => {
                        self.end(&say.name, held.version);
                        self.remember();
                        self.set(say, body);
                    }
                }
            }
        }
        self.remember();
    }

    fn put_upload(&mut self, seq: u64, slot: Slot, body: String) {
        self.uploads.retain(|_, (other, _)| *other != slot);
        self.uploads.insert(seq, (slot, body));
        self.seqs.push(seq);
        let events: Vec<u64> = self
            .uploads
            .iter()
            .filter(|(_, (slot, _))| slot.kind == UploadKind::Event)
            .map(|(&seq, _)| seq)
            .collect();
        for seq in &events[..events.len().saturating_sub(EVENTS_WAITING)] {
            self.uploads.remove(seq);
            self.events_dropped += 1;
        }
    }
}

/// Follows the store a page at a time, as a component does.
#[derive(Debug)]
struct Watcher {
    cursor: Cursor,
    seen: u64,
    believed: Objects,
}

impl Watcher {
    fn list() -> Self {
        Self { cursor: Cursor::List, seen: 0, believed: Objects::new() }
    }

    /// Reads one page; whether that was all for now.
    async fn step(&mut self, store: &Store, plain: &Plain) -> Result<bool, TestCaseError> {
        match store.page(self.cursor, ["pod".to_owned()].into()).await.unwrap() {
            Paged::Compacted => {
                let Cursor::From { after, deletes_after } = self.cursor else {
                    panic!("a listing is never compacted")
                };
                prop_assert!(after.max(deletes_after) < plain.compacted, "no delete it missed is forgotten");
                *self = Self::list();
                Ok(false)
            }
            Paged::Page(page) => {
                for event in page.events {
                    let (Event::Put(object) | Event::Delete(object)) = &event;
                    prop_assert!(object.revision > self.seen, "{event:?} after {}", self.seen);
                    self.seen = object.revision;
                    self.apply(event);
                }
                self.cursor = page.next;
                if let Some(head) = page.complete {
                    prop_assert_eq!(head, plain.revision);
                    prop_assert_eq!(&self.believed, &plain.objects);
                }
                Ok(page.complete.is_some())
            }
        }
    }

    /// As edged does: of a name that was given again only the old object goes.
    fn apply(&mut self, event: Event) {
        match event {
            Event::Put(object) => drop(self.believed.insert(object.key.name.clone(), held(object))),
            Event::Delete(object) => {
                let name = &object.key.name;
                if self.believed.get(name).is_some_and(|held| held.uid.is_empty() || held.uid == object.uid) {
                    self.believed.remove(name);
                }
            }
        }
    }

    async fn catch_up(&mut self, store: &Store, plain: &Plain) -> TestCaseResult {
        while !self.step(store, plain).await? {}
        Ok(())
    }
}

fn held(object: Object) -> Held {
    let body = String::from_utf8(object.json.0.to_vec()).unwrap();
    Held { uid: object.uid, version: object.resource_version, body, revision: object.revision }
}

fn change(say: &Say) -> Change {
    Change {
        key: key(&say.name),
        uid: say.uid.clone(),
        resource_version: say.version,
        json: say.body.as_ref().map(|body| body.clone().into_bytes().into()),
    }
}

/// Both sides, and who watches.
struct Pair {
    path: PathBuf,
    store: Option<Arc<Store>>,
    plain: Plain,
    watchers: Vec<Watcher>,
    /// Names that were given to objects and events beyond the three.
    names: usize,
}

impl Pair {
    fn new(path: PathBuf) -> Self {
        let store = Store::open(&path).unwrap();
        let revision = store.revision();
        let plain = Plain { revision, compacted: revision, ..Plain::default() };
        let watchers = (0..WATCHERS).map(|_| Watcher::list()).collect();
        Self { path, store: Some(Arc::new(store)), plain, watchers, names: 0 }
    }

    fn store(&self) -> &Arc<Store> {
        self.store.as_ref().expect("it is open between operations")
    }

    fn more(&mut self, count: usize) -> impl Iterator<Item = String> + use<> {
        let names = self.names..self.names + count;
        self.names = names.end;
        names.map(|n| format!("n{n}"))
    }

    async fn apply(&mut self, says: &[Say]) -> TestCaseResult {
        let revision = self.store().apply(says.iter().map(change).collect()).await.unwrap();
        for say in says {
            self.plain.say(say);
        }
        self.plain.forget();
        prop_assert_eq!(revision, self.plain.revision);
        Ok(())
    }

    /// As `apply`, of names that are new and have no history worth the memory.
    async fn many(&mut self, count: usize, deleted: bool) -> TestCaseResult {
        let mut says = Vec::new();
        for name in self.more(count) {
            let put = Say { name, uid: "a".into(), version: 1, body: Some("{}".into()) };
            says.push(put.clone());
            if deleted {
                says.push(Say { body: None, ..put });
            }
        }
        let revision = self.store().apply(says.iter().map(change).collect()).await.unwrap();
        for say in &says {
            match &say.body {
                Some(body) => self.plain.set(say, body),
                None => self.plain.end(&say.name, say.version),
            }
        }
        self.plain.forget();
        self.plain.remember();
        prop_assert_eq!(revision, self.plain.revision);
        Ok(())
    }

    async fn absent(&mut self, name: &str, ago: u64) -> TestCaseResult {
        let asked_at = self.plain.revision - ago;
        let ends = self.plain.objects.get(name).filter(|held| held.revision <= asked_at).cloned();
        let removed = self.store().absent(key(name), asked_at).await.unwrap();
        prop_assert_eq!(removed, ends.is_some());
        if let Some(held) = ends {
            self.plain.end(name, held.version);
            self.plain.forget();
            self.plain.remember();
        }
        Ok(())
    }

    async fn submit(&mut self, upload: Upload) -> TestCaseResult {
        let body = String::from_utf8(upload.json.0.to_vec()).unwrap();
        let seq = self.store().submit(upload.clone()).await.unwrap();
        prop_assert!(self.plain.seqs.last().is_none_or(|&last| seq > last));
        self.plain.put_upload(seq, upload.slot, body);
        Ok(())
    }

    /// All at once, so that commits hold several.
    async fn events(&mut self, count: usize) {
        let mut submits = JoinSet::new();
        for name in self.more(count) {
            let (store, upload) = (Arc::clone(self.store()), upload(UploadKind::Event, &name, "{}"));
            submits.spawn(async move { (store.submit(upload.clone()).await.unwrap(), upload.slot) });
        }
        let mut submitted = submits.join_all().await;
        submitted.sort_unstable_by_key(|&(seq, _)| seq);
        for (seq, slot) in submitted {
            self.plain.put_upload(seq, slot, "{}".to_owned());
        }
    }

    async fn delivered(&mut self, which: prop::sample::Index, object: Option<&Say>) -> TestCaseResult {
        // Some numbers wait, some were replaced, dropped or answered, and one was never given out.
        let seq = match self.plain.seqs.len() {
            0 => 1,
            count => self.plain.seqs[which.index(count)],
        };
        let (tell, told) = mpsc::channel();
        let tell = move |slot: &Slot| tell.send(slot.clone()).unwrap();
        self.store().delivered(seq, object.map(change), tell).await.unwrap();
        if let Some(say) = object {
            self.plain.say(say);
            self.plain.forget();
        }
        let waited = self.plain.uploads.remove(&seq).map(|(slot, _)| slot);
        prop_assert_eq!(told.recv().ok(), waited);
        prop_assert_eq!(self.store().revision(), self.plain.revision);
        Ok(())
    }

    fn reopen(&mut self) -> TestCaseResult {
        let epoch = self.store().epoch().to_owned();
        // The last handle: its threads have ended when this returns.
        drop(self.store.take());
        self.store = Some(Arc::new(Store::open(&self.path).unwrap()));
        prop_assert_eq!(self.store().epoch(), epoch);
        prop_assert_eq!(self.store().revision(), self.plain.revision);
        Ok(())
    }

    async fn run(&mut self, op: &Op) -> TestCaseResult {
        match op {
            Op::Apply(says) => self.apply(says).await,
            Op::Fill(count) => self.many(*count, false).await,
            Op::Churn(count) => self.many(*count, true).await,
            Op::Absent { name, ago } => self.absent(name, *ago).await,
            Op::Submit { kind, name, uid, body } => {
                let mut upload = upload(*kind, name, body);
                upload.slot.uid.clone_from(uid);
                self.submit(upload).await
            }
            Op::Events(count) => {
                self.events(*count).await;
                Ok(())
            }
            Op::Delivered { which, object } => self.delivered(*which, object.as_ref()).await,
            Op::Watch(watcher) => {
                let store = Arc::clone(self.store());
                self.watchers[*watcher].step(&store, &self.plain).await.map(drop)
            }
            Op::Reopen => self.reopen(),
        }
    }

    /// Everything that can be read is what the plain maps hold.
    async fn compare(&mut self) -> TestCaseResult {
        let store = Arc::clone(self.store());
        for name in ["x", "y", "z"] {
            let stored = store.get(key(name)).await.unwrap().map(held);
            prop_assert_eq!(stored.as_ref(), self.plain.objects.get(name));
        }
        let waiting = self.plain.uploads.iter().map(|(&seq, (_, body))| (seq, body.clone()));
        prop_assert_eq!(outbox(&store).await, waiting.collect::<Vec<_>>());
        prop_assert_eq!(store.events_dropped().await.unwrap(), self.plain.events_dropped);

        for watcher in &mut self.watchers {
            watcher.catch_up(&store, &self.plain).await?;
        }
        let stride = self.plain.history.len() / RESUMED + 1;
        for (&seen, objects) in self.plain.history.iter().step_by(stride) {
            let mut resumed = Watcher { cursor: Cursor::resume(seen), seen, believed: objects.clone() };
            resumed.catch_up(&store, &self.plain).await?;
        }
        Ok(())
    }
}

async fn agree(ops: &[Op]) -> TestCaseResult {
    let dir = quick_dir();
    let mut pair = Pair::new(dir.path().join("state.db"));
    for op in ops {
        pair.run(op).await?;
    }
    pair.compare().await?;
    pair.reopen()?;
    pair.compare().await
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 32, ..ProptestConfig::default() })]

    #[test]
    fn store_holds_what_plain_maps_would(ops in ops()) {
        tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(agree(&ops))?;
    }
}

/// The bounds are far beyond a few random operations, so they are reached on purpose.
#[tokio::test]
async fn bounds_are_kept_and_compaction_makes_a_watcher_list_again() {
    let ops = [
        Op::Fill(100),
        Op::Watch(0),
        Op::Events(600),
        Op::Churn(600),
        Op::Watch(0),
        Op::Reopen,
        Op::Events(600),
        Op::Churn(600),
    ];
    let dir = quick_dir();
    let mut pair = Pair::new(dir.path().join("state.db"));
    for op in &ops {
        pair.run(op).await.unwrap();
    }
    pair.compare().await.unwrap();
    assert_eq!(pair.plain.events_dropped, 200);
    assert_eq!(pair.plain.ended.len(), DELETES_KNOWN);
    for (seen, compacted) in [(pair.plain.compacted - 1, true), (pair.plain.compacted, false)] {
        let page = pair.store().page(Cursor::resume(seen), ["pod".to_owned()].into()).await.unwrap();
        assert_eq!(matches!(page, Paged::Compacted), compacted);
    }
}
