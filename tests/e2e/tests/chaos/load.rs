//! Steady use while things fail: pods come and go, ConfigMaps count up, statuses are watched. Every acknowledgement goes
//! into the ledger at once.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow, bail};
use e2e::chaos::{Kind, Ledger, Role};
use e2e::pods::{sleeper, with_command};
use futures_util::future::try_join_all;
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use crate::api::{Answer, Api};

/// ConfigMaps, each mounted in a pod that stays for the whole run.
pub(crate) const MAPS: [&str; 3] = ["counts-0", "counts-1", "counts-2"];
/// Pods that come and go, at a time.
const MOST_PODS: usize = 10;
/// Between two things a writer of pods does.
const POD_PACE: std::ops::Range<u64> = 200..1400;
/// Between two writes to a ConfigMap.
const MAP_PACE: std::ops::Range<u64> = 100..500;
/// Ballast of a ConfigMap: up to this many bytes, so that writes differ in size.
const BALLAST: usize = 32 * 1024;
/// Between two reads of what was written.
const READ_PACE: Duration = Duration::from_millis(400);

/// The acknowledgements, and since when they are counted.
#[derive(Clone)]
pub(crate) struct Book {
    ledger: Arc<Mutex<Ledger>>,
    began: Instant,
}

impl Book {
    pub(crate) fn new() -> Self {
        Self { ledger: Arc::default(), began: Instant::now() }
    }

    pub(crate) fn now(&self) -> Duration {
        self.began.elapsed()
    }

    /// Short: never held over an await.
    pub(crate) fn open(&self) -> MutexGuard<'_, Ledger> {
        // Who panicked with it has written one entry less, which the verdict will show.
        self.ledger.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

/// The load, in a thread of its own.
pub(crate) struct Load {
    writers: CancellationToken,
    watcher: CancellationToken,
    thread: Option<JoinHandle<Result<()>>>,
}

impl Load {
    /// Returns when the ConfigMaps and their pods are acknowledged.
    pub(crate) fn start(kubeconfig: PathBuf, book: Book, seed: u64) -> Result<Self> {
        let (writers, watcher) = (CancellationToken::new(), CancellationToken::new());
        let (tokens, (ready, started)) = ((writers.clone(), watcher.clone()), std::sync::mpsc::channel());
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            runtime.block_on(async {
                let user = User { api: Api::open(&kubeconfig).await?, book, writers: tokens.0 };
                user.prepare().await?;
                ready.send(()).map_err(|_| anyhow!("nobody waits for the load"))?;
                user.work(tokens.1, seed).await
            })
        });
        let mut load = Self { writers, watcher, thread: Some(thread) };
        match started.recv() {
            Ok(()) => Ok(load),
            Err(_) => Err(load.end().err().unwrap_or_else(|| anyhow!("the load ended at once"))),
        }
    }

    /// Lets every writer finish what it is at. The statuses are watched on.
    pub(crate) fn rest(&self) {
        self.writers.cancel();
    }

    /// An error when a writer or the watcher had to give up.
    pub(crate) fn check(&mut self) -> Result<()> {
        if self.thread.as_ref().is_some_and(JoinHandle::is_finished) {
            self.end()?;
            bail!("the load ended by itself");
        }
        Ok(())
    }

    /// Ends it.
    pub(crate) fn end(&mut self) -> Result<()> {
        self.writers.cancel();
        self.watcher.cancel();
        let Some(thread) = self.thread.take() else { return Ok(()) };
        thread.join().map_err(|_| anyhow!("the load panicked"))?
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        if let Err(error) = self.end() {
            eprintln!("{error:#}");
        }
    }
}

/// The pod that mounts a ConfigMap.
pub(crate) fn reader_of(map: &str) -> String {
    format!("reads-{map}")
}

#[derive(Clone)]
struct User {
    api: Api,
    book: Book,
    writers: CancellationToken,
}

impl User {
    async fn prepare(&self) -> Result<()> {
        for map in MAPS {
            let object = json!({
                "apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": map}, "data": {"number": "0"},
            });
            self.api.create("configmaps", &object).await?;
            let mut pod = sleeper(&reader_of(map));
            pod["spec"]["containers"][0]["volumeMounts"] =
                json!([{"name": "counts", "mountPath": "/counts"}]);
            pod["spec"]["volumes"] = json!([{"name": "counts", "configMap": {"name": map}}]);
            self.create(&reader_of(map), Role::Sleeper, &pod).await?;
        }
        Ok(())
    }

    async fn work(self, watcher: CancellationToken, seed: u64) -> Result<()> {
        let statuses = tokio::spawn({
            let user = self.clone();
            async move { user.watch_statuses(&watcher).await }
        });
        let random = |number: u64| fastrand::Rng::with_seed(seed.wrapping_add(number));
        let pods = (0..2).map(|number| tokio::spawn(self.clone().pods(number, random(number))));
        let maps =
            MAPS.iter().zip(2..).map(|(map, number)| tokio::spawn(self.clone().map(map, random(number))));
        let tasks: Vec<_> = pods.chain(maps).chain([tokio::spawn(self.clone().reads(random(9)))]).collect();
        for outcome in try_join_all(tasks).await.context("a writer panicked")? {
            outcome?;
        }
        statuses.await.context("the watcher panicked")?
    }

    /// False when it is time to rest.
    async fn pace(&self, random: &mut fastrand::Rng, range: std::ops::Range<u64>) -> bool {
        let pause = tokio::time::sleep(Duration::from_millis(random.u64(range)));
        self.writers.run_until_cancelled(pause).await.is_some()
    }

    async fn pods(self, writer: u64, mut random: fastrand::Rng) -> Result<()> {
        for number in 0_u64.. {
            if !self.pace(&mut random, POD_PACE).await {
                break;
            }
            let living: Vec<String> = self.book.open().living().map(str::to_owned).collect();
            let mut mine = living.iter().filter(|name| name.contains(&format!("-{writer}-")));
            let count = mine.clone().count();
            if count >= MOST_PODS / 2 || count > 1 && random.u8(..3) == 0 {
                let name = mine.nth(random.usize(..count)).context("chosen among those there are")?;
                self.delete(name).await?;
                continue;
            }
            let (name, role, mut pod) = if random.u8(..4) == 0 {
                let name = format!("task-{writer}-{number}");
                let mut pod = with_command(&name, &["true"]);
                pod["spec"]["restartPolicy"] = json!("Never");
                (name, Role::Task, pod)
            } else {
                let name = format!("sleeper-{writer}-{number}");
                let pod = sleeper(&name);
                (name, Role::Sleeper, pod)
            };
            pod["spec"]["terminationGracePeriodSeconds"] = json!(random.u8(..2));
            self.create(&name, role, &pod).await?;
        }
        Ok(())
    }

    async fn create(&self, name: &str, role: Role, pod: &Value) -> Result<()> {
        let answer = match self.api.create("pods", pod).await? {
            // The echo of an attempt whose answer was lost: no other has this name.
            (Answer::Refused(409), attempts) if attempts > 1 => self.api.get("pods", name).await?,
            answer => answer,
        };
        match answer {
            (Answer::Done(object), _) => {
                self.book.open().created(name, role, &object);
                Ok(())
            }
            (refused, attempts) => bail!("pod {name} was refused after {attempts} attempts: {refused:?}"),
        }
    }

    async fn delete(&self, name: &str) -> Result<()> {
        self.book.open().deleting(name, self.book.now());
        match self.api.delete("pods", name).await? {
            (Answer::Done(_), _) => {}
            (Answer::Refused(404), attempts) => {
                if attempts == 1 {
                    let what = format!("pod {name} was gone before it was deleted");
                    self.book.open().report(Kind::Lost, self.book.now(), what);
                }
            }
            (refused, _) => bail!("the deletion of pod {name} was refused: {refused:?}"),
        }
        self.book.open().deleted(name);
        Ok(())
    }

    async fn map(self, map: &str, mut random: fastrand::Rng) -> Result<()> {
        for number in 1_u64.. {
            if !self.pace(&mut random, MAP_PACE).await {
                break;
            }
            let ballast = "x".repeat(random.usize(..BALLAST));
            let patch = json!({"data": {"number": number.to_string(), "ballast": ballast}});
            match self.api.merge("configmaps", map, &patch).await? {
                (Answer::Done(object), _) => self.book.open().wrote(map, number, &object, self.book.now()),
                (refused, _) => bail!("a write to ConfigMap {map} was refused: {refused:?}"),
            }
        }
        Ok(())
    }

    /// What was acknowledged before a read is in what it returns.
    async fn reads(self, mut random: fastrand::Rng) -> Result<()> {
        while self.writers.run_until_cancelled(tokio::time::sleep(READ_PACE)).await.is_some() {
            let map = MAPS[random.usize(..MAPS.len())];
            let acknowledged = self.book.open().acknowledged(map);
            let (Answer::Done(object), _) = self.api.get("configmaps", map).await? else {
                self.book.open().report(Kind::Lost, self.book.now(), format!("ConfigMap {map} is gone"));
                continue;
            };
            let read = number_in(&object);
            if read < acknowledged {
                let what = format!("ConfigMap {map}: {read} was read after {acknowledged} was acknowledged");
                self.book.open().report(Kind::Lost, self.book.now(), what);
            }
        }
        Ok(())
    }

    async fn watch_statuses(&self, end: &CancellationToken) -> Result<()> {
        let see = |pod: &Value| self.book.open().saw_pod(pod, self.book.now());
        let watch = async {
            loop {
                let (pods, version) = self.api.list("pods").await?;
                pods.iter().for_each(&see);
                self.api.watch("pods", &version, &see).await;
            }
        };
        end.run_until_cancelled(watch).await.unwrap_or(Ok(()))
    }
}

/// The number in a ConfigMap of the load.
pub(crate) fn number_in(map: &Value) -> u64 {
    map["data"]["number"].as_str().and_then(|number| number.parse().ok()).unwrap_or_default()
}
