//! Whom no list may deny where the kernel enforces it: a gateway whose packets end at its own door is lost, and so is whoever
//! looks after it. Generations that would do so are refused with the reason.

use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::config::model::{Config, XdpMode};
use crate::lists::Lists;
use crate::snapshot::Snapshot;

/// Who must stay reachable, and what they are.
pub(super) fn protected(snapshot: &Snapshot) -> Vec<(IpAddr, String)> {
    let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
    let mut protected = Vec::new();
    let gateways = gateways_v4(&read("/proc/net/route")).into_iter().map(IpAddr::V4);
    let gateways = gateways.chain(gateways_v6(&read("/proc/net/ipv6_route")).into_iter().map(IpAddr::V6));
    protected.extend(gateways.map(|address| (address, "this host's default gateway".to_owned())));
    let peers = [read("/proc/net/tcp"), read("/proc/net/tcp6")];
    let peers = peers.iter().flat_map(|text| ssh_peers(text));
    protected.extend(peers.map(|address| (address, "the other end of an ssh session that is open now".to_owned())));
    for (upstream, endpoints) in snapshot.upstreams.iter().zip(&snapshot.endpoints) {
        let addresses = endpoints.addresses();
        protected.extend(addresses.map(|address| (address, format!("an endpoint of `upstream.{}`", upstream.name))));
    }
    // A network of hops may have a part that is denied; a hop that is written by its address is meant to come in.
    let hops = snapshot.settings.trusted_hops.iter().filter(|hop| hop.prefix_len() == hop.max_prefix_len());
    protected.extend(hops.map(|hop| (hop.addr(), "one of `gateway.trusted_hops`".to_owned())));
    protected.retain(|(address, _)| !address.is_loopback());
    protected
}

/// Every reason why the lists of a configuration must not reach the kernel; empty: there is none.
pub(super) fn refusals(config: &Config, lists: &Lists, snapshot: &Snapshot) -> Vec<String> {
    if config.xdp.as_ref().is_none_or(|xdp| xdp.mode == XdpMode::Off) {
        return Vec::new();
    }
    let mut told = Vec::new();
    for (address, what) in protected(snapshot) {
        let verdict = lists.standing(address);
        if verdict.denies() {
            let list = lists.rule(verdict.rule).map_or("?", |rule| &rule.list);
            told.push(format!(
                "list.{list}: it would deny {address}, {what}: take it out, or write it into `xdp.manage`, which goes first"
            ));
        }
    }
    told.sort();
    told.dedup();
    told
}

/// The gateways of IPv4 default routes, from the text of `/proc/net/route`.
fn gateways_v4(text: &str) -> Vec<Ipv4Addr> {
    let rows = text.lines().skip(1).map(|line| line.split_whitespace().collect::<Vec<_>>());
    let gateway = |row: Vec<&str>| {
        let (destination, gateway) = (*row.get(1)?, *row.get(2)?);
        let gateway = u32::from_str_radix(gateway, 16).ok()?;
        // The kernel prints the number as it lies in memory.
        (destination == "00000000" && gateway != 0).then(|| Ipv4Addr::from(gateway.to_ne_bytes()))
    };
    rows.filter_map(gateway).collect()
}

/// The gateways of IPv6 default routes, from the text of `/proc/net/ipv6_route`.
fn gateways_v6(text: &str) -> Vec<Ipv6Addr> {
    let rows = text.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
    let gateway = |row: Vec<&str>| {
        let is_default = row.first()?.bytes().all(|digit| digit == b'0') && *row.get(1)? == "00";
        let next = u128::from_str_radix(row.get(4)?, 16).ok()?;
        (is_default && next != 0).then(|| Ipv6Addr::from(next))
    };
    rows.filter_map(gateway).collect()
}

/// Who has an open connection to port 22 here, from the text of `/proc/net/tcp` or `tcp6`.
fn ssh_peers(text: &str) -> Vec<IpAddr> {
    const SSH: &str = "0016";
    const ESTABLISHED: &str = "01";
    let rows = text.lines().skip(1).map(|line| line.split_whitespace().collect::<Vec<_>>());
    let peer = |row: Vec<&str>| {
        let (_, port) = row.get(1)?.rsplit_once(':')?;
        let (remote, _) = row.get(2)?.rsplit_once(':')?;
        (port == SSH && *row.get(3)? == ESTABLISHED).then(|| address(remote)).flatten()
    };
    rows.filter_map(peer).collect()
}

/// An address as `/proc/net/tcp` prints it: words of 32 bits, each as it lies in memory.
fn address(text: &str) -> Option<IpAddr> {
    let words = text.as_bytes().chunks(8).map(|word| u32::from_str_radix(std::str::from_utf8(word).ok()?, 16).ok());
    let words: Option<Vec<u32>> = words.collect();
    let bytes: Vec<u8> = words?.iter().flat_map(|word| word.to_ne_bytes()).collect();
    match bytes.len() {
        4 => Some(IpAddr::from(<[u8; 4]>::try_from(bytes).ok()?)),
        16 => Some(IpAddr::from(<[u8; 16]>::try_from(bytes).ok()?).to_canonical()),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[cfg(target_endian = "little")]
    fn what_the_kernel_says_is_read() {
        let route = "Iface\tDestination\tGateway\tFlags\n\
                     eth0\t00000000\t0101A8C0\t0003\t0\t0\t0\t00000000\n\
                     eth0\t0001A8C0\t00000000\t0001\t0\t0\t0\t00FFFFFF\nbroken\n";
        assert_eq!(gateways_v4(route), [Ipv4Addr::new(192, 168, 1, 1)]);
        let zeros = "0".repeat(32);
        let route6 = format!(
            "{zeros} 00 {zeros} 00 fe800000000000000000000000000001 00000400 1 0 00000003 eth0\n\
             {zeros} 00 {zeros} 00 {zeros} ffffffff 1 0 00200200 lo\n"
        );
        assert_eq!(gateways_v6(&route6), ["fe80::1".parse::<Ipv6Addr>().expect("an address")]);
        let tcp = "  sl  local_address rem_address   st\n\
                   0: 0100007F:0016 0200000A:D431 01 0\n\
                   1: 0100007F:0016 0300000A:D431 06 0\n\
                   2: 0100007F:1F90 0400000A:D431 01 0\n";
        assert_eq!(ssh_peers(tcp), [IpAddr::from([10, 0, 0, 2])]);
        let tcp6 = "  sl  local_address rem_address   st\n\
                    0: 00000000000000000000000000000000:0016 0000000000000000FFFF00000500000A:D431 01 0\n\
                    1: 00000000000000000000000000000000:0016 B80D0120000000000000000001000000:D431 01 0\n";
        assert_eq!(ssh_peers(tcp6), [IpAddr::from([10, 0, 0, 5]), "2001:db8::1".parse().expect("an address")]);
    }
}
