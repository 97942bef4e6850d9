//! The WebSocket to the hub and the loop that carries a [`Session`]'s actions out.

use std::collections::VecDeque;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::stream::{FuturesUnordered, SplitSink, SplitStream};
use futures_util::{SinkExt, StreamExt};
use http::{HeaderName, HeaderValue, StatusCode, Uri};
use ipc::{CallError, Streaming};
use proto::metamanager::{
    ApplyRequest, Change, DeliveredRequest, MetaManagerClient, MetaManagerError, OutgoingItem,
    OutgoingRequest, SetLinkRequest,
};
use rustls::ClientConfig;
use tokio::net::TcpStream;
use tokio::time::{sleep, sleep_until, timeout};
use tokio_rustls::client::TlsStream;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::error::{CapacityError, Error as WsError};
use tokio_tungstenite::tungstenite::protocol::{Message, WebSocketConfig};
use tokio_tungstenite::{WebSocketStream, client_async_with_config};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::Report;
use crate::config::Settings;
use crate::pushes::ApplyFailure;
use crate::session::{Action, Event, Session};
use crate::tls::{self, ConnectError};

/// Read buffer of the socket, bytes. It stays allocated for the life of a session; most messages are a few KiB.
const READ_BUFFER: usize = 16 * 1024;

/// Between tries to reach a metamanager that is being restarted. Its listener is inherited, so a connection waits in the
/// backlog and this is only met when it fails at once.
const METAMANAGER_RETRY: Duration = Duration::from_millis(100);

/// Messages waiting for the socket before reading pauses. Every ACK of a full store, every upload of a full window fits.
const MAX_UNWRITTEN: usize = 256;

/// For each of the things done after a session's end.
const LAST_WORDS: Duration = Duration::from_secs(1);

pub(crate) type Socket = WebSocketStream<TlsStream<TcpStream>>;

/// Connects, with the node's certificate, and asks for the message link.
pub(crate) async fn connect(settings: &Settings, tls: Arc<ClientConfig>) -> Result<Socket, ConnectError> {
    let at = &settings.hub;
    let setup = |error: &dyn std::fmt::Display| ConnectError::Setup {
        at: at.authority.to_string(),
        reason: error.to_string(),
    };
    let uri: Uri = format!("wss://{}/{}/{}/events", at.authority, settings.project, settings.node)
        .parse()
        .map_err(|e| setup(&e))?;
    let mut request = uri.into_client_request().map_err(|e| setup(&e))?;
    for (name, value) in
        [("node_id", settings.node.as_str()), ("project_id", &settings.project), ("connectionuse", "msg")]
    {
        let value = HeaderValue::from_str(value).map_err(|e| setup(&e))?;
        request.headers_mut().insert(HeaderName::from_static(name), value);
    }
    let stream = tls::connect(at, tls, settings.handshake_timeout).await?;
    let config = WebSocketConfig::default()
        .read_buffer_size(READ_BUFFER)
        .write_buffer_size(READ_BUFFER)
        .max_message_size(Some(wire::MAX_MESSAGE))
        .max_frame_size(Some(wire::MAX_MESSAGE));
    let upgrade =
        timeout(settings.handshake_timeout, client_async_with_config(request, stream, Some(config)));
    match upgrade.await {
        Ok(Ok((socket, _))) => Ok(socket),
        Err(_) => Err(setup(&"no answer to the WebSocket upgrade")),
        // In TLS 1.3 the server's verdict on our certificate comes after the handshake.
        Ok(Err(WsError::Io(error))) => Err(ConnectError::from_io(at, &error)),
        Ok(Err(WsError::Http(answer))) => {
            let reason = format!("it answered the WebSocket upgrade with {}", answer.status());
            match answer.status() {
                StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => {
                    Err(ConnectError::Rejected { at: at.authority.to_string(), reason })
                }
                _ => Err(setup(&reason)),
            }
        }
        Ok(Err(error)) => Err(setup(&error)),
    }
}

/// How a session ended.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// This process is to stop.
    Shutdown,
    /// The link broke; in words.
    Broken(String),
}

/// Carries messages until the link breaks. metamanager may be restarted meanwhile: its calls wait, reading pauses.
pub(crate) async fn run(
    socket: Socket,
    meta: &MetaManagerClient,
    settings: &Settings,
    report: &Report,
    shutdown: &CancellationToken,
) -> End {
    let mut session = Session::new(settings.heartbeat, Instant::now());
    let (sink, stream) = socket.split();
    let mut effects = Effects::new(meta, stream, Writer::new(sink, settings.write_deadline));
    let end = loop {
        let event = match effects.next(&session, shutdown).await {
            Ok(event) => event,
            Err(end) => break end,
        };
        let actions = session.on(event, Instant::now());
        if let Some(end) = effects.carry_out(actions, report) {
            break end;
        }
    };
    effects.finish(&end).await;
    end
}

type Boxed<T> = Pin<Box<dyn Future<Output = T> + Send>>;
type Items = Streaming<OutgoingItem, MetaManagerError>;

/// Everything that is under way at once for one session.
struct Effects<'a> {
    meta: &'a MetaManagerClient,
    stream: SplitStream<Socket>,
    writer: Writer,
    opening: Option<Boxed<Items>>,
    outgoing: Option<Items>,
    /// The item that did not fit the window. The stream is read on all the same, because its end tells of a new metamanager.
    spare: Option<OutgoingItem>,
    /// Whether the stream was open before, so that the next one repeats things.
    opened_before: bool,
    applying: Option<Boxed<Result<(), ApplyFailure>>>,
    delivering: FuturesUnordered<Boxed<(u64, bool)>>,
}

impl<'a> Effects<'a> {
    fn new(meta: &'a MetaManagerClient, stream: SplitStream<Socket>, writer: Writer) -> Self {
        Self {
            meta,
            stream,
            writer,
            opening: Some(Box::pin(open_outgoing(meta.clone()))),
            outgoing: None,
            spare: None,
            opened_before: false,
            applying: None,
            delivering: FuturesUnordered::new(),
        }
    }

    /// Waits for whatever comes first. Every branch may be dropped half way without losing anything.
    async fn next(&mut self, session: &Session, shutdown: &CancellationToken) -> Result<Event, End> {
        loop {
            if session.wants_outgoing()
                && let Some(item) = self.spare.take()
            {
                return Ok(Event::Outgoing(item));
            }
            tokio::select! {
                () = shutdown.cancelled() => return Err(End::Shutdown),
                written = self.writer.progress() => {
                    if let Err(reason) = written {
                        return Err(End::Broken(reason));
                    }
                }
                frame = self.stream.next(), if session.wants_messages() && self.writer.has_room() => return received(frame),
                items = some(self.opening.as_mut()), if self.opening.is_some() => {
                    self.opening = None;
                    self.outgoing = Some(items);
                    if std::mem::replace(&mut self.opened_before, true) {
                        return Ok(Event::OutgoingReopened);
                    }
                }
                item = next_item(self.outgoing.as_mut()), if self.outgoing.is_some() && self.spare.is_none() => {
                    match item {
                        Some(Ok(item)) => self.spare = Some(item),
                        ended => {
                            if let Some(Err(error)) = ended {
                                info!(%error, "metamanager's outgoing stream ended; opening it again");
                            }
                            self.reopen();
                        }
                    }
                }
                result = some(self.applying.as_mut()), if self.applying.is_some() => {
                    self.applying = None;
                    return Ok(Event::Applied(result));
                }
                Some((seq, stored)) = self.delivering.next() => return Ok(Event::Delivered { seq, stored }),
                () = sleep_until(session.next_wake().into()) => return Ok(Event::Tick),
            }
        }
    }

    fn carry_out(&mut self, actions: Vec<Action>, report: &Report) -> Option<End> {
        for action in actions {
            match action {
                Action::Send(text) => self.writer.push(Message::text(text)),
                Action::Ping(number) => self.writer.push(Message::Ping(Bytes::copy_from_slice(&number))),
                Action::Apply(changes) => {
                    self.applying = Some(Box::pin(apply(self.meta.clone(), changes)));
                }
                Action::Deliver(outcome) => {
                    self.delivering.push(Box::pin(deliver(self.meta.clone(), outcome)));
                }
                Action::ReopenOutgoing => self.reopen(),
                Action::Warn(text) => warn!("{text}"),
                Action::Complain(text) => report.trouble(&text),
                Action::Recovered => report.fine(),
                Action::End(reason) => return Some(End::Broken(reason.to_owned())),
            }
        }
        None
    }

    fn reopen(&mut self) {
        // Dropped before the new one is asked for: metamanager allows one. It repeats the spare item.
        (self.outgoing, self.spare) = (None, None);
        let meta = self.meta.clone();
        self.opening = Some(Box::pin(async move {
            sleep(METAMANAGER_RETRY).await;
            open_outgoing(meta).await
        }));
    }

    /// Finishes within 2 s what is half done: outcomes on their way to metamanager, a good-bye to a hub that still listens.
    async fn finish(mut self, end: &End) {
        let delivered = async { while self.delivering.next().await.is_some() {} };
        let _ = timeout(LAST_WORDS, delivered).await;
        if *end == End::Shutdown {
            self.writer.push(Message::Close(None));
            let _ = timeout(LAST_WORDS, self.writer.drain()).await;
        }
    }
}

fn received(frame: Option<Result<Message, WsError>>) -> Result<Event, End> {
    match frame {
        Some(Ok(Message::Text(text))) => Ok(Event::Message(text.into())),
        Some(Ok(Message::Binary(bytes))) => Ok(Event::Message(bytes)),
        Some(Ok(Message::Pong(payload))) => Ok(Event::Pong(payload)),
        Some(Ok(Message::Ping(_) | Message::Frame(_))) => Ok(Event::Frame),
        Some(Ok(Message::Close(None))) | None => Err(End::Broken("the hub closed the link".to_owned())),
        Some(Ok(Message::Close(Some(why)))) => Err(End::Broken(format!("the hub closed the link: {why}"))),
        Some(Err(WsError::Capacity(CapacityError::MessageTooLong { size, max_size }))) => {
            Err(End::Broken(format!("the hub sent a message of {size} bytes, the limit is {max_size}")))
        }
        Some(Err(error)) => Err(End::Broken(format!("the link broke: {error}"))),
    }
}

/// Polls an optional future; the branch it is used in is guarded by `is_some`.
async fn some<T>(future: Option<&mut Boxed<T>>) -> T {
    match future {
        Some(future) => future.await,
        None => std::future::pending().await,
    }
}

async fn next_item(items: Option<&mut Items>) -> Option<Result<OutgoingItem, CallError<MetaManagerError>>> {
    match items {
        Some(items) => items.next().await,
        None => std::future::pending().await,
    }
}

/// Tells metamanager that the cloud is there and asks for what waits, as often as it takes: it may be restarting.
async fn open_outgoing(meta: MetaManagerClient) -> Items {
    loop {
        let opened = match meta.set_link(SetLinkRequest { connected: true }).await {
            Ok(_) => meta.outgoing(OutgoingRequest {}).await,
            Err(error) => Err(error),
        };
        match opened {
            Ok(items) => return items,
            Err(error) => {
                warn!(%error, "metamanager does not answer; the cloud link waits for it");
                sleep(METAMANAGER_RETRY).await;
            }
        }
    }
}

/// Commits a batch. Only metamanager's own refusal is a failure; while it restarts the call is repeated, as Apply allows.
async fn apply(meta: MetaManagerClient, changes: Vec<Change>) -> Result<(), ApplyFailure> {
    let request = ApplyRequest { changes };
    loop {
        match meta.apply(request.clone()).await {
            Ok(_) => return Ok(()),
            Err(error) if error.is_transient() => {
                warn!(%error, "metamanager does not answer; objects of the cloud wait for it");
                sleep(METAMANAGER_RETRY).await;
            }
            Err(error) => return Err(ApplyFailure { message: error.to_string() }),
        }
    }
}

/// Reports an outcome until metamanager has it, as Delivered allows; whether it could store it comes back.
async fn deliver(meta: MetaManagerClient, outcome: DeliveredRequest) -> (u64, bool) {
    let seq = outcome.seq;
    loop {
        match meta.delivered(outcome.clone()).await {
            Ok(_) => return (seq, true),
            Err(error) if error.is_transient() => sleep(METAMANAGER_RETRY).await,
            Err(error) => {
                warn!(%error, seq, "metamanager did not take the cloud's answer");
                return (seq, false);
            }
        }
    }
}

/// The sending half: a queue and at most one write under way, so that reading never waits for writing.
struct Writer {
    queue: VecDeque<Message>,
    sink: Option<SplitSink<Socket, Message>>,
    writing: Option<Boxed<Result<SplitSink<Socket, Message>, String>>>,
    deadline: Duration,
}

impl Writer {
    fn new(sink: SplitSink<Socket, Message>, deadline: Duration) -> Self {
        Self { queue: VecDeque::new(), sink: Some(sink), writing: None, deadline }
    }

    /// Whether more may come that is answered. A hub that sends without reading ends at the write deadline, not in our memory.
    fn has_room(&self) -> bool {
        self.queue.len() < MAX_UNWRITTEN
    }

    fn push(&mut self, message: Message) {
        self.queue.push_back(message);
    }

    /// Writes all there is; pending while there is nothing to write.
    async fn progress(&mut self) -> Result<(), String> {
        if self.writing.is_none()
            && !self.queue.is_empty()
            && let Some(sink) = self.sink.take()
        {
            self.writing = Some(Box::pin(write(sink, std::mem::take(&mut self.queue), self.deadline)));
        }
        let Some(writing) = &mut self.writing else { return std::future::pending().await };
        let result = writing.await;
        self.writing = None;
        self.sink = Some(result?);
        Ok(())
    }

    async fn drain(&mut self) -> Result<(), String> {
        while self.writing.is_some() || !self.queue.is_empty() {
            self.progress().await?;
        }
        Ok(())
    }
}

/// Messages that are ready are flushed together.
async fn write(
    mut sink: SplitSink<Socket, Message>,
    messages: VecDeque<Message>,
    deadline: Duration,
) -> Result<SplitSink<Socket, Message>, String> {
    let all = async {
        for message in messages {
            sink.feed(message).await?;
        }
        sink.flush().await
    };
    match timeout(deadline, all).await {
        Ok(Ok(())) => Ok(sink),
        Ok(Err(error)) => Err(format!("the link broke: {error}")),
        Err(_) => Err(format!("the hub did not take a message for {} s", deadline.as_secs())),
    }
}
