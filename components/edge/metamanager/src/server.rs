//! The interface of `proto/metamanager.proto` on top of the store.

use std::fmt::Display;
use std::sync::Arc;

use bytes::Bytes;
use ipc::{Fail, Peer, Sink};
use proto::metamanager::{
    ApplyReply, ApplyRequest, DeliveredReply, DeliveredRequest, Delivery, GetReply, GetRequest, MetaManager,
    MetaManagerError, OutgoingItem, OutgoingRequest, QueryReply, QueryRequest, SetLinkReply, SetLinkRequest,
    SubmitReply, SubmitRequest, WatchEvent, WatchRequest,
};
use tokio::sync::{broadcast, watch};

use crate::object::{Change, Key, Slot};
use crate::queries::{About, Queries, is_question};
use crate::store::{Store, StoreError};
use crate::watch::{DELIVERIES, News};
use crate::{convert, outgoing};

/// A cloud's message is kept this long: it is shown to people.
const MESSAGE: usize = 4096;

/// Kinds whose answers are for the caller alone.
const NEVER_STORED: &str = "serviceaccounttoken";

/// The code of an answer that the cloud has no such object.
const ABSENT: u32 = 404;

type Result<T> = std::result::Result<T, Fail<MetaManagerError>>;

/// Serves the state plane.
pub(crate) struct State {
    store: Arc<Store>,
    queries: Arc<Queries>,
    link: watch::Sender<bool>,
    deliveries: broadcast::Sender<Delivery>,
}

impl State {
    pub(crate) fn new(store: Arc<Store>) -> Self {
        Self {
            store,
            queries: Arc::new(Queries::new()),
            link: watch::Sender::new(false),
            deliveries: broadcast::Sender::new(DELIVERIES),
        }
    }

    /// Commits what an answer says, and then answers: the object in it is stored; one that the cloud does not have is
    /// removed. No other refusal says anything about the object.
    async fn answered(
        &self,
        seq: u64,
        code: u32,
        message: String,
        json: Bytes,
        object: Option<Change>,
    ) -> Result<()> {
        let stored = match object {
            Some(change) if change.key.kind != NEVER_STORED => {
                let about = change.key.clone();
                self.store.apply(vec![change]).await.map_err(|error| storage(&about, &error)).map(drop)
            }
            _ => match self.queries.about(seq).filter(|_| code == ABSENT) {
                Some(About { key, asked_at }) => self.forget(key, asked_at).await,
                None => Ok(()),
            },
        };
        self.queries.answer(seq, stored.clone().and_then(|()| outcome(code, message).map(|()| json)));
        stored
    }

    async fn forget(&self, key: Key, asked_at: u64) -> Result<()> {
        let about = key.clone();
        match self.store.absent(key, asked_at).await {
            Ok(removed) => {
                if removed {
                    tracing::info!(object = %about, "the cloud does not have the object any more: removed");
                }
                Ok(())
            }
            Err(error) => Err(storage(&format_args!("removal of {about}"), &error)),
        }
    }
}

impl MetaManager for State {
    async fn apply(&self, _: &Peer, request: ApplyRequest) -> Result<ApplyReply> {
        let changes = request.changes.into_iter().map(convert::change).collect::<Result<Vec<_>>>()?;
        let count = changes.len();
        let revision = self
            .store
            .apply(changes)
            .await
            .map_err(|error| storage(&format_args!("commit of {count} changes"), &error))?;
        Ok(ApplyReply { revision })
    }

    async fn get(&self, _: &Peer, request: GetRequest) -> Result<GetReply> {
        let key = convert::key(request.key)?;
        match self.store.get(key.clone()).await {
            Ok(Some(object)) => Ok(GetReply { object: Some(convert::wire_object(object)) }),
            Ok(None) => Err(Fail::new(MetaManagerError::NotFound, format!("{key} is not stored"))),
            Err(error) => Err(storage(&format_args!("read of {key}"), &error)),
        }
    }

    async fn watch(&self, _: &Peer, request: WatchRequest, out: Sink<WatchEvent>) -> Result<()> {
        let kinds = convert::kinds(request.kinds, request.deliveries)?;
        let news = request
            .deliveries
            .then(|| News { link: self.link.subscribe(), deliveries: self.deliveries.subscribe() });
        crate::watch::serve(&self.store, kinds, request.from_revision, news, out).await
    }

    async fn submit(&self, _: &Peer, request: SubmitRequest) -> Result<SubmitReply> {
        let upload = convert::upload(request)?;
        let about = upload.slot.key.clone();
        let seq = self
            .store
            .submit(upload)
            .await
            .map_err(|error| storage(&format_args!("upload of {about}"), &error))?;
        Ok(SubmitReply { seq })
    }

    async fn outgoing(&self, peer: &Peer, _: OutgoingRequest, out: Sink<OutgoingItem>) -> Result<()> {
        tracing::debug!(peer = peer.component, generation = peer.generation, "outgoing stream began");
        outgoing::serve(&self.store, self.queries.way_out(), out).await
    }

    async fn delivered(&self, _: &Peer, request: DeliveredRequest) -> Result<DeliveredReply> {
        let DeliveredRequest { seq, code, message, object } = request;
        if code == 0 {
            return Err(Fail::new(MetaManagerError::Invalid, "code is missing"));
        }
        let message = cut(message, MESSAGE);
        let json = object.as_ref().and_then(|change| change.json.clone()).unwrap_or_default();
        // An answer that names no object is for the caller only, and what comes with a refusal is no object.
        let object = object
            .filter(|change| change.key.is_some() && is_success(code))
            .map(convert::change)
            .transpose()?;

        if is_question(seq) {
            self.answered(seq, code, message, json, object).await?;
            return Ok(DeliveredReply {});
        }
        let deliveries = self.deliveries.clone();
        let tell = move |slot: &Slot| {
            // An error means that nobody watches.
            let _ = deliveries.send(Delivery {
                kind: slot.kind.into(),
                key: Some(convert::wire_key(slot.key.clone())),
                uid: slot.uid.clone(),
                code,
                message,
            });
        };
        self.store
            .delivered(seq, object, tell)
            .await
            .map_err(|error| storage(&format_args!("delivery of upload {seq}"), &error))?;
        Ok(DeliveredReply {})
    }

    async fn query(&self, _: &Peer, request: QueryRequest) -> Result<QueryReply> {
        let (key, json) = convert::query(request)?;
        let json = self.queries.ask(key, json, self.store.revision()).await?;
        Ok(QueryReply { json })
    }

    async fn set_link(&self, _: &Peer, request: SetLinkRequest) -> Result<SetLinkReply> {
        self.queries.set_connected(request.connected);
        let changed = self
            .link
            .send_if_modified(|known| std::mem::replace(known, request.connected) != request.connected);
        if changed {
            tracing::info!(connected = request.connected, "cloud link changed");
        }
        Ok(SetLinkReply {})
    }
}

fn is_success(code: u32) -> bool {
    (200..300).contains(&code)
}

/// What the cloud's code says about a query.
fn outcome(code: u32, message: String) -> Result<()> {
    match code {
        code if is_success(code) => Ok(()),
        403 => Err(Fail::new(MetaManagerError::Forbidden, message)),
        ABSENT => Err(Fail::new(MetaManagerError::NotFound, message)),
        _ => Err(Fail::new(MetaManagerError::Refused, format!("{message} (code {code})"))),
    }
}

pub(crate) fn storage(attempted: &dyn Display, error: &StoreError) -> Fail<MetaManagerError> {
    Fail::new(MetaManagerError::Storage, format!("{attempted} failed: {error}"))
}

fn cut(mut text: String, limit: usize) -> String {
    text.truncate(text.floor_char_boundary(limit));
    text
}
