use proptest::prelude::*;

use super::*;

const MILLI: Duration = Duration::from_millis(1);

fn policy() -> Policy {
    Policy {
        floor: 10 * MILLI,
        ceiling: 30_000 * MILLI,
        burst: 3,
        ready_timeout: 10_000 * MILLI,
        watchdog: Some(30_000 * MILLI),
        drain: 5_000 * MILLI,
    }
}

/// A machine with a clock that stands still between events.
struct Bench {
    machine: Machine,
    now: Instant,
}

impl Bench {
    fn new() -> Self {
        Self { machine: Machine::new(policy()), now: Instant::now() }
    }

    fn after(&mut self, time: Duration, event: Event) -> Option<Action> {
        self.now += time;
        self.machine.step(event, self.now, 1.0)
    }

    fn at_once(&mut self, event: Event) -> Option<Action> {
        self.after(Duration::ZERO, event)
    }

    fn ready() -> Self {
        let mut bench = Self::new();
        assert_eq!(bench.at_once(Event::Start), Some(Action::Launch));
        assert_eq!(bench.after(MILLI, Event::Ready), None);
        bench
    }

    fn wait(&self) -> Duration {
        match self.machine.state() {
            State::Backoff { until } => until - self.now,
            other => panic!("expected a wait, it is {other:?}"),
        }
    }
}

const CRASH: Event = Event::Ended { code: None };

#[test]
fn first_crash_of_a_ready_component_is_answered_at_once() {
    let mut bench = Bench::ready();
    assert_eq!(bench.after(MILLI, CRASH), Some(Action::Launch));
}

#[test]
fn crash_before_ready_waits_and_the_wait_doubles_up_to_the_ceiling() {
    let mut bench = Bench::new();
    bench.at_once(Event::Start);
    let mut waits = Vec::new();
    for _ in 0..14 {
        assert_eq!(bench.at_once(CRASH), None);
        waits.push(bench.wait().as_millis());
        assert_eq!(bench.after(bench.wait(), Event::Tick), Some(Action::Launch));
    }
    assert_eq!(waits[..4], [10, 20, 40, 80]);
    assert_eq!(waits[12..], [30_000, 30_000]);
}

#[test]
fn crash_loop_of_a_component_that_gets_ready_each_time_waits_after_the_burst() {
    let mut bench = Bench::ready();
    for _ in 0..3 {
        assert_eq!(bench.after(MILLI, CRASH), Some(Action::Launch));
        bench.after(MILLI, Event::Ready);
    }
    assert_eq!(bench.after(MILLI, CRASH), None);
    assert_eq!(bench.wait(), 80 * MILLI);
}

#[test]
fn crash_once_a_second_is_always_answered_at_once() {
    let mut bench = Bench::ready();
    for _ in 0..20 {
        assert_eq!(bench.after(FORGIVES_ONE, CRASH), Some(Action::Launch));
        bench.at_once(Event::Ready);
    }
}

#[test]
fn seconds_of_service_forgive_earlier_failures() {
    let mut bench = Bench::new();
    bench.at_once(Event::Start);
    for _ in 0..8 {
        bench.at_once(CRASH);
        bench.after(bench.wait(), Event::Tick);
    }
    bench.at_once(Event::Ready);
    assert_eq!(bench.after(6 * FORGIVES_ONE, CRASH), Some(Action::Launch));
}

#[test]
fn exit_with_bad_configuration_stays_failed_until_asked() {
    let mut bench = Bench::ready();
    assert_eq!(bench.at_once(Event::Ended { code: Some(EXIT_CONFIG) }), None);
    assert_eq!(bench.machine.state(), State::Failed);
    assert_eq!(bench.machine.deadline(), None);
    assert_eq!(bench.at_once(Event::Start), None);
    assert_eq!(bench.at_once(Event::Restart), Some(Action::Launch));
}

#[test]
fn exit_with_success_is_a_failure_too() {
    let mut bench = Bench::new();
    bench.at_once(Event::Start);
    assert_eq!(bench.at_once(Event::Ended { code: Some(0) }), None);
    assert_eq!(bench.wait(), 10 * MILLI);
}

#[test]
fn component_that_does_not_get_ready_is_killed_and_tried_again() {
    let mut bench = Bench::new();
    bench.at_once(Event::Start);
    assert_eq!(bench.after(9_999 * MILLI, Event::Tick), None);
    assert!(!bench.machine.settled());
    assert_eq!(bench.after(MILLI, Event::Tick), Some(Action::Kill(Cause::NotReady)));
    assert!(bench.machine.settled());
    assert_eq!(bench.after(60_000 * MILLI, Event::Tick), None);
    assert_eq!(bench.at_once(CRASH), None);
    assert_eq!(bench.wait(), 10 * MILLI);
}

#[test]
fn silent_component_is_killed_and_a_heartbeat_puts_it_off() {
    let mut bench = Bench::ready();
    assert_eq!(bench.after(29_000 * MILLI, Event::Alive), None);
    assert_eq!(bench.after(29_000 * MILLI, Event::Tick), None);
    assert_eq!(bench.after(1_000 * MILLI, Event::Tick), Some(Action::Kill(Cause::Silent)));
    assert_eq!(bench.at_once(CRASH), Some(Action::Launch));
}

#[test]
fn request_to_restart_ends_the_process_and_starts_another_without_a_wait() {
    let mut bench = Bench::ready();
    assert_eq!(bench.at_once(Event::Restart), Some(Action::Terminate));
    assert_eq!(bench.after(MILLI, Event::Ended { code: Some(0) }), Some(Action::Launch));
}

#[test]
fn request_to_restart_shortens_a_wait() {
    let mut bench = Bench::new();
    bench.at_once(Event::Start);
    bench.at_once(CRASH);
    assert_eq!(bench.at_once(Event::Restart), Some(Action::Launch));
}

#[test]
fn component_that_does_not_drain_is_killed() {
    let mut bench = Bench::ready();
    assert_eq!(bench.at_once(Event::Stop), Some(Action::Terminate));
    assert_eq!(bench.after(5_000 * MILLI, Event::Tick), Some(Action::Kill(Cause::NotDrained)));
    assert_eq!(bench.at_once(CRASH), None);
    assert!(bench.machine.at_rest());
}

#[test]
fn stop_during_a_restart_wins() {
    let mut bench = Bench::ready();
    bench.at_once(Event::Restart);
    assert_eq!(bench.at_once(Event::Stop), None);
    assert_eq!(bench.at_once(Event::Ended { code: Some(0) }), None);
    assert!(bench.machine.at_rest());
}

#[test]
fn stop_during_a_wait_leaves_nothing_to_do() {
    let mut bench = Bench::new();
    bench.at_once(Event::Start);
    bench.at_once(CRASH);
    assert_eq!(bench.at_once(Event::Stop), None);
    assert!(bench.machine.at_rest());
    assert_eq!(bench.machine.deadline(), None);
}

#[test]
fn news_of_a_process_that_is_gone_changes_nothing() {
    let mut bench = Bench::new();
    for event in [Event::Ready, Event::Alive, CRASH, Event::Tick, Event::Stop] {
        assert_eq!(bench.at_once(event), None);
        assert_eq!(bench.machine.state(), State::Stopped);
    }
}

fn any_event() -> impl Strategy<Value = Event> {
    prop_oneof![
        Just(Event::Start),
        Just(Event::Restart),
        Just(Event::Stop),
        Just(Event::Ready),
        Just(Event::Alive),
        prop_oneof![Just(None), (0..=255_i32).prop_map(Some)].prop_map(|code| Event::Ended { code }),
        Just(Event::Tick),
    ]
}

proptest! {
    /// Against a world in which processes exist only between a launch and an end.
    #[test]
    fn any_sequence_keeps_one_process_at_most_and_never_forgets_one(
        events in prop::collection::vec((0..40_000_u64, any_event(), 0.0..1.0), 1..200)
    ) {
        let mut machine = Machine::new(policy());
        let mut now = Instant::now();
        let mut running = false;
        for (millis, event, jitter) in events {
            now += Duration::from_millis(millis);
            // A process that does not exist cannot end.
            if matches!(event, Event::Ended { .. }) {
                if !running { continue }
                running = false;
            }
            let before = machine.state();
            match machine.step(event, now, jitter) {
                Some(Action::Launch) => {
                    prop_assert!(!running, "second process: {before:?} {event:?}");
                    running = true;
                }
                Some(Action::Terminate | Action::Kill(_)) => prop_assert!(running, "{before:?} {event:?}"),
                None => {}
            }
            let has_process =
                matches!(machine.state(), State::Starting { .. } | State::Ready { .. } | State::Ending { .. });
            prop_assert_eq!(running, has_process);
            // Whoever is not at rest, and does not simply serve, has something to wake up for.
            if let State::Ending { kill_at: None, .. } = machine.state() {
                // Killed: the kernel will tell.
            } else {
                prop_assert_eq!(machine.deadline().is_none(), machine.at_rest());
            }
            if let State::Backoff { until } = machine.state() {
                prop_assert!(until <= now + policy().ceiling);
            }
        }
    }

    /// Whatever went before, a stopped component comes to rest when its process ends.
    #[test]
    fn stop_always_leads_to_rest(events in prop::collection::vec((0..40_000_u64, any_event()), 0..100)) {
        let mut machine = Machine::new(policy());
        let mut now = Instant::now();
        for (millis, event) in events {
            now += Duration::from_millis(millis);
            machine.step(event, now, 0.5);
        }
        machine.step(Event::Stop, now, 0.5);
        if !machine.at_rest() {
            machine.step(Event::Ended { code: None }, now, 0.5);
        }
        prop_assert!(machine.at_rest());
    }

    #[test]
    fn wait_is_between_half_the_floor_and_the_ceiling(strikes in 1..u32::MAX, jitter in 0.0..1.0) {
        let mut machine = Machine::new(policy());
        machine.strikes = strikes;
        let wait = machine.wait(jitter);
        prop_assert!(wait >= policy().floor / 2 && wait <= policy().ceiling);
    }
}
