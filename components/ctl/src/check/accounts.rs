//! The users components run as.

use super::finding::Finding;

#[derive(Debug, Clone, Default)]
pub(super) struct Accounts {
    /// Everything runs as one ordinary user: no others are needed.
    pub(super) single: bool,
    /// By component: its user, and whether there is one.
    pub(super) users: Vec<(String, String, bool)>,
    /// By component: a supplementary group, and whether there is one.
    pub(super) groups: Vec<(String, String, bool)>,
    /// Members of group `apiary`, who may use the control socket; none when there is no such group.
    pub(super) operators: Option<Vec<String>>,
}

const FIX: &str = "systemd-sysusers /usr/lib/sysusers.d/apiary.conf";

pub(super) fn judge(accounts: &Accounts) -> Vec<Finding> {
    let mut findings = Vec::new();
    if accounts.single {
        findings.push(Finding::warning(
            "accounts.users",
            "the supervisor does not run as root: all components share one user",
            "each of them can read what the others keep, the private key among it",
            "start it as a service of the system: systemctl enable --now edgecore (or cloudcore)",
        ));
    } else {
        let absent = |all: &[(String, String, bool)]| -> Vec<String> {
            let missing = all.iter().filter(|(_, _, there)| !there);
            missing.map(|(component, name, _)| format!("{name} (of {component})")).collect()
        };
        let (users, groups) = (absent(&accounts.users), absent(&accounts.groups));
        let all: Vec<&str> = accounts.users.iter().map(|(_, user, _)| user.as_str()).collect();
        findings.push(if users.is_empty() {
            Finding::ok("accounts.users", all.join(", "))
        } else {
            let why = "the supervisor does not start without the users that keep components apart";
            Finding::error("accounts.users", format!("no user {}", users.join(", ")), why, FIX)
        });
        if !groups.is_empty() {
            let why = "the supervisor does not start without the groups that components share files by";
            findings.push(Finding::error(
                "accounts.groups",
                format!("no group {}", groups.join(", ")),
                why,
                FIX,
            ));
        }
    }
    findings.push(match &accounts.operators {
        None => Finding::ok("accounts.operators", "root only (there is no group apiary)"),
        Some(members) if members.is_empty() => {
            Finding::ok("accounts.operators", "root only (group apiary has no members)")
        }
        Some(members) => {
            let shown: Vec<&str> = members.iter().take(8).map(String::as_str).collect();
            Finding::ok("accounts.operators", format!("root, {} and no others", shown.join(", ")))
        }
    });
    findings
}

#[cfg(test)]
mod tests {
    use super::super::finding::Severity;
    use super::*;

    fn accounts(there: bool) -> Accounts {
        Accounts { users: vec![("keyholder".into(), "edge-key".into(), there)], ..Accounts::default() }
    }

    #[test]
    fn missing_user_is_named_with_its_component() {
        let findings = judge(&accounts(false));
        assert_eq!(findings[0].severity, Severity::Error);
        assert_eq!(findings[0].found, "no user edge-key (of keyholder)");
        assert_eq!(judge(&accounts(true))[0].severity, Severity::Ok);
    }

    #[test]
    fn one_user_for_all_is_a_warning() {
        let single = Accounts { single: true, ..accounts(false) };
        assert_eq!(judge(&single)[0].severity, Severity::Warning);
    }

    #[test]
    fn missing_group_is_an_error() {
        let mut accounts = accounts(true);
        accounts.groups = vec![("controllers".into(), "cloud-kube".into(), false)];
        assert_eq!(judge(&accounts)[1].severity, Severity::Error);
    }
}
