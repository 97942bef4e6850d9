use std::collections::HashMap;

use http::Uri;

use crate::admission::shape::Unknown;
use crate::error::ApiError;
use crate::registry::WriteOptions;
use crate::table::Include;

/// The query parameters, of which the last one of a name counts.
#[derive(Debug, Default)]
pub(super) struct Query(HashMap<String, String>);

impl Query {
    pub(super) fn parse(uri: &Uri) -> Result<Self, ApiError> {
        axum::extract::Query::<Vec<(String, String)>>::try_from_uri(uri)
            .map(|pairs| Self(pairs.0.into_iter().collect()))
            .map_err(|e| ApiError::bad_request(format!("the query cannot be read: {e}")))
    }

    /// The value, "" when absent.
    pub(super) fn text(&self, name: &str) -> &str {
        self.0.get(name).map_or("", String::as_str)
    }

    /// `true`, `1` and friends as Go's `strconv.ParseBool` reads them.
    pub(super) fn flag(&self, name: &str) -> Result<bool, ApiError> {
        match self.text(name) {
            "" | "0" | "f" | "F" | "false" | "FALSE" | "False" => Ok(false),
            "1" | "t" | "T" | "true" | "TRUE" | "True" => Ok(true),
            other => Err(ApiError::bad_request(format!("{name} is {other:?}, must be true or false"))),
        }
    }

    pub(super) fn number(&self, name: &str) -> Result<Option<u64>, ApiError> {
        match self.text(name) {
            "" => Ok(None),
            text => text.parse().map(Some).map_err(|_| {
                ApiError::bad_request(format!("{name} is {text:?}, must be a number from 0 up"))
            }),
        }
    }

    pub(super) fn write_options(&self) -> Result<WriteOptions, ApiError> {
        let unknown = match self.text("fieldValidation") {
            "" | "Warn" => Unknown::Warn,
            "Ignore" => Unknown::Ignore,
            "Strict" => Unknown::Strict,
            other => {
                return Err(ApiError::bad_request(format!(
                    "fieldValidation is {other:?}, must be Ignore, Warn or Strict"
                )));
            }
        };
        let dry_run = match self.text("dryRun") {
            "" => false,
            "All" => true,
            other => return Err(ApiError::bad_request(format!("dryRun is {other:?}, must be All"))),
        };
        Ok(WriteOptions { dry_run, unknown })
    }

    pub(super) fn include(&self) -> Result<Include, ApiError> {
        match self.text("includeObject") {
            "" | "Metadata" => Ok(Include::Metadata),
            "None" => Ok(Include::None),
            "Object" => Ok(Include::Object),
            other => Err(ApiError::bad_request(format!(
                "includeObject is {other:?}, must be None, Metadata or Object"
            ))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn query(text: &str) -> Query {
        Query::parse(&format!("/x?{text}").parse().unwrap()).unwrap()
    }

    #[test]
    fn values_are_decoded_and_typed() {
        let query = query("labelSelector=app%3Dweb%2Cx&watch=1&limit=500");
        assert_eq!(query.text("labelSelector"), "app=web,x");
        assert!(query.flag("watch").unwrap());
        assert_eq!(query.number("limit").unwrap(), Some(500));
        assert_eq!(query.number("absent").unwrap(), None);
    }

    #[test]
    fn wrong_values_are_named() {
        let query = query("watch=maybe&limit=-1&dryRun=Some");
        assert!(query.flag("watch").unwrap_err().message.contains("maybe"));
        assert!(query.number("limit").is_err());
        assert!(query.write_options().is_err());
    }
}
