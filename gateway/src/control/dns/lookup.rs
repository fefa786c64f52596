//! One look-up of a name: what is asked for, through `search` and aliases and to the hosts of SRV records, and what comes of it.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::sync::Arc;
use std::time::Duration;

use hickory_resolver::proto::rr::rdata::SRV;
use hickory_resolver::proto::rr::{Name, RData, RecordType};
use tokio::task::JoinSet;

use super::Question;
use super::client::{Client, Reply, System, address};
use super::name::{Found, Said};
use super::srv::{self, Target};
use crate::config::model::RecordKind;
use crate::limits::{DNS_ADDRESSES_MAX, DNS_TARGETS_MAX};

/// TTL of what is known without asking: it is looked at as often as may be.
const KNOWN: Duration = Duration::ZERO;

/// Looks `question` up. `before`: what is known of it, which stays where a part of the answer cannot be had. Must be awaited
/// within a `LocalSet`.
pub(super) async fn look_up(client: Arc<Client>, question: Question, before: Arc<[Found]>) -> Said {
    let system = client.system();
    match question.kind {
        RecordKind::Srv => services(&client, &system, &question.name, &before).await,
        kind => {
            let before = |v6| {
                before
                    .iter()
                    .map(|found| found.address)
                    .filter(move |address| address.is_ipv6() == v6)
                    .collect::<Vec<_>>()
            };
            match addresses(&client, &system, &question.name, kind, &before).await {
                Addresses::Some { list, ttl, lacks } => {
                    let mut found: Vec<Found> = list.into_iter().map(Found::plain).collect();
                    found.truncate(DNS_ADDRESSES_MAX);
                    Said::Answer { found, ttl, lacks }
                }
                Addresses::Denied { why, ttl } => Said::Denied { why, ttl },
                Addresses::Failed(why) => Said::Failed { why },
            }
        }
    }
}

enum Addresses {
    /// Sorted, without repetitions, not empty.
    Some {
        list: Vec<IpAddr>,
        ttl: Duration,
        lacks: Option<String>,
    },
    Denied {
        why: String,
        ttl: Option<Duration>,
    },
    Failed(String),
}

/// The addresses of a host. `before`: those of IPv6, or of IPv4, that were known.
async fn addresses(
    client: &Client,
    system: &System,
    host: &str,
    kind: RecordKind,
    before: &impl Fn(bool) -> Vec<IpAddr>,
) -> Addresses {
    let wants = |address: &IpAddr| match kind {
        RecordKind::A => address.is_ipv4(),
        RecordKind::Aaaa => address.is_ipv6(),
        RecordKind::Any | RecordKind::Srv => true,
    };
    if let Some(known) = system.known(host) {
        let list: Vec<IpAddr> = known.into_iter().filter(wants).collect();
        return match list.is_empty() {
            true => {
                Addresses::Denied { why: "this host knows it by addresses of the other kind".to_owned(), ttl: None }
            }
            false => Addresses::Some { list: usable(list), ttl: KNOWN, lacks: None },
        };
    }
    let mut denied = Addresses::Denied { why: "not a name".to_owned(), ttl: None };
    for name in system.candidates(host) {
        let (v4, v6) = match kind {
            RecordKind::A => (Some(client.ask(system, &name, RecordType::A).await), None),
            RecordKind::Aaaa => (None, Some(client.ask(system, &name, RecordType::AAAA).await)),
            RecordKind::Any | RecordKind::Srv => {
                let both = (client.ask(system, &name, RecordType::A), client.ask(system, &name, RecordType::AAAA));
                let (v4, v6) = tokio::join!(both.0, both.1);
                (Some(v4), Some(v6))
            }
        };
        let (mut list, mut ttl, mut failed, mut told) = (Vec::new(), Duration::MAX, None, None);
        let mut are_asked = 0;
        let replies = [(v4, false), (v6, true)].into_iter().filter_map(|(reply, is_v6)| Some((reply?, is_v6)));
        for (reply, is_v6) in replies {
            are_asked += 1;
            match reply {
                Reply::Records { data, ttl: of } => {
                    list.extend(data.iter().filter_map(address).filter(is_host));
                    ttl = ttl.min(of);
                }
                Reply::Denied { why, ttl } => told = Some((why, ttl)),
                Reply::Failed(why) => failed = Some((why, is_v6)),
            }
        }
        match (list.is_empty(), failed, told) {
            // Half of an answer is better than none, and the other half is no worse than it was.
            (false, Some((why, is_v6)), _) => {
                list.extend(before(is_v6));
                return Addresses::Some { list: usable(list), ttl, lacks: Some(why) };
            }
            (false, None, _) => return Addresses::Some { list: usable(list), ttl, lacks: None },
            // Who knows what it would have said: another name behind it may be another service.
            (true, Some((why, _)), _) => return Addresses::Failed(why),
            (true, None, Some((why, ttl))) => denied = Addresses::Denied { why: why.to_owned(), ttl },
            (true, None, None) if are_asked > 0 => {
                let why = "none of its addresses is one of a host".to_owned();
                return Addresses::Denied { why, ttl: None };
            }
            (true, None, None) => {}
        }
    }
    denied
}

/// Whether something may listen there, of which we know nothing else. A name that leads to `0.0.0.0` is one that somebody took
/// away; to connect there would be to connect to this host.
fn is_host(address: &IpAddr) -> bool {
    let is_other = match address {
        IpAddr::V4(address) => address.is_broadcast(),
        // Without the interface it cannot be connected to.
        IpAddr::V6(address) => address.is_unicast_link_local(),
    };
    !(address.is_unspecified() || address.is_multicast() || is_other)
}

/// The addresses in their order, without repetitions, and without those of a kind (IPv4, IPv6) this host has no way to while it has
/// one to the others: requests sent there would fail.
fn usable(mut list: Vec<IpAddr>) -> Vec<IpAddr> {
    list.sort_unstable();
    list.dedup();
    let is_mixed = list.iter().any(IpAddr::is_ipv6) && list.iter().any(IpAddr::is_ipv4);
    if is_mixed {
        let reached: Vec<IpAddr> = list.iter().copied().filter(has_way).collect();
        if !reached.is_empty() {
            return reached;
        }
    }
    list
}

/// Whether the kernel knows a way to `address`. Nothing is sent.
fn has_way(address: &IpAddr) -> bool {
    let any: SocketAddr = match address {
        IpAddr::V4(_) => ([0, 0, 0, 0], 0).into(),
        IpAddr::V6(_) => ([0_u16; 8], 0).into(),
    };
    // Any port will do.
    UdpSocket::bind(any).and_then(|socket| socket.connect((*address, 9))).is_ok()
}

/// What SRV records say (RFC 2782), and the addresses of the hosts they name.
async fn services(client: &Arc<Client>, system: &Arc<System>, name: &str, before: &Arc<[Found]>) -> Said {
    let mut denied = ("not a name", None);
    let mut records = None;
    for candidate in system.candidates(name) {
        match client.ask(system, &candidate, RecordType::SRV).await {
            Reply::Records { data, ttl } => {
                records = Some((data, ttl));
                break;
            }
            Reply::Denied { why, ttl } => denied = (why, ttl),
            Reply::Failed(why) => return Said::Failed { why },
        }
    }
    let Some((data, ttl)) = records else { return Said::Denied { why: denied.0.to_owned(), ttl: denied.1 } };
    let targets = targets(&data);
    if targets.is_empty() {
        // One record with the root as its host says just that.
        return Said::Denied { why: "its SRV records say that there is no service".to_owned(), ttl: Some(ttl) };
    }
    let mut hosts: BTreeMap<String, Vec<IpAddr>> =
        targets.iter().map(|target| (target.host.clone(), Vec::new())).collect();
    let (mut ttl, mut failed, mut why_denied) = (ttl, None, None);
    let mut asked = JoinSet::new();
    for host in hosts.keys() {
        let (client, system, host, before) = (client.clone(), system.clone(), host.clone(), before.clone());
        asked.spawn_local(async move {
            let known = |v6| {
                let here = before.iter().filter(|found| found.target.as_deref() == Some(&*host));
                here.map(|found| found.address).filter(|address| address.is_ipv6() == v6).collect()
            };
            // A name on the wire is a complete one.
            let complete = format!("{host}.");
            let found = match system.known(&complete) {
                None => addresses(&client, &system, &complete, RecordKind::Srv, &known).await,
                Some(list) => Addresses::Some { list: usable(list), ttl: KNOWN, lacks: None },
            };
            let found = match found {
                Addresses::Failed(why) => {
                    let list = usable([known(false), known(true)].concat());
                    if list.is_empty() {
                        Addresses::Failed(why)
                    } else {
                        Addresses::Some { list, ttl: Duration::MAX, lacks: Some(why) }
                    }
                }
                found => found,
            };
            (host, found)
        });
    }
    for (host, found) in asked.join_all().await {
        match found {
            Addresses::Some { list, ttl: of, lacks } => {
                ttl = ttl.min(of);
                failed = failed.or(lacks.map(|why| format!("{host}: {why}")));
                hosts.insert(host, list);
            }
            Addresses::Denied { why, .. } => why_denied = Some(format!("{host}: {why}")),
            Addresses::Failed(why) => failed = Some(format!("{host}: {why}")),
        }
    }
    let mut found = srv::found(&targets, &hosts);
    // By priority: what is left out are the last ones.
    found.truncate(DNS_ADDRESSES_MAX);
    match (found.is_empty(), failed) {
        (false, lacks) => Said::Answer { found, ttl, lacks },
        (true, Some(why)) => Said::Failed { why },
        (true, None) => Said::Denied { why: why_denied.unwrap_or_default(), ttl: None },
    }
}

/// The records that name a host and a port, those of the first priorities if there are too many.
fn targets(data: &[RData]) -> Vec<Target> {
    let service = |data: &RData| match data {
        RData::SRV(SRV { priority, weight, port, target, .. }) if *port > 0 && !target.is_root() => {
            Some(Target { host: text(target), port: *port, priority: *priority, weight: *weight })
        }
        _ => None,
    };
    let mut targets: Vec<Target> = data.iter().filter_map(service).collect();
    targets.sort_unstable();
    targets.dedup();
    targets.truncate(DNS_TARGETS_MAX);
    targets
}

/// Without the final dot, in lower case.
fn text(name: &Name) -> String {
    let mut text = name.to_ascii().to_ascii_lowercase();
    if text.ends_with('.') {
        text.pop();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_addresses_of_hosts_are_used() {
        for (text, expected) in [
            ("10.0.0.1", true),
            ("127.0.0.1", true),
            ("2001:db8::1", true),
            ("0.0.0.0", false),
            ("::", false),
            ("255.255.255.255", false),
            ("224.0.0.1", false),
            ("ff02::1", false),
            ("fe80::1", false),
        ] {
            assert_eq!(is_host(&text.parse().unwrap()), expected, "{text}");
        }
    }

    #[test]
    fn what_this_host_has_no_way_to_is_left_out_beside_what_it_has() {
        let here: IpAddr = "127.0.0.1".parse().unwrap();
        // Of a prefix that is set aside for being thrown away (RFC 6666), and of which no route is of any use.
        let nowhere: IpAddr = "100::1".parse().unwrap();
        let expected = if has_way(&nowhere) { vec![here, nowhere] } else { vec![here] };
        assert_eq!(usable(vec![nowhere, here, here]), expected);
        assert_eq!(usable(vec![nowhere]), [nowhere], "it may be that the way comes later");
    }
}
