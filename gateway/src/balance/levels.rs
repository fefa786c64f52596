//! How the requests of an upstream are divided among its endpoints now: by weight, by who is usable, by priority, and less for
//! those that have just begun. Pure: what is known of each in, what each weighs out.

use super::Distance;

/// How much more than its share an endpoint can take: a priority passes nothing on while its usable endpoints can serve all
/// requests with it. As Envoy has it.
const SPARE: f64 = 1.4;

/// What the weight of an endpoint that has just begun is multiplied with; it grows to 1 with time.
const RAMP_BEGIN: f64 = 0.1;

/// Parts of a unit of weight, where weights are no whole numbers any more.
const PARTS: f64 = 10_000.0;

/// A share that is no share but what is left of adding others up.
const ROUNDING: f64 = 1e-9;

/// Where an endpoint stands in the order in which they are used.
pub(super) type Rank = (u8, Option<Distance>);

/// An endpoint, as far as its share is concerned.
#[derive(Debug, Clone, Copy)]
pub(super) struct Standing {
    pub weight: u32,
    /// The lower, the earlier: priority, and within one how far away it is.
    pub level: Rank,
    pub usable: bool,
    /// How much of its weight counts, [`ramp`].
    pub ramp: f64,
}

/// How much counts of the weight of an endpoint that has been usable for so long.
pub(super) fn ramp(usable_ms: u64, slow_start_ms: u64) -> f64 {
    match usable_ms < slow_start_ms {
        true => RAMP_BEGIN + (1.0 - RAMP_BEGIN) * usable_ms as f64 / slow_start_ms as f64,
        false => 1.0,
    }
}

/// What each endpoint weighs beside the others; 0: it gets nothing. Those of written weight 0 never get anything. The written
/// weights are kept where nothing speaks against it, so that who stays as he was also stays where he was on a ring.
///
/// Ranks, which are priorities and within each distances: each can take [`SPARE`] times the share of its weight that is usable, at most the whole; what the first cannot
/// take goes to the second, and so on. If all together cannot take the whole it is divided in proportion. Panic: when in
/// no rank a share of `panic_threshold` (0 to 1) is usable, all are used as if nothing were known of them.
pub(super) fn weights(standing: &[Standing], panic_threshold: f64) -> Vec<u64> {
    let mut levels = levels(standing);
    if levels.iter().all(|level| level.usable < panic_threshold * level.weight) {
        return standing.iter().map(|one| u64::from(one.weight)).collect();
    }
    let mut left: f64 = 1.0;
    for level in &mut levels {
        let share = (SPARE * level.usable / level.weight).min(left);
        left -= share;
        if left < ROUNDING {
            left = 0.0;
        }
        // Load for each unit of weight.
        level.load = if level.usable > 0.0 { share / level.usable } else { 0.0 };
    }
    let load_max = levels.iter().map(|level| level.load).fold(0.0, f64::max);
    let scaled = |one: &Standing| {
        let at = levels.binary_search_by_key(&one.level, |level| level.rank).ok();
        let level = at.map(|at| &levels[at]).filter(|level| one.usable && one.weight > 0 && level.load > 0.0)?;
        // Where all have just begun, they are all the same.
        Some(f64::from(one.weight) * (level.load / load_max) * (one.ramp / level.ramp))
    };
    let scaled: Vec<Option<f64>> = standing.iter().map(scaled).collect();
    let is_plain =
        |(one, scaled): (&Standing, &Option<f64>)| scaled.is_none_or(|scaled| scaled == f64::from(one.weight));
    let parts = if standing.iter().zip(&scaled).all(is_plain) { 1.0 } else { PARTS };
    scaled.into_iter().map(|scaled| scaled.map_or(0, |scaled| (scaled * parts).round().max(1.0) as u64)).collect()
}

/// Whether [`weights`] uses all that have a weight, for want of usable ones.
pub(super) fn panics(standing: &[Standing], panic_threshold: f64) -> bool {
    let levels = levels(standing);
    !levels.is_empty() && levels.iter().all(|level| level.usable < panic_threshold * level.weight)
}

/// The priorities there are, the first to serve first.
fn levels(standing: &[Standing]) -> Vec<Level> {
    let mut levels: Vec<Level> = Vec::new();
    for one in standing.iter().filter(|one| one.weight > 0) {
        let at = match levels.binary_search_by_key(&one.level, |level| level.rank) {
            Ok(at) => at,
            Err(at) => {
                levels.insert(at, Level { rank: one.level, ..Level::default() });
                at
            }
        };
        let level = &mut levels[at];
        level.weight += f64::from(one.weight);
        if one.usable {
            level.usable += f64::from(one.weight);
            level.ramp = level.ramp.max(one.ramp);
        }
    }
    levels
}

/// The endpoints of one rank together.
#[derive(Debug, Default)]
struct Level {
    rank: Rank,
    weight: f64,
    usable: f64,
    /// The most that counts of anybody's weight.
    ramp: f64,
    load: f64,
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Endpoints as `weight/priority`, `-` in front: not usable.
    fn standing(text: &str) -> Vec<Standing> {
        let one = |word: &str| {
            let (plain, usable) = word.strip_prefix('-').map_or((word, true), |plain| (plain, false));
            let (weight, priority) = plain.split_once('/').unwrap_or((plain, "0"));
            Standing { weight: weight.parse().unwrap(), level: (priority.parse().unwrap(), None), usable, ramp: 1.0 }
        };
        text.split_whitespace().map(one).collect()
    }

    fn check(text: &str, panic_threshold: f64, expected: &[f64]) {
        let weights = weights(&standing(text), panic_threshold);
        let sum: u64 = weights.iter().sum();
        let shares: Vec<f64> = weights.iter().map(|&weight| weight as f64 / (sum as f64).max(1.0)).collect();
        let close = shares.iter().zip(expected).all(|(share, expected)| (share - expected).abs() < 0.001);
        assert!(shares.len() == expected.len() && close, "{text} at {panic_threshold}: {shares:?}");
    }

    #[test]
    fn what_is_usable_shares_by_weight() {
        assert_eq!(weights(&standing("3 1 0"), 0.5), [3, 1, 0]);
        assert_eq!(weights(&standing("3 -1 2"), 0.5), [3, 0, 2]);
        assert!(weights(&[], 0.5).is_empty());
        assert_eq!(weights(&standing("0 0"), 0.5), [0, 0]);
        assert_eq!(weights(&standing("1000000 1"), 0.5), [1_000_000, 1]);
    }

    #[test]
    fn the_next_priority_gets_what_the_one_before_cannot_take() {
        // Five of seven take 1.4 times their share: all of it.
        check("1 1 1 1 1 -1 -1 1/1", 0.5, &[0.2, 0.2, 0.2, 0.2, 0.2, 0.0, 0.0, 0.0]);
        assert_eq!(weights(&standing("1 1 1 1 1 -1 -1 1/1"), 0.5), [1, 1, 1, 1, 1, 0, 0, 0]);
        check("1 -1 1/1 1/1", 0.5, &[0.7, 0.0, 0.15, 0.15]);
        check("-1 -1 1/1 1/1", 0.5, &[0.0, 0.0, 0.5, 0.5]);
        // By weight, not by number.
        check("1 -3 1/1", 0.2, &[0.35, 0.0, 0.65]);
        // 0.7 of the whole, then 0.7 of what is left over is capped at what is left.
        check("1 -1 1/3 -1/3 1/7", 0.5, &[0.7, 0.0, 0.3, 0.0, 0.0]);
        check("1 -3 1/3 -3/3 1/7", 0.1, &[0.35, 0.0, 0.35, 0.0, 0.3]);
        // Who gets nothing lends nobody its strength.
        check("-1 0/1 1/2", 0.5, &[0.0, 0.0, 1.0]);
    }

    #[test]
    fn what_is_too_much_for_all_is_divided_in_proportion() {
        check("1 -9 1/1 -9/1", 0.0, &[0.5, 0.0, 0.5, 0.0]);
        check("1 -9 2/1 -8/1", 0.0, &[1.0 / 3.0, 0.0, 2.0 / 3.0, 0.0]);
    }

    #[test]
    fn below_the_threshold_all_are_used() {
        check("1 1 -1 -1", 0.5, &[0.5, 0.5, 0.0, 0.0]);
        check("1 -1 -1", 0.5, &[1.0 / 3.0; 3]);
        check("-1 -1", 0.5, &[0.5, 0.5]);
        check("1 1 1 -1", 0.8, &[0.25; 4]);
        check("1 -1 -1", 0.0, &[1.0, 0.0, 0.0]);
        check("-1 -1", 0.0, &[0.0, 0.0]);
        // All must be usable: one that is not calls all back.
        check("1 -1", 1.0, &[0.5, 0.5]);
        check("1 1 0", 1.0, &[0.5, 0.5, 0.0]);
        // A priority that works is enough, and if there is none all priorities are used.
        check("-1 -1 -1 1/1", 0.5, &[0.0, 0.0, 0.0, 1.0]);
        check("-1 -1 -1/1 -1/1", 0.5, &[0.25; 4]);
    }

    #[test]
    fn who_has_just_begun_weighs_a_tenth() {
        assert_eq!([0, 10_000, 20_000, 30_000].map(|ms| ramp(ms, 30_000)), [0.1, 0.4, 0.7, 1.0]);
        assert_eq!(ramp(0, 0), 1.0);
        let mut some = standing("1 1 1");
        some[2].ramp = ramp(0, 30_000);
        assert_eq!(weights(&some, 0.5), [10_000, 10_000, 1_000]);
        some.iter_mut().for_each(|one| one.ramp = 0.1);
        assert_eq!(weights(&some, 0.5), [1, 1, 1], "where all have, nobody does");
    }
}
