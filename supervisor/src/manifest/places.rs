//! Templates: the manifest names places, and this machine says where they are.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// Where the named places are on this machine.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Places {
    /// `{run}`: the supervisor's run directory.
    pub run: PathBuf,
    /// `{state}`: the root of the state directories.
    pub state: PathBuf,
    /// The manifest's own, by name.
    pub named: BTreeMap<String, PathBuf>,
}

/// Names that are not the manifest's to give.
pub(super) const TAKEN: [&str; 2] = ["run", "state"];

impl Places {
    /// The manifest's places, with what the command line says instead of some of them.
    pub fn new(
        run: &Path,
        state: &Path,
        manifest: &BTreeMap<String, String>,
        instead: &BTreeMap<String, PathBuf>,
    ) -> Self {
        let mut named: BTreeMap<String, PathBuf> =
            manifest.iter().map(|(name, place)| (name.clone(), PathBuf::from(place))).collect();
        for (name, place) in instead {
            // Unknown names are the check's to report.
            if let Some(known) = named.get_mut(name) {
                known.clone_from(place);
            }
        }
        Self { run: run.to_owned(), state: state.to_owned(), named }
    }

    fn of(&self, name: &str) -> Option<&Path> {
        match name {
            "run" => Some(&self.run),
            "state" => Some(&self.state),
            name => self.named.get(name).map(PathBuf::as_path),
        }
    }

    /// `text` with every `{NAME}` replaced; the error says what is wrong with it.
    pub fn fill(&self, text: &str) -> Result<String, String> {
        if text.contains('\0') {
            return Err("holds a NUL".to_owned());
        }
        let mut filled = String::with_capacity(text.len());
        let mut rest = text;
        while let Some(brace) = rest.find(['{', '}']) {
            let (before, template) = rest.split_at(brace);
            filled.push_str(before);
            let Some((name, after)) = template.strip_prefix('{').and_then(|inner| inner.split_once('}'))
            else {
                return Err("has a brace that belongs to no template such as {run}".to_owned());
            };
            let place = self.of(name).ok_or_else(|| {
                let known: Vec<&str> =
                    TAKEN.into_iter().chain(self.named.keys().map(String::as_str)).collect();
                format!("there is no place {{{name}}}; there are {}", known.join(", "))
            })?;
            filled.push_str(&place.to_string_lossy());
            rest = after;
        }
        filled.push_str(rest);
        Ok(filled)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn places() -> Places {
        let named = [("etc".to_owned(), "/etc/apiary".to_owned())].into();
        Places::new(Path::new("/r"), Path::new("/s"), &named, &BTreeMap::new())
    }

    #[test]
    fn templates_are_filled_in() {
        for (text, filled) in [
            ("{run}/x.sock", "/r/x.sock"),
            ("{state}", "/s"),
            ("a={etc}/a b={run}/b", "a=/etc/apiary/a b=/r/b"),
            ("", ""),
        ] {
            assert_eq!(places().fill(text).as_deref(), Ok(filled), "{text}");
        }
    }

    #[test]
    fn unknown_and_broken_templates_are_refused() {
        assert_eq!(
            places().fill("{home}/x"),
            Err("there is no place {home}; there are run, state, etc".to_owned())
        );
        for broken in ["{run", "run}", "{{run}}", "}{", "a\0b", "{}"] {
            assert!(places().fill(broken).is_err(), "{broken}");
        }
    }

    #[test]
    fn command_line_moves_a_place_and_makes_none() {
        let named = [("etc".to_owned(), "/etc/apiary".to_owned())].into();
        let instead = [("etc".to_owned(), "/x".into()), ("new".to_owned(), "/y".into())].into();
        let places = Places::new(Path::new("/r"), Path::new("/s"), &named, &instead);
        assert_eq!(places.fill("{etc}").as_deref(), Ok("/x"));
        assert!(places.fill("{new}").is_err());
    }

    proptest::proptest! {
        #[test]
        fn any_text_is_filled_or_refused_and_no_brace_is_left(text in "[a-z{}/\0]{0,40}") {
            if let Ok(filled) = places().fill(&text) {
                assert!(!filled.contains(['{', '}', '\0']), "{filled}");
            }
        }
    }
}
