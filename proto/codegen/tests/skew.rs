//! Components of the version before this one (N-1, recorded in `proto/recorded/previous.binpb`) beside this one's (N).

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::path::Path;

use bytes::Bytes;
use prost::Message as _;
use prost_reflect::{
    Cardinality, DescriptorPool, DynamicMessage, FieldDescriptor, Kind, MessageDescriptor, Value,
};
use proto::messages::MESSAGES;

fn folder() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/.."))
}

fn previous() -> DescriptorPool {
    let recorded = std::fs::read(folder().join("recorded/previous.binpb")).unwrap();
    DescriptorPool::decode(recorded.as_slice()).unwrap()
}

fn present() -> DescriptorPool {
    DescriptorPool::from_file_descriptor_set(proto_codegen::descriptors(folder()).unwrap()).unwrap()
}

/// A message with something in every field; of a `oneof`, in the field at `choice`, as far as it has so many.
fn filled(message: &MessageDescriptor, choice: usize) -> DynamicMessage {
    let mut filled = DynamicMessage::new(message.clone());
    for field in message.fields() {
        let chosen = field.containing_oneof().is_none_or(|oneof| {
            oneof.fields().nth(choice.min(oneof.fields().len() - 1)) == Some(field.clone())
        });
        if chosen {
            filled.set_field(&field, value(&field, choice));
        }
    }
    filled
}

fn value(field: &FieldDescriptor, choice: usize) -> Value {
    let number = field.number();
    let one = match field.kind() {
        Kind::Bool => Value::Bool(true),
        Kind::Int32 | Kind::Sint32 | Kind::Sfixed32 => Value::I32(-5),
        Kind::Int64 | Kind::Sint64 | Kind::Sfixed64 => Value::I64(i64::MIN),
        Kind::Uint32 | Kind::Fixed32 => Value::U32(number),
        Kind::Uint64 | Kind::Fixed64 => Value::U64(u64::MAX - u64::from(number)),
        Kind::Float => Value::F32(0.5),
        Kind::Double => Value::F64(0.25),
        Kind::String => Value::String(format!("{} of the other version", field.name())),
        Kind::Bytes => Value::Bytes(Bytes::from(vec![0xa5; 32])),
        Kind::Enum(values) => Value::EnumNumber(values.values().last().unwrap().number()),
        Kind::Message(message) => Value::Message(filled(&message, choice)),
    };
    if field.cardinality() == Cardinality::Repeated { Value::List(vec![one.clone(), one]) } else { one }
}

fn recode(name: &str, bytes: Vec<u8>) -> Vec<u8> {
    let message = MESSAGES.iter().find(|message| message.name == name);
    let message = message.unwrap_or_else(|| panic!("{name} is gone"));
    (message.recode)(bytes.into()).unwrap_or_else(|error| panic!("{name} does not decode: {error}"))
}

/// As many as the largest `oneof` has fields.
const CHOICES: usize = 8;

#[test]
fn every_message_of_the_previous_version_survives_this_one() {
    for message in previous().all_messages() {
        for choice in 0..CHOICES {
            let sent = filled(&message, choice);
            let returned = recode(message.full_name(), sent.encode_to_vec());
            let returned = DynamicMessage::decode(message.clone(), returned.as_slice()).unwrap();
            assert_eq!(returned, sent, "{}", message.full_name());
        }
    }
}

#[test]
fn every_message_of_this_version_is_understood_by_the_previous_one_as_far_as_it_knows_it() {
    let previous = previous();
    let present = present();
    for known in previous.all_messages() {
        let message = present.get_message_by_name(known.full_name()).unwrap();
        for choice in 0..CHOICES {
            let sent = recode(known.full_name(), filled(&message, choice).encode_to_vec());
            let understood = DynamicMessage::decode(known.clone(), sent.as_slice()).unwrap();
            for field in known.fields().filter(|field| field.containing_oneof().is_none()) {
                assert!(understood.has_field(&field), "{} lost", field.full_name());
            }
        }
    }
}

#[test]
fn every_generated_message_is_listed_by_its_name() {
    let names: Vec<_> = present().all_messages().map(|message| message.full_name().to_owned()).collect();
    assert_eq!(MESSAGES.len(), names.len());
    for name in names {
        assert!(MESSAGES.iter().any(|message| message.name == name), "{name} is not listed");
    }
}

#[test]
fn methods_keep_their_numbers_shapes_and_messages() {
    let present = present();
    for service in previous().services() {
        let now = present.get_service_by_name(service.full_name()).unwrap();
        for (before, now) in service.methods().zip(now.methods()) {
            assert_eq!(now.full_name(), before.full_name(), "methods are added at the end of their service");
            assert_eq!(now.input().full_name(), before.input().full_name());
            assert_eq!(now.output().full_name(), before.output().full_name());
            assert_eq!(now.is_server_streaming(), before.is_server_streaming());
        }
        assert!(now.methods().len() >= service.methods().len(), "{} lost a method", service.full_name());
        let table = table(service.full_name());
        for (index, method) in now.methods().enumerate() {
            assert_eq!(
                (table.methods[index].number as usize, table.methods[index].name),
                (index + 1, method.name())
            );
        }
    }
}

fn table(service: &str) -> &'static ipc::Interface {
    let tables = [
        &proto::metamanager::META_MANAGER,
        &proto::keyholder::KEYHOLDER,
        &proto::authority::AUTHORITY,
        &proto::controllers::CONTROLLERS,
        &proto::control::CONTROL,
    ];
    tables.into_iter().find(|table| table.name == service).unwrap()
}

#[test]
fn enum_values_keep_their_numbers() {
    let present = present();
    for before in previous().all_enums() {
        let now = present.get_enum_by_name(before.full_name()).unwrap();
        for value in before.values() {
            let kept = now.get_value_by_name(value.name()).map(|value| value.number());
            assert_eq!(kept, Some(value.number()), "{}", value.full_name());
        }
    }
}

/// keyholder as it is now.
struct Keys;

impl proto::keyholder::Keyholder for Keys {
    async fn public_key(
        &self,
        _: &ipc::Peer,
        _: proto::keyholder::PublicKeyRequest,
    ) -> Result<proto::keyholder::PublicKeyReply, ipc::Fail<proto::keyholder::KeyholderError>> {
        Ok(proto::keyholder::PublicKeyReply { point: Bytes::from_static(b"point") })
    }

    async fn sign(
        &self,
        peer: &ipc::Peer,
        request: proto::keyholder::SignRequest,
    ) -> Result<proto::keyholder::SignReply, ipc::Fail<proto::keyholder::KeyholderError>> {
        assert_eq!((peer.component.as_str(), peer.version.as_str()), ("edgehub", ""));
        Ok(proto::keyholder::SignReply { signature: request.message })
    }
}

/// The bus as the previous version has it: its hello, its one frame per message, its field numbers.
struct PreviousClient(std::os::unix::net::UnixStream);

#[derive(Clone, PartialEq, prost::Message)]
struct Envelope {
    #[prost(int32, tag = "1")]
    kind: i32,
    #[prost(uint64, tag = "2")]
    call: u64,
    #[prost(uint32, tag = "3")]
    method: u32,
    #[prost(bytes = "vec", tag = "8")]
    payload: Vec<u8>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Hello {
    #[prost(uint32, tag = "1")]
    protocol: u32,
    #[prost(string, tag = "2")]
    interface: String,
    #[prost(string, tag = "3")]
    component: String,
    #[prost(uint64, tag = "4")]
    generation: u64,
}

impl PreviousClient {
    fn connect(path: &Path, interface: &str) -> Self {
        let mut client = Self(std::os::unix::net::UnixStream::connect(path).unwrap());
        let interface = interface.to_owned();
        let ours =
            Hello { protocol: 1, interface: interface.clone(), component: "edgehub".into(), generation: 1 };
        let theirs =
            client.exchange(&Envelope { kind: 1, payload: ours.encode_to_vec(), ..Envelope::default() });
        let theirs = Hello::decode(theirs.payload.as_slice()).unwrap();
        // What the previous version asks of a server.
        assert_eq!((theirs.protocol, theirs.interface), (1, interface));
        client
    }

    fn exchange(&mut self, envelope: &Envelope) -> Envelope {
        use std::io::{Read as _, Write as _};
        let mut frame = u32::try_from(envelope.encoded_len()).unwrap().to_be_bytes().to_vec();
        envelope.encode(&mut frame).unwrap();
        self.0.write_all(&frame).unwrap();
        let mut prefix = [0; 4];
        self.0.read_exact(&mut prefix).unwrap();
        let mut answer = vec![0; u32::from_be_bytes(prefix) as usize];
        self.0.read_exact(&mut answer).unwrap();
        Envelope::decode(answer.as_slice()).unwrap()
    }

    /// Calls a method with every field of its request filled.
    fn call(
        &mut self,
        service: &prost_reflect::ServiceDescriptor,
        name: &str,
    ) -> (DynamicMessage, DynamicMessage) {
        let (index, method) =
            service.methods().enumerate().find(|(_, method)| method.name() == name).unwrap();
        let request = filled(&method.input(), 0);
        let number = u32::try_from(index + 1).unwrap();
        let payload = request.encode_to_vec();
        let answer = self.exchange(&Envelope { kind: 2, call: 7, method: number, payload });
        assert_eq!((answer.kind, answer.call), (3, 7), "not a reply");
        (request, DynamicMessage::decode(method.output(), answer.payload.as_slice()).unwrap())
    }
}

#[tokio::test]
async fn component_of_the_previous_version_calls_one_of_this() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("keyholder.sock");
    let server =
        ipc::Server::new(ipc::Identity::new("keyholder", 1), proto::keyholder::KeyholderServer::new(Keys));
    let admission = ipc::Admission::Link {
        client: "edgehub".to_owned(),
        uid: std::os::unix::fs::MetadataExt::uid(&std::fs::metadata(dir.path()).unwrap()),
        methods: vec!["PublicKey".to_owned(), "Sign".to_owned()],
    };
    server.serve(ipc::bind(&path, 0o600).unwrap(), admission).unwrap();
    tokio::task::spawn_blocking(move || {
        let service = previous().get_service_by_name("apiary.keyholder.v1.Keyholder").unwrap();
        let mut client = PreviousClient::connect(&path, service.full_name());
        let (sent, got) = client.call(&service, "Sign");
        assert_eq!(got.get_field_by_name("signature"), sent.get_field_by_name("message"));
        let (_, got) = client.call(&service, "PublicKey");
        assert_eq!(got.get_field_by_name("point").unwrap().as_bytes().unwrap(), "point");
    })
    .await
    .unwrap();
}
