//! The two paths, over connections that are bounded in number, time and header size.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{ALLOW, CONTENT_TYPE};
use http::{HeaderValue, Method, Response, StatusCode};
use http_body_util::Full;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::scrape::Scrapes;
use crate::text;

/// Connections at one time, of all listeners; further ones wait in the backlog. A scraper has one.
const CONNECTIONS: usize = 16;
/// 5 s for a request's head, also between two requests: a client that sends a byte a minute holds its place no longer.
const HEAD: Duration = Duration::from_secs(5);
/// 60 s for a whole connection, so that one that does not read its answer ends too; a scraper connects again.
const CONNECTION: Duration = Duration::from_mins(1);
/// 8 KiB of request line and headers, the least hyper takes; a scraper sends some 200 bytes.
const HEAD_BYTES: usize = 8 * 1024;
/// Headers of a request.
const HEADERS: usize = 32;
/// 200 ms after an accept that failed, as it does when descriptors are used up.
const ACCEPT_PAUSE: Duration = Duration::from_millis(200);

/// Where connections come in.
#[derive(Debug)]
pub(crate) enum Door {
    Unix(UnixListener),
    Tcp(TcpListener),
}

/// What all doors share.
#[derive(Debug)]
pub(crate) struct Site {
    scrapes: Scrapes,
    places: Arc<Semaphore>,
}

impl Site {
    pub(crate) fn new(scrapes: Scrapes) -> Arc<Self> {
        Arc::new(Self { scrapes, places: Arc::new(Semaphore::new(CONNECTIONS)) })
    }

    /// Serves one door for as long as the process lives.
    pub(crate) async fn serve(self: Arc<Self>, door: Door) {
        loop {
            // The semaphore is never closed.
            let Ok(place) = self.places.clone().acquire_owned().await else { return };
            let accepted = match &door {
                Door::Unix(door) => door
                    .accept()
                    .await
                    .map(|(stream, _)| tokio::spawn(self.clone().connection(stream, place))),
                Door::Tcp(door) => door
                    .accept()
                    .await
                    .map(|(stream, _)| tokio::spawn(self.clone().connection(stream, place))),
            };
            if let Err(error) = accepted {
                tracing::warn!(%error, "could not accept a connection");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }

    async fn connection<S>(self: Arc<Self>, stream: S, place: OwnedSemaphorePermit)
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let service = service_fn(|request| {
            let site = self.clone();
            async move { Ok::<_, Infallible>(site.answer(request.method(), request.uri().path()).await) }
        });
        let connection = hyper::server::conn::http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(HEAD)
            .max_buf_size(HEAD_BYTES)
            .max_headers(HEADERS)
            .serve_connection(TokioIo::new(stream), service);
        match tokio::time::timeout(CONNECTION, connection).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::debug!(%error, "a connection ended"),
            Err(_) => tracing::debug!("a connection was ended after its 60 s"),
        }
        drop(place);
    }

    async fn answer(&self, method: &Method, path: &str) -> Response<Full<Bytes>> {
        if !matches!(path, "/metrics" | "/healthz") {
            return plain(StatusCode::NOT_FOUND, "no such path; there are /metrics and /healthz\n".into());
        }
        if method != Method::GET {
            let mut response = plain(StatusCode::METHOD_NOT_ALLOWED, "only GET is answered here\n".into());
            response.headers_mut().insert(ALLOW, HeaderValue::from_static("GET"));
            return response;
        }
        if path == "/healthz" {
            return plain(StatusCode::OK, "ok\n".into());
        }
        match self.scrapes.answer().await {
            Ok(body) => with_type(StatusCode::OK, text::CONTENT_TYPE, body),
            Err(reason) => plain(StatusCode::SERVICE_UNAVAILABLE, format!("{reason}\n").into()),
        }
    }
}

fn plain(status: StatusCode, body: Bytes) -> Response<Full<Bytes>> {
    with_type(status, "text/plain; charset=utf-8", body)
}

fn with_type(status: StatusCode, content_type: &'static str, body: Bytes) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(body));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    response
}

#[cfg(test)]
mod tests;
