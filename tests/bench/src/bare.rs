//! The floor: length-prefixed frames on a Unix stream, with nothing around them and tokio on both sides.
//!
//! One read and one write a frame, or more frames in each when they are there; no codec, no protobuf, no queue.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{UnixListener, UnixStream};

use crate::load::{Call, Calls, Client, Load};
use crate::server::listening;

/// Of the length before each frame.
pub(crate) const PREFIX: usize = 4;
/// Of the number each frame begins with.
const NUMBER: usize = 8;
/// What is written or read at once, if one frame is not larger.
const BATCH: usize = 64 * 1024;

/// A frame of this load, number not filled in.
pub(crate) fn frame(load: &Load) -> Vec<u8> {
    let mut frame = vec![0x5a; PREFIX + load.bytes];
    let length = u32::try_from(load.bytes).unwrap_or(u32::MAX);
    frame[..PREFIX].copy_from_slice(&length.to_be_bytes());
    frame
}

/// Writes a frame's number.
pub(crate) fn set_number(frame: &mut [u8], number: u64) {
    frame[PREFIX..PREFIX + NUMBER].copy_from_slice(&number.to_be_bytes());
}

/// Whether this is the frame of that number.
pub(crate) fn has_number(frame: &[u8], number: u64) -> bool {
    frame[PREFIX..PREFIX + NUMBER] == number.to_be_bytes()
}

/// How many of these bytes are whole frames.
pub(crate) fn whole(bytes: &[u8]) -> usize {
    let mut end = 0;
    while let Some(prefix) = bytes[end..].first_chunk::<PREFIX>() {
        let next = end + PREFIX + u32::from_be_bytes(*prefix) as usize;
        if next > bytes.len() {
            break;
        }
        end = next;
    }
    end
}

/// The first bytes of a connection: what the client wants of it.
enum Order {
    /// Every frame comes back.
    Echo,
    /// So many frames of so many bytes.
    Flow { count: u64, bytes: u64 },
}

impl Order {
    const LENGTH: usize = 16;

    fn encode(&self) -> [u8; Self::LENGTH] {
        let (count, bytes) = match self {
            Self::Echo => (0, 0),
            Self::Flow { count, bytes } => (*count, *bytes),
        };
        let mut order = [0; Self::LENGTH];
        order[..8].copy_from_slice(&count.to_be_bytes());
        order[8..].copy_from_slice(&bytes.to_be_bytes());
        order
    }

    fn decode(order: [u8; Self::LENGTH]) -> Self {
        let number = |bytes: &[u8]| bytes.iter().fold(0, |sum, byte| sum << 8 | u64::from(*byte));
        match (number(&order[..8]), number(&order[8..])) {
            (0, _) => Self::Echo,
            (count, bytes) => Self::Flow { count, bytes },
        }
    }
}

pub(crate) async fn serve(socket: &Path) -> Result<()> {
    let listener =
        UnixListener::bind(socket).with_context(|| format!("could not bind {}", socket.display()))?;
    listening()?;
    loop {
        let (stream, _) = listener.accept().await.context("could not accept")?;
        tokio::spawn(connection(stream));
    }
}

/// An error is a client that has gone.
async fn connection(mut stream: UnixStream) -> Result<()> {
    let mut order = [0; Order::LENGTH];
    stream.read_exact(&mut order).await?;
    match Order::decode(order) {
        Order::Echo => echo(stream).await,
        Order::Flow { count, bytes } => flow(stream, count, usize::try_from(bytes)?).await,
    }
}

async fn echo(mut stream: UnixStream) -> Result<()> {
    let mut buffer = vec![0; 2 * BATCH];
    let mut filled = 0;
    loop {
        let read = stream.read(&mut buffer[filled..]).await?;
        ensure!(read > 0, "the client has closed");
        filled += read;
        let whole = whole(&buffer[..filled]);
        if whole > 0 {
            stream.write_all(&buffer[..whole]).await?;
            buffer.copy_within(whole..filled, 0);
            filled -= whole;
        }
    }
}

async fn flow(mut stream: UnixStream, count: u64, bytes: usize) -> Result<()> {
    let frame = frame(&Load { bytes, body: bytes::Bytes::new() });
    let mut batch: Vec<u8> = frame.repeat((BATCH / frame.len()).max(1));
    let mut number = 0;
    while number < count {
        let mut taken = 0;
        for frame in batch.chunks_exact_mut(frame.len()) {
            if number < count {
                number += 1;
                set_number(frame, number);
                taken += frame.len();
            }
        }
        stream.write_all(&batch[..taken]).await?;
    }
    Ok(())
}

/// A client with one connection for calls, and a further one for each stream.
#[derive(Debug)]
pub(crate) struct Bare<'a> {
    socket: &'a Path,
    calls: UnixStream,
    out: Vec<u8>,
    back: Vec<u8>,
}

impl<'a> Bare<'a> {
    pub(crate) async fn connect(socket: &'a Path) -> Result<Self> {
        let calls = order(socket, &Order::Echo).await?;
        Ok(Self { socket, calls, out: Vec::new(), back: Vec::new() })
    }
}

async fn order(socket: &Path, order: &Order) -> Result<UnixStream> {
    let mut stream = UnixStream::connect(socket).await.context("could not connect to the bare server")?;
    stream.write_all(&order.encode()).await?;
    Ok(stream)
}

impl Call for Bare<'_> {
    async fn call(&mut self, load: &Load, number: u64) -> Result<bool> {
        let Self { calls, out, back, .. } = self;
        if out.len() != PREFIX + load.bytes {
            *out = frame(load);
            back.resize(out.len(), 0);
        }
        set_number(out, number);
        calls.write_all(out).await?;
        // One read when all of it is there.
        calls.read_exact(back).await?;
        Ok(has_number(back, number))
    }
}

impl Client for Bare<'_> {
    async fn receive(&mut self, load: &Load, count: u64) -> Result<u64> {
        let bytes = u64::try_from(load.bytes)?;
        let mut stream = order(self.socket, &Order::Flow { count, bytes }).await?;
        let frame = PREFIX + load.bytes;
        let mut buffer = vec![0; BATCH.max(frame)];
        let (mut filled, mut came) = (0, 0);
        loop {
            let read = stream.read(&mut buffer[filled..]).await?;
            if read == 0 {
                return Ok(came);
            }
            filled += read;
            let frames = buffer[..filled].chunks_exact(frame);
            let rest = frames.remainder().len();
            for frame in frames {
                came += u64::from(has_number(frame, came + 1));
            }
            buffer.copy_within(filled - rest..filled, 0);
            filled = rest;
        }
    }

    /// All that can be sent is sent in one write.
    async fn keep_calling(&mut self, load: &Load, at_once: usize, slice: Duration) -> Result<Calls> {
        let mut stream = order(self.socket, &Order::Echo).await?;
        let one = frame(load);
        let mut out = one.repeat(at_once);
        let mut back = vec![0; out.len()];
        let end = Instant::now() + slice;
        let (mut sent, mut came, mut filled) = (0, 0, 0);
        let mut free = at_once;
        while came == 0 || Instant::now() < end {
            for frame in out.chunks_exact_mut(one.len()).take(free) {
                sent += 1;
                set_number(frame, sent);
            }
            stream.write_all(&out[..free * one.len()]).await?;
            let read = stream.read(&mut back[filled..]).await?;
            ensure!(read > 0, "the server has closed");
            filled += read;
            let whole = whole(&back[..filled]);
            for frame in back[..whole].chunks_exact(one.len()) {
                came += 1;
                ensure!(has_number(frame, came), "reply {came} is another's");
            }
            free = whole / one.len();
            back.copy_within(whole..filled, 0);
            filled -= whole;
        }
        Ok(Calls { answered: came, lost: 0 })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_whole_frames_are_answered() {
        let mut one = frame(&Load::new(256).unwrap());
        set_number(&mut one, 7);
        assert!(has_number(&one, 7));
        let two = one.repeat(2);
        assert_eq!(whole(&two), two.len());
        assert_eq!(whole(&two[..two.len() - 1]), one.len());
        assert_eq!(whole(&one[..3]), 0);
    }
}
