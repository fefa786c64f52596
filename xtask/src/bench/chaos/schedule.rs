//! When which endpoint is bad in which way: drawn from a seed, the same for every front.

use std::fmt;
use std::time::Duration;

/// Endpoints behind a front.
pub(super) const ENDPOINTS: usize = 20;
/// A quarter of them: more are never bad at one time.
pub(super) const BAD_MAX: usize = ENDPOINTS / 4;

/// Nothing is bad at first: a front has to see its endpoints well before they can be ill.
const BEGIN: Duration = Duration::from_secs(2);
/// How long an endpoint is bad, from and to.
const LASTS: (Duration, Duration) = (Duration::from_secs(3), Duration::from_secs(12));
/// Until another one follows. A process that was killed serves again long before the shortest of these is over.
const PAUSES: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(3));

/// A way to be bad.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Badness {
    /// SIGKILL; started anew on the same port when it is over.
    Killed,
    /// SIGSTOP; SIGCONT when it is over. The kernel goes on accepting connections.
    Stopped,
    /// Everything is answered with 503.
    Unavailable,
    /// Answers come after 3 s.
    Slow,
    /// Connections are reset: new ones at once, kept ones at the next request.
    Reset,
    /// Connections are reset in the middle of an answer's head.
    HalfHead,
    /// Connections are accepted and requests are read, and nothing is ever said.
    Silent,
}

impl Badness {
    pub(super) const ALL: [Self; 7] =
        [Self::Killed, Self::Stopped, Self::Unavailable, Self::Slow, Self::Reset, Self::HalfHead, Self::Silent];

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Killed => "killed",
            Self::Stopped => "stopped",
            Self::Unavailable => "unavailable",
            Self::Slow => "slow",
            Self::Reset => "reset",
            Self::HalfHead => "half-head",
            Self::Silent => "silent",
        }
    }
}

/// One endpoint, bad for a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Episode {
    pub(super) endpoint: usize,
    pub(super) badness: Badness,
    pub(super) begin: Duration,
    pub(super) end: Duration,
}

impl fmt::Display for Episode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (begin, end) = (self.begin.as_secs_f64(), self.end.as_secs_f64());
        write!(f, "{begin:>7.1} s to {end:>6.1} s  endpoint {:<3} {}", self.endpoint, self.badness.name())
    }
}

/// All that goes wrong within `time`, by when it begins. [`BAD_MAX`] sequences side by side, each of episodes with pauses
/// between them; no endpoint is in two at one time.
pub(super) fn draw(seed: u64, time: Duration) -> Vec<Episode> {
    let mut lots = Lots(seed);
    let mut sequences: Vec<Duration> = (0..BAD_MAX).map(|_| BEGIN + lots.between(PAUSES)).collect();
    let mut episodes: Vec<Episode> = Vec::new();
    loop {
        // The sequence whose turn comes next, so that episodes are found in the order they begin.
        let Some(next) = sequences.iter_mut().min() else { return episodes };
        let begin = *next;
        if begin + LASTS.0 >= time {
            return episodes;
        }
        let end = (begin + lots.between(LASTS)).min(time);
        *next = end + lots.between(PAUSES);
        let is_free = |endpoint: &usize| {
            // A process that is started anew takes its time: its own pause must be over, too.
            !episodes.iter().any(|other| other.endpoint == *endpoint && other.end + PAUSES.0 > begin)
        };
        let free: Vec<usize> = (0..ENDPOINTS).filter(is_free).collect();
        let endpoint = free[lots.below(free.len())];
        let badness = Badness::ALL[lots.below(Badness::ALL.len())];
        episodes.push(Episode { endpoint, badness, begin, end });
    }
}

/// What happens to an endpoint at one moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Turn {
    pub(super) at: Duration,
    pub(super) endpoint: usize,
    pub(super) badness: Badness,
    /// It begins; else it is over.
    pub(super) begins: bool,
}

/// Beginnings and ends in their order.
pub(super) fn turns(episodes: &[Episode]) -> Vec<Turn> {
    let both = |&Episode { endpoint, badness, begin, end }: &Episode| {
        let at = |at, begins| Turn { at, endpoint, badness, begins };
        [at(begin, true), at(end, false)]
    };
    let mut turns: Vec<Turn> = episodes.iter().flat_map(both).collect();
    turns.sort_by_key(|turn| (turn.at, turn.begins));
    turns
}

/// Numbers that look random and are the same for the same seed (SplitMix64).
struct Lots(u64);

impl Lots {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// 0 to `count` - 1; `count` is small, so that the bias of a remainder does not matter.
    fn below(&mut self, count: usize) -> usize {
        (self.next() % count as u64) as usize
    }

    /// To the millisecond.
    fn between(&mut self, (from, to): (Duration, Duration)) -> Duration {
        from + Duration::from_millis(self.next() % ((to - from).as_millis() as u64 + 1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TIME: Duration = Duration::from_secs(300);

    #[test]
    fn a_seed_says_everything() {
        assert_eq!(draw(7, TIME), draw(7, TIME));
        assert_ne!(draw(7, TIME), draw(8, TIME));
    }

    #[test]
    fn no_more_than_a_quarter_is_bad_at_one_time_and_no_endpoint_twice() {
        for seed in 0..50 {
            let mut bad = Vec::new();
            let mut most = 0;
            for turn in turns(&draw(seed, TIME)) {
                if turn.begins {
                    assert!(!bad.contains(&turn.endpoint), "seed {seed}: {turn:?}");
                    bad.push(turn.endpoint);
                } else {
                    bad.retain(|endpoint| *endpoint != turn.endpoint);
                }
                most = most.max(bad.len());
            }
            assert_eq!((most, bad.len()), (BAD_MAX, 0), "seed {seed}");
        }
    }

    #[test]
    fn every_way_comes_up_in_five_minutes_and_nothing_outlasts_them() {
        for seed in 0..50 {
            let episodes = draw(seed, TIME);
            for badness in Badness::ALL {
                assert!(episodes.iter().any(|episode| episode.badness == badness), "seed {seed}: {}", badness.name());
            }
            assert!(episodes.iter().all(|episode| episode.begin >= BEGIN && episode.end <= TIME), "seed {seed}");
            assert!(episodes.iter().all(|episode| episode.end - episode.begin >= LASTS.0), "seed {seed}");
        }
    }

    #[test]
    fn there_is_nothing_to_draw_for_no_time() {
        assert!(draw(1, Duration::ZERO).is_empty());
    }
}
