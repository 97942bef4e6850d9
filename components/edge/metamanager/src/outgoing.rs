//! The way to the cloud: what the outbox holds, oldest first, and questions in between.

use ipc::{Fail, Gone, Sink};
use proto::metamanager::outgoing_item::Item;
use proto::metamanager::{MetaManagerError, OutgoingItem, QueryRequest};

use crate::convert;
use crate::queries::{Outlet, Question};
use crate::server::storage;
use crate::store::{Store, StoreError};

/// Why the stream ends.
enum End {
    Gone,
    Failed(StoreError),
}

impl From<Gone> for End {
    fn from(_: Gone) -> Self {
        Self::Gone
    }
}

impl From<StoreError> for End {
    fn from(error: StoreError) -> Self {
        Self::Failed(error)
    }
}

/// Serves one edgehub until it is gone or a newer stream takes over.
pub(crate) async fn serve(
    store: &Store,
    mut questions: Outlet,
    out: Sink<OutgoingItem>,
) -> Result<(), Fail<MetaManagerError>> {
    let superseded = questions.superseded();
    match superseded.run_until_cancelled(run(store, &mut questions, &out)).await {
        Some(Err(End::Failed(error))) => Err(storage(&"read of the outbox", &error)),
        _ => Ok(()),
    }
}

async fn run(store: &Store, questions: &mut Outlet, out: &Sink<OutgoingItem>) -> Result<(), End> {
    // Subscribed before the first page, so that no commit falls in between.
    let mut seqs = store.seqs();
    let mut after = 0;
    loop {
        seqs.mark_unchanged();
        loop {
            // Someone waits for a question; what was uploaded can wait a page.
            while let Some(question) = questions.try_next() {
                ask(out, question).await?;
            }
            let page = store.outbox(after).await?;
            let Some(&(last, _)) = page.last() else { break };
            for (seq, upload) in page {
                let item = Item::Upload(convert::wire_upload(upload));
                out.send(OutgoingItem { seq, item: Some(item) }).await?;
            }
            after = last;
        }
        tokio::select! {
            question = questions.next() => match question {
                Some(question) => ask(out, question).await?,
                None => return Ok(()),
            },
            changed = seqs.changed() => {
                if changed.is_err() {
                    return Ok(());
                }
            }
        }
    }
}

async fn ask(out: &Sink<OutgoingItem>, question: Question) -> Result<(), Gone> {
    let Question { seq, key, json } = question;
    let query = QueryRequest { key: Some(convert::wire_key(key)), json: json.0 };
    out.send(OutgoingItem { seq, item: Some(Item::Query(query)) }).await
}
