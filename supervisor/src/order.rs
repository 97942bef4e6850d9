//! Which rank starts or stops next. Pure.

/// What the order depends on, of one component.
#[derive(Clone, Copy, Debug)]
pub struct Member {
    /// Its rank.
    pub rank: u8,
    /// Its first start has come to an end, good or bad.
    pub settled: bool,
    /// It has no process and will get none by itself.
    pub at_rest: bool,
}

/// The highest rank that may be started: the first with an unsettled member, or the last. A component that fails is
/// settled too: those above it cope with its absence as they do when it restarts.
pub fn may_start(members: &[Member]) -> Option<u8> {
    let unsettled = members.iter().filter(|member| !member.settled).map(|member| member.rank).min();
    unsettled.or_else(|| members.iter().map(|member| member.rank).max())
}

/// The lowest rank that may be stopped: the last with a member that still has a process. `None` when all is at rest.
pub fn may_stop(members: &[Member]) -> Option<u8> {
    members.iter().filter(|member| !member.at_rest).map(|member| member.rank).max()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn member(rank: u8, settled: bool, at_rest: bool) -> Member {
        Member { rank, settled, at_rest }
    }

    #[test]
    fn rank_waits_for_every_lower_one() {
        assert_eq!(
            may_start(&[member(1, true, false), member(1, false, true), member(2, false, true)]),
            Some(1)
        );
        assert_eq!(
            may_start(&[member(1, true, false), member(1, true, false), member(2, false, true)]),
            Some(2)
        );
    }

    #[test]
    fn everything_may_run_once_all_is_settled() {
        assert_eq!(may_start(&[member(1, true, false), member(3, true, false)]), Some(3));
    }

    #[test]
    fn highest_rank_stops_first() {
        assert_eq!(may_stop(&[member(1, true, false), member(2, true, false)]), Some(2));
        assert_eq!(may_stop(&[member(1, true, false), member(2, true, true)]), Some(1));
        assert_eq!(may_stop(&[member(1, true, true), member(2, true, true)]), None);
    }
}
