//! What SRV records mean for a balancer (RFC 2782): their priorities as levels, their weights as weights. Pure.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use super::name::Found;

/// A record, in the order in which they are used.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Target {
    pub(super) priority: u16,
    /// Lower case, without a final dot.
    pub(super) host: String,
    pub(super) port: u16,
    pub(super) weight: u16,
}

/// How much a weight counts beside the "very small chance" that RFC 2782 gives to weight 0 beside others.
const WHOLE: u64 = 100;

/// Where the hosts of `targets` run. The numbers of priorities become their ranks. A host's weight is divided among its
/// addresses; of records for one place the first counts.
pub(super) fn found(targets: &[Target], hosts: &BTreeMap<String, Vec<IpAddr>>) -> Vec<Found> {
    let mut sorted: Vec<&Target> =
        targets.iter().filter(|target| !hosts.get(&target.host).is_none_or(Vec::is_empty)).collect();
    sorted.sort_unstable();
    let mut found = Vec::new();
    for (rank, level) in sorted.chunk_by(|one, next| one.priority == next.priority).enumerate() {
        let is_unweighted = level.iter().all(|target| target.weight == 0);
        // All shares of the level times this are whole numbers, unless hosts have very many addresses.
        let common = level.iter().map(|target| hosts[&target.host].len() as u64).fold(1, |a, b| lcm(a, b).min(10_000));
        let shares: Vec<u64> = level
            .iter()
            .map(|target| {
                let weight = match target.weight {
                    _ if is_unweighted => WHOLE,
                    0 => 1,
                    weight => WHOLE * u64::from(weight),
                };
                (weight * common / hosts[&target.host].len() as u64).max(1)
            })
            .collect();
        let divisor = shares.iter().fold(0, |a, &b| gcd(a, b)).max(1);
        for (target, share) in level.iter().zip(shares) {
            let host: Arc<str> = target.host.as_str().into();
            let place = |&address: &IpAddr| Found {
                priority: u8::try_from(rank).unwrap_or(u8::MAX),
                target: Some(host.clone()),
                address,
                port: Some(target.port),
                weight: u32::try_from(share / divisor).unwrap_or(u32::MAX),
            };
            found.extend(hosts[&target.host].iter().map(place));
        }
    }
    found
}

fn gcd(a: u64, b: u64) -> u64 {
    if b == 0 { a } else { gcd(b, a % b) }
}

fn lcm(a: u64, b: u64) -> u64 {
    a / gcd(a, b) * b
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Records as `priority weight host:port`, hosts as `host=address,address`; expected: `rank address:port weight`.
    fn check(records: &[&str], hosts: &[&str], expected: &[&str]) {
        let targets = records.iter().map(|text| {
            let mut words = text.split(' ');
            let mut number = || words.next().unwrap().parse().unwrap();
            let (priority, weight) = (number(), number());
            let (host, port) = words.next().unwrap().split_once(':').unwrap();
            Target { priority, weight, host: host.to_owned(), port: port.parse().unwrap() }
        });
        let hosts = hosts.iter().map(|text| {
            let (host, list) = text.split_once('=').unwrap();
            let list = list.split_terminator(',').map(|address| address.parse().unwrap());
            (host.to_owned(), list.collect())
        });
        let found = found(&targets.collect::<Vec<_>>(), &hosts.collect());
        let shown =
            found.iter().map(|one| format!("{} {}:{} {}", one.priority, one.address, one.port.unwrap(), one.weight));
        assert_eq!(shown.collect::<Vec<_>>(), expected, "{records:?}");
    }

    #[test]
    fn priorities_are_levels_and_weights_are_weights() {
        let hosts = ["a=10.0.0.1", "b=10.0.0.2", "c=10.0.0.3"];
        check(
            &["20 5 c:82", "10 60 a:80", "10 20 b:81"],
            &hosts,
            &["0 10.0.0.1:80 3", "0 10.0.0.2:81 1", "1 10.0.0.3:82 1"],
        );
        check(&["65535 0 a:80"], &hosts, &["0 10.0.0.1:80 1"]);
    }

    #[test]
    fn weight_0_is_a_very_small_chance_beside_others_and_like_others_among_its_own() {
        let hosts = ["a=10.0.0.1", "b=10.0.0.2", "c=10.0.0.3"];
        check(&["1 0 a:80", "1 0 b:80"], &hosts, &["0 10.0.0.1:80 1", "0 10.0.0.2:80 1"]);
        check(&["1 0 a:80", "1 1 b:80"], &hosts, &["0 10.0.0.1:80 1", "0 10.0.0.2:80 100"]);
        check(
            &["1 0 a:80", "2 0 b:80", "2 7 c:80"],
            &hosts,
            &["0 10.0.0.1:80 1", "1 10.0.0.2:80 1", "1 10.0.0.3:80 700"],
        );
    }

    #[test]
    fn a_host_with_two_addresses_has_no_more_weight_than_it_says() {
        let hosts = ["a=10.0.0.1", "b=10.0.0.2,10.0.0.3"];
        check(&["1 1 a:80", "1 1 b:80"], &hosts, &["0 10.0.0.1:80 2", "0 10.0.0.2:80 1", "0 10.0.0.3:80 1"]);
    }

    #[test]
    fn hosts_without_an_address_are_left_out_with_their_level() {
        check(&["1 1 a:80", "2 1 b:80", "3 1 c:80"], &["a=", "b=10.0.0.2"], &["0 10.0.0.2:80 1"]);
        check(&[], &[], &[]);
    }

    #[test]
    fn the_largest_weights_fit() {
        let addresses: Vec<String> = (1..=251).map(|last| format!("10.0.0.{last}")).collect();
        let b = format!("b={}", addresses.join(","));
        let targets = [
            Target { priority: 1, host: "a".to_owned(), port: 1, weight: 65535 },
            Target { priority: 1, host: "b".to_owned(), port: 1, weight: 0 },
        ];
        let list = addresses.iter().map(|address| address.parse().unwrap()).collect();
        let hosts = BTreeMap::from([("a".to_owned(), vec!["10.1.0.1".parse().unwrap()]), ("b".to_owned(), list)]);
        let found = found(&targets, &hosts);
        assert_eq!(found.len(), 252, "{b}");
        assert!(found.iter().all(|one| one.weight > 0));
    }
}
