//! What a change from the cloud does to the stored object. Pure: the store acts on the answer.
//!
//! The rules, in order. "Same" means the same uid, or that one side does not know its uid.
//!
//! 1. A delete of the same object removes it whatever the versions: a uid that is gone stays gone. A delete that names no
//!    uid and carries an older version is about an earlier object of that name, and is ignored.
//! 2. A delete of another uid, or of nothing, changes nothing; its uid has ended all the same, also when it was never
//!    known here.
//! 3. A put without a version (0) always counts, unless it says what is stored already.
//! 4. A put of the same object counts when its version is newer.
//! 5. A put of another uid is a new object of that name, even at a lower version: a cloud that was set up anew or moved
//!    counts from the start. A put of a uid that has ended here is a late message, unless its version is above both the
//!    one at which it ended and the one that is stored: then it was wrongly taken for ended, and takes the name back.
//! 6. A put of a uid that was deleted, while nothing has its name, counts again only from the version it had: a late
//!    message does not raise the dead, but a cloud that took an object off the node may put the unchanged object back.
//! 7. The cloud's answer that it has no such object ends what was stored when it was asked, and nothing newer.
//!
//! Ended uids are remembered within the bounds of `store::objects`; a message that is later than that is taken for news.

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

/// Decides what `said` does to `stored`. `buried` is the version at which the uid of `said` ended here, if it did.
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
            let above = |version: u64| said.resource_version > version;
            match buried {
                Some(version) if !above(version) || !above(stored.resource_version) => Decision::Keep,
                _ => Decision::Replace,
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

/// Whether the cloud's answer that it has no such object, asked for at revision `asked_at`, ends the one that was last
/// changed at `changed_at`. One that came meanwhile may be newer than the answer.
pub(crate) fn ends_as_absent(changed_at: u64, asked_at: u64) -> bool {
    changed_at <= asked_at
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

    /// One row of a table: what is stored (uid, version, body), at which version the uid said has ended, what is said,
    /// and what is to come of it.
    type Row<'a> = (Option<(&'a str, u64, &'a str)>, Option<u64>, (&'a str, u64, Option<&'a str>), Decision);

    fn check(table: &[Row<'_>]) {
        for row in table {
            let (stored, buried, (uid, resource_version, said), expected) = *row;
            let (old, new) = (json(stored.map_or("", |(_, _, body)| body)), said.map(json));
            let stored =
                stored.map(|(uid, resource_version, _)| Stored { uid, resource_version, json: &old });
            let said = Said { uid, resource_version, json: new.as_ref() };
            assert_eq!(decide(stored, buried, said), expected, "{row:?}");
        }
    }

    const A5: Option<(&str, u64, &str)> = Some(("a", 5, "old"));
    const NAMELESS5: Option<(&str, u64, &str)> = Some(("", 5, "old"));
    const PUT: Option<&str> = Some("new");
    const DELETE: Option<&str> = None;

    #[test]
    fn first_put_is_stored() {
        check(&[
            (None, None, ("a", 5, PUT), Decision::Put),
            (None, None, ("a", 0, PUT), Decision::Put),
            (None, None, ("", 0, PUT), Decision::Put),
        ]);
    }

    #[test]
    fn newer_version_is_stored_and_older_or_equal_is_not() {
        check(&[
            (A5, None, ("a", 6, PUT), Decision::Put),
            (A5, None, ("a", 5, PUT), Decision::Keep),
            (A5, None, ("a", 4, PUT), Decision::Keep),
            (A5, None, ("", 6, PUT), Decision::Put),
            (A5, None, ("", 4, PUT), Decision::Keep),
            (NAMELESS5, None, ("a", 6, PUT), Decision::Put),
            (NAMELESS5, None, ("a", 4, PUT), Decision::Keep),
        ]);
    }

    #[test]
    fn unversioned_put_counts_unless_it_changes_nothing() {
        check(&[
            (A5, None, ("a", 0, PUT), Decision::Put),
            (Some(("a", 0, "old")), None, ("a", 0, PUT), Decision::Put),
            (Some(("a", 0, "new")), None, ("a", 0, PUT), Decision::Keep),
        ]);
    }

    #[test]
    fn new_uid_is_a_new_object_at_any_version() {
        check(&[
            (A5, None, ("b", 6, PUT), Decision::Replace),
            (A5, None, ("b", 5, PUT), Decision::Replace),
            (A5, None, ("b", 1, PUT), Decision::Replace),
            (A5, None, ("b", 0, PUT), Decision::Replace),
        ]);
    }

    #[test]
    fn uid_that_ended_takes_its_name_back_from_another_only_above_both_versions() {
        check(&[
            (A5, Some(3), ("b", 4, PUT), Decision::Keep),
            (A5, Some(3), ("b", 5, PUT), Decision::Keep),
            (A5, Some(3), ("b", 6, PUT), Decision::Replace),
            (A5, Some(8), ("b", 6, PUT), Decision::Keep),
            (A5, Some(8), ("b", 8, PUT), Decision::Keep),
            (A5, Some(8), ("b", 9, PUT), Decision::Replace),
            (A5, Some(3), ("b", 0, PUT), Decision::Keep),
        ]);
    }

    #[test]
    fn delete_of_the_same_uid_counts_at_any_version() {
        check(&[
            (A5, None, ("a", 9, DELETE), Decision::Delete),
            (A5, None, ("a", 4, DELETE), Decision::Delete),
            (A5, None, ("a", 0, DELETE), Decision::Delete),
        ]);
    }

    #[test]
    fn delete_of_another_uid_or_of_nothing_is_ignored() {
        check(&[
            (A5, None, ("b", 9, DELETE), Decision::Keep),
            (A5, None, ("b", 0, DELETE), Decision::Keep),
            (None, None, ("a", 9, DELETE), Decision::Keep),
        ]);
    }

    #[test]
    fn delete_without_uid_counts_unless_its_version_is_of_an_earlier_object() {
        check(&[
            (A5, None, ("", 0, DELETE), Decision::Delete),
            (A5, None, ("", 5, DELETE), Decision::Delete),
            (A5, None, ("", 4, DELETE), Decision::Keep),
        ]);
    }

    #[test]
    fn late_put_does_not_raise_a_deleted_object_and_the_same_version_does() {
        check(&[
            (None, Some(5), ("a", 4, PUT), Decision::Keep),
            (None, Some(5), ("a", 5, PUT), Decision::Put),
            (None, Some(5), ("a", 6, PUT), Decision::Put),
            (None, Some(5), ("a", 0, PUT), Decision::Put),
        ]);
    }

    #[test]
    fn absence_ends_what_was_stored_when_it_was_asked_for() {
        assert!(ends_as_absent(4, 5));
        assert!(ends_as_absent(5, 5));
        assert!(!ends_as_absent(6, 5));
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
