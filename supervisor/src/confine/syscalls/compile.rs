//! From policies to BPF programs.

use std::collections::BTreeMap;

use launch::{Filter, Instruction};
use seccompiler::{
    BackendError, BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter,
    SeccompRule, TargetArch,
};
use thiserror::Error;

use super::{Condition, Policy, Rule, Test, forbidden, names};

/// Why there is no filter.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum Uncompilable {
    /// There is no table of call numbers and no code generator for this processor.
    #[error("no table for {0}")]
    Architecture(&'static str),
    /// The compiler refused; says what.
    #[error("{0}")]
    Backend(String),
}

/// The call that loads a filter.
const LOAD: &str = "seccomp";

/// The programs that hold a process to `policy`; to the forbidden list only, without one. In the order they are loaded.
pub fn filters(policy: Option<&Policy>) -> Result<Vec<Filter>, Uncompilable> {
    let machine = std::env::consts::ARCH;
    let target = TargetArch::try_from(machine).map_err(|_| Uncompilable::Architecture(machine))?;
    let mut forbidden = forbidden().clone();
    let mut filters = Vec::new();
    if let Some(policy) = policy {
        forbidden.calls.retain(|call, _| !policy.calls.contains_key(call));
        // The forbidden list is loaded after this one, and from then on forbids it.
        let mut policy = policy.clone();
        policy.calls.insert(LOAD.to_owned(), vec![Rule::default()]);
        let otherwise = SeccompAction::Errno(libc::ENOSYS.unsigned_abs());
        filters.push(program(&policy, otherwise, SeccompAction::Allow, target)?);
    }
    filters.push(program(&forbidden, SeccompAction::Allow, SeccompAction::KillProcess, target)?);
    Ok(filters)
}

fn program(
    policy: &Policy,
    otherwise: SeccompAction,
    listed: SeccompAction,
    target: TargetArch,
) -> Result<Filter, Uncompilable> {
    let refused = |error: BackendError| Uncompilable::Backend(error.to_string());
    let mut rules: BTreeMap<i64, Vec<SeccompRule>> = BTreeMap::new();
    for (call, lines) in &policy.calls {
        // Not a call of this architecture: nothing to allow, and nothing to forbid.
        let Some(number) = names::call_number(call) else { continue };
        // An empty list stands for "always".
        let always = lines.iter().any(|line| line.conditions.is_empty());
        let lines = if always { &[][..] } else { lines };
        rules.insert(number, lines.iter().map(rule).collect::<Result<_, _>>().map_err(refused)?);
    }
    let filter = SeccompFilter::new(rules, otherwise, listed, target).map_err(refused)?;
    let program = BpfProgram::try_from(filter).map_err(refused)?;
    let program = program
        .into_iter()
        .map(|step| Instruction { code: step.code, jt: step.jt, jf: step.jf, k: step.k })
        .collect();
    Ok(Filter { program })
}

fn rule(line: &Rule) -> Result<SeccompRule, BackendError> {
    SeccompRule::new(line.conditions.iter().map(condition).collect::<Result<_, _>>()?)
}

fn condition(condition: &Condition) -> Result<SeccompCondition, BackendError> {
    let (operator, value) = match condition.test {
        Test::Is(value) => (SeccompCmpOp::Eq, value),
        Test::IsNot(value) => (SeccompCmpOp::Ne, value),
        Test::Bits { mask, value } => (SeccompCmpOp::MaskedEq(mask.into()), value),
    };
    SeccompCondition::new(condition.argument, SeccompCmpArgLen::Dword, operator, value.into())
}

#[cfg(test)]
mod tests {
    use super::super::{FILES, policy};
    use super::*;

    #[test]
    fn every_policy_compiles_to_programs_the_kernel_takes() {
        for (name, _) in FILES.iter().filter(|(name, _)| *name != "kill") {
            let filters = filters(policy(name)).expect("compiles");
            assert_eq!(filters.len(), 2);
            assert!(filters.iter().all(|filter| (1..=4096).contains(&filter.program.len())), "{name}");
        }
    }
}
