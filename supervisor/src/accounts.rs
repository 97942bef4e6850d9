//! The users and groups the components run as, looked up once.

use launch::Identity;
use nix::unistd::{Gid, Group, Uid, User};

/// The uid this process runs as.
pub fn own_uid() -> u32 {
    Uid::effective().as_raw()
}

/// The gid this process runs as.
pub fn own_gid() -> u32 {
    Gid::effective().as_raw()
}

/// The name of our own user, or its number.
pub fn own_name() -> String {
    let uid = Uid::effective();
    User::from_uid(uid).ok().flatten().map_or_else(|| uid.to_string(), |user| user.name)
}

/// Whether there is a user of that name. A lookup that fails counts as no.
pub fn has_user(name: &str) -> bool {
    matches!(User::from_name(name), Ok(Some(_)))
}

/// Whether there is a group of that name.
pub fn has_group(name: &str) -> bool {
    matches!(Group::from_name(name), Ok(Some(_)))
}

/// The id of the group of that name.
pub fn group_id(name: &str) -> Option<u32> {
    Group::from_name(name).ok().flatten().map(|group| group.gid.as_raw())
}

/// Ids of a user with exactly these supplementary groups; `None` when one of the names is unknown.
pub fn identity(user: &str, groups: &[String]) -> Option<Identity> {
    let user = User::from_name(user).ok()??;
    let groups = groups
        .iter()
        .map(|name| Some(Group::from_name(name).ok()??.gid.as_raw()))
        .collect::<Option<Vec<_>>>()?;
    Some(Identity { uid: user.uid.as_raw(), gid: user.gid.as_raw(), groups })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn root_is_found_and_a_made_up_name_is_not() {
        assert_eq!(identity("root", &[]), Some(Identity { uid: 0, gid: 0, groups: Vec::new() }));
        assert_eq!(identity("no-such-user-here", &[]), None);
        assert_eq!(identity("root", &["no-such-group-here".to_owned()]), None);
    }
}
