//! What a change from the cloud does to the stored object. Pure: the store acts on the answer.
//!
//! The rules, in order. "Same" means the same uid, or that one side does not know its uid.
//!
//! 1. A delete of the same object removes it whatever the versions: a uid that is gone stays gone. A delete that names no
//!    uid and carries an older version is about an earlier object of that name, and is ignored.
//! 2. A delete of another uid, or of nothing, is ignored.
//! 3. A put without a version (0) always counts, unless it says what is stored already.
//! 4. A put of the same object counts when its version is newer. Versions of one cluster rise across objects, so a put
//!    of another uid replaces the object when its version is not older, and is a late message otherwise.
//! 5. A put of a uid that was deleted counts again only from the version it had: a late message does not raise the dead,
//!    but a cloud that took an object off the node may put the unchanged object back.

use crate::object::Json;

/// What the store knows of an object.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Stored<'a> {
    pub(crate) uid: &'a str,
    pub(crate) resource_version: u64,
    pub(crate) json: &'a Json,
}

/// What the cloud says of it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Said<'a> {
    pub(crate) uid: &'a str,
    pub(crate) resource_version: u64,
    /// Absent for a delete.
    pub(crate) json: Option<&'a Json>,
}

/// What becomes of the stored object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Decision {
    /// Stays, or stays absent. The change is acknowledged all the same.
    Keep,
    /// The same object, changed; or a new one where there was none.
    Put,
    /// A new object of the same name: the old one ends first.
    Replace,
    /// Ends.
    Delete,
}

/// Decides what `said` does to `stored`. `buried` is the version at which this uid was deleted here, if it was.
pub(crate) fn decide(stored: Option<Stored<'_>>, buried: Option<u64>, said: Said<'_>) -> Decision {
    let older_than = |version: u64| said.resource_version != 0 && said.resource_version < version;
    let Some(json) = said.json else {
        return match stored {
            None => Decision::Keep,
            Some(stored) if !same(stored.uid, said.uid) => Decision::Keep,
            Some(stored) if said.uid.is_empty() && older_than(stored.resource_version) => Decision::Keep,
            Some(_) => Decision::Delete,
        };
    };
    if buried.is_some_and(older_than) {
        return Decision::Keep;
    }
    match stored {
        None => Decision::Put,
        Some(stored) if !same(stored.uid, said.uid) => {
            if older_than(stored.resource_version) {
                Decision::Keep
            } else {
                Decision::Replace
            }
        }
        Some(stored) if said.resource_version == 0 && stored.resource_version == 0 => {
            if stored.json == json {
                Decision::Keep
            } else {
                Decision::Put
            }
        }
        Some(stored)
            if older_than(stored.resource_version) || stored.resource_version == said.resource_version =>
        {
            Decision::Keep
        }
        Some(_) => Decision::Put,
    }
}

fn same(stored: &str, said: &str) -> bool {
    stored == said || stored.is_empty() || said.is_empty()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn json(text: &str) -> Json {
        Json(text.to_owned().into())
    }

    /// Stored uid `a` at version 5 meets a put.
    fn put(uid: &str, resource_version: u64) -> Decision {
        let (old, new) = (json("old"), json("new"));
        let stored = Stored { uid: "a", resource_version: 5, json: &old };
        decide(Some(stored), None, Said { uid, resource_version, json: Some(&new) })
    }

    /// Stored uid `a` at version 5 meets a delete.
    fn delete(uid: &str, resource_version: u64) -> Decision {
        let old = json("old");
        let stored = Stored { uid: "a", resource_version: 5, json: &old };
        decide(Some(stored), None, Said { uid, resource_version, json: None })
    }

    #[test]
    fn newer_version_is_stored_and_older_or_equal_is_not() {
        assert_eq!(put("a", 6), Decision::Put);
        assert_eq!(put("a", 5), Decision::Keep);
        assert_eq!(put("a", 4), Decision::Keep);
    }

    #[test]
    fn unversioned_put_always_counts_unless_it_changes_nothing() {
        assert_eq!(put("a", 0), Decision::Put);
        let body = json("body");
        let stored = Stored { uid: "a", resource_version: 0, json: &body };
        let said = Said { uid: "a", resource_version: 0, json: Some(&body) };
        assert_eq!(decide(Some(stored), None, said), Decision::Keep);
    }

    #[test]
    fn recreated_object_replaces_and_a_late_put_of_an_earlier_one_does_not() {
        assert_eq!(put("b", 6), Decision::Replace);
        assert_eq!(put("b", 0), Decision::Replace);
        assert_eq!(put("b", 4), Decision::Keep);
    }

    #[test]
    fn delete_of_the_same_uid_counts_at_any_version() {
        assert_eq!(delete("a", 9), Decision::Delete);
        assert_eq!(delete("a", 4), Decision::Delete);
        assert_eq!(delete("a", 0), Decision::Delete);
    }

    #[test]
    fn delete_of_another_uid_is_ignored() {
        assert_eq!(delete("b", 9), Decision::Keep);
    }

    #[test]
    fn delete_without_uid_counts_unless_its_version_is_of_an_earlier_object() {
        assert_eq!(delete("", 0), Decision::Delete);
        assert_eq!(delete("", 5), Decision::Delete);
        assert_eq!(delete("", 4), Decision::Keep);
    }

    #[test]
    fn late_put_does_not_raise_a_deleted_object_and_the_same_version_does() {
        let body = json("body");
        let again =
            |resource_version| decide(None, Some(5), Said { uid: "a", resource_version, json: Some(&body) });
        assert_eq!(again(4), Decision::Keep);
        assert_eq!(again(5), Decision::Put);
        assert_eq!(again(0), Decision::Put);
    }

    proptest! {
        /// Versioned puts of one object end at the highest version in whatever order they come.
        #[test]
        fn order_of_arrival_does_not_matter(mut versions in proptest::collection::vec(1_u64..20, 1..12)) {
            let body = json("body");
            let mut stored: Option<u64> = None;
            for &resource_version in &versions {
                let now = stored.map(|resource_version| Stored { uid: "a", resource_version, json: &body });
                let said = Said { uid: "a", resource_version, json: Some(&body) };
                if decide(now, None, said) == Decision::Put {
                    stored = Some(resource_version);
                }
            }
            versions.sort_unstable();
            prop_assert_eq!(stored, versions.last().copied());
        }

        /// Saying the same thing twice is saying it once.
        #[test]
        fn repeated_put_keeps(uid in "[ab]?", resource_version in 0_u64..4) {
            let body = json("body");
            let stored = Stored { uid: &uid, resource_version, json: &body };
            let said = Said { uid: &uid, resource_version, json: Some(&body) };
            prop_assert_eq!(decide(Some(stored), None, said), Decision::Keep);
        }
    }
}
