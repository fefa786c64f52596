//! Weighted turns, written out: endpoints as indices, each as often as its weight says, spread as evenly as can be. Compiled on
//! the control side, so that a turn is one look into a list.

/// Turns of a schedule that is precise enough for any few endpoints.
const TURNS_MIN: u64 = 4096;

/// Turns beyond which many endpoints get a coarser share of them each.
const TURNS_MAX: u64 = 1 << 17;

/// Turns of each of many endpoints: one that carries a tenth of the others' weight still gets what it should.
const TURNS_EACH: u64 = 10;

/// The schedule of endpoints with these weights. Equal weights give one turn each, in the order given; weight 0 gives none, and
/// every other one at least one. O(turns log turns).
pub(super) fn schedule(weights: &[u64]) -> Vec<u16> {
    let shares = shares(weights);
    let mut live: Vec<usize> = (0..shares.len()).filter(|&index| shares[index] > 0).collect();
    // Stable: those of one share keep their order.
    live.sort_by_key(|&index| shares[index]);
    let mut turns: Vec<(u64, u16)> = Vec::with_capacity(shares.iter().sum::<u64>() as usize);
    for class in live.chunk_by(|&a, &b| shares[a] == shares[b]) {
        // Endpoints of one share are one stream in which they take turns: neither do they meet, nor does the stream halt.
        let stream = class.len() as u64 * shares[class[0]];
        for nth in 0..stream {
            let index = class[nth as usize % class.len()];
            // The middle of the nth of `stream` equal parts of the whole, as a fraction of 2^32.
            turns.push((((2 * nth + 1) << 32) / (2 * stream), index as u16));
        }
    }
    turns.sort_unstable();
    turns.into_iter().map(|(_, index)| index).collect()
}

/// Turns of each endpoint: exactly in proportion to the weights if that takes few enough of them, else rounded.
fn shares(weights: &[u64]) -> Vec<u64> {
    let divisor = weights.iter().fold(0, |divisor, &weight| gcd(divisor, weight));
    if divisor == 0 {
        return vec![0; weights.len()];
    }
    let sum: u128 = weights.iter().map(|&weight| u128::from(weight / divisor)).sum();
    let live = weights.iter().filter(|&&weight| weight > 0).count() as u64;
    let turns_max = (TURNS_EACH * live).clamp(TURNS_MIN, TURNS_MAX).max(live);
    let share = |&weight: &u64| match weight / divisor {
        0 => 0,
        share if sum <= u128::from(turns_max) => share,
        // No endpoint with a weight is rounded down to nothing.
        share => (u128::from(share) * u128::from(turns_max) / sum).max(1) as u64,
    };
    weights.iter().map(share).collect()
}

fn gcd(a: u64, b: u64) -> u64 {
    if b == 0 { a } else { gcd(b, a % b) }
}

/// For each turn the next one, round the end, that is somebody else's. `None`: there is nobody else.
pub(super) fn others(schedule: &[u16]) -> Option<Vec<u32>> {
    let last = schedule.len().checked_sub(1)?;
    let mut other = schedule.iter().position(|&index| index != schedule[last])?;
    let mut others = vec![0; schedule.len()];
    for at in (0..=last).rev() {
        if at < last && schedule[at] != schedule[at + 1] {
            other = at + 1;
        }
        others[at] = other as u32;
    }
    Some(others)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn weights_are_kept_exactly_and_spread() {
        let check = |weights: &[u64], expected: &[u16]| assert_eq!(schedule(weights), expected, "{weights:?}");
        check(&[], &[]);
        check(&[0, 0], &[]);
        check(&[1, 1, 1], &[0, 1, 2]);
        check(&[7, 7], &[0, 1]);
        check(&[1, 0, 1], &[0, 2]);
        check(&[5, 1, 1], &[0, 1, 0, 0, 0, 2, 0]);
        check(&[2, 4], &[1, 0, 1]);
        check(&[3, 3, 1], &[0, 1, 0, 2, 1, 0, 1]);
    }

    #[test]
    fn a_tiny_share_beside_a_huge_one_is_not_lost() {
        let turns = schedule(&[1_000_000, 1]);
        assert!(turns.len() as u64 <= TURNS_MIN + 1);
        assert_eq!(turns.iter().filter(|&&index| index == 1).count(), 1);
    }

    #[test]
    fn one_of_many_may_have_a_tenth() {
        let mut weights = vec![10_000; 1000];
        weights[500] = 1_000;
        let turns = schedule(&weights);
        let count = |of: u16| turns.iter().filter(|&&index| index == of).count();
        assert_eq!((count(500), count(0), count(999)), (1, 10, 10));
    }

    #[test]
    fn as_many_as_there_can_be_have_a_turn_each() {
        let mut weights: Vec<u64> = (1..=65_536).collect();
        weights[0] = 1_000_000_000;
        let turns = schedule(&weights);
        let mut seen = vec![false; weights.len()];
        turns.iter().for_each(|&index| seen[usize::from(index)] = true);
        assert!(seen.iter().all(|&seen| seen), "{}", turns.len());
        assert!(turns.len() as u64 <= TURNS_MAX + 65_536, "{}", turns.len());
    }

    #[test]
    fn the_next_one_is_somebody_else() {
        assert_eq!(others(&[]), None);
        assert_eq!(others(&[3, 3]), None);
        assert_eq!(others(&[0, 1]), Some(vec![1, 0]));
        assert_eq!(others(&[0, 0, 1, 2, 0]), Some(vec![2, 2, 3, 4, 2]));
    }
}
