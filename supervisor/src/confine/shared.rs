//! Places where mounts made by a component reach the host: each must be a shared mount of its own.

use std::io;
use std::path::Path;

use nix::mount::{MsFlags, mount};

/// What a path is in the table of mounts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    /// Not a mount point.
    Folder,
    /// A mount that keeps to itself.
    Private,
    /// A mount whose peers see what is mounted in it.
    Shared,
}

/// The last mount on a mount point is the one that is seen.
fn place(mountinfo: &str, path: &Path) -> Place {
    let line = mountinfo
        .lines()
        .rfind(|line| line.split(' ').nth(4).is_some_and(|point| unescape(point) == path.as_os_str()));
    match line {
        None => Place::Folder,
        // Optional fields lie between the options and a dash.
        Some(line) => {
            let mut optional = line.split(' ').skip(6).take_while(|field| *field != "-");
            if optional.any(|field| field.starts_with("shared:")) { Place::Shared } else { Place::Private }
        }
    }
}

/// The kernel writes blanks, tabs, line ends and backslashes of a path as three octal digits.
fn unescape(text: &str) -> std::ffi::OsString {
    use std::os::unix::ffi::OsStringExt;
    let bytes = text.as_bytes();
    let mut plain = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        let octal = text.get(at + 1..at + 4).and_then(|digits| u8::from_str_radix(digits, 8).ok());
        let (byte, length) = octal.filter(|_| bytes[at] == b'\\').map_or((bytes[at], 1), |byte| (byte, 4));
        plain.push(byte);
        at += length;
    }
    std::ffi::OsString::from_vec(plain)
}

/// Makes `path` a shared mount of its own, unless it is one. It stays when the supervisor ends: what containers see must
/// not go away with it. A path with symbolic links is refused, since the table of mounts knows no such names.
pub fn ensure(path: &Path) -> io::Result<()> {
    std::fs::create_dir_all(path)?;
    let real = path.canonicalize()?;
    if real != path {
        return Err(io::Error::other("a symbolic link leads there: name the folder itself, with --path"));
    }
    // As the table of mounts spells it: without a slash at the end.
    let path = real.as_path();
    let none = None::<&str>;
    let before = place(&std::fs::read_to_string("/proc/self/mountinfo")?, path);
    if before == Place::Folder {
        mount(Some(path), path, none, MsFlags::MS_BIND | MsFlags::MS_REC, none)?;
        // Out of its parent's group: else what is mounted in it would be mounted below it once more.
        mount(none, path, none, MsFlags::MS_PRIVATE, none)?;
    }
    if before != Place::Shared {
        mount(none, path, none, MsFlags::MS_SHARED, none)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const TABLE: &str = "\
22 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw
30 22 8:2 / /var/lib/kubelet rw - ext4 /dev/sda2 rw
31 22 0:9 / /a\\040b rw shared:7 master:1 - tmpfs x rw
32 30 8:2 /k /data/kubelet rw - ext4 /dev/sda2 rw
33 32 8:2 /k /data/kubelet rw master:1 shared:9 - ext4 /dev/sda2 rw
34 22 8:2 / /shared:1 rw master:2 - ext4 shared:2 rw
";

    #[test]
    fn place_is_what_the_last_mount_on_it_says() {
        for (path, expected) in [
            ("/", Place::Shared),
            ("/var/lib", Place::Folder),
            ("/var/lib/kubelet", Place::Private),
            ("/var/lib/kubelet/pods", Place::Folder),
            ("/a b", Place::Shared),
            ("/data/kubelet", Place::Shared),
            ("/shared:1", Place::Private),
        ] {
            assert_eq!(place(TABLE, Path::new(path)), expected, "{path}");
        }
    }

    #[test]
    fn broken_escapes_are_taken_as_they_are() {
        for text in ["a\\", "a\\04", "a\\9é", "\\"] {
            assert_eq!(unescape(text), text);
        }
    }
}
