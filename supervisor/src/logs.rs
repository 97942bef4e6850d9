//! Log lines: read from the components, kept for `edgectl logs`, and passed on to our own standard error.

mod annotate;
mod lines;
mod own;
mod sink;

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};
use tokio::io::AsyncReadExt;
use tokio::net::unix::pipe;
use tokio::sync::broadcast;

use lines::Lines;
pub use own::install;
pub use sink::Sink;

/// What is kept of each component, in bytes of text.
const KEPT_PER_COMPONENT: usize = 256 * 1024;
/// What a kept line costs besides its text.
const LINE_OVERHEAD: usize = 64;
/// A follower that falls behind by more lines than this misses some, and is told so.
const FOLLOWER_LAG: usize = 256;

/// One line of a component.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Line {
    /// Who wrote it.
    pub component: String,
    /// Its process.
    pub pid: u32,
    /// Its start.
    pub generation: u64,
    /// Unix milliseconds when the supervisor read it.
    pub time_ms: u64,
    /// The text, without the line break.
    pub text: String,
}

/// The lines of every component.
#[derive(Debug)]
pub struct Logs {
    sink: Sink,
    rings: Mutex<BTreeMap<String, Ring>>,
    /// By process: the beginning of a line that it has not finished.
    unfinished: Mutex<BTreeMap<u32, Lines>>,
    news: broadcast::Sender<Line>,
}

#[derive(Debug, Default)]
struct Ring {
    lines: VecDeque<Line>,
    bytes: usize,
}

impl Ring {
    fn push(&mut self, line: Line) {
        self.bytes += line.text.len() + LINE_OVERHEAD;
        self.lines.push_back(line);
        while self.bytes > KEPT_PER_COMPONENT
            && let Some(oldest) = self.lines.pop_front()
        {
            self.bytes -= oldest.text.len() + LINE_OVERHEAD;
        }
    }
}

impl Logs {
    /// Nothing yet; lines will be passed on to `sink`.
    pub fn new(sink: Sink) -> Self {
        Self {
            sink,
            rings: Mutex::default(),
            unfinished: Mutex::default(),
            news: broadcast::Sender::new(FOLLOWER_LAG),
        }
    }

    /// Waits until all lines are passed on, or `limit` has passed.
    pub fn flush(&self, limit: Duration) {
        self.sink.flush(limit);
    }

    /// Everything that is kept, each component's lines in order.
    pub fn all(&self) -> Vec<Line> {
        self.rings().values().flat_map(|ring| ring.lines.iter().cloned()).collect()
    }

    /// Takes lines as they were kept before. They are not passed on again.
    pub fn restore(&self, lines: Vec<Line>) {
        let mut rings = self.rings();
        for line in lines {
            rings.entry(line.component.clone()).or_default().push(line);
        }
    }

    /// The beginning of a line that this process has not finished.
    pub fn unfinished(&self, pid: u32) -> Vec<u8> {
        self.lines().get(&pid).map(|lines| lines.unfinished().to_vec()).unwrap_or_default()
    }

    /// The last lines of a component, all that are kept when `tail` is 0, and every later one of any component.
    pub fn read(&self, component: &str, tail: usize) -> (Vec<Line>, broadcast::Receiver<Line>) {
        // Under the lock, so that no line is between the two.
        let rings = self.rings();
        let news = self.news.subscribe();
        let kept = rings.get(component).map(|ring| {
            let skip = if tail == 0 { 0 } else { ring.lines.len().saturating_sub(tail) };
            ring.lines.iter().skip(skip).cloned().collect()
        });
        (kept.unwrap_or_default(), news)
    }

    /// Reads what one process writes until it and all its children have closed it. `begun` is the beginning of its first
    /// line, from before.
    pub async fn drain(
        &self,
        component: &str,
        pid: u32,
        generation: u64,
        mut output: pipe::Receiver,
        begun: &[u8],
    ) {
        let mut add = |text: &str| self.add(component, pid, generation, text);
        self.lines().entry(pid).or_default().feed(begun, &mut add);
        let mut buffer = [0; 4096];
        loop {
            let count = match output.read(&mut buffer).await {
                Ok(count) => count,
                Err(error) => {
                    tracing::warn!(component, %error, "could not read the component's output");
                    0
                }
            };
            let mut all = self.lines();
            if count == 0 {
                if let Some(mut lines) = all.remove(&pid) {
                    lines.finish(&mut add);
                }
                return;
            }
            all.entry(pid).or_default().feed(&buffer[..count], &mut add);
        }
    }

    fn add(&self, component: &str, pid: u32, generation: u64, text: &str) {
        let now = SystemTime::now();
        self.sink.write(&annotate::annotate(component, pid, generation, now, text));
        let line = Line {
            component: component.to_owned(),
            pid,
            generation,
            time_ms: unix_millis(now),
            text: text.to_owned(),
        };
        let mut rings = self.rings();
        if self.news.receiver_count() > 0 {
            // An error means the last follower has just gone.
            let _ = self.news.send(line.clone());
        }
        rings.entry(component.to_owned()).or_default().push(line);
    }

    fn lines(&self) -> MutexGuard<'_, BTreeMap<u32, Lines>> {
        self.unfinished.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn rings(&self) -> MutexGuard<'_, BTreeMap<String, Ring>> {
        // Whole between statements, also where a holder panicked.
        self.rings.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Unix time in milliseconds; 0 for a clock before 1970.
pub fn unix_millis(time: SystemTime) -> u64 {
    let since = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn logs() -> Logs {
        Logs::new(Sink::to(std::io::sink()).expect("thread"))
    }

    fn texts(lines: &[Line]) -> Vec<&str> {
        lines.iter().map(|line| line.text.as_str()).collect()
    }

    #[test]
    fn tail_gives_the_last_lines_of_that_component() {
        let logs = logs();
        for n in 0..5 {
            logs.add("a", 1, 1, &format!("line {n}"));
            logs.add("b", 2, 1, "other");
        }
        assert_eq!(texts(&logs.read("a", 2).0), ["line 3", "line 4"]);
        assert_eq!(logs.read("a", 0).0.len(), 5);
        assert!(logs.read("c", 0).0.is_empty());
    }

    #[test]
    fn what_is_kept_is_bounded_and_the_newest_stay() {
        let logs = logs();
        let text = "x".repeat(1000);
        for n in 0..1000 {
            logs.add("a", 1, n, &text);
        }
        let (kept, _) = logs.read("a", 0);
        assert!(kept.len() * 1000 <= KEPT_PER_COMPONENT);
        assert_eq!(kept.last().map(|line| line.generation), Some(999));
    }

    #[tokio::test]
    async fn follower_gets_every_line_after_those_kept() {
        let logs = logs();
        logs.add("a", 1, 1, "before");
        let (kept, mut news) = logs.read("a", 0);
        logs.add("a", 1, 1, "after");
        assert_eq!(texts(&kept), ["before"]);
        assert_eq!(news.recv().await.expect("line").text, "after");
    }

    #[tokio::test]
    async fn output_is_read_to_its_end_with_the_last_unfinished_line() {
        let logs = logs();
        let (sender, receiver) = pipe::pipe().expect("pipe");
        let mut sender = sender.into_nonblocking_fd().map(std::fs::File::from).expect("file");
        std::io::Write::write_all(&mut sender, b"one\ntwo").expect("written");
        drop(sender);
        logs.drain("a", 1, 7, receiver, b"ze").await;
        assert_eq!(texts(&logs.read("a", 0).0), ["zeone", "two"]);
        assert!(logs.unfinished(1).is_empty());
        let restored = super::tests::logs();
        restored.restore(logs.all());
        assert_eq!(restored.read("a", 0).0, logs.read("a", 0).0);
    }
}
