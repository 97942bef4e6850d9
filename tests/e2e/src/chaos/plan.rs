//! What is done to whom, decided by a seed.

use std::fmt;
use std::time::Duration;

use harness::Side;

/// Something that happens to a process and that nothing may be lost by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// SIGKILL.
    Kill,
    /// SIGSTOP, and SIGCONT after this time, which is shorter than the watchdog.
    Pause(Duration),
    /// SIGSTOP without end: the supervisor has to notice, kill and replace it.
    Hang,
    /// Stopped nine tenths of the time, for this long.
    Slow(Duration),
    /// Its memory ceiling lowered until the kernel kills it.
    Memory,
    /// SIGKILL of the supervisor, and with it everything it started.
    Supervisor,
    /// The supervisor's program replaced under its components.
    Reexec,
}

impl Fault {
    /// Its name in figures.
    pub fn name(self) -> &'static str {
        match self {
            Self::Kill => "kill",
            Self::Pause(_) => "pause",
            Self::Hang => "hang",
            Self::Slow(_) => "slow",
            Self::Memory => "memory",
            Self::Supervisor => "supervisor",
            Self::Reexec => "reexec",
        }
    }

    /// Whether it happens to one component, and not to a supervisor and all it started.
    pub fn is_of_component(self) -> bool {
        !matches!(self, Self::Supervisor | Self::Reexec)
    }

    /// The names of all faults.
    pub const NAMES: [&str; 7] = ["kill", "pause", "hang", "slow", "memory", "supervisor", "reexec"];
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Pause(time) | Self::Slow(time) => write!(f, "{} {} ms", self.name(), time.as_millis()),
            _ => f.write_str(self.name()),
        }
    }
}

/// Whom a fault happens to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Target {
    /// On which side.
    pub side: Side,
    /// The component; what concerns the supervisor does not look at it.
    pub component: &'static str,
}

/// Makes a fault with the numbers it needs.
type Draw = fn(&mut fastrand::Rng) -> Fault;

/// How often each fault comes among a hundred.
const WEIGHTS: [(u32, Draw); 7] = [
    (40, |_| Fault::Kill),
    (18, |random| Fault::Pause(milliseconds(random, 50..1500))),
    (8, |_| Fault::Hang),
    (14, |random| Fault::Slow(milliseconds(random, 500..4000))),
    (12, |_| Fault::Memory),
    (4, |_| Fault::Supervisor),
    (4, |_| Fault::Reexec),
];

/// How long nothing is done between two rounds.
const BREATH: std::ops::Range<u64> = 50..1200;

fn milliseconds(random: &mut fastrand::Rng, range: std::ops::Range<u64>) -> Duration {
    Duration::from_millis(random.u64(range))
}

/// An endless sequence of rounds. The same seed gives the same sequence; what it meets differs from run to run.
#[derive(Clone, Debug)]
pub struct Plan {
    random: fastrand::Rng,
    /// Every kind comes once before chance alone decides, so that a short run has met them all.
    first: Vec<usize>,
}

impl Plan {
    /// The sequence of a seed.
    pub fn new(seed: u64) -> Self {
        let mut random = fastrand::Rng::with_seed(seed);
        let mut first: Vec<usize> = (0..WEIGHTS.len()).collect();
        random.shuffle(&mut first);
        Self { random, first }
    }

    /// The pause before the next round.
    pub fn breath(&mut self) -> Duration {
        milliseconds(&mut self.random, BREATH)
    }

    /// What happens at the same time: one thing, or two to different components. What concerns a supervisor is alone.
    pub fn round(&mut self) -> Vec<(Target, Fault)> {
        let first = (self.target(), self.fault());
        if !first.1.is_of_component() || self.random.u8(..4) != 0 {
            return vec![first];
        }
        let second = (self.target(), Fault::Kill);
        if second.0 == first.0 { vec![first] } else { vec![first, second] }
    }

    fn target(&mut self) -> Target {
        let side = if self.random.bool() { Side::Edge } else { Side::Cloud };
        let components = side.components();
        Target { side, component: components[self.random.usize(..components.len())] }
    }

    fn fault(&mut self) -> Fault {
        let index = self.first.pop().unwrap_or_else(|| {
            let (drawn, mut below) = (self.random.u32(..100), 0);
            let chosen = WEIGHTS.iter().position(|(weight, _)| {
                below += weight;
                drawn < below
            });
            chosen.expect("the weights add up to a hundred")
        });
        (WEIGHTS[index].1)(&mut self.random)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn same_seed_gives_the_same_sequence() {
        let rounds = |seed| {
            let mut plan = Plan::new(seed);
            (0..50).map(|_| plan.round()).collect::<Vec<_>>()
        };
        assert_eq!(rounds(7), rounds(7));
        assert_ne!(rounds(7), rounds(8));
    }

    #[test]
    fn every_fault_comes_early() {
        for seed in 0..20 {
            let mut plan = Plan::new(seed);
            let names: BTreeSet<_> =
                (0..Fault::NAMES.len()).flat_map(|_| plan.round()).map(|(_, fault)| fault.name()).collect();
            assert_eq!(names, BTreeSet::from(Fault::NAMES), "seed {seed}");
        }
    }

    #[test]
    fn what_happens_together_happens_to_different_components() {
        let mut plan = Plan::new(1);
        for _ in 0..500 {
            let round = plan.round();
            assert!(round.len() == 1 || round[0].0 != round[1].0, "{round:?}");
            let alone = round.iter().any(|(_, fault)| !fault.is_of_component());
            assert!(round.len() == 1 || !alone, "{round:?}");
        }
    }
}
