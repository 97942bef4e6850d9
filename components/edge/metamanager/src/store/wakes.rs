//! Whom a commit wakes: those who watch a kind it has changed. The others sleep on, however busy the store is, but not
//! for ever: a watcher has to be told how far the store is before deletes are forgotten.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::watch;

/// Revisions after which a watcher is woken though none of its kinds has changed.
pub(crate) const FAR_BEHIND: u64 = 100;

/// The newest committed revision, and who waits for it to move.
#[derive(Debug)]
pub(super) struct Wakes(Mutex<State>);

#[derive(Debug)]
struct State {
    revision: u64,
    sleepers: Vec<Sleeper>,
}

#[derive(Debug)]
struct Sleeper {
    kinds: Arc<[String]>,
    /// Holds the revision at which it was woken last.
    bell: watch::Sender<u64>,
}

impl Wakes {
    pub(super) fn new(revision: u64) -> Self {
        Self(Mutex::new(State { revision, sleepers: Vec::new() }))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Nothing panics while it holds the lock.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn revision(&self) -> u64 {
        self.state().revision
    }

    /// Changes with every later commit to one of these kinds, until it is dropped.
    pub(super) fn follow(&self, kinds: Arc<[String]>) -> watch::Receiver<u64> {
        let mut state = self.state();
        let (bell, receiver) = watch::channel(state.revision);
        state.sleepers.push(Sleeper { kinds, bell });
        receiver
    }

    /// Says that `revision` is committed, with changes to objects of the kinds in `changed`.
    pub(super) fn publish(&self, revision: u64, changed: &[String]) {
        let mut state = self.state();
        state.revision = revision;
        state.sleepers.retain(|sleeper| !sleeper.bell.is_closed());
        for Sleeper { kinds, bell } in &state.sleepers {
            let far_behind = revision.saturating_sub(*bell.borrow()) >= FAR_BEHIND;
            if far_behind || changed.iter().any(|kind| kinds.contains(kind)) {
                bell.send_replace(revision);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kinds(kinds: &[&str]) -> Arc<[String]> {
        kinds.iter().map(|&kind| kind.to_owned()).collect()
    }

    fn woken(bell: &mut watch::Receiver<u64>) -> bool {
        let woken = bell.has_changed().unwrap();
        bell.mark_unchanged();
        woken
    }

    #[test]
    fn only_those_who_watch_a_changed_kind_are_woken() {
        let wakes = Wakes::new(7);
        let mut pods = wakes.follow(kinds(&["pod"]));
        let mut both = wakes.follow(kinds(&["node", "pod"]));
        let mut secrets = wakes.follow(kinds(&["secret"]));
        wakes.publish(8, &["node".to_owned()]);
        assert_eq!([&mut pods, &mut both, &mut secrets].map(woken), [false, true, false]);
        wakes.publish(9, &["secret".to_owned(), "pod".to_owned()]);
        assert_eq!([&mut pods, &mut both, &mut secrets].map(woken), [true, true, true]);
        assert_eq!(wakes.revision(), 9);
    }

    #[test]
    fn who_is_far_behind_is_woken_by_anything() {
        let wakes = Wakes::new(7);
        let mut pods = wakes.follow(kinds(&["pod"]));
        let node = ["node".to_owned()];
        wakes.publish(7 + FAR_BEHIND - 1, &node);
        assert!(!woken(&mut pods));
        wakes.publish(7 + FAR_BEHIND, &node);
        assert!(woken(&mut pods));
        wakes.publish(7 + FAR_BEHIND + 1, &node);
        assert!(!woken(&mut pods));
    }

    #[test]
    fn who_has_gone_is_forgotten() {
        let wakes = Wakes::new(7);
        let stays = wakes.follow(kinds(&["pod"]));
        for revision in 8..100 {
            drop(wakes.follow(kinds(&["pod"])));
            wakes.publish(revision, &["pod".to_owned()]);
        }
        assert_eq!(wakes.state().sleepers.len(), 1);
        drop(stays);
    }
}
