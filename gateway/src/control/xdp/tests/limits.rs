//! Bans and SYN limits.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use abi::door::{BANS_MAX, Counter};
use abi::{Action, Table};

use super::super::{Banned, DoorError, Program, Rate, Runner, SynLimits, Trial};
use super::frame::{ACK, SYN, Shape, frame, tcp, udp};
use super::{entry, program, root_only};

fn addr(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn action(runner: &Runner, source: &str, flags: u8) -> u32 {
    runner.run(&frame(addr(source), &tcp(9, 443, flags), &Shape::default()), 1).unwrap().action
}

fn new() -> (Program, Runner) {
    let entries = [
        entry("203.0.113.0/24", Action::Exempt, 1),
        entry("198.51.100.1", Action::Manage, 2),
        entry("2001:db8:600d::/48", Action::Exempt, 3),
    ];
    let mut program = program(&Table::compile(&entries, 1).unwrap());
    let runner = program.runner().unwrap();
    (program, runner)
}

const LONG: Duration = Duration::from_secs(1000);

#[test]
fn a_ban_is_for_who_it_names() {
    root_only!();
    let (mut program, runner) = new();
    program.maps_mut().ban(Banned::client(addr("9.9.9.9")), LONG, 7, false).unwrap();
    program.maps_mut().ban(Banned::client(addr("::ffff:203.0.113.5")), LONG, 7, false).unwrap();
    program.maps_mut().ban(Banned::client(addr("198.51.100.1")), LONG, 7, false).unwrap();
    program.maps_mut().ban(Banned::client(addr("2001:db8:1:2::3")), LONG, 7, false).unwrap();
    program.maps_mut().ban(Banned::Host(addr("2001:db8:1:3::3")), LONG, 7, false).unwrap();
    for (source, wanted) in [
        ("9.9.9.9", Trial::DROP),
        ("9.9.9.8", Trial::PASS),
        // A ban goes before an exemption, and management before everything.
        ("203.0.113.5", Trial::DROP),
        ("198.51.100.1", Trial::PASS),
        ("2001:db8:1:2::3", Trial::DROP),
        ("2001:db8:1:2:ffff::", Trial::DROP),
        ("2001:db8:1:3::3", Trial::DROP),
        ("2001:db8:1:3::4", Trial::PASS),
    ] {
        assert_eq!(action(&runner, source, ACK), wanted, "{source}");
    }
    assert_eq!(program.maps().count(Counter::Banned).unwrap().packets, 5);
    let mut bans: Vec<_> = program.maps().bans().map(|ban| (format!("{:?}", ban.who), ban.reason, ban.soft)).collect();
    bans.sort();
    assert_eq!(bans.len(), 5);
    assert_eq!(bans[0], ("Host(198.51.100.1)".to_owned(), 7, false));
    // Three jiffies more than asked for at most, at 100 of them a second.
    let longest = LONG + Duration::from_millis(30);
    assert!(program.maps().bans().all(|ban| ban.left <= longest && ban.left > LONG / 2));
    assert!(program.maps_mut().unban(Banned::client(addr("9.9.9.9"))).unwrap());
    assert!(!program.maps_mut().unban(Banned::client(addr("9.9.9.9"))).unwrap());
    assert_eq!(action(&runner, "9.9.9.9", ACK), Trial::PASS);
}

#[test]
fn a_ban_ends_by_itself_and_is_swept_later() {
    root_only!();
    let (mut program, runner) = new();
    let begin = Instant::now();
    let ban = Duration::from_millis(700);
    program.maps_mut().ban(Banned::client(addr("9.9.9.9")), ban, 7, false).unwrap();
    program.maps_mut().ban(Banned::client(addr("9.9.9.8")), LONG, 7, false).unwrap();
    let mut dropped = 0;
    while action(&runner, "9.9.9.9", ACK) == Trial::DROP {
        dropped += 1;
        assert!(begin.elapsed() < Duration::from_secs(60));
    }
    assert!(begin.elapsed() >= ban && dropped > 0, "{:?}, {dropped} dropped", begin.elapsed());
    // Our clock may be a jiffy behind the kernel's.
    while program.maps().bans().count() > 1 {
        assert!(begin.elapsed() < Duration::from_secs(60));
    }
    assert_eq!(program.maps_mut().sweep(), 1);
    assert_eq!(program.maps_mut().sweep(), 0);
    assert_eq!(action(&runner, "9.9.9.8", ACK), Trial::DROP);
}

#[test]
fn a_renewed_ban_lasts_as_long_as_the_last() {
    root_only!();
    let (mut program, runner) = new();
    let who = Banned::client(addr("9.9.9.9"));
    program.maps_mut().ban(who, Duration::ZERO, 7, false).unwrap();
    program.maps_mut().ban(who, LONG, 8, false).unwrap();
    assert_eq!(program.maps_mut().sweep(), 0);
    assert_eq!(action(&runner, "9.9.9.9", ACK), Trial::DROP);
    program.maps_mut().ban(who, Duration::ZERO, 9, false).unwrap();
    while program.maps().bans().count() > 0 {}
    assert_eq!(program.maps_mut().sweep(), 1);
    assert_eq!(action(&runner, "9.9.9.9", ACK), Trial::PASS);
}

#[test]
fn a_soft_ban_refuses_new_connections_only() {
    root_only!();
    let (mut program, runner) = new();
    program.maps_mut().ban(Banned::client(addr("9.9.9.9")), LONG, 7, true).unwrap();
    program.maps_mut().ban(Banned::client(addr("2001:db8::1")), LONG, 7, true).unwrap();
    for source in ["9.9.9.9", "2001:db8::1"] {
        assert_eq!(action(&runner, source, ACK), Trial::PASS);
        assert_eq!(action(&runner, source, SYN | ACK), Trial::PASS);
        assert_eq!(action(&runner, source, SYN), Trial::DROP);
        let datagram = frame(addr(source), &udp(1, 443), &Shape::default());
        assert_eq!(runner.run(&datagram, 1).unwrap().action, Trial::PASS);
    }
}

#[test]
fn no_ban_is_forgotten_for_another() {
    root_only!();
    let (mut program, runner) = new();
    let maps = program.maps_mut();
    for number in 0..BANS_MAX {
        maps.ban(Banned::Host(IpAddr::V4((0x0a00_0000 + number).into())), LONG, 7, false).unwrap();
    }
    let error = maps.ban(Banned::client(addr("9.9.9.9")), LONG, 7, false).unwrap_err();
    assert!(matches!(error, DoorError::BansFull { bans_max: BANS_MAX }), "{error}");
    // One that is there can be renewed, and one that ended makes room.
    maps.ban(Banned::client(addr("10.0.0.0")), Duration::ZERO, 7, false).unwrap();
    while maps.bans().count() == BANS_MAX as usize {}
    maps.ban(Banned::client(addr("9.9.9.9")), LONG, 7, false).unwrap();
    assert_eq!(action(&runner, "10.0.0.1", ACK), Trial::DROP);
    assert_eq!(action(&runner, "9.9.9.9", ACK), Trial::DROP);
}

/// How many of 40 SYNs pass, when `rate.per_second` is 1: the burst, and one for each second it took.
fn passing(runner: &Runner, sources: &[&str], port: u16) -> u64 {
    let frames: Vec<_> =
        sources.iter().map(|source| frame(addr(source), &tcp(9, port, SYN), &Shape::default())).collect();
    frames.iter().cycle().take(40).filter(|frame| runner.run(frame, 1).unwrap().action == Trial::PASS).count() as u64
}

fn check(runner: &Runner, sources: &[&str], port: u16, burst: u64) {
    let begin = Instant::now();
    let passed = passing(runner, sources, port);
    let most = burst + begin.elapsed().as_secs() + 1;
    assert!((burst..=most.min(39)).contains(&passed), "{passed} of {sources:?}, burst {burst}");
}

#[test]
fn syns_to_a_protected_port_are_limited_by_source() {
    root_only!();
    let (mut program, runner) = new();
    let limit = |burst| Some(Rate { per_second: 1, burst });
    let limits = SynLimits {
        ports: vec![443, 8443],
        v4: limit(5),
        v6_net64: limit(7),
        v6_net48: limit(20),
        ..SynLimits::default()
    };
    program.maps_mut().set_syn_limits(&limits);
    check(&runner, &["9.9.9.9"], 443, 5);
    // Each on its own, and one limit for all ports.
    check(&runner, &["9.9.9.8"], 8443, 5);
    assert!(passing(&runner, &["9.9.9.8"], 443) < 3);
    // Two addresses of a /64 share it, and many /64 share the /48.
    check(&runner, &["2001:db8:1:1::1", "2001:db8:1:1::2"], 443, 7);
    let nets: Vec<String> = (0..40).map(|net| format!("2001:db8:2:{net:x}::1")).collect();
    check(&runner, &nets.iter().map(String::as_str).collect::<Vec<_>>(), 443, 20);
    // Not limited: other ports, what is no SYN, who is exempt or manages.
    assert_eq!(passing(&runner, &["9.9.9.9"], 80), 40);
    assert_eq!(passing(&runner, &["203.0.113.5"], 443), 40);
    assert_eq!(passing(&runner, &["2001:db8:600d::1"], 443), 40);
    assert_eq!(passing(&runner, &["198.51.100.1"], 443), 40);
    assert!((0..40).all(|_| action(&runner, "9.9.9.9", ACK) == Trial::PASS));
    assert!((0..40).all(|_| action(&runner, "9.9.9.9", SYN | ACK) == Trial::PASS));
    for counter in [Counter::SynV4, Counter::SynV6Net64, Counter::SynV6Net48] {
        assert!(program.maps().count(counter).unwrap().packets > 10, "{counter:?}");
    }
    // In shadow all pass and the excess is counted.
    let before = program.maps().count(Counter::SynV4).unwrap().packets;
    program.maps_mut().set_syn_limits(&SynLimits { shadow: true, ..limits });
    assert_eq!(passing(&runner, &["9.9.9.9"], 443), 40);
    assert!(program.maps().count(Counter::SynV4).unwrap().packets > before + 30);
    program.maps_mut().set_syn_limits(&SynLimits::default());
    assert_eq!(passing(&runner, &["9.9.9.9"], 443), 40);
}

#[test]
fn a_cpu_takes_so_many_syns_of_strangers() {
    root_only!();
    let (mut program, runner) = new();
    let limits = SynLimits {
        ports: vec![443],
        governor_per_cpu: Some(Rate { per_second: 1, burst: 4 }),
        ..SynLimits::default()
    };
    program.maps_mut().set_syn_limits(&limits);
    let cpus = std::thread::available_parallelism().unwrap().get() as u64;
    let strangers: Vec<String> = (0..40).map(|host| format!("9.9.8.{host}")).collect();
    let begin = Instant::now();
    let passed = passing(&runner, &strangers.iter().map(String::as_str).collect::<Vec<_>>(), 443);
    let most = (4 + begin.elapsed().as_secs() + 1) * cpus;
    assert!((4..=most.min(39)).contains(&passed), "{passed}");
    assert_eq!(passing(&runner, &["203.0.113.5"], 443), 40);
    assert!(program.maps().count(Counter::Governor).unwrap().packets > 0);
}
