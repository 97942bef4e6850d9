use std::fmt;

/// What `system:node:<name>` starts with in a node certificate's CN.
const CN_PREFIX: &str = "system:node:";

/// A node's name: an RFC 1123 subdomain, as Kubernetes requires of Node objects. At most 253 bytes.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct NodeName(String);

/// Why a text is no node name.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error(
    "{0:?} is no node name: lower-case letters, digits, '-' and '.' only, at most 253, each part starting and ending with a letter or digit"
)]
pub struct InvalidNodeName(String);

impl NodeName {
    /// Parses a node name.
    pub fn parse(text: &str) -> Result<Self, InvalidNodeName> {
        let alphanumeric = |b: &u8| b.is_ascii_lowercase() || b.is_ascii_digit();
        let label = |label: &str| {
            let bytes = label.as_bytes();
            bytes.first().is_some_and(alphanumeric)
                && bytes.last().is_some_and(alphanumeric)
                && bytes.iter().all(|b| alphanumeric(b) || *b == b'-')
        };
        if text.len() <= 253 && text.split('.').all(label) {
            Ok(Self(text.to_owned()))
        } else {
            // Bounded, because what a stranger sent ends up in a log line.
            Err(InvalidNodeName(text.chars().take(64).collect()))
        }
    }

    /// The node a certificate with this common name belongs to; `None` where the name is of another form.
    pub fn from_common_name(common_name: &str) -> Option<Self> {
        Self::parse(common_name.strip_prefix(CN_PREFIX)?).ok()
    }

    /// The common name of this node's certificate, `system:node:<name>`.
    pub fn common_name(&self) -> String {
        format!("{CN_PREFIX}{}", self.0)
    }

    /// The bare name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for NodeName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_kubernetes_accepts_are_accepted() {
        for name in ["a", "edge-1", "rack1.site-2.example", "0"] {
            assert!(NodeName::parse(name).is_ok(), "{name}");
        }
    }

    #[test]
    fn names_that_could_be_read_as_paths_or_subjects_are_refused() {
        for name in ["", "A", "a/b", "..", "a..b", "-a", "a-", "a b", "a\n", "a,CN=b", &"x".repeat(254)] {
            assert!(NodeName::parse(name).is_err(), "{name:?}");
        }
    }

    #[test]
    fn common_name_round_trips() {
        let name = NodeName::parse("edge-1").unwrap();
        assert_eq!(NodeName::from_common_name(&name.common_name()), Some(name));
        assert_eq!(NodeName::from_common_name("kubeedge.io"), None);
    }
}
