//! What hostile peers make this process hold, measured. One test in a process of its own, since it looks at all of its
//! memory.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::time::Duration;

use bytes::Bytes;
use ipc::{
    Admission, CONNECTIONS_PER_LINK, Call, Handling, Identity, Interface, LINK_MEMORY, MAX_PAYLOAD,
    Malformed, Method, PART, Request, Server, Service, Shape, Sink,
};
use prost::Message;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UnixStream;

static WASTE: Interface = Interface {
    name: "apiary.waste.v1.Waste",
    methods: &[
        Method { number: 1, name: "Keep", shape: Shape::Unary, max_request: MAX_PAYLOAD, at_once: 64 },
        Method { number: 2, name: "Flood", shape: Shape::Stream, max_request: 1024, at_once: 64 },
        Method { number: 3, name: "Large", shape: Shape::Unary, max_request: 1024, at_once: 64 },
    ],
};

#[derive(Clone, PartialEq, Message)]
struct Blob {
    #[prost(bytes = "bytes", tag = "1")]
    data: Bytes,
}

/// Keeps every request for ever, and has a lot to say.
struct Waste;

impl Service for Waste {
    fn interface(&self) -> &'static Interface {
        &WASTE
    }

    fn handle(&self, call: Call, request: Request<'_>) -> Result<Handling, Malformed> {
        let request: Blob = request.decode()?;
        Ok(match call.number() {
            1 => Box::pin(async move {
                std::future::pending::<()>().await;
                call.reply::<Blob, i32>(Ok(request)).await
            }),
            2 => {
                let out: Sink<Blob> = call.sink();
                Box::pin(async move {
                    while out.send(Blob { data: vec![1; 100 * 1024].into() }).await.is_ok() {}
                    call.end::<i32>(Ok(()))
                })
            }
            _ => Box::pin(async move {
                call.reply::<Blob, i32>(Ok(Blob { data: vec![1; MAX_PAYLOAD - 8].into() })).await
            }),
        })
    }
}

/// A frame, as any peer can write one.
#[derive(Clone, PartialEq, Message)]
struct Envelope {
    #[prost(uint32, tag = "1")]
    kind: u32,
    #[prost(uint64, tag = "2")]
    call: u64,
    #[prost(uint32, tag = "3")]
    method: u32,
    #[prost(bytes = "vec", tag = "8")]
    payload: Vec<u8>,
    #[prost(uint32, tag = "9")]
    total: u32,
}

const HELLO: u32 = 1;
const REQUEST: u32 = 2;
const PART_OF: u32 = 11;

#[derive(Clone, PartialEq, Message)]
struct Hello {
    #[prost(uint32, tag = "1")]
    protocol: u32,
    #[prost(string, tag = "2")]
    interface: String,
    #[prost(string, tag = "3")]
    component: String,
    #[prost(uint32, tag = "5")]
    newest: u32,
}

impl Envelope {
    fn new(kind: u32, call: u64, method: u32, payload: Vec<u8>) -> Self {
        Self { kind, call, method, payload, total: 0 }
    }

    fn frame(&self) -> Vec<u8> {
        let mut frame = u32::try_from(self.encoded_len()).unwrap().to_be_bytes().to_vec();
        self.encode(&mut frame).unwrap();
        frame
    }
}

/// The frames of a request of this size, all but the last byte.
fn all_but_a_byte(call: u64, size: usize) -> Vec<u8> {
    let first =
        Envelope { total: u32::try_from(size).unwrap(), ..Envelope::new(REQUEST, call, 1, vec![0; PART]) };
    let mut frames = first.frame();
    let mut missing = size - PART;
    while missing > 1 {
        let length = PART.min(missing - 1);
        frames.extend(Envelope::new(PART_OF, call, 0, vec![0; length]).frame());
        missing -= length;
    }
    frames
}

/// Connected, hellos exchanged.
async fn connect(path: &std::path::Path) -> UnixStream {
    let mut stream = UnixStream::connect(path).await.unwrap();
    let hello = Hello { protocol: 1, interface: WASTE.name.into(), component: "client".into(), newest: 2 };
    stream.write_all(&Envelope::new(HELLO, 0, 0, hello.encode_to_vec()).frame()).await.unwrap();
    let length = stream.read_u32().await.unwrap();
    stream.read_exact(&mut vec![0; length as usize]).await.unwrap();
    stream
}

/// Resident memory of this process.
fn resident() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<usize>().unwrap() * 1024
}

/// Waits until nothing more happens.
async fn quiet(server: &Server<Waste>) {
    let mut last = 0;
    loop {
        tokio::time::sleep(Duration::from_millis(50)).await;
        let now = server.links().iter().map(|link| link.received_bytes + link.sent_bytes).sum();
        if now == last {
            return;
        }
        last = now;
    }
}

#[tokio::test]
async fn hostile_peers_on_many_links_stay_under_the_ceiling() {
    const LINKS: usize = 6;
    let dir = tempfile::tempdir().unwrap();
    let server = Server::new(Identity::new("server", 1), Waste);
    let path = |link: usize| dir.path().join(link.to_string());
    for link in 0..LINKS {
        let admission = Admission::Link {
            client: "client".to_owned(),
            uid: nix::unistd::Uid::effective().as_raw(),
            methods: WASTE.methods.iter().map(|method| method.name.to_owned()).collect(),
        };
        server.serve(ipc::bind(&path(link), 0o600).unwrap(), admission).unwrap();
    }
    let before = resident();

    // As many connections as each link has. None reads anything after the hello.
    let mut peers = Vec::new();
    for link in 0..LINKS {
        for _ in 0..CONNECTIONS_PER_LINK {
            let mut peer = connect(&path(link)).await;
            // A request that is worked on for ever, and one that never comes to its end.
            let kept = Blob { data: vec![0; PART - 8].into() }.encode_to_vec();
            peer.write_all(&Envelope::new(REQUEST, 300, 1, kept).frame()).await.unwrap();
            peer.write_all(&all_but_a_byte(301, MAX_PAYLOAD - 8)).await.unwrap();
            peers.push(peer);
        }
    }
    // All but one then ask for answers they do not take: replies of 4 MiB and streams of 100 KiB items.
    let (beyond, flooded) = peers.split_last_mut().unwrap();
    for peer in flooded {
        let asking = async {
            for call in 1..=32 {
                peer.write_all(&Envelope::new(REQUEST, call, 2, Vec::new()).frame()).await.unwrap();
                peer.write_all(&Envelope::new(REQUEST, 100 + call, 3, Vec::new()).frame()).await.unwrap();
            }
        };
        // The server stops reading of itself.
        let _ = tokio::time::timeout(Duration::from_millis(20), asking).await;
    }
    quiet(&server).await;
    let held = resident().saturating_sub(before);
    let mib = |bytes: usize| bytes / 1024 / 1024;
    println!("{} MiB held by {LINKS} links, {} MiB each at most", mib(held), mib(LINK_MEMORY));
    assert!(held < LINKS * LINK_MEMORY, "{} MiB held by {LINKS} links", mib(held));
    assert!(held > LINKS * MAX_PAYLOAD, "{} MiB held: the test holds nothing", mib(held));

    // Whoever goes beyond is told so and closed; the others are not touched.
    // It may be closed before it has said all.
    let _ = beyond.write_all(&all_but_a_byte(302, MAX_PAYLOAD - 8)).await;
    while server.links()[LINKS - 1].refusals_total == 0 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let links = server.links();
    assert!(
        links[LINKS - 1].last_refusal.contains("bytes in requests at once"),
        "{}",
        links[LINKS - 1].last_refusal
    );
    assert_eq!(links.iter().map(|link| link.refusals_total).sum::<u64>(), 1);

    // With the peers their connections go.
    drop(peers);
    while server.links().iter().any(|link| link.connections_open > 0) {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}
