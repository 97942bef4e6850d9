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
        assert_eq!(bench.at_once(Event::Turn), Some(Action::Launch));
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
    bench.at_once(Event::Turn);
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
    bench.at_once(Event::Turn);
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
    assert_eq!(bench.at_once(Event::Turn), None);
    assert_eq!(bench.at_once(Event::Start), Some(Action::Launch));
}

#[test]
fn exit_with_success_is_a_failure_too() {
    let mut bench = Bench::new();
    bench.at_once(Event::Turn);
    assert_eq!(bench.at_once(Event::Ended { code: Some(0) }), None);
    assert_eq!(bench.wait(), 10 * MILLI);
}

#[test]
fn component_that_does_not_get_ready_is_killed_and_tried_again() {
    let mut bench = Bench::new();
    bench.at_once(Event::Turn);
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
    bench.at_once(Event::Turn);
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
    bench.at_once(Event::Turn);
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

#[test]
fn stopped_component_stays_so_until_it_is_asked_for() {
    let mut bench = Bench::ready();
    bench.at_once(Event::Stop);
    bench.at_once(Event::Ended { code: Some(0) });
    for event in [Event::Turn, Event::Tick, Event::Ready, CRASH] {
        assert_eq!(bench.after(60_000 * MILLI, event), None);
    }
    assert_eq!(bench.at_once(Event::Start), Some(Action::Launch));
}

#[test]
fn component_stopped_before_its_turn_does_not_get_one_and_holds_up_nobody() {
    let mut bench = Bench::new();
    assert_eq!(bench.at_once(Event::Stop), None);
    assert!(bench.machine.settled() && bench.machine.at_rest());
    assert_eq!(bench.at_once(Event::Turn), None);
}

#[test]
fn request_to_start_leaves_a_process_that_runs_alone() {
    let mut bench = Bench::ready();
    let before = bench.machine.state();
    assert_eq!(bench.at_once(Event::Start), None);
    assert_eq!(bench.machine.state(), before);
}

#[test]
fn request_to_start_during_a_stop_waits_for_the_end_and_forgets_failures() {
    let mut bench = Bench::new();
    bench.at_once(Event::Turn);
    for _ in 0..5 {
        bench.at_once(CRASH);
        bench.after(bench.wait(), Event::Tick);
    }
    bench.at_once(Event::Stop);
    assert_eq!(bench.at_once(Event::Start), None);
    assert_eq!(bench.at_once(Event::Ended { code: Some(0) }), Some(Action::Launch));
    assert_eq!(bench.machine.strikes(), 0);
}

#[test]
fn component_that_may_not_be_launched_is_failed_and_not_tried_again() {
    let mut bench = Bench::new();
    bench.at_once(Event::Turn);
    assert_eq!(bench.at_once(Event::Refused), None);
    assert_eq!((bench.machine.state(), bench.machine.deadline()), (State::Failed, None));
    assert!(bench.machine.settled());
}

#[test]
fn resumed_machine_keeps_its_deadline_and_its_failures() {
    let mut bench = Bench::new();
    bench.at_once(Event::Turn);
    bench.at_once(CRASH);
    let before = &bench.machine;
    let mut after = Machine::resumed(policy(), before.state(), before.strikes(), before.settled());
    assert_eq!(after.deadline(), before.deadline());
    after.step(Event::Tick, bench.now + bench.wait(), 1.0);
    after.step(CRASH, bench.now, 1.0);
    assert_eq!(after.strikes(), 2);
}

#[test]
fn excused_process_gets_its_time_anew_and_a_wait_goes_on() {
    let mut bench = Bench::new();
    bench.at_once(Event::Turn);
    let late = |bench: &mut Bench| {
        bench.now += 60_000 * MILLI;
        bench.machine.excuse(bench.now);
        bench.at_once(Event::Tick)
    };
    assert_eq!(late(&mut bench), None);
    bench.at_once(Event::Ready);
    assert_eq!(late(&mut bench), None);
    assert_eq!(bench.after(30_000 * MILLI, Event::Tick), Some(Action::Kill(Cause::Silent)));
    assert_eq!(late(&mut bench), None);
    assert_eq!(bench.at_once(CRASH), Some(Action::Launch));
    bench.at_once(CRASH);
    assert_eq!(late(&mut bench), Some(Action::Launch));
    bench.at_once(Event::Stop);
    assert_eq!(late(&mut bench), None);
    assert_eq!(bench.after(5_000 * MILLI, Event::Tick), Some(Action::Kill(Cause::NotDrained)));
}

fn any_event() -> impl Strategy<Value = Event> {
    prop_oneof![
        Just(Event::Turn),
        Just(Event::Refused),
        Just(Event::Start),
        Just(Event::Restart),
        Just(Event::Stop),
        Just(Event::Ready),
        Just(Event::Alive),
        prop_oneof![Just(None), (0..=255_i32).prop_map(Some)].prop_map(|code| Event::Ended { code }),
        Just(Event::Tick),
    ]
}

/// Events as the world can bring them: each with the time before it and a jitter.
fn any_life(longest: usize) -> impl Strategy<Value = Vec<(u64, Event, f64)>> {
    prop::collection::vec((0..40_000_u64, any_event(), 0.0..1.0), 1..longest)
}

/// A machine among events, in a world where a process exists only between a launch and its end.
struct World {
    machine: Machine,
    now: Instant,
    running: bool,
}

impl World {
    fn new() -> Self {
        Self { machine: Machine::new(policy()), now: Instant::now(), running: false }
    }

    /// Whether there is a process whose end or news this is, or a launch in whose place it stands.
    fn can_happen(&self, event: Event) -> bool {
        match event {
            Event::Ended { .. } | Event::Ready | Event::Alive => self.running,
            Event::Refused => matches!(self.machine.state(), State::Starting { .. }),
            _ => true,
        }
    }

    /// Skips what cannot happen.
    fn step(&mut self, (millis, event, jitter): (u64, Event, f64)) -> Option<Action> {
        self.now += Duration::from_millis(millis);
        if !self.can_happen(event) {
            return None;
        }
        if matches!(event, Event::Ended { .. } | Event::Refused) {
            self.running = false;
        }
        let action = self.machine.step(event, self.now, jitter);
        self.running |= action == Some(Action::Launch);
        action
    }
}

proptest! {
    // Thousands of events for each property; more take the unoptimised build seconds.
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn any_sequence_keeps_one_process_at_most_and_never_forgets_one(life in any_life(120)) {
        let mut world = World::new();
        for event in life {
            let (before, had) = (world.machine.state(), world.running);
            let gone = world.can_happen(event.1) && matches!(event.1, Event::Ended { .. } | Event::Refused);
            match world.step(event) {
                Some(Action::Launch) => prop_assert!(!had || gone, "second process: {before:?} {event:?}"),
                Some(Action::Terminate | Action::Kill(_)) => prop_assert!(had, "{before:?} {event:?}"),
                None => {}
            }
            let has_process = matches!(
                world.machine.state(),
                State::Starting { .. } | State::Ready { .. } | State::Ending { .. }
            );
            prop_assert_eq!(world.running, has_process);
        }
    }

    /// Nothing hangs: whoever is not at rest has a time at which something happens, or waits for the kernel.
    #[test]
    fn any_sequence_leaves_a_deadline_or_rest(life in any_life(120)) {
        let mut world = World::new();
        for event in life {
            world.step(event);
            // Killed: the kernel will tell.
            let killed = matches!(world.machine.state(), State::Ending { kill_at: None, .. });
            prop_assert!(!killed || world.running);
            prop_assert_eq!(world.machine.deadline().is_none(), killed || world.machine.at_rest());
        }
    }

    #[test]
    fn any_wait_is_between_half_the_floor_and_the_ceiling(life in any_life(120)) {
        let mut world = World::new();
        for event in life {
            let before = world.machine.state();
            world.step(event);
            if let (State::Backoff { until }, false) = (world.machine.state(), before == world.machine.state()) {
                let wait = until - world.now;
                prop_assert!(wait >= policy().floor / 2 && wait <= policy().ceiling, "{wait:?}");
            }
        }
    }

    /// However it crashes, it is not started at once more often than its burst, and once per second of service.
    #[test]
    fn starts_without_a_wait_are_bounded_by_burst_and_service(
        lives in prop::collection::vec(0..5_000_u64, 1..100)
    ) {
        let mut world = World::new();
        world.step((0, Event::Turn, 0.5));
        let (mut at_once, mut served) = (0, 0);
        for life in lives {
            world.step((0, Event::Ready, 0.5));
            served += life;
            match world.step((life, CRASH, 0.5)) {
                Some(Action::Launch) => at_once += 1,
                _ => { world.step((30_000, Event::Tick, 0.5)); }
            }
        }
        prop_assert!(at_once <= u64::from(policy().burst) + served / 1000, "{at_once} in {served} ms");
    }

    /// Enough service forgives everything: the next crash is answered at once.
    #[test]
    fn service_forgives_whatever_went_before(crashes in 0..200_u32) {
        let mut world = World::new();
        world.step((0, Event::Turn, 0.5));
        for _ in 0..crashes {
            world.step((0, CRASH, 0.5));
            world.step((30_000, Event::Tick, 0.5));
        }
        world.step((0, Event::Ready, 0.5));
        let action = world.step((u64::from(crashes) * 1000, CRASH, 0.5));
        prop_assert_eq!(action, Some(Action::Launch));
    }

    /// Whatever went before, a stopped component comes to rest when its process ends, and stays there whatever comes
    /// but a request.
    #[test]
    fn stop_leads_to_rest_and_lasts(before in any_life(100), after in any_life(100)) {
        let mut world = World::new();
        for event in before {
            world.step(event);
        }
        world.step((0, Event::Stop, 0.5));
        for event in after {
            if matches!(event.1, Event::Start | Event::Restart) { continue }
            let action = world.step(event);
            prop_assert!(action != Some(Action::Launch), "{event:?}");
        }
        world.step((0, CRASH, 0.5));
        prop_assert!(world.machine.at_rest() && !world.running);
    }

    /// Whatever went before, a request leads to a process, at the latest when the present one has ended.
    #[test]
    fn request_leads_to_a_process(before in any_life(100), restart in any::<bool>()) {
        let mut world = World::new();
        for event in before {
            world.step(event);
        }
        world.step((0, if restart { Event::Restart } else { Event::Start }, 0.5));
        if matches!(world.machine.state(), State::Ending { .. }) {
            world.step((0, CRASH, 0.5));
        }
        prop_assert!(world.running);
    }

    /// A process that hangs while it starts, serves or ends is killed when its time is over.
    #[test]
    fn process_that_hangs_is_killed(before in any_life(100)) {
        let mut world = World::new();
        for event in before {
            world.step(event);
        }
        if let Some(deadline) = world.machine.deadline().filter(|_| world.running) {
            world.now = world.now.max(deadline);
            prop_assert!(matches!(world.step((0, Event::Tick, 0.5)), Some(Action::Kill(_))));
        }
    }
}
