//! Watches: a response that does not end, one event a line. Each event is a frame of its own, so nothing waits in a
//! buffer.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::response::Response;
use bytes::Bytes;
use futures_util::stream;
use http::StatusCode;
use serde_json::{Value, json};
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::{Instant, sleep_until};

use super::negotiate::Form;
use super::query::Query;
use super::{App, bytes, resource};
use crate::error::ApiError;
use crate::object;
use crate::resources::Resource;
use crate::selectors::{Facets, Selector};
use crate::store::{Change, Event, Listed, Subscription};
use crate::table::{self, Include};

/// 60 s between bookmarks, as kube-apiserver.
const BOOKMARK_EVERY: Duration = Duration::from_mins(1);
/// 30 to 60 min when the client names no time-out, as kube-apiserver: watchers do not return all at once.
const DEFAULT_TIMEOUT_SECONDS: u64 = 1800;

/// Where a watch begins.
enum Begin {
    /// With every object, as ADDED.
    Everything,
    /// After this version.
    After(u64),
    /// With what happens next.
    Now,
}

pub(super) async fn start(
    app: &App,
    resource: &'static Resource,
    namespace: Option<String>,
    name: Option<&str>,
    query: &Query,
    form: Form,
) -> Result<Response, ApiError> {
    let mut selector = resource::selector(resource, query)?;
    if let Some(name) = name {
        selector.require_name(name);
    }
    let bookmarks = query.flag("allowWatchBookmarks")?;
    let initial = query.text("sendInitialEvents");
    let streaming_list = query.flag("sendInitialEvents")?;
    if !initial.is_empty() && query.text("resourceVersionMatch") != "NotOlderThan" {
        return Err(ApiError::bad_request(
            "sendInitialEvents requires setting resourceVersionMatch to NotOlderThan",
        ));
    }
    let version = query.number("resourceVersion")?;
    let begin = match version {
        _ if streaming_list => Begin::Everything,
        None | Some(0) if initial.is_empty() => Begin::Everything,
        None | Some(0) => Begin::Now,
        Some(version) => Begin::After(version),
    };
    let include = query.include()?;
    let timeout = match query.number("timeoutSeconds")?.filter(|seconds| *seconds > 0) {
        Some(seconds) => seconds,
        None => DEFAULT_TIMEOUT_SECONDS + u64::from(uuid::Uuid::new_v4().as_bytes()[0]) * 7,
    };
    let permit = app
        .watches
        .clone()
        .try_acquire_owned()
        .map_err(|_| ApiError::too_many("too many watches are open, please try again later"))?;
    let wanted = version.unwrap_or(0);
    let subscribed = app
        .store
        .read(move |work| {
            if wanted > work.version() {
                return Err(ApiError::version_ahead(wanted, work.version()));
            }
            let scope = namespace.as_deref();
            let history = match begin {
                Begin::Everything => History::Objects(work.list(resource, scope, None, usize::MAX)?),
                Begin::After(version) => History::Changes(work.changes_since(resource, scope, version)?),
                Begin::Now => History::Changes(Vec::new()),
            };
            Ok((history, work.version(), work.subscribe(resource, scope)))
        })
        .await;
    let encoder = Encoder { resource, selector, form, include, header: true };
    let (history, version, feed) = match subscribed {
        Ok(subscribed) => subscribed,
        // The error of a watch that cannot start at its version is an event, as kube-apiserver sends it.
        Err(error) if error.code == StatusCode::GONE => {
            return Ok(bytes(StatusCode::OK, line("ERROR", &error.status())));
        }
        Err(error) => return Err(error),
    };
    // A time-out beyond the clock's range means none.
    let deadline = Instant::now()
        .checked_add(Duration::from_secs(timeout))
        .unwrap_or_else(|| Instant::now() + Duration::from_hours(365 * 24));
    let mut watch = Watch {
        app: app.clone(),
        encoder,
        feed,
        queued: VecDeque::new(),
        marked: version,
        next_bookmark: bookmarks.then(|| Instant::now() + BOOKMARK_EVERY),
        deadline,
        done: false,
        _permit: permit,
    };
    watch.replay(history);
    if streaming_list {
        watch.queued.push_back(watch.encoder.bookmark(version, true));
    }
    let frames = stream::unfold(watch, |mut watch| async move {
        let frame = watch.next().await?;
        Some((Ok::<_, Infallible>(frame), watch))
    });
    Ok(bytes(StatusCode::OK, Body::from_stream(frames)))
}

enum History {
    Objects(Vec<Listed>),
    Changes(Vec<Arc<Event>>),
}

struct Watch {
    app: App,
    encoder: Encoder,
    feed: Subscription,
    /// Lines to send before anything of the feed.
    queued: VecDeque<Bytes>,
    /// The version of the last bookmark.
    marked: u64,
    next_bookmark: Option<Instant>,
    deadline: Instant,
    done: bool,
    _permit: OwnedSemaphorePermit,
}

impl Watch {
    fn replay(&mut self, history: History) {
        match history {
            History::Objects(rows) => {
                for row in rows {
                    let added = self.encoder.object("ADDED", &row.body);
                    self.queued.extend(added);
                }
            }
            History::Changes(events) => {
                for event in events {
                    let line = self.encoder.event(&event);
                    self.queued.extend(line);
                }
            }
        }
    }

    /// The next line; `None` ends the response.
    async fn next(&mut self) -> Option<Bytes> {
        loop {
            if let Some(line) = self.queued.pop_front() {
                return Some(line);
            }
            if self.done {
                return None;
            }
            // What was published before this point is in the feed, or has been taken from it.
            let published = self.app.store.published();
            let bookmark_at = self.next_bookmark.unwrap_or(self.deadline);
            tokio::select! {
                biased;
                () = self.app.shutdown.cancelled() => return None,
                event = self.feed.next() => {
                    let Some(event) = event else {
                        self.done = true;
                        let error = ApiError::expired("the watch fell behind and lost events");
                        return Some(line("ERROR", &error.status()));
                    };
                    let line = self.encoder.event(&event);
                    self.queued.extend(line);
                }
                () = sleep_until(bookmark_at.min(self.deadline)) => {
                    self.done = Instant::now() >= self.deadline;
                    if self.next_bookmark.is_some() {
                        self.next_bookmark = Some(Instant::now() + BOOKMARK_EVERY);
                        if published > self.marked && self.feed.is_drained() {
                            self.marked = published;
                            return Some(self.encoder.bookmark(published, false));
                        }
                    }
                }
            }
        }
    }
}

/// `{"type":…,"object":…}` and a line feed.
fn line(kind: &str, object: &Value) -> Bytes {
    Bytes::from(format!("{{\"type\":\"{kind}\",\"object\":{object}}}\n"))
}

/// Turns changes into the lines this client wants.
struct Encoder {
    resource: &'static Resource,
    selector: Selector,
    form: Form,
    include: Include,
    /// The next table still needs its column definitions.
    header: bool,
}

impl Encoder {
    /// A change as the client's selectors see it: an object that starts to match is new to it, one that ceases is gone.
    fn event(&mut self, event: &Event) -> Option<Bytes> {
        let kind = if self.selector.is_empty() {
            match event.change {
                Change::Added => "ADDED",
                Change::Modified => "MODIFIED",
                Change::Deleted => "DELETED",
            }
        } else {
            let before = event.before.as_ref().is_some_and(|facets| self.selector.matches(facets));
            let after = event.change != Change::Deleted && {
                let object: Value = serde_json::from_slice(&event.body).ok()?;
                self.selector.matches(&Facets::of(self.resource, &object))
            };
            match (before, after) {
                (false, false) => return None,
                (false, true) => "ADDED",
                (true, true) => "MODIFIED",
                (true, false) => "DELETED",
            }
        };
        self.line(kind, &event.body)
    }

    /// One object, if the selectors match it.
    fn object(&mut self, kind: &str, body: &Bytes) -> Option<Bytes> {
        if !self.selector.is_empty() {
            let object: Value = serde_json::from_slice(body).ok()?;
            if !self.selector.matches(&Facets::of(self.resource, &object)) {
                return None;
            }
        }
        self.line(kind, body)
    }

    fn line(&mut self, kind: &str, body: &Bytes) -> Option<Bytes> {
        if self.form == Form::Object {
            let mut text = Vec::with_capacity(body.len() + 40);
            text.extend_from_slice(b"{\"type\":\"");
            text.extend_from_slice(kind.as_bytes());
            text.extend_from_slice(b"\",\"object\":");
            text.extend_from_slice(body);
            text.extend_from_slice(b"}\n");
            return Some(Bytes::from(text));
        }
        let object: Value = serde_json::from_slice(body).ok()?;
        let formed = match self.form {
            Form::Table => {
                let meta = json!({"resourceVersion": object::version(&object)});
                table::table(
                    self.resource.columns,
                    &[object],
                    &meta,
                    self.include,
                    std::mem::take(&mut self.header),
                )
            }
            Form::Partial | Form::Object => table::partial(&object),
        };
        Some(line(kind, &formed))
    }

    /// Tells the client that it has seen everything up to `version`; `initial` also that the list is complete.
    fn bookmark(&self, version: u64, initial: bool) -> Bytes {
        let mut meta = json!({"resourceVersion": version.to_string(), "creationTimestamp": null});
        if initial {
            meta["annotations"] = json!({"k8s.io/initial-events-end": "true"});
        }
        let object = match self.form {
            Form::Object => {
                json!({"kind": self.resource.kind, "apiVersion": self.resource.api_version(), "metadata": meta})
            }
            Form::Partial => table::partial(&json!({"metadata": meta})),
            Form::Table => table::table(self.resource.columns, &[], &meta, Include::None, false),
        };
        line("BOOKMARK", &object)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::resources;

    fn encoder(labels: &str) -> Encoder {
        let resource = resources::find("", "v1", "configmaps").unwrap();
        let selector = Selector::parse(resource, labels, "").unwrap();
        Encoder { resource, selector, form: Form::Object, include: Include::None, header: true }
    }

    fn change(change: Change, before: Option<&str>, after: &str) -> Event {
        let resource = resources::find("", "v1", "configmaps").unwrap();
        let object = |app: &str| json!({"metadata": {"name": "a", "labels": {"app": app}}});
        Event {
            version: 2,
            change,
            resource,
            namespace: "default".into(),
            body: Bytes::from(object(after).to_string()),
            before: before.map(|app| Facets::of(resource, &object(app))),
        }
    }

    fn kind(line: Option<Bytes>) -> Option<String> {
        let event: Value = serde_json::from_slice(&line?).unwrap();
        Some(event["type"].as_str().unwrap().to_owned())
    }

    #[test]
    fn selector_transitions_become_added_and_deleted() {
        for (event, expected) in [
            (change(Change::Added, None, "web"), Some("ADDED")),
            (change(Change::Added, None, "db"), None),
            (change(Change::Modified, Some("db"), "web"), Some("ADDED")),
            (change(Change::Modified, Some("web"), "web"), Some("MODIFIED")),
            (change(Change::Modified, Some("web"), "db"), Some("DELETED")),
            (change(Change::Modified, Some("db"), "db"), None),
            (change(Change::Deleted, Some("web"), "web"), Some("DELETED")),
            (change(Change::Deleted, Some("db"), "db"), None),
        ] {
            assert_eq!(kind(encoder("app=web").event(&event)).as_deref(), expected, "{event:?}");
        }
    }

    #[test]
    fn the_end_of_a_streaming_list_is_marked() {
        let line = encoder("").bookmark(7, true);
        let event: Value = serde_json::from_slice(&line).unwrap();
        assert_eq!(event["type"], "BOOKMARK");
        assert_eq!(event["object"]["metadata"]["resourceVersion"], "7");
        assert_eq!(event["object"]["metadata"]["annotations"]["k8s.io/initial-events-end"], "true");
    }
}
