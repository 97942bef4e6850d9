//! Standard error behind a bounded buffer and a thread, so that a reader that is slow or gone never holds up the
//! supervisor.

use std::io::Write;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::reexec::stop_signals;

/// What may wait to be written. Lines that find it full are counted and dropped.
const ROOM: usize = 256 * 1024;

/// A place for lines. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Sink {
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    waiting: Mutex<Waiting>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct Waiting {
    bytes: Vec<u8>,
    dropped: u64,
    /// The thread holds lines it has not written yet.
    writing: bool,
}

impl Sink {
    /// Starts the thread that writes to `output`, for as long as the process lives. An output that fails swallows its
    /// lines: there is nowhere left to say so.
    pub fn to(output: impl Write + Send + 'static) -> std::io::Result<Self> {
        let shared = Arc::new(Shared::default());
        let writer = Arc::clone(&shared);
        std::thread::Builder::new().name("log".to_owned()).stack_size(64 * 1024).spawn(move || {
            let _ = stop_signals().thread_block();
            writer.run(output);
        })?;
        Ok(Self { shared })
    }

    /// Adds a line, which brings its line break. Never waits for the output.
    pub fn write(&self, line: &str) {
        let mut waiting = self.shared.lock();
        if waiting.bytes.len() + line.len() > ROOM {
            waiting.dropped += 1;
            return;
        }
        waiting.bytes.extend_from_slice(line.as_bytes());
        drop(waiting);
        self.shared.changed.notify_all();
    }

    /// Waits until everything is written, or `limit` has passed.
    pub fn flush(&self, limit: Duration) {
        let busy = |waiting: &mut Waiting| waiting.writing || !waiting.bytes.is_empty();
        let waiting = self.shared.lock();
        drop(self.shared.changed.wait_timeout_while(waiting, limit, busy));
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn run(&self, mut output: impl Write) {
        let mut batch = Vec::new();
        loop {
            let mut waiting = self.lock();
            waiting.writing = false;
            while waiting.bytes.is_empty() {
                self.changed.notify_all();
                waiting = self.changed.wait(waiting).unwrap_or_else(PoisonError::into_inner);
            }
            std::mem::swap(&mut waiting.bytes, &mut batch);
            waiting.writing = true;
            let dropped = std::mem::take(&mut waiting.dropped);
            drop(waiting);
            // An error is a reader that is gone; it may come back (journald restarts), so the next batch is tried again.
            let _ = output.write_all(&batch);
            if dropped > 0 {
                let _ = writeln!(
                    output,
                    "{{\"level\":\"WARN\",\"message\":\"log lines dropped\",\"count\":{dropped}}}"
                );
            }
            batch.clear();
            // A burst must not cost memory for ever.
            batch.shrink_to(16 * 1024);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::sync::mpsc;

    use super::*;

    /// Hands each write to the test.
    struct Channel(mpsc::SyncSender<Vec<u8>>);

    impl Write for Channel {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.send(bytes.to_vec()).map_err(|_| io::ErrorKind::BrokenPipe)?;
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn lines_arrive_in_order() {
        let (sender, receiver) = mpsc::sync_channel(100);
        let sink = Sink::to(Channel(sender)).expect("thread");
        for n in 0..10 {
            sink.write(&format!("{n}\n"));
        }
        sink.flush(Duration::from_secs(10));
        let text: Vec<u8> = receiver.try_iter().flatten().collect();
        assert_eq!(text, b"0\n1\n2\n3\n4\n5\n6\n7\n8\n9\n");
    }

    #[test]
    fn reader_that_does_not_read_costs_lines_and_no_time() {
        // No room at all: the first write waits until somebody reads.
        let (sender, receiver) = mpsc::sync_channel(0);
        let sink = Sink::to(Channel(sender)).expect("thread");
        let line = "x".repeat(1023) + "\n";
        for _ in 0..10_000 {
            sink.write(&line);
        }
        let waiting = sink.shared.lock().bytes.len();
        assert!(waiting <= ROOM, "{waiting}");
        let mut text = String::new();
        while !text.contains("log lines dropped") {
            text.push_str(&String::from_utf8(receiver.recv().expect("writes")).expect("text"));
        }
    }

    #[test]
    fn reader_that_is_gone_does_no_harm() {
        let (sender, receiver) = mpsc::sync_channel(1);
        let sink = Sink::to(Channel(sender)).expect("thread");
        drop(receiver);
        sink.write("a\n");
        sink.flush(Duration::from_secs(10));
        sink.write("b\n");
        sink.flush(Duration::from_secs(10));
    }
}
