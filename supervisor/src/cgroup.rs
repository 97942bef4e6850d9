//! Control groups: ceilings of memory and processes, shares of the processor.
//!
//! Three kinds of machine are met in the field: the unified hierarchy (v2), controllers each in a hierarchy of its own
//! (v1), and no groups at all (none, or not ours to write). Each supervisor has one group, named after its run directory
//! and below the group it was started in, with one below it per component:
//!
//! ```text
//! v2  …/edgecore.service/apiary-edge/{supervisor,metamanager,edgehub,…}
//! v1  /sys/fs/cgroup/memory/…/apiary-edge/{metamanager,edgehub,…}, the same for pids and cpu
//! ```
//!
//! In v2 a group with processes of its own cannot hand controllers down, so the supervisor moves itself into a leaf.
//! Where that does not help because strangers share its group, it falls back to the hierarchy's root. What cannot be had
//! makes a component degraded, in words.

mod group;
mod layout;

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

pub use group::Group;
pub use layout::{Layout, Place};

use crate::manifest::Limits;

/// Our own leaf in v2.
const LEAF: &str = "supervisor";

/// What a hierarchy can hold a group to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Controller {
    /// Memory.
    Memory,
    /// Processes and threads.
    Pids,
    /// Shares of the processor.
    Cpu,
}

impl Controller {
    const ALL: [Self; 3] = [Self::Memory, Self::Pids, Self::Cpu];

    /// As the kernel spells it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Memory => "memory",
            Self::Pids => "pids",
            Self::Cpu => "cpu",
        }
    }

    /// What a component lacks without it.
    const fn limit(self) -> &'static str {
        match self {
            Self::Memory => "memory limit",
            Self::Pids => "process limit",
            Self::Cpu => "cpu weight",
        }
    }

    fn lacking(self, why: &str) -> String {
        format!("{} ({why})", self.limit())
    }
}

/// What one component is to be held to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Ceilings {
    /// Bytes.
    pub memory: Option<u64>,
    /// Processes and threads.
    pub pids: Option<u32>,
    /// Where it is not every group's default.
    pub cpu_weight: Option<u32>,
}

impl From<&Limits> for Ceilings {
    fn from(limits: &Limits) -> Self {
        /// Every group's weight until another is set.
        const DEFAULT_WEIGHT: u32 = 100;
        Self {
            memory: limits.memory.map(|bytes| bytes.0),
            pids: limits.pids,
            cpu_weight: Some(limits.cpu_weight).filter(|weight| *weight != DEFAULT_WEIGHT),
        }
    }
}

impl Ceilings {
    const MEMORY: Controller = Controller::Memory;
    const PIDS: Controller = Controller::Pids;
    const CPU: Controller = Controller::Cpu;

    fn wants(&self, controller: Controller) -> bool {
        match controller {
            Controller::Memory => self.memory.is_some(),
            Controller::Pids => self.pids.is_some(),
            Controller::Cpu => self.cpu_weight.is_some(),
        }
    }

    /// All of it as lacking, for this reason.
    fn words(&self, why: &str) -> Vec<String> {
        Controller::ALL.into_iter().filter(|c| self.wants(*c)).map(|c| c.lacking(why)).collect()
    }
}

/// The supervisor's groups.
#[derive(Debug)]
pub enum Cgroups {
    /// One group below the unified hierarchy, with the controllers it hands down.
    V2 {
        /// Its directory.
        base: PathBuf,
        /// What can be limited below it.
        available: Vec<Controller>,
    },
    /// One group in each controller's hierarchy, made when a component wants it.
    V1(Vec<(Controller, PathBuf)>),
    /// None, and why.
    None(String),
}

impl Cgroups {
    /// Finds out what this machine has, and makes the supervisor's group.
    pub fn open(run_dir: &Path) -> Self {
        let read = |path| fs::read(path).unwrap_or_default();
        Self::in_layout(
            &Layout::parse(&read("/proc/self/cgroup"), &read("/proc/self/mountinfo")),
            &name(run_dir),
        )
    }

    fn in_layout(layout: &Layout, name: &str) -> Self {
        if !layout.v1.is_empty() {
            let base = |(controller, place): (&Controller, &Place)| (*controller, place.own.join(name));
            return Self::V1(layout.v1.iter().map(base).collect());
        }
        match &layout.v2 {
            Some(place) => unified(place, name).unwrap_or_else(Self::None),
            None => Self::None("no cgroup".to_owned()),
        }
    }

    /// `v2`, `v1` or `none`.
    pub fn mode(&self) -> &'static str {
        match self {
            Self::V2 { .. } => "v2",
            Self::V1(bases) if bases.iter().any(|(_, base)| may_be_made(base)) => "v1",
            Self::V1(_) | Self::None(_) => "none",
        }
    }

    /// The group of a component, and what it cannot be held to.
    pub fn group(&self, component: &str, wanted: &Ceilings) -> (Group, Vec<String>) {
        let mut missing = Vec::new();
        let group = match self {
            Self::V2 { base, available } => Group::unified(base, component, available, wanted, &mut missing),
            Self::V1(bases) => {
                let mut group = Group::default();
                for controller in Controller::ALL.into_iter().filter(|controller| wanted.wants(*controller)) {
                    let base = bases.iter().find(|(of, _)| *of == controller);
                    let added = match base {
                        Some((_, base)) => {
                            group.add_v1(base, component, controller, wanted).map_err(|error| {
                                format!("could not make a group in {}: {error}", base.display())
                            })
                        }
                        None => Err("the controller is not available here".to_owned()),
                    };
                    if let Err(why) = added {
                        missing.push(controller.lacking(&why));
                    }
                }
                group
            }
            Self::None(why) => {
                missing.extend(wanted.words(why));
                Group::default()
            }
        };
        (group, missing)
    }

    /// Removes the groups of components there are no more, which an earlier run has left.
    pub fn remove_others(&self, components: &[&str]) {
        for base in self.bases() {
            for entry in fs::read_dir(base).into_iter().flatten().flatten() {
                let name = entry.file_name();
                let wanted = components.iter().any(|component| name == *component) || name == LEAF;
                if !wanted && entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                    // One with processes stays: they are not ours to judge.
                    let _ = fs::remove_dir(entry.path());
                }
            }
        }
    }

    /// Removes the supervisor's group, after those of its components. In v2 it stays for as long as we are in it.
    pub fn remove(&self) {
        for base in self.bases() {
            let _ = fs::remove_dir(base);
        }
    }

    /// Whether a group of this supervisor is there.
    pub fn exists(&self) -> bool {
        self.bases().iter().any(|base| base.exists())
    }

    fn bases(&self) -> Vec<&Path> {
        match self {
            Self::V2 { base, .. } => vec![base],
            Self::V1(bases) => bases.iter().map(|(_, base)| base.as_path()).collect(),
            Self::None(_) => Vec::new(),
        }
    }
}

fn may_be_made(base: &Path) -> bool {
    base.parent().is_some_and(|own| rustix::fs::access(own, rustix::fs::Access::WRITE_OK).is_ok())
}

/// The name of a supervisor's group: `apiary-edge` for `/run/apiary/edge`.
fn name(run_dir: &Path) -> String {
    let below_run = run_dir.strip_prefix("/run").or_else(|_| run_dir.strip_prefix("/")).unwrap_or(run_dir);
    below_run.to_string_lossy().replace('/', "-")
}

/// Makes our group in the unified hierarchy and has controllers handed down to it.
fn unified(place: &Place, name: &str) -> Result<Cgroups, String> {
    // The program before a reexec has moved us already.
    let own = match place.own.strip_prefix(&place.mount) {
        Ok(inside) if inside.ends_with(Path::new(name).join(LEAF)) => place.own.ancestors().nth(2),
        _ => None,
    };
    let own = own.unwrap_or(&place.own);
    let made = make_unified(own, name);
    if own == place.mount || made.as_ref().is_ok_and(|(_, available)| !available.is_empty()) {
        return made.map(|(base, available)| Cgroups::V2 { base, available });
    }
    // Strangers share our group, or nothing is handed down to it: at the root it may be otherwise.
    let (base, available) = make_unified(&place.mount, name).or(made)?;
    if !base.starts_with(own) {
        // We have left it again.
        let _ = fs::remove_dir(own.join(name).join(LEAF));
        let _ = fs::remove_dir(own.join(name));
    }
    Ok(Cgroups::V2 { base, available })
}

fn make_unified(parent: &Path, name: &str) -> Result<(PathBuf, Vec<Controller>), String> {
    let base = parent.join(name);
    let leaf = base.join(LEAF);
    fs::create_dir_all(&leaf).map_err(|error| format!("could not make {}: {error}", leaf.display()))?;
    // First the move, or handing down is refused as long as we are where it begins.
    let moved = write(&leaf.join("cgroup.procs"), "0");
    let hand_down = |controller: Controller| {
        let order = format!("+{}", controller.name());
        write(&parent.join("cgroup.subtree_control"), &order)
            .and_then(|()| write(&base.join("cgroup.subtree_control"), &order))
    };
    let offered = controllers(&fs::read_to_string(parent.join("cgroup.controllers")).unwrap_or_default());
    let available: Vec<Controller> =
        offered.into_iter().filter(|controller| hand_down(*controller).is_ok()).collect();
    match moved {
        Err(error) if available.is_empty() => Err(format!("could not move into {}: {error}", leaf.display())),
        _ => Ok((base, available)),
    }
}

/// Those of ours in `cgroup.controllers`.
fn controllers(text: &str) -> Vec<Controller> {
    let there: Vec<&str> = text.split_whitespace().collect();
    Controller::ALL.into_iter().filter(|controller| there.contains(&controller.name())).collect()
}

/// Writes to a file of the kernel's, which is never made here.
fn write(path: &Path, value: &str) -> io::Result<()> {
    File::options().write(true).open(path)?.write_all(value.as_bytes())
}

#[cfg(test)]
mod tests;
