//! A service as the generator would write it, and peers that send whatever a test wants.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use prost::Message;
use tempfile::TempDir;
use tokio::sync::mpsc;

use crate::frame::{self, Frame, Head, Hello, Kind};
use crate::inbox::Inbox;
use crate::transport::{Writer, connect, split};
use crate::*;

pub(super) const ECHO: usize = 0;
pub(super) const HANG: usize = 1;
pub(super) const COUNT: usize = 2;
pub(super) const FAIL: usize = 3;
pub(super) const ONWARD: usize = 4;

pub(crate) static TEST: Interface = Interface {
    name: "apiary.test.v1.Test",
    methods: &[
        Method { number: 1, name: "Echo", shape: Shape::Unary, max_request: MAX_PAYLOAD, at_once: 64 },
        Method { number: 2, name: "Hang", shape: Shape::Unary, max_request: 1024, at_once: 2 },
        Method { number: 3, name: "Count", shape: Shape::Stream, max_request: 1024, at_once: 2 },
        Method { number: 4, name: "Fail", shape: Shape::Unary, max_request: 1024, at_once: 64 },
        Method { number: 5, name: "Onward", shape: Shape::Unary, max_request: 1024, at_once: 64 },
    ],
};

#[derive(Clone, PartialEq, Message)]
pub(super) struct Blob {
    #[prost(bytes = "bytes", tag = "1")]
    pub(super) data: Bytes,
    #[prost(uint64, tag = "2")]
    pub(super) number: u64,
}

impl Blob {
    pub(super) fn number(number: u64) -> Self {
        Self { number, ..Self::default() }
    }

    pub(super) fn of_size(size: usize) -> Self {
        Self { data: vec![7; size].into(), number: 0 }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, prost::Enumeration)]
#[repr(i32)]
pub(super) enum TestError {
    Unspecified = 0,
    NotFound = 1,
}

/// What the service tells its test.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Seen {
    /// A hanging call began.
    Hanging,
    /// It was dropped.
    Dropped,
    /// The reader of a stream is gone.
    Gone,
    /// Who called Echo.
    Peer(Peer),
}

#[derive(Debug, Clone)]
pub(super) struct TestService {
    pub(super) seen: mpsc::UnboundedSender<Seen>,
    /// Items sent by all Count streams.
    pub(super) sent: Arc<AtomicU64>,
    /// Where Onward calls Hang.
    pub(super) onward: Option<Caller>,
    /// What handlers of Hang and Count had left when they began.
    pub(super) deadlines: Arc<Mutex<Vec<Duration>>>,
}

struct ReportDrop(mpsc::UnboundedSender<Seen>);

impl Drop for ReportDrop {
    fn drop(&mut self) {
        let _ = self.0.send(Seen::Dropped);
    }
}

impl TestService {
    /// Hangs, and says when it begins and when it is dropped.
    async fn hang(&self) {
        let _report = ReportDrop(self.seen.clone());
        self.deadlines.lock().unwrap().extend(remaining());
        let _ = self.seen.send(Seen::Hanging);
        std::future::pending::<()>().await;
    }

    /// Sends `number` items of the request's size, each with its place.
    async fn count(&self, request: Blob, out: Sink<Blob>) -> Result<(), Fail<TestError>> {
        self.deadlines.lock().unwrap().extend(remaining());
        for number in 0..request.number {
            let size = usize::from(request.data.first().copied().unwrap_or(0)) * 1024;
            if out.send(Blob { number, ..Blob::of_size(size) }).await.is_err() {
                break;
            }
            self.sent.fetch_add(1, Ordering::Relaxed);
        }
        if request.data.get(2) == Some(&1) {
            // As handlers do: that the reader is gone is no failure of theirs.
            return out.send(Blob::of_size(MAX_PAYLOAD)).await.or(Ok(()));
        }
        if request.data.get(1) == Some(&1) {
            return Err(Fail::new(TestError::NotFound, "counted to the end"));
        }
        Ok(())
    }
}

impl Service for TestService {
    fn interface(&self) -> &'static Interface {
        &TEST
    }

    fn handle(&self, call: Call, request: Request<'_>) -> Result<Handling, Malformed> {
        let request: Blob = request.decode()?;
        let service = self.clone();
        Ok(match call.number() {
            1 => Box::pin(async move {
                let _ = service.seen.send(Seen::Peer(call.peer().clone()));
                call.reply::<_, TestError>(Ok(request)).await
            }),
            2 => Box::pin(async move {
                service.hang().await;
                call.reply::<Blob, TestError>(Ok(request)).await
            }),
            3 => {
                let out = call.sink();
                Box::pin(async move {
                    let watch = ReportGone(service.seen.clone());
                    let end = service.count(request, out).await;
                    std::mem::forget(watch);
                    call.end(end)
                })
            }
            4 => Box::pin(async move {
                let code = if request.number == 1 { 1 } else { 77 };
                call.reply::<Blob, i32>(Err(Fail::new(code, "no such blob"))).await
            }),
            5 => Box::pin(async move {
                let onward = service.onward.clone().expect("the test says where");
                let answer = onward.hang(DEFAULT_DEADLINE).await;
                let answer = answer.map_err(|error| Fail::new(TestError::Unspecified, error.to_string()));
                call.reply(answer).await
            }),
            _ => return Err(call.unknown()),
        })
    }
}

/// Reports a stream that was dropped before it was complete.
struct ReportGone(mpsc::UnboundedSender<Seen>);

impl Drop for ReportGone {
    fn drop(&mut self) {
        let _ = self.0.send(Seen::Gone);
    }
}

/// A server at a path of its own.
pub(super) struct Bus {
    dir: TempDir,
    pub(super) service: TestService,
    pub(super) seen: mpsc::UnboundedReceiver<Seen>,
    server: Option<Server<TestService>>,
}

impl Bus {
    /// A bus whose server is not there yet.
    pub(super) fn down() -> Self {
        let (sender, seen) = mpsc::unbounded_channel();
        let service =
            TestService { seen: sender, sent: Arc::default(), onward: None, deadlines: Arc::default() };
        Self { dir: tempfile::tempdir().unwrap(), service, seen, server: None }
    }

    pub(super) fn up(admission: Admission) -> Self {
        let mut bus = Self::down();
        bus.start(1, admission);
        bus
    }

    pub(super) fn start(&mut self, generation: u64, admission: Admission) {
        let server = Server::new(Identity::new("server", generation), self.service.clone());
        server.serve(bind(&self.path(), 0o600).unwrap(), admission).unwrap();
        self.server = Some(server);
    }

    /// Ends every connection and takes the socket away.
    pub(super) fn stop(&mut self) {
        self.server = None;
        std::fs::remove_file(self.path()).unwrap();
    }

    pub(super) fn path(&self) -> PathBuf {
        self.dir.path().join("s")
    }

    pub(super) fn stats(&self) -> Stats {
        self.server.as_ref().unwrap().stats()
    }

    pub(super) fn server(&self) -> &Server<TestService> {
        self.server.as_ref().unwrap()
    }

    pub(super) fn caller(&self) -> Caller {
        Channel::new(self.path(), Identity::new("client", 5)).caller(&TEST)
    }

    pub(super) async fn see(&mut self, expected: Seen) {
        let seen = tokio::time::timeout(Duration::from_secs(5), self.seen.recv()).await;
        assert_eq!(seen.expect("the service reports within 5 s"), Some(expected));
    }
}

pub(super) fn our_uid() -> u32 {
    nix::unistd::Uid::effective().as_raw()
}

/// The link the client of [`Bus::caller`] comes in on.
pub(super) fn link(methods: &[&str]) -> Admission {
    Admission::Link {
        client: "client".to_owned(),
        uid: our_uid(),
        methods: methods.iter().map(ToString::to_string).collect(),
    }
}

pub(super) fn link_for_all() -> Admission {
    link(&["Echo", "Hang", "Count", "Fail", "Onward"])
}

impl Caller {
    pub(super) async fn echo(&self, blob: Blob) -> Result<Blob, CallError<TestError>> {
        self.unary(&TEST.methods[ECHO], &blob, Duration::from_secs(5)).await
    }

    pub(super) async fn hang(&self, deadline: Duration) -> Result<Blob, CallError<TestError>> {
        self.unary(&TEST.methods[HANG], &Blob::default(), deadline).await
    }

    pub(super) async fn onward(&self, deadline: Duration) -> Result<Blob, CallError<TestError>> {
        self.unary(&TEST.methods[ONWARD], &Blob::default(), deadline).await
    }

    /// `items` items of `kib` KiB.
    pub(super) async fn count(&self, items: u64, kib: u8) -> Streaming<Blob, TestError> {
        self.count_then(items, kib, false).await.unwrap()
    }

    pub(super) async fn count_then(
        &self,
        items: u64,
        kib: u8,
        fail: bool,
    ) -> Result<Streaming<Blob, TestError>, CallError<TestError>> {
        let request = Blob { number: items, data: vec![kib, u8::from(fail)].into() };
        self.stream(&TEST.methods[COUNT], &request).await
    }
}

/// A frame with all it may have.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Got {
    pub(super) kind: Kind,
    pub(super) call: u64,
    pub(super) payload: Bytes,
    pub(super) text: String,
    pub(super) total: Option<usize>,
}

impl Got {
    fn new(frame: &Frame<'_>) -> Self {
        let plain = |kind, call| Self { kind, call, payload: Bytes::new(), text: String::new(), total: None };
        let text = |kind, call, text: &str| Self { text: text.to_owned(), ..plain(kind, call) };
        let piece = |kind, call, message: frame::Piece<'_>| Self {
            payload: message.payload.to_bytes(),
            total: message.total,
            ..plain(kind, call)
        };
        match *frame {
            Frame::Hello(_) => plain(Kind::Hello, 0),
            Frame::Request { call, message, .. } => piece(Kind::Request, call, message),
            Frame::Reply { call, message } => piece(Kind::Reply, call, message),
            Frame::Item { call, message } => piece(Kind::Item, call, message),
            Frame::Part { call, payload } => Self { payload: payload.to_bytes(), ..plain(Kind::Part, call) },
            Frame::End { call } => plain(Kind::End, call),
            Frame::Failed { call, message, .. } => text(Kind::Failed, call, message),
            Frame::Refused { call, message } => text(Kind::Refused, call, message),
            Frame::Late { call } => plain(Kind::Late, call),
            Frame::Credit { call, .. } => plain(Kind::Credit, call),
            Frame::Cancel { call } => plain(Kind::Cancel, call),
        }
    }
}

/// What a `frame::…` function writes.
pub(super) fn written(write: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
    let mut out = Vec::new();
    write(&mut out);
    out
}

pub(super) fn request(call: u64, method: u32, message: &impl Message) -> Vec<u8> {
    let head = Head::request(call, method, Some(Duration::from_secs(5)));
    written(|out| frame::message(out, head, message.encoded_len(), message))
}

/// A message of this kind, whole.
pub(super) fn message(kind: Kind, call: u64, message: &impl Message) -> Vec<u8> {
    written(|out| frame::message(out, Head::of(kind, call), message.encoded_len(), message))
}

/// A part of a message: the first, of `kind`, says how long the whole is.
pub(super) fn part(head: Head, total: usize, bytes: &[u8]) -> Vec<u8> {
    let mut out = written(|out| frame::part(out, head, total, bytes.len()));
    out.extend_from_slice(bytes);
    out
}

pub(super) fn hello(interface: &Interface, component: &str) -> Vec<u8> {
    frame::hello(&Hello::new(interface, &Identity::new(component, 5)))
}

/// A peer that sends what it is told to.
pub(super) struct Raw {
    inbox: Inbox,
    writer: Writer,
}

impl Raw {
    pub(super) async fn connect(path: &Path) -> Self {
        let (inbox, writer) = connect(path).await.unwrap();
        Self { inbox, writer }
    }

    /// Expects frames as this version of the protocol has them.
    pub(super) fn speak(&mut self, protocol: u32) {
        self.inbox.speak(protocol);
    }

    /// Connected, hellos exchanged.
    pub(super) async fn greeted(bus: &Bus) -> Self {
        let mut raw = Self::connect(&bus.path()).await;
        raw.send(hello(&TEST, "client")).await;
        assert_eq!(raw.receive().await.unwrap().kind, Kind::Hello);
        raw
    }

    /// The server's side of the first client to come.
    pub(super) async fn accept(listener: &tokio::net::UnixListener) -> Self {
        Self::over(listener.accept().await.unwrap().0)
    }

    pub(super) fn over(stream: tokio::net::UnixStream) -> Self {
        let (inbox, writer) = split(stream);
        Self { inbox, writer }
    }

    /// The same, with the client's hello read and this one's sent.
    pub(super) async fn accept_as(listener: &tokio::net::UnixListener, component: &str) -> Self {
        let mut server = Self::accept(listener).await;
        assert_eq!(server.receive().await.unwrap().kind, Kind::Hello);
        server.send(hello(&TEST, component)).await;
        server
    }

    /// The request that comes next.
    pub(super) async fn requested(&mut self) -> u64 {
        let got = self.receive().await.expect("a request");
        assert_eq!(got.kind, Kind::Request);
        got.call
    }

    pub(super) async fn send(&mut self, frames: Vec<u8>) {
        self.writer.send(&frames).await.unwrap();
    }

    pub(super) async fn receive(&mut self) -> Option<Got> {
        let frame = tokio::time::timeout(Duration::from_secs(5), self.inbox.next()).await;
        let frame = frame.expect("a frame or the end within 5 s")?.ok()?;
        Some(Got::new(&frame.parse().unwrap()))
    }

    /// Skips answers until the server's parting words, after which it must close.
    pub(super) async fn refusal(&mut self) -> String {
        loop {
            match self.receive().await {
                Some(Got { kind: Kind::Refused, text, .. }) => {
                    assert_eq!(self.receive().await, None, "still connected after a refusal");
                    return text;
                }
                Some(_) => {}
                None => panic!("closed without a word"),
            }
        }
    }
}

/// Waits until the server has counted this many violations.
pub(super) async fn violations(bus: &Bus, expected: u64) {
    let counted = async {
        while bus.stats().violations_total < expected {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(5), counted).await.expect("the violation is counted");
    assert_eq!(bus.stats().violations_total, expected);
}
