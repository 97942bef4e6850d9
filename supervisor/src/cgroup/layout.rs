//! Where this process finds control groups, from the kernel's own texts. Pure.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use super::Controller;

/// The hierarchies that matter to us.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Layout {
    /// The unified hierarchy.
    pub v2: Option<Place>,
    /// The hierarchy of each controller that is mounted by itself.
    pub v1: BTreeMap<Controller, Place>,
}

/// Our place in one hierarchy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// Its mount point.
    pub mount: PathBuf,
    /// The directory of our own group.
    pub own: PathBuf,
}

impl Layout {
    /// Reads `/proc/self/cgroup` and `/proc/self/mountinfo`. What is not understood is not there.
    pub fn parse(cgroup: &[u8], mountinfo: &[u8]) -> Self {
        let mounts: Vec<Mount> = lines(mountinfo).filter_map(Mount::parse).collect();
        let mut layout = Self::default();
        for line in lines(cgroup) {
            let mut fields = line.splitn(3, |byte| *byte == b':');
            let (Some(id), Some(names), Some(path)) = (fields.next(), fields.next(), fields.next()) else {
                continue;
            };
            let path = Path::new(OsStr::from_bytes(path));
            if id == b"0" {
                let mount = mounts.iter().find(|mount| mount.kind == b"cgroup2");
                layout.v2 = mount.map(|mount| mount.place(path));
                continue;
            }
            let names: Vec<&[u8]> = names.split(|byte| *byte == b',').collect();
            for controller in Controller::ALL {
                let name = controller.name().as_bytes();
                let is_its = |mount: &&Mount| mount.kind == b"cgroup" && mount.options.contains(&name);
                if let (true, Some(mount)) = (names.contains(&name), mounts.iter().find(is_its)) {
                    layout.v1.insert(controller, mount.place(path));
                }
            }
        }
        layout
    }
}

/// One line of `/proc/self/mountinfo` (`proc_pid_mountinfo(5)`).
struct Mount<'a> {
    kind: &'a [u8],
    /// What of the file system is mounted.
    root: PathBuf,
    point: PathBuf,
    options: Vec<&'a [u8]>,
}

impl<'a> Mount<'a> {
    fn parse(line: &'a [u8]) -> Option<Self> {
        let mut fields = line.split(|byte| *byte == b' ');
        let (root, point) = (fields.nth(3)?, fields.next()?);
        // A number of optional fields, then a dash.
        fields.find(|field| *field == b"-")?;
        let (kind, options) = (fields.next()?, fields.nth(1)?);
        let options = options.split(|byte| *byte == b',').collect();
        Some(Self { kind, root: unescaped(root), point: unescaped(point), options })
    }

    /// Our group at `path` of the hierarchy, seen through this mount; the mount point when it lies outside.
    fn place(&self, path: &Path) -> Place {
        let inside = path
            .strip_prefix(&self.root)
            .ok()
            .filter(|path| !path.components().any(|component| component == std::path::Component::ParentDir));
        let own = match inside {
            Some(inside) if inside.as_os_str().is_empty() => self.point.clone(),
            Some(inside) => self.point.join(inside),
            None => self.point.clone(),
        };
        Place { mount: self.point.clone(), own }
    }
}

fn lines(text: &[u8]) -> impl Iterator<Item = &[u8]> {
    text.split(|byte| *byte == b'\n').filter(|line| !line.is_empty())
}

/// The kernel writes blanks and backslashes of a path as three octal digits behind a backslash.
fn unescaped(mut text: &[u8]) -> PathBuf {
    let mut path = Vec::with_capacity(text.len());
    while let Some((&first, rest)) = text.split_first() {
        let octal = (first == b'\\')
            .then(|| rest.get(..3))
            .flatten()
            .and_then(|digits| std::str::from_utf8(digits).ok())
            .and_then(|digits| u8::from_str_radix(digits, 8).ok());
        path.push(octal.unwrap_or(first));
        text = if octal.is_some() { &rest[3..] } else { rest };
    }
    PathBuf::from(OsString::from_vec(path))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(mount: &str, own: &str) -> Place {
        Place { mount: mount.into(), own: own.into() }
    }

    #[test]
    fn unified_hierarchy_of_a_systemd_host() {
        let layout = Layout::parse(
            b"0::/system.slice/edgecore.service\n",
            b"30 23 0:26 / /sys/fs/cgroup rw,nosuid shared:9 - cgroup2 cgroup2 rw,nsdelegate\n\
              31 23 0:27 / /sys/fs/pstore rw - pstore pstore rw\n",
        );
        let own = "/sys/fs/cgroup/system.slice/edgecore.service";
        assert_eq!(layout, Layout { v2: Some(place("/sys/fs/cgroup", own)), v1: BTreeMap::new() });
    }

    #[test]
    fn controllers_apart_and_two_in_one_hierarchy() {
        let layout = Layout::parse(
            b"9:name=systemd:/x\n4:memory:/a/b\n3:pids:/\n1:cpu,cpuacct:/\n0::/\n",
            b"35 31 0:32 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n\
              32 31 0:29 / /sys/fs/cgroup/cpu,cpuacct rw shared:1 master:2 - cgroup cgroup rw,cpu,cpuacct\n\
              41 31 0:38 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n",
        );
        assert_eq!(
            layout.v1.get(&Controller::Memory),
            Some(&place("/sys/fs/cgroup/memory", "/sys/fs/cgroup/memory/a/b"))
        );
        let cpu = "/sys/fs/cgroup/cpu,cpuacct";
        assert_eq!(layout.v1.get(&Controller::Cpu), Some(&place(cpu, cpu)));
        // Named, but mounted nowhere.
        assert_eq!(layout.v1.get(&Controller::Pids), None);
        assert_eq!(layout.v2, Some(place("/sys/fs/cgroup/unified", "/sys/fs/cgroup/unified")));
    }

    #[test]
    fn group_of_a_container_is_the_root_of_its_mount() {
        let mountinfo = b"40 31 0:30 /docker/abc /sys/fs/cgroup/memory ro - cgroup cgroup rw,memory\n";
        let memory = |cgroup: &[u8]| Layout::parse(cgroup, mountinfo).v1.remove(&Controller::Memory);
        let mount = "/sys/fs/cgroup/memory";
        assert_eq!(memory(b"4:memory:/docker/abc\n"), Some(place(mount, mount)));
        assert_eq!(memory(b"4:memory:/docker/abc/x\n"), Some(place(mount, "/sys/fs/cgroup/memory/x")));
        assert_eq!(memory(b"4:memory:/elsewhere\n"), Some(place(mount, mount)));
        assert_eq!(memory(b"4:memory:/docker/abc/../x\n"), Some(place(mount, mount)));
    }

    #[test]
    fn kernel_without_groups_and_texts_that_make_no_sense() {
        assert_eq!(Layout::parse(b"", b""), Layout::default());
        assert_eq!(Layout::parse(b"0:\n:::\n4:memory", b"1 2 3 /\n- - -\n"), Layout::default());
        assert_eq!(Layout::parse(b"0::/\n", b""), Layout::default());
    }

    #[test]
    fn escaped_paths_are_read() {
        let layout = Layout::parse(b"0::/\n", b"30 23 0:26 / /a\\040b\\134c rw - cgroup2 c rw\n");
        assert_eq!(layout.v2.map(|place| place.mount), Some(PathBuf::from("/a b\\c")));
        assert_eq!(unescaped(b"x\\9\\04"), PathBuf::from("x\\9\\04"));
    }

    #[test]
    fn this_machine_is_understood() {
        let read = |path| std::fs::read(path).expect("proc");
        let layout = Layout::parse(&read("/proc/self/cgroup"), &read("/proc/self/mountinfo"));
        for place in layout.v2.iter().chain(layout.v1.values()) {
            assert!(place.own.join("cgroup.procs").exists(), "{place:?}");
        }
    }
}
