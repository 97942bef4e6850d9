//! How exposed each process is, and what it was granted against what it uses: what the kernel says, not what was asked
//! for.
//!
//! [`facts`] reads `/proc` and concludes; [`score`] and [`privileges`] are pure. Where the kernel does not tell (Landlock,
//! which calls a filter lets through) the programs and rules that were loaded at launch are asked instead, by running
//! them ([`filter`]).

pub mod calls;
pub mod facts;
pub mod filter;
pub mod mounts;
pub mod open;
pub mod privileges;
pub mod score;

use std::net::SocketAddr;

use proto::control::{Exposure, Link, ProcessPrivileges};

use self::facts::{Addresses, Facts, Loaded, Places, Raw};
use self::open::Open;
use self::privileges::{Granted, Live};
use crate::manifest;
use crate::setup::Prepared;

/// Everything `edgectl privileges` shows of one component. `places` fill in the manifest's paths; `pid` is its process,
/// when it runs; `links` are all of the supervisor's.
///
/// Reads some files of `/proc`, a few milliseconds in sum. A process that ends meanwhile is shown as not running.
pub fn assess(
    prepared: &Prepared,
    places: &manifest::Places,
    pid: Option<u32>,
    links: &[Link],
) -> ProcessPrivileges {
    let loaded = loaded(prepared);
    let live = pid.and_then(|pid| facts(pid, &loaded).map(|facts| (pid, facts, Open::read(pid))));
    let known = live.as_ref().map(|(_, facts, open)| Live { facts, open, loaded: &loaded });
    // A checked manifest names no place that cannot be filled in.
    let path = |path: &str| places.fill(path).unwrap_or_else(|_| path.to_owned());
    let granted = Granted {
        name: &prepared.name,
        component: &prepared.component,
        path: &path,
        only_user: (!prepared.change_identity).then_some(prepared.user.as_str()),
        passing: filter::count_passing(loaded.filters),
    };
    let privileges = privileges::privileges(granted, links, known);
    let mut report =
        ProcessPrivileges { component: prepared.name.clone(), privileges, ..ProcessPrivileges::default() };
    if let Some((pid, facts, _)) = live {
        let score = score::score(&facts);
        report.pid = pid;
        report.score = score.overall;
        report.exposures = score
            .items
            .iter()
            .map(|item| Exposure {
                name: item.name.clone(),
                description: item.description.clone(),
                exposure: score.share(item),
                weight: f64::from(item.weight),
            })
            .collect();
    }
    report
}

/// The facts of a live process.
fn facts(pid: u32, loaded: &Loaded<'_>) -> Option<Facts> {
    Some(facts::conclude(&Raw::read(pid)?, &Raw::own(), &Places::find(), loaded))
}

/// What was loaded into the processes of this component.
fn loaded(prepared: &Prepared) -> Loaded<'_> {
    let profile = &prepared.profile;
    let inherits =
        prepared.component.listen.values().filter_map(|address| address.parse::<SocketAddr>().ok());
    Loaded {
        filters: &profile.filters,
        landlock: profile.landlock.as_ref(),
        keyring: profile.keyring,
        write_xor_execute: profile.write_xor_execute,
        inherits: inherits
            .map(
                |address| if address.ip().is_loopback() { Addresses::Loopback } else { Addresses::Inherited },
            )
            .max(),
    }
}
