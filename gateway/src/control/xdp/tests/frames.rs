//! What happens to a packet: by its source, whatever it looks like.

use std::net::IpAddr;
use std::time::Duration;

use abi::door::Counter;
use abi::{Action, Entry, Table};

use super::super::{Banned, Program, Runner, Trial};
use super::frame::{ACK, SYN, Shape, Upper, frame, icmp, other, tcp, udp};
use super::{counts, entry, program, root_only};

const DENIED: [&str; 2] = ["192.0.2.9", "2001:db8:bad::9"];

/// A source for each thing that can be said about one, in both families.
const SOURCES: [&str; 12] = [
    "192.0.2.9",
    "198.51.100.1",
    "198.51.100.2",
    "203.0.113.5",
    "100.64.1.1",
    "9.9.9.9",
    "2001:db8:bad::9",
    "2001:db8:bad::1",
    "2001:db8:600d::1",
    "2001:db8:5::1",
    "2001:db8::1",
    "fe80::bad",
];

fn table() -> Table {
    let mut entries = vec![
        entry("192.0.2.0/24", Action::Deny, 1),
        entry("198.51.100.1", Action::Manage, 2),
        entry("198.51.100.0/24", Action::Deny, 3),
        entry("203.0.113.0/24", Action::Exempt, 4),
        Entry { shadow: true, ..entry("100.64.0.0/10", Action::Deny, 5) },
        entry("2001:db8:bad::/48", Action::Deny, 6),
        entry("2001:db8:bad::1", Action::Manage, 7),
        entry("2001:db8:600d::/48", Action::Exempt, 8),
        Entry { shadow: true, ..entry("2001:db8:5::/48", Action::Deny, 9) },
        entry("fe80::bad", Action::Deny, 10),
    ];
    // Enough others that nothing above is alone in its bucket.
    let others =
        (0..5000_u32).map(|number| entry(&format!("10.{}.{}.7", number / 250, number % 250), Action::Deny, 11));
    entries.extend(others);
    Table::compile(&entries, 5).unwrap()
}

fn uppers(v4: bool) -> Vec<(&'static str, Upper)> {
    let icmp_echo = if v4 { icmp(1, 8, 0) } else { icmp(58, 128, 0) };
    vec![
        ("SYN", tcp(4000, 443, SYN)),
        ("ACK", tcp(4000, 443, ACK)),
        ("SYN ACK", tcp(443, 4000, SYN | ACK)),
        ("UDP", udp(4000, 443)),
        ("UDP from 53", udp(53, 4000)),
        ("UDP to 53", udp(4000, 53)),
        ("echo", icmp_echo),
        ("GRE", other(47)),
        ("ESP", other(50)),
        ("SCTP", other(132)),
        ("the other family's ICMP", if v4 { icmp(58, 135, 0) } else { icmp(1, 3, 4) }),
    ]
}

fn shapes(v4: bool) -> Vec<(&'static str, Shape)> {
    let tags = |tags: &[u16]| Shape { tags: tags.to_vec(), ..Shape::default() };
    let mut shapes = vec![
        ("plain", Shape::default()),
        ("one tag", tags(&[0x8100])),
        ("a service tag", tags(&[0x88a8])),
        ("two tags", tags(&[0x88a8, 0x8100])),
        ("first fragment", Shape { fragment: Some((0, true)), ..Shape::default() }),
        ("later fragment", Shape { fragment: Some((100, false)), ..Shape::default() }),
    ];
    if v4 {
        shapes.push(("options", Shape { options: 3, ..Shape::default() }));
        shapes.push(("all options", Shape { options: 10, tags: vec![0x8100], ..Shape::default() }));
    } else {
        let extensions = |numbers: &[u8]| Shape { extensions: numbers.to_vec(), ..Shape::default() };
        shapes.push(("hop-by-hop", extensions(&[0])));
        shapes.push(("destination options", extensions(&[60])));
        shapes.push(("routing and authentication", extensions(&[43, 51])));
        shapes.push(("eight headers", extensions(&[0, 60, 43, 51, 60, 60, 60, 60])));
    }
    shapes
}

struct Bench {
    program: Program,
    runner: Runner,
}

impl Bench {
    fn new() -> Self {
        let mut program = program(&table());
        let runner = program.runner().unwrap();
        Self { program, runner }
    }

    /// Runs a frame, and says which counters moved.
    fn run(&self, frame: &[u8]) -> (u32, Vec<(u32, u64)>) {
        let before = counts(self.program.maps());
        let trial = self.runner.run(frame, 1).unwrap();
        let after = counts(self.program.maps());
        let moved = before.iter().zip(after).filter(|(before, after)| *before != after);
        (trial.action, moved.map(|(before, after)| (after.0, after.1 - before.1)).collect())
    }

    fn check(&self, name: &str, frame: &[u8], action: u32, counters: &[u32]) {
        let (found, moved) = self.run(frame);
        let mut wanted: Vec<(u32, u64)> = counters.iter().map(|counter| (*counter, 1)).collect();
        wanted.sort();
        assert_eq!((found, moved), (action, wanted), "{name}: {frame:02x?}");
    }
}

const PASSED: u32 = Counter::Passed.index();
const DROPPED: u32 = Counter::Dropped.index();

#[test]
fn a_source_gets_its_verdict_whatever_the_packet_looks_like() {
    root_only!();
    let bench = Bench::new();
    let table = table();
    let mut frames = 0;
    for source in SOURCES {
        let source: IpAddr = source.parse().unwrap();
        let verdict = table.verdict(source);
        for (shape_name, shape) in shapes(source.is_ipv4()) {
            for (upper_name, upper) in uppers(source.is_ipv4()) {
                let name = format!("{upper_name} from {source}, {shape_name}");
                let mut counters = Vec::new();
                if verdict.denies() {
                    counters.extend([u32::from(verdict.rule), DROPPED]);
                } else {
                    counters.push(PASSED);
                    counters.extend((verdict.rule != 0).then_some(u32::from(verdict.rule)));
                    if verdict.shadow != 0 {
                        counters.extend([u32::from(verdict.shadow), Counter::Shadowed.index()]);
                    }
                    let is_later = shape.fragment.is_some_and(|(offset, _)| offset > 0);
                    counters
                        .extend((is_later && verdict.action != Action::Manage).then_some(Counter::Fragment.index()));
                }
                let action = if verdict.denies() { Trial::DROP } else { Trial::PASS };
                bench.check(&name, &frame(source, &upper, &shape), action, &counters);
                frames += 1;
            }
        }
    }
    assert!(frames >= 1000, "{frames}");
}

#[test]
fn what_the_network_needs_is_never_dropped() {
    root_only!();
    let mut bench = Bench::new();
    let [v4, v6] = DENIED.map(|source| source.parse::<IpAddr>().unwrap());
    let near: IpAddr = "fe80::bad".parse().unwrap();
    let plain = Shape::default();
    let from_link = Shape { hop_limit: Some(255), ..Shape::default() };
    let behind_options = Shape { extensions: vec![0], hop_limit: Some(1), ..Shape::default() };
    let mut spared = vec![
        ("fragmentation needed", frame(v4, &icmp(1, 3, 4), &plain)),
        ("DHCP answer", frame(v4, &udp(67, 68), &plain)),
        ("packet too big", frame(v6, &icmp(58, 2, 0), &plain)),
        ("packet too big behind an extension header", frame(v6, &icmp(58, 2, 0), &behind_options)),
        ("DHCPv6 answer", frame(near, &udp(547, 546), &plain)),
        ("MLD query", frame(near, &icmp(58, 130, 0), &behind_options)),
        ("MLDv2 report", frame(near, &icmp(58, 143, 0), &behind_options)),
    ];
    for kind in 133..=137 {
        spared.push(("neighbour discovery", frame(near, &icmp(58, kind, 0), &from_link)));
        spared.push(("from a global address", frame(v6, &icmp(58, kind, 0), &from_link)));
    }
    for round in 0..2 {
        for (name, frame) in &spared {
            bench.check(name, frame, Trial::PASS, &[PASSED, Counter::Spared.index()]);
        }
        // And once more while they are banned as well.
        for source in [v4, v6, near].into_iter().filter(|_| round == 0) {
            bench.program.maps_mut().ban(Banned::client(source), Duration::from_secs(1000), 7, false).unwrap();
        }
    }
    // What only looks like it.
    for (name, frame) in [
        ("an unreachable port", frame(v4, &icmp(1, 3, 3), &plain)),
        ("a DHCP question", frame(v4, &udp(68, 67), &plain)),
        ("a neighbour from beyond the link", frame(v6, &icmp(58, 135, 0), &plain)),
        ("a later fragment", frame(v6, &icmp(58, 2, 0), &Shape { fragment: Some((9, false)), ..Shape::default() })),
    ] {
        bench.check(name, &frame, Trial::DROP, &[DROPPED, Counter::Banned.index()]);
    }
}

#[test]
fn packets_cut_anywhere_are_judged_by_what_is_there() {
    root_only!();
    let bench = Bench::new();
    let tagged = Shape { tags: vec![0x88a8, 0x8100], ..Shape::default() };
    let long = Shape { extensions: vec![0, 60, 43, 51, 60, 60, 60, 60], ..Shape::default() };
    let options = Shape { options: 10, ..Shape::default() };
    for (source, shape) in [
        (DENIED[0], &tagged),
        (DENIED[0], &options),
        (DENIED[1], &tagged),
        (DENIED[1], &long),
        ("9.9.9.9", &options),
        ("2001:db8::1", &long),
    ] {
        let source: IpAddr = source.parse().unwrap();
        let mut whole = frame(source, &tcp(1, 443, SYN), shape);
        whole.resize(whole.len().max(120), 0);
        let header = 14 + 4 * shape.tags.len() + if source.is_ipv4() { 20 } else { 40 };
        for bytes in 14..=120 {
            let (action, moved) = bench.run(&whole[..bytes]);
            let denied = DENIED.iter().any(|denied| denied.parse::<IpAddr>().unwrap() == source);
            let wanted = if denied && bytes >= header { Trial::DROP } else { Trial::PASS };
            assert_eq!(action, wanted, "{bytes} bytes from {source}: {moved:?}");
        }
    }
}

#[test]
fn other_protocols_pass() {
    root_only!();
    let bench = Bench::new();
    // A denied source where IPv4 and IPv6 have it, so that no type is taken for another.
    let mut bytes = frame(DENIED[0].parse().unwrap(), &tcp(1, 443, SYN), &Shape::default());
    bytes.resize(120, 0);
    let mut dropped = Vec::new();
    for kind in 0..=u16::MAX {
        bytes[12..14].copy_from_slice(&kind.to_be_bytes());
        match bench.runner.run(&bytes, 1).unwrap().action {
            Trial::PASS => {}
            Trial::DROP => dropped.push(kind),
            action => panic!("{kind:#06x}: {action}"),
        }
    }
    assert_eq!(dropped, [0x0800]);
    let mut arp = bytes.clone();
    arp[12..14].copy_from_slice(&[0x08, 0x06]);
    bench.check("ARP", &arp, Trial::PASS, &[PASSED, Counter::OtherProtocol.index()]);
}

#[test]
fn what_is_malformed_is_counted_and_dropped_only_on_request() {
    root_only!();
    let mut bench = Bench::new();
    let innocent = |shape: &Shape| frame("9.9.9.9".parse().unwrap(), &tcp(1, 443, SYN), shape);
    let innocent6 = |shape: &Shape| frame("2001:db8::1".parse().unwrap(), &tcp(1, 443, SYN), shape);
    let changed = |mut frame: Vec<u8>, at: usize, byte: u8| {
        frame[at] = byte;
        frame
    };
    let plain = Shape::default();
    let nine = Shape { extensions: vec![60; 9], ..Shape::default() };
    let three_tags = Shape { tags: vec![0x8100; 3], ..Shape::default() };
    let malformed = Counter::Malformed.index();
    let cases = [
        ("short IPv4 header", changed(innocent(&plain), 14, 0x44), malformed),
        ("IPv4 of another version", changed(innocent(&plain), 14, 0x65), malformed),
        ("longer than the frame", changed(innocent(&plain), 16, 9), malformed),
        ("shorter than its header", changed(innocent(&plain), 17, 19), malformed),
        ("IPv6 of another version", changed(innocent6(&plain), 14, 0x40), malformed),
        ("IPv6 longer than the frame", changed(innocent6(&plain), 18, 9), malformed),
        ("nine extension headers", innocent6(&nine), malformed),
        ("three tags", innocent(&three_tags), Counter::Tags.index()),
    ];
    for (name, frame, counter) in &cases {
        bench.check(name, frame, Trial::PASS, &[PASSED, *counter]);
    }
    bench.program.maps_mut().set_drop_malformed(true);
    for (name, frame, counter) in &cases {
        bench.check(name, frame, Trial::DROP, &[DROPPED, *counter]);
    }
    // Its source is judged first.
    let denied = frame(DENIED[0].parse().unwrap(), &tcp(1, 443, SYN), &plain);
    bench.check("a short header of a denied source", &changed(denied, 14, 0x44), Trial::DROP, &[DROPPED, 1]);
    bench.program.maps_mut().set_shadow(true);
    bench.check("with a shadow over all", &cases[0].1, Trial::PASS, &[PASSED, malformed]);
}

#[test]
fn the_bypass_word_and_the_shadow_let_everybody_in() {
    root_only!();
    let mut bench = Bench::new();
    let denied = frame(DENIED[0].parse().unwrap(), &tcp(1, 443, SYN), &Shape::default());
    bench.program.maps_mut().set_bypass(true);
    assert!(bench.program.maps().bypass());
    bench.check("bypass", &denied, Trial::PASS, &[Counter::Bypassed.index()]);
    bench.program.maps_mut().set_bypass(false);
    bench.check("no bypass", &denied, Trial::DROP, &[DROPPED, 1]);
    bench.program.maps_mut().set_shadow(true);
    bench.check("shadow", &denied, Trial::PASS, &[PASSED, 1, Counter::Shadowed.index()]);
    bench.program.maps_mut().set_shadow(false);
    bench.check("no shadow", &denied, Trial::DROP, &[DROPPED, 1]);
}

#[test]
fn samples_say_what_was_dropped() {
    root_only!();
    let mut bench = Bench::new();
    let denied = frame(DENIED[1].parse().unwrap(), &udp(1, 443), &Shape::default());
    // Sparse at first.
    bench.runner.run(&denied, 400).unwrap();
    assert!((1..10).contains(&std::iter::from_fn(|| bench.program.maps_mut().event()).count()));
    bench.program.maps_mut().set_sampling(2);
    // On whichever CPUs this runs.
    bench.runner.run(&denied, 400).unwrap();
    let events: Vec<_> = std::iter::from_fn(|| bench.program.maps_mut().event()).collect();
    assert!((90..=110).contains(&events.len()), "{}", events.len());
    let event = events[0];
    assert_eq!((event.counter, event.v6, event.shadow, event.protocol), (6, true, false, 17));
    assert_eq!(event.source, [0x2001_0db8_0bad_0000, 9]);
    assert_eq!(event.destination, [0x2001_0db8_0000_0000, 1]);
    assert_eq!(event.bytes as usize, denied.len());
}

#[test]
fn the_verifier_has_little_to_do() {
    root_only!();
    let mut bench = Bench::new();
    let count = bench.program.verified_instructions().unwrap().unwrap();
    assert!(count < 100_000, "{count}");
}
