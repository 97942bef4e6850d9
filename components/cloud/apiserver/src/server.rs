//! Connections: bounded in number, in time before a request, and in header size.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use http::Request;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tower::ServiceExt as _;

use crate::auth::User;

/// Connections at one time; `kubectl` opens one, kube-rs a few.
const CONNECTIONS: usize = 256;
/// 10 s for the TLS handshake.
const HANDSHAKE: Duration = Duration::from_secs(10);
/// 30 s for a request's head over HTTP/1; also ends idle connections.
const HEAD: Duration = Duration::from_secs(30);
/// 64 KiB of headers.
const HEADER_BYTES: u32 = 64 * 1024;
/// Requests and watches of one HTTP/2 connection at a time.
const STREAMS: u32 = 250;
/// 2 s for requests under way after the shutdown signal; the supervisor waits longer.
const DRAIN: Duration = Duration::from_secs(2);
/// 200 ms after an accept that failed, as it does when descriptors are used up.
const ACCEPT_PAUSE: Duration = Duration::from_millis(200);

/// Serves until `shutdown`, then lets requests finish.
pub(crate) async fn serve(
    listener: TcpListener,
    acceptor: TlsAcceptor,
    router: Router,
    shutdown: CancellationToken,
) {
    let connections = Arc::new(Semaphore::new(CONNECTIONS));
    let tasks = TaskTracker::new();
    loop {
        let accepted = tokio::select! {
            () = shutdown.cancelled() => break,
            accepted = accept(&listener, &connections) => accepted,
        };
        let (stream, permit) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::warn!(%error, "could not accept a connection");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let connection = connection(stream, acceptor.clone(), router.clone(), shutdown.clone());
        tasks.spawn(async move {
            if let Err(error) = connection.await {
                tracing::debug!(error = format!("{error:#}"), "connection ended");
            }
            drop(permit);
        });
    }
    tasks.close();
    if tokio::time::timeout(DRAIN, tasks.wait()).await.is_err() {
        tracing::info!(connections = tasks.len(), "requests were still under way at the end of the drain");
    }
}

async fn accept(
    listener: &TcpListener,
    connections: &Arc<Semaphore>,
) -> std::io::Result<(TcpStream, tokio::sync::OwnedSemaphorePermit)> {
    // The semaphore is never closed.
    let permit = connections.clone().acquire_owned().await.map_err(std::io::Error::other)?;
    let (stream, _) = listener.accept().await?;
    Ok((stream, permit))
}

async fn connection(
    stream: TcpStream,
    acceptor: TlsAcceptor,
    router: Router,
    shutdown: CancellationToken,
) -> anyhow::Result<()> {
    stream.set_nodelay(true)?;
    let stream = tokio::time::timeout(HANDSHAKE, acceptor.accept(stream)).await??;
    let is_h2 = stream.get_ref().1.alpn_protocol() == Some(b"h2");
    let certificate = stream.get_ref().1.peer_certificates().and_then(<[_]>::first);
    let user = certificate.and_then(|certificate| User::from_certificate(certificate));
    let service = service_fn(move |request: Request<Incoming>| {
        let mut request = request.map(Body::new);
        if let Some(user) = &user {
            request.extensions_mut().insert(user.clone());
        }
        router.clone().oneshot(request)
    });
    // ALPN has decided: looking for HTTP/2's preface instead would wait for a silent client without end.
    let builder = auto::Builder::new(TokioExecutor::new());
    let mut builder = if is_h2 { builder.http2_only() } else { builder.http1_only() };
    builder.http1().timer(TokioTimer::new()).header_read_timeout(HEAD).max_buf_size(HEADER_BYTES as usize);
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(STREAMS)
        .max_header_list_size(HEADER_BYTES)
        .keep_alive_interval(HEAD)
        .keep_alive_timeout(HEAD);
    let serving = builder.serve_connection(TokioIo::new(stream), service);
    tokio::pin!(serving);
    let ended = tokio::select! {
        ended = serving.as_mut() => ended,
        () = shutdown.cancelled() => {
            serving.as_mut().graceful_shutdown();
            serving.await
        }
    };
    ended.map_err(|error| anyhow::anyhow!("{error}"))
}
