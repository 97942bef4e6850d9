//! Asking the supervisor, seldom.

use std::future::Future;
use std::time::Duration;

use bytes::Bytes;
use ipc::Channel;
use proto::control::{ControlClient, LinksRequest, StatusRequest};
use tokio::sync::Mutex;
use tokio::time::Instant;

use crate::families::{Snapshot, render};

/// 4 s for the supervisor's answer: scrapers commonly give up after 10 s, and an answer with a reason is worth more to
/// them than none.
const DEADLINE: Duration = Duration::from_secs(4);

/// 1 s: scrapes that come quicker than this share one answer, so the supervisor is asked at most once a second, however
/// many ask here.
const FRESH: Duration = Duration::from_secs(1);

/// The text of a scrape, or in words why there is none.
pub(crate) type Answer = Result<Bytes, String>;

/// The last answer, and who to ask for the next.
#[derive(Debug)]
pub(crate) struct Scrapes {
    supervisor: ControlClient,
    last: Remembered,
}

impl Scrapes {
    pub(crate) fn new(supervisor: Channel) -> Self {
        Self { supervisor: ControlClient::new(supervisor), last: Remembered::default() }
    }

    /// What to answer now.
    pub(crate) async fn answer(&self) -> Answer {
        self.last.get(|| self.ask()).await
    }

    async fn ask(&self) -> Answer {
        let (status, links) = tokio::join!(
            self.supervisor.status_with_deadline(StatusRequest {}, DEADLINE),
            self.supervisor.links_with_deadline(LinksRequest {}, DEADLINE),
        );
        let because = |error: &dyn std::fmt::Display| format!("the supervisor did not answer: {error}");
        let snapshot = Snapshot {
            status: status.map_err(|error| because(&error))?,
            links: links.map_err(|error| because(&error))?,
        };
        Ok(render(&snapshot).into())
    }
}

/// An answer and its age. Who comes while one is being asked for waits for it instead of asking too; failures are kept as
/// long as answers, since a supervisor in trouble must not be asked more often than one in good health.
#[derive(Debug, Default)]
struct Remembered(Mutex<Option<(Instant, Answer)>>);

impl Remembered {
    async fn get<F: Future<Output = Answer>>(&self, ask: impl FnOnce() -> F) -> Answer {
        let mut last = self.0.lock().await;
        if let Some((at, answer)) = &*last
            && at.elapsed() < FRESH
        {
            return answer.clone();
        }
        let answer = ask().await;
        *last = Some((Instant::now(), answer.clone()));
        answer
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn supervisor_is_asked_once_a_second_however_many_scrape() {
        let (asked, remembered) = (Cell::new(0), Remembered::default());
        let scrape = || {
            remembered.get(|| async {
                tokio::time::sleep(Duration::from_millis(20)).await;
                asked.set(asked.get() + 1);
                Ok(Bytes::new())
            })
        };
        let all = (scrape(), scrape(), scrape());
        assert_eq!(tokio::join!(all.0, all.1, all.2), (Ok(Bytes::new()), Ok(Bytes::new()), Ok(Bytes::new())));
        assert_eq!(asked.get(), 1);
        tokio::time::advance(FRESH).await;
        scrape().await.unwrap();
        assert_eq!(asked.get(), 2);
    }

    #[tokio::test(start_paused = true)]
    async fn supervisor_that_fails_is_not_asked_more_often() {
        let (asked, remembered) = (Cell::new(0), Remembered::default());
        for _ in 0..5 {
            let answer = remembered.get(|| async {
                asked.set(asked.get() + 1);
                Err("no".to_owned())
            });
            assert_eq!(answer.await, Err("no".to_owned()));
        }
        assert_eq!(asked.get(), 1);
    }
}
