use std::io;
use std::sync::Mutex;

use proto::metamanager::{GetRequest, QueryRequest};
use tracing_subscriber::fmt::MakeWriter;

use super::*;
use crate::object::{self, Event, Json, Slot, Upload};
use crate::queries::Question;

/// In every body below, and nowhere else.
const SECRET: &str = "c3dvcmRmaXNo";

#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for Log {
    type Writer = Self;

    fn make_writer(&'a self) -> Self {
        self.clone()
    }
}

#[test]
fn no_debug_output_shows_a_body() {
    let json = || Json(SECRET.into());
    let key = || object::Key { kind: "secret".into(), namespace: "default".into(), name: "password".into() };
    let change = object::Change { key: key(), uid: "a".into(), resource_version: 1, json: Some(json()) };
    let object =
        object::Object { key: key(), uid: "a".into(), resource_version: 1, revision: 1, json: json() };
    let slot = Slot { kind: UploadKind::Event, key: key(), uid: "a".into() };
    let upload = Upload { slot, json: json() };
    let question = Question { seq: 1, key: key(), json: json() };
    for shown in [
        format!("{change:?}"),
        format!("{:?} {:?}", Event::Put(object.clone()), Event::Delete(object)),
        format!("{upload:?}"),
        format!("{question:?}"),
    ] {
        assert!(!shown.contains(SECRET), "{shown}");
        assert!(shown.contains("<12 bytes>"), "{shown}");
    }
}

/// Every method, with a Secret in every body, good and bad: nothing of it is in the most talkative log.
#[tokio::test]
async fn no_log_shows_a_body() {
    let log = Log::default();
    let subscriber =
        tracing_subscriber::fmt().with_max_level(tracing::Level::TRACE).with_writer(log.clone()).finish();
    // For all threads, the store's too. Other tests of this process log here as well, which does no harm.
    tracing::subscriber::set_global_default(subscriber).unwrap();

    let rig = Rig::new();
    let (hub, edged) = (rig.client("edgehub"), rig.client("edged"));
    let mut events = watch(&edged, &["secret"], 0).await;
    set_link(&hub, true).await;
    let mut items = outgoing(&hub).await;
    apply(&hub, vec![put("secret", "password", 1, SECRET), put("secret", "password", 0, SECRET)]).await;
    apply(&hub, vec![put("secret", "password", 1, SECRET), delete("secret", "password")]).await;
    shorts(&mut events, 2).await;
    let seq = submit(&edged, UploadKind::PodStatus, "web", SECRET).await;
    assert_eq!(next_item(&mut items).await.seq, seq);
    delivered(&hub, seq, 200, "", Some(put("secret", "password", 3, SECRET))).await;

    let query = QueryRequest { key: Some(key("secret", "other")), json: SECRET.into() };
    let asked = {
        let edged = edged.clone();
        tokio::spawn(async move { edged.query(query).await })
    };
    let question = next_item(&mut items).await.seq;
    delivered(&hub, question, 200, "", Some(put("secret", "other", 3, SECRET))).await;
    assert_eq!(&asked.await.unwrap().unwrap().json[..], SECRET.as_bytes());
    edged.get(GetRequest { key: Some(key("secret", "other")) }).await.unwrap();

    // Bad requests: the errors name fields, not bodies.
    let unnamed = Change { key: None, ..put("secret", "password", 1, SECRET) };
    let error = hub.apply(ApplyRequest { changes: vec![unnamed] }).await.unwrap_err();
    assert!(!format!("{error} {error:?}").contains(SECRET));
    let request =
        SubmitRequest { kind: 99, key: Some(key("pod", "a")), uid: String::new(), json: SECRET.into() };
    let error = edged.submit(request).await.unwrap_err();
    assert!(!format!("{error} {error:?}").contains(SECRET));

    drop((events, items, rig));
    let text = String::from_utf8(log.0.lock().unwrap().clone()).unwrap();
    assert!(text.contains("cloud link changed"), "the log was captured");
    assert!(!text.contains(SECRET), "{text}");
}
