//! What a process sees of the file systems, from `/proc/<pid>/mountinfo` (`proc_pid_mountinfo(5)`).

use std::path::{Path, PathBuf};

/// The mounts of a process, as seen from its root.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Mounts(Vec<Mount>);

/// One mount.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mount {
    id: u64,
    parent: u64,
    /// `major:minor` of its file system.
    pub device: String,
    /// Which directory or file of that file system it shows.
    pub root: PathBuf,
    /// Where, below the root of the process.
    pub point: PathBuf,
    /// Nothing below it can be written: the mount's own flag, or its file system's.
    pub read_only: bool,
    /// Device files on it cannot be opened.
    pub nodev: bool,
    /// The peer group it passes mounts to, if it is shared.
    pub peers: Option<u64>,
    /// `ext4`, `tmpfs`, …
    pub kind: String,
    /// Options of the file system, as the kernel prints them.
    pub options: String,
}

/// A file or directory, whatever the path it is seen under.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Location {
    device: String,
    path: PathBuf,
}

/// How much of something is seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Seen {
    /// Nothing.
    No,
    /// For reading.
    ReadOnly,
    /// For writing, too, as far as the mounts go.
    Writable,
}

impl Mounts {
    /// Reads the text; lines that are no mount are passed over.
    pub fn parse(text: &str) -> Self {
        Self(text.lines().filter_map(Mount::parse).collect())
    }

    /// All of them, seen or covered.
    pub fn iter(&self) -> impl Iterator<Item = &Mount> {
        self.0.iter()
    }

    /// The mount on which a look-up of `path` ends, followed from the root as the kernel does: what a later mount covers
    /// is not found. Symbolic links are not followed.
    pub fn covering(&self, path: &Path) -> Option<&Mount> {
        let has_parent =
            |mount: &Mount| self.0.iter().any(|other| other.id == mount.parent && other.id != mount.id);
        let mut at = self.0.iter().find(|mount| mount.point == Path::new("/") && !has_parent(mount))?;
        // Each step goes to a child, so there are at most as many as mounts.
        for _ in 0..self.0.len() {
            let next = self
                .0
                .iter()
                .filter(|mount| mount.parent == at.id && mount.id != at.id && path.starts_with(&mount.point))
                .min_by_key(|mount| mount.point.components().count());
            match next {
                Some(mount) => at = mount,
                None => break,
            }
        }
        Some(at)
    }

    /// What is at `path`.
    pub fn locate(&self, path: &Path) -> Option<Location> {
        let mount = self.covering(path)?;
        let below = path.strip_prefix(&mount.point).ok()?;
        Some(Location { device: mount.device.clone(), path: join(&mount.root, below) })
    }

    /// Under which paths the whole of `target` is seen, and on which mounts.
    pub fn views<'a>(&'a self, target: &'a Location) -> impl Iterator<Item = (PathBuf, &'a Mount)> {
        self.0.iter().filter(|mount| mount.device == target.device).filter_map(|mount| {
            let view = join(&mount.point, target.path.strip_prefix(&mount.root).ok()?);
            self.shows(mount, &view).then_some((view, mount))
        })
    }

    /// The mounts that show something inside `target` and not all of it.
    pub fn parts<'a>(&'a self, target: &'a Location) -> impl Iterator<Item = &'a Mount> {
        self.0.iter().filter(|mount| {
            mount.device == target.device
                && mount.root != target.path
                && mount.root.starts_with(&target.path)
                && self.shows(mount, &mount.point)
        })
    }

    /// Whether `mount` is not covered at `path`.
    fn shows(&self, mount: &Mount, path: &Path) -> bool {
        self.covering(path).is_some_and(|covering| covering.id == mount.id)
    }

    /// Those that are not covered.
    pub fn uncovered(&self) -> impl Iterator<Item = &Mount> {
        self.0.iter().filter(|mount| self.shows(mount, &mount.point))
    }

    /// Those of these kinds of file system that are not covered.
    pub fn of_kind(&self, kinds: &[&str]) -> impl Iterator<Item = &Mount> {
        self.uncovered().filter(|mount| kinds.contains(&mount.kind.as_str()))
    }
}

impl Mount {
    fn parse(line: &str) -> Option<Self> {
        let (mount, file_system) = line.split_once(" - ")?;
        let mut fields = mount.split(' ');
        let id = fields.next()?.parse().ok()?;
        let parent = fields.next()?.parse().ok()?;
        let device = fields.next()?.to_owned();
        let (root, point) = (unescaped(fields.next()?), unescaped(fields.next()?));
        let flags: Vec<&str> = fields.next()?.split(',').collect();
        let peers = fields.find_map(|tag| tag.strip_prefix("shared:")).and_then(|group| group.parse().ok());
        let mut file_system = file_system.split(' ');
        let kind = file_system.next()?.to_owned();
        let options = file_system.nth(1).unwrap_or_default().to_owned();
        let read_only = flags.contains(&"ro") || options.split(',').any(|option| option == "ro");
        let nodev = flags.contains(&"nodev");
        Some(Self { id, parent, device, root, point, read_only, nodev, peers, kind, options })
    }

    /// What may be done on it.
    pub fn seen(&self) -> Seen {
        if self.read_only { Seen::ReadOnly } else { Seen::Writable }
    }

    /// The value of an option of its file system.
    pub fn option(&self, name: &str) -> Option<&str> {
        self.options.split(',').find_map(|option| option.strip_prefix(name)?.strip_prefix('='))
    }
}

/// `base/below`, without a slash at the end when there is nothing below.
fn join(base: &Path, below: &Path) -> PathBuf {
    if below.as_os_str().is_empty() { base.to_owned() } else { base.join(below) }
}

/// The kernel writes space, tab, newline and backslash as three octal digits.
fn unescaped(field: &str) -> PathBuf {
    let mut text = String::with_capacity(field.len());
    let mut rest = field;
    while let Some(at) = rest.find('\\') {
        text.push_str(&rest[..at]);
        let digits = rest.get(at + 1..at + 4).and_then(|digits| u8::from_str_radix(digits, 8).ok());
        if let Some(byte) = digits {
            text.push(char::from(byte));
            rest = &rest[at + 4..];
        } else {
            text.push('\\');
            rest = &rest[at + 1..];
        }
    }
    text.push_str(rest);
    text.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOST: &str = "\
22 27 0:21 / /proc rw,relatime - proc proc rw
24 27 0:6 / /dev rw,relatime shared:2 - devtmpfs devtmpfs rw,size=1k,mode=755
27 1 254:0 / / rw,relatime shared:1 - ext4 /dev/vda rw
40 27 0:40 / /tmp rw,nosuid,nodev - tmpfs tmpfs rw";

    /// A private root with a library folder, one device and a state directory that has a space in its name.
    const PRIVATE: &str = "\
100 90 0:50 / / ro,nosuid,nodev - tmpfs apiary ro,size=1k
101 100 254:0 /usr/lib /usr/lib ro,nosuid,nodev - ext4 /dev/vda rw
102 100 0:6 /null /dev/null rw,nosuid - devtmpfs devtmpfs rw
103 100 254:0 /var/lib/a\\040b /var/lib/a\\040b rw,nosuid,nodev,noexec - ext4 /dev/vda rw
104 100 0:51 / /tmp rw,nosuid,nodev,noexec - tmpfs tmpfs rw,size=16384k
105 101 0:52 / /usr/lib/modules ro - tmpfs mask ro";

    fn host(path: &str) -> Location {
        Mounts::parse(HOST).locate(Path::new(path)).expect("below /")
    }

    fn views(target: &str) -> Vec<(String, Seen)> {
        let mounts = Mounts::parse(PRIVATE);
        let target = host(target);
        mounts.views(&target).map(|(path, mount)| (path.display().to_string(), mount.seen())).collect()
    }

    #[test]
    fn place_is_found_on_the_innermost_mount() {
        assert_eq!(host("/tmp/x").device, "0:40");
        assert_eq!(host("/var/lib"), Location { device: "254:0".into(), path: "/var/lib".into() });
        assert_eq!(host("/"), Location { device: "254:0".into(), path: "/".into() });
    }

    #[test]
    fn bind_mount_shows_what_is_below_it_and_nothing_beside() {
        assert_eq!(views("/usr/lib/x.so"), [("/usr/lib/x.so".to_owned(), Seen::ReadOnly)]);
        assert_eq!(views("/etc"), []);
        assert_eq!(views("/var/lib/a b"), [("/var/lib/a b".to_owned(), Seen::Writable)]);
    }

    #[test]
    fn covered_part_is_not_seen() {
        assert_eq!(views("/usr/lib/modules"), []);
    }

    #[test]
    fn other_tmp_is_another_place_under_the_same_path() {
        assert_eq!(views("/tmp"), []);
        assert_ne!(Mounts::parse(PRIVATE).locate(Path::new("/tmp")), Some(host("/tmp")));
    }

    #[test]
    fn parts_name_what_of_a_directory_is_seen() {
        let mounts = Mounts::parse(PRIVATE);
        let (dev, root) = (host("/dev"), host("/"));
        let roots = |target| -> Vec<_> {
            mounts.parts(target).map(|mount| mount.root.display().to_string()).collect()
        };
        assert_eq!(roots(&dev), ["/null"]);
        assert_eq!(roots(&root), ["/usr/lib", "/var/lib/a b"]);
    }

    #[test]
    fn mount_over_a_parent_covers_mounts_below_it() {
        let text =
            format!("{HOST}\n60 40 254:0 /data /tmp/data rw - ext4 x rw\n61 40 0:60 / /tmp rw - tmpfs x rw");
        let mounts = Mounts::parse(&text);
        assert_eq!(mounts.covering(Path::new("/tmp/data")).map(|mount| mount.id), Some(61));
        let data = host("/data");
        assert_eq!(mounts.views(&data).map(|(path, _)| path).collect::<Vec<_>>(), [PathBuf::from("/data")]);
    }

    #[test]
    fn shared_mounts_name_their_peers_and_options_their_values() {
        let mounts = Mounts::parse(HOST);
        assert_eq!(mounts.iter().filter_map(|mount| mount.peers).collect::<Vec<_>>(), [2, 1]);
        assert_eq!(mounts.iter().nth(1).and_then(|mount| mount.option("mode")), Some("755"));
    }

    proptest::proptest! {
        #[test]
        fn any_text_is_read_without_panic(text in "[ -~\n\\\\]{0,300}", path in "/[a-z/]{0,20}") {
            let mounts = Mounts::parse(&text);
            let _ = mounts.locate(Path::new(&path));
        }
    }
}
