//! When a component is started, ended and started again: a pure function of (state, event, now) to an action.
//!
//! | the process | then |
//! |---|---|
//! | ends, having been ready, and this is one of the first `burst` times in a row | started at once |
//! | ends otherwise, whatever its exit code or signal | started after a wait that doubles from `floor` to `ceiling` |
//! | ends with exit code 78 (bad configuration), and [its file](crate::binary) is believed | stays *failed* until somebody asks |
//! | is not ready in `ready_timeout` | killed, then as above |
//! | was ready and is silent for `watchdog` | killed, then as above |
//! | was ready | each [`FORGIVES_ONE`] of it forgives one earlier failure |
//!
//! What somebody asks for comes before all of this: a component that was stopped has no process until it is started or
//! restarted, one that is started or restarted gets a process without a wait and with its failures forgotten. Of two
//! requests the later one wins.
//!
//! A wait is drawn from the upper half of its length, so that nodes that failed together do not come back together.

use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use crate::manifest::Component;

/// 1 s: a component that crashes after seconds of service is started at once each time, one that crashes more often than
/// once a second soon waits.
pub const FORGIVES_ONE: Duration = Duration::from_secs(1);

/// `EX_CONFIG`: trying again does not help. The table of exit codes is in the README.
pub const EXIT_CONFIG: i32 = 78;

/// The numbers of one component.
#[derive(Clone, Debug)]
pub struct Policy {
    /// The first wait.
    pub floor: Duration,
    /// The longest wait.
    pub ceiling: Duration,
    /// Failures in a row that are answered at once.
    pub burst: u32,
    /// From start to READY=1.
    pub ready_timeout: Duration,
    /// Longest silence of a ready process.
    pub watchdog: Option<Duration>,
    /// From SIGTERM to SIGKILL.
    pub drain: Duration,
}

impl From<&Component> for Policy {
    fn from(component: &Component) -> Self {
        Self {
            floor: component.restart.floor.0,
            ceiling: component.restart.ceiling.0,
            burst: component.restart.burst,
            ready_timeout: component.ready_timeout.0,
            watchdog: component.watchdog.map(|span| span.0),
            drain: component.drain.0,
        }
    }
}

/// Where a component is in its life. `T` is a point in time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum State<T = Instant> {
    /// Its turn has not come yet, or it was stopped.
    Stopped,
    /// Its process runs and has not said that it is ready.
    Starting {
        /// When it was started.
        since: T,
    },
    /// Its process serves.
    Ready {
        /// When it said so.
        since: T,
        /// When it was last heard of.
        heard: T,
    },
    /// Its process was told to end and has not ended.
    Ending {
        /// When it is killed; `None` once it was.
        kill_at: Option<T>,
        /// What follows.
        then: Then,
    },
    /// No process; the next is started at this time.
    Backoff {
        /// When.
        until: T,
    },
    /// No process, and none before somebody asks: the last one said that its configuration is bad, or it may not be
    /// started as things are.
    Failed,
}

impl<T> State<T> {
    /// The same by another clock.
    pub fn map<U>(self, time: impl Fn(T) -> U) -> State<U> {
        match self {
            Self::Stopped => State::Stopped,
            Self::Starting { since } => State::Starting { since: time(since) },
            Self::Ready { since, heard } => State::Ready { since: time(since), heard: time(heard) },
            Self::Ending { kill_at, then } => State::Ending { kill_at: kill_at.map(time), then },
            Self::Backoff { until } => State::Backoff { until: time(until) },
            Self::Failed => State::Failed,
        }
    }
}

/// What follows the end of a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Then {
    /// Nothing.
    Rest,
    /// A new process, without a wait: somebody asked.
    Start,
    /// What follows a failure. `ready_for`: how long it had been ready, if ever.
    Retry {
        /// How long it had been ready.
        ready_for: Option<Duration>,
    },
}

/// What happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// Its turn to be started with all others has come.
    Turn,
    /// Somebody asks for a process; one that runs will do.
    Start,
    /// Somebody asks for a new process.
    Restart,
    /// It shall end and stay ended.
    Stop,
    /// The process said READY=1.
    Ready,
    /// The process said WATCHDOG=1.
    Alive,
    /// The process ended, with this exit code if it was not a signal and is to be believed; or it could not be started.
    Ended {
        /// The exit code.
        code: Option<i32>,
    },
    /// It was not launched and must not be: a grant it insists on cannot be given here.
    Refused,
    /// Time has passed.
    Tick,
}

/// What to do. Never more than one thing at a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Start a process.
    Launch,
    /// Send SIGTERM.
    Terminate,
    /// Send SIGKILL.
    Kill(Cause),
}

/// Why a process is killed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Cause {
    /// It was not ready in time.
    NotReady,
    /// It was silent for too long.
    Silent,
    /// It did not end in its drain time.
    NotDrained,
}

/// One component's state machine.
#[derive(Clone, Debug)]
pub struct Machine {
    policy: Policy,
    state: State,
    /// Failures in a row.
    strikes: u32,
    /// Has been ready, has failed or was stopped: higher ranks need not wait for it any more.
    settled: bool,
}

impl Machine {
    /// A component that was not started yet.
    pub fn new(policy: Policy) -> Self {
        Self::resumed(policy, State::Stopped, 0, false)
    }

    /// One that goes on from where another machine was.
    pub fn resumed(policy: Policy, state: State, strikes: u32, settled: bool) -> Self {
        Self { policy, state, strikes, settled }
    }

    /// Failures in a row, less those forgiven.
    pub fn strikes(&self) -> u32 {
        self.strikes
    }

    /// Where it is.
    pub fn state(&self) -> State {
        self.state
    }

    /// The numbers it works with.
    pub fn policy(&self) -> &Policy {
        &self.policy
    }

    /// Whether its first start has come to an end, good or bad.
    pub fn settled(&self) -> bool {
        self.settled
    }

    /// Whether there is no process and none will be started by itself.
    pub fn at_rest(&self) -> bool {
        matches!(self.state, State::Stopped | State::Failed)
    }

    /// When it next wants [`Event::Tick`].
    pub fn deadline(&self) -> Option<Instant> {
        match self.state {
            State::Stopped | State::Failed => None,
            State::Starting { since } => Some(since + self.policy.ready_timeout),
            State::Ready { heard, .. } => self.policy.watchdog.map(|limit| heard + limit),
            State::Ending { kill_at, .. } => kill_at,
            State::Backoff { until } => Some(until),
        }
    }

    /// Lets the time of its process begin anew: nobody knows what it did until now. A wait goes on.
    pub fn excuse(&mut self, now: Instant) {
        self.state = match self.state {
            State::Starting { .. } => State::Starting { since: now },
            State::Ready { since, .. } => State::Ready { since, heard: now },
            State::Ending { kill_at: Some(_), then } => {
                State::Ending { kill_at: Some(now + self.policy.drain), then }
            }
            other @ (State::Stopped
            | State::Ending { kill_at: None, .. }
            | State::Backoff { .. }
            | State::Failed) => other,
        };
    }

    /// Takes note of an event. `jitter` is from 0 to 1.
    pub fn step(&mut self, event: Event, now: Instant, jitter: f64) -> Option<Action> {
        match (self.state, event) {
            // Settled: it had its turn, or was stopped before it came.
            (State::Stopped, Event::Turn) if !self.settled => Some(self.launch(now)),
            (State::Stopped | State::Backoff { .. } | State::Failed, Event::Start | Event::Restart) => {
                self.strikes = 0;
                Some(self.launch(now))
            }
            (State::Stopped | State::Backoff { .. } | State::Failed, Event::Stop) => {
                self.rest();
                None
            }
            (State::Backoff { until }, Event::Tick) if now >= until => Some(self.launch(now)),

            (State::Starting { .. }, Event::Ready) => {
                self.settled = true;
                self.state = State::Ready { since: now, heard: now };
                None
            }
            (State::Ready { since, .. }, Event::Ready | Event::Alive) => {
                self.state = State::Ready { since, heard: now };
                None
            }
            (State::Starting { .. } | State::Ready { .. }, Event::Stop) => Some(self.end(now, Then::Rest)),
            (State::Starting { .. } | State::Ready { .. }, Event::Restart) => {
                Some(self.end(now, Then::Start))
            }
            (State::Starting { .. }, Event::Tick) if self.is_due(now) => {
                Some(self.kill(Then::Retry { ready_for: None }, Cause::NotReady))
            }
            (State::Ready { since, .. }, Event::Tick) if self.is_due(now) => {
                Some(self.kill(Then::Retry { ready_for: Some(now - since) }, Cause::Silent))
            }
            (State::Ending { then, .. }, Event::Tick) if self.is_due(now) => {
                Some(self.kill(then, Cause::NotDrained))
            }

            (State::Ending { kill_at, .. }, Event::Stop) => {
                self.state = State::Ending { kill_at, then: Then::Rest };
                None
            }
            (State::Ending { kill_at, .. }, Event::Start | Event::Restart) => {
                self.state = State::Ending { kill_at, then: Then::Start };
                None
            }

            (State::Starting { .. }, Event::Refused) => {
                self.settled = true;
                self.state = State::Failed;
                None
            }
            (State::Starting { .. }, Event::Ended { code }) => self.failed(code, None, now, jitter),
            (State::Ready { since, .. }, Event::Ended { code }) => {
                self.failed(code, Some(now - since), now, jitter)
            }
            (State::Ending { then, .. }, Event::Ended { code }) => match then {
                Then::Rest => {
                    self.rest();
                    None
                }
                Then::Start => {
                    self.strikes = 0;
                    Some(self.launch(now))
                }
                Then::Retry { ready_for } => self.failed(code, ready_for, now, jitter),
            },

            // Late news of a process that is gone, and requests that are fulfilled already.
            (State::Stopped | State::Backoff { .. } | State::Failed, _)
            | (State::Starting { .. }, Event::Turn | Event::Start | Event::Alive | Event::Tick)
            | (State::Ready { .. }, Event::Turn | Event::Start | Event::Refused | Event::Tick)
            | (
                State::Ending { .. },
                Event::Turn | Event::Ready | Event::Alive | Event::Refused | Event::Tick,
            ) => None,
        }
    }

    fn rest(&mut self) {
        self.state = State::Stopped;
        self.settled = true;
    }

    fn is_due(&self, now: Instant) -> bool {
        self.deadline().is_some_and(|deadline| now >= deadline)
    }

    fn launch(&mut self, now: Instant) -> Action {
        self.state = State::Starting { since: now };
        Action::Launch
    }

    fn end(&mut self, now: Instant, then: Then) -> Action {
        self.state = State::Ending { kill_at: Some(now + self.policy.drain), then };
        Action::Terminate
    }

    fn kill(&mut self, then: Then, cause: Cause) -> Action {
        self.settled = true;
        self.state = State::Ending { kill_at: None, then };
        Action::Kill(cause)
    }

    fn failed(
        &mut self,
        code: Option<i32>,
        ready_for: Option<Duration>,
        now: Instant,
        jitter: f64,
    ) -> Option<Action> {
        self.settled = true;
        if code == Some(EXIT_CONFIG) {
            self.state = State::Failed;
            return None;
        }
        let forgiven = ready_for.unwrap_or_default().as_millis() / FORGIVES_ONE.as_millis();
        self.strikes =
            self.strikes.saturating_sub(u32::try_from(forgiven).unwrap_or(u32::MAX)).saturating_add(1);
        if ready_for.is_some() && self.strikes <= self.policy.burst {
            return Some(self.launch(now));
        }
        self.state = State::Backoff { until: now + self.wait(jitter) };
        None
    }

    fn wait(&self, jitter: f64) -> Duration {
        // 2^31 floors are past any ceiling; more would overflow the shift.
        let doublings = self.strikes.saturating_sub(1).min(31);
        let longest = self.policy.floor.saturating_mul(1 << doublings).min(self.policy.ceiling);
        longest.mul_f64(0.5 + 0.5 * jitter.clamp(0.0, 1.0))
    }
}

#[cfg(test)]
mod tests;
