//! Those who asked for a change of a component and wait for its result.

use ipc::Fail;
use proto::control::{Component, ControlError};

use crate::control::{Answer, Change};
use crate::policy::{State, Then};

/// Everybody who waits for one component.
#[derive(Debug, Default)]
pub(super) struct Waiting {
    /// For a process that is ready.
    run: Vec<Answer>,
    /// For its process to be gone.
    rest: Vec<Answer>,
}

impl Waiting {
    pub(super) fn add(&mut self, change: Change, answer: Answer) {
        match change {
            Change::Start | Change::Restart => self.run.push(answer),
            Change::Stop => self.rest.push(answer),
        }
    }

    /// Answers those whose result is known. `last_exit` says why there is no process.
    pub(super) fn answer(&mut self, state: State, last_exit: &str, status: impl Fn() -> Component) {
        let ready = match state {
            State::Ready { .. } => Some(Ok(())),
            State::Starting { .. } | State::Ending { then: Then::Start, .. } => None,
            State::Ending { then: Then::Rest, .. } => Some(Err("somebody stopped it meanwhile")),
            State::Ending { then: Then::Retry { .. }, .. } => Some(Err("it was not ready in time")),
            State::Stopped | State::Backoff { .. } | State::Failed => Some(Err(last_exit)),
        };
        if let (Some(result), false) = (ready, self.run.is_empty()) {
            let name = || status().name;
            let result = result.map(|()| status()).map_err(|why| {
                Fail::new(ControlError::NotReady, format!("{} was started and is not ready: {why}", name()))
            });
            send(&mut self.run, &result);
        }
        // Also when a later request has started it again: the process that was to go is gone.
        if !self.rest.is_empty() && !matches!(state, State::Ending { .. }) {
            send(&mut self.rest, &Ok(status()));
        }
    }
}

fn send(answers: &mut Vec<Answer>, result: &Result<Component, Fail<ControlError>>) {
    for answer in answers.drain(..) {
        // Whoever asked may have left.
        let _ = answer.send(result.clone());
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use tokio::sync::oneshot;
    use tokio::sync::oneshot::error::TryRecvError;

    use super::*;

    fn status() -> Component {
        Component { name: "a".to_owned(), ..Component::default() }
    }

    /// What somebody who asked for `change` hears while the component is in each of `states`.
    fn heard(change: Change, states: &[State]) -> Option<Result<Component, String>> {
        let mut waiting = Waiting::default();
        let (sender, mut answer) = oneshot::channel();
        waiting.add(change, sender);
        for state in states {
            assert_eq!(answer.try_recv().err(), Some(TryRecvError::Empty));
            waiting.answer(*state, "exit code 1", status);
        }
        answer.try_recv().ok().map(|result| result.map_err(|fail| fail.message))
    }

    fn ending(then: Then) -> State {
        State::Ending { kill_at: None, then }
    }

    #[test]
    fn start_is_answered_when_ready() {
        let now = Instant::now();
        let states = [ending(Then::Start), State::Starting { since: now }];
        assert_eq!(heard(Change::Restart, &states), None);
        let ready = State::Ready { since: now, heard: now };
        assert_eq!(heard(Change::Start, &[states[1], ready]), Some(Ok(status())));
    }

    #[test]
    fn start_that_fails_is_answered_with_the_reason() {
        let until = Instant::now() + Duration::from_secs(1);
        let answer = heard(Change::Start, &[State::Backoff { until }]);
        assert_eq!(answer, Some(Err("a was started and is not ready: exit code 1".to_owned())));
        let answer = heard(Change::Start, &[ending(Then::Rest)]);
        assert!(matches!(answer, Some(Err(why)) if why.ends_with("somebody stopped it meanwhile")));
    }

    #[test]
    fn stop_is_answered_when_the_process_is_gone() {
        assert_eq!(heard(Change::Stop, &[ending(Then::Rest)]), None);
        assert_eq!(heard(Change::Stop, &[ending(Then::Rest), State::Stopped]), Some(Ok(status())));
        let since = Instant::now();
        assert_eq!(heard(Change::Stop, &[State::Starting { since }]), Some(Ok(status())));
    }
}
