//! Between two hosts: real connections, ARP and neighbour discovery.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use abi::door::Counter;
use abi::{Action, Table};

use super::super::{Banned, Door, Mode, ModeChoice, Settings};
use super::network::Network;
use super::{deny, entry, root_only, settings};

const LONG: Duration = Duration::from_secs(1000);

fn client(host: u8) -> [(String, String); 2] {
    [(format!("10.77.0.{host}"), "10.77.0.1".into()), (format!("fd77::{host}"), "fd77::1".into())]
}

/// Everything that has to hold in each mode.
fn check(choice: ModeChoice, mode: Mode) {
    let network = Network::new();
    let settings = Settings { mode: choice, ..settings() };
    let table = abi::Table::compile(
        &[super::entry("10.77.0.3", abi::Action::Deny, 1), super::entry("fd77::3", abi::Action::Deny, 2)],
        1,
    )
    .unwrap();
    let mut door = network.at_gateway(|| Door::open(&network.interface, &settings, &table)).unwrap();
    assert_eq!(door.mode(), mode);
    assert!(network.at_gateway(|| door.is_attached()));
    for nth in 0..2 {
        let ((good, gateway), (denied, _), (banned, _)) =
            (client(2)[nth].clone(), client(3)[nth].clone(), client(4)[nth].clone());
        let listener = network.listen(&gateway);
        // The first packets of all are ARP and neighbour discovery.
        network.assert_open(&good, &listener);
        network.assert_shut(&denied, &listener);
        network.assert_open(&banned, &listener);
        // The /64 would be everybody's here.
        let who = Banned::Host(banned.parse().unwrap());
        door.maps_mut().ban(who, LONG, 3, false).unwrap();
        network.assert_shut(&banned, &listener);
        network.assert_open(&good, &listener);
        // A client tries again until its ban is over.
        door.maps_mut().ban(who, Duration::from_secs(1), 3, false).unwrap();
        network.assert_open(&banned, &listener);
        door.maps_mut().set_bypass(true);
        network.assert_open(&denied, &listener);
        door.maps_mut().set_bypass(false);
        network.assert_shut(&denied, &listener);
    }
    assert!(door.maps().rule_count(1).unwrap().packets > 0);
    assert!(door.maps().rule_count(2).unwrap().packets > 0);
    assert!(door.maps().count(Counter::OtherProtocol).unwrap().packets > 0, "no ARP came by");
    network.at_gateway(|| door.publish(&Table::empty())).unwrap();
    network.assert_open("10.77.0.3", &network.listen("10.77.0.1"));
    door.detach().unwrap();
    assert!(!network.pins().exists());
}

#[test]
fn a_native_door_turns_away_who_is_denied_or_banned() {
    root_only!();
    check(ModeChoice::Auto, Mode::NativeFrags);
}

#[test]
fn a_generic_door_does_the_same() {
    root_only!();
    check(ModeChoice::Generic, Mode::Generic);
}

#[test]
fn a_neighbour_that_is_denied_is_a_neighbour_still() {
    root_only!();
    let network = Network::new();
    let table = deny("fd77::/64", 1);
    let door = network.at_gateway(|| Door::open(&network.interface, &settings(), &table)).unwrap();
    // The gateway asks for the client's link address, and the client's answer comes from a denied source.
    let found = network.at_gateway(|| {
        let socket = std::net::UdpSocket::bind("[fd77::1]:0").unwrap();
        let begin = std::time::Instant::now();
        loop {
            socket.send_to(b"hello", "[fd77::5]:9").unwrap();
            let table = std::process::Command::new("ip").args(["-6", "neigh"]).output().unwrap();
            let text = String::from_utf8_lossy(&table.stdout).into_owned();
            if text.lines().any(|line| line.starts_with("fd77::5 ") && line.contains("lladdr")) {
                break true;
            }
            if begin.elapsed() > Duration::from_secs(20) {
                break false;
            }
        }
    });
    assert!(found);
    assert!(door.maps().count(Counter::Spared).unwrap().packets > 0);
}

/// The sum over an ICMP message (RFC 1071); the length is even.
fn checksum(bytes: &[u8]) -> u16 {
    let sum: u32 = bytes.chunks(2).map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]]))).sum();
    let sum = (sum & 0xffff) + (sum >> 16);
    !((sum & 0xffff) + (sum >> 16)) as u16
}

/// `Fragmentation needed` (RFC 1191) or `Packet too big` (RFC 4443) about a datagram from one end to the other.
fn too_big(from: SocketAddr, to: SocketAddr, mtu: u16) -> Vec<u8> {
    let ports = [from.port().to_be_bytes(), to.port().to_be_bytes()].concat();
    let (mut message, inner) = match (from.ip(), to.ip()) {
        (IpAddr::V4(from), IpAddr::V4(to)) => {
            let header = [&[0x45, 0, 4, 0, 0, 0, 0x40, 0, 64, 17, 0, 0], &from.octets()[..], &to.octets()[..]].concat();
            ([&[3, 4, 0, 0, 0, 0], &mtu.to_be_bytes()[..]].concat(), header)
        }
        (IpAddr::V6(from), IpAddr::V6(to)) => {
            let header = [&[0x60, 0, 0, 0, 4, 0, 17, 64], &from.octets()[..], &to.octets()[..]].concat();
            ([&[2, 0, 0, 0, 0, 0], &mtu.to_be_bytes()[..]].concat(), header)
        }
        _ => panic!("two families"),
    };
    message.extend(inner);
    message.extend(ports);
    message.extend([4, 0, 0, 0]);
    // The kernel does it for IPv6, whose sum covers addresses.
    let sum = checksum(&message);
    message[2..4].copy_from_slice(&sum.to_be_bytes());
    message
}

#[test]
fn a_denied_router_may_say_that_packets_are_too_large() {
    use socket2::{Domain, Protocol, Socket, Type};
    root_only!();
    let network = Network::new();
    let entries = [entry("10.77.0.5", Action::Deny, 1), entry("fd77::5/128", Action::Deny, 2)];
    let table = Table::compile(&entries, 1).unwrap();
    let door = network.at_gateway(|| Door::open(&network.interface, &settings(), &table)).unwrap();
    for (near, far, router, protocol, mtu) in [
        ("10.77.0.1", "10.77.0.2", "10.77.0.5", Protocol::ICMPV4, 1000),
        ("fd77::1", "fd77::2", "fd77::5", Protocol::ICMPV6, 1300),
    ] {
        let [near, far, router] = [near, far, router].map(|address| address.parse::<IpAddr>().unwrap());
        let talking = network.at_gateway(|| {
            let socket = std::net::UdpSocket::bind((near, 0)).unwrap();
            socket.connect((far, 9)).unwrap();
            socket
        });
        let message = too_big(talking.local_addr().unwrap(), SocketAddr::new(far, 9), mtu);
        let raw = network.at_client(|| {
            let raw = Socket::new(Domain::for_address(SocketAddr::new(router, 0)), Type::RAW, Some(protocol)).unwrap();
            raw.bind(&SocketAddr::new(router, 0).into()).unwrap();
            raw
        });
        let spared = door.maps().count(Counter::Spared).unwrap().packets;
        let begin = std::time::Instant::now();
        let known = loop {
            raw.send_to(&message, &SocketAddr::new(near, 0).into()).unwrap();
            let route = network.at_gateway(|| {
                std::process::Command::new("ip").args(["route", "get", &far.to_string()]).output().unwrap()
            });
            if String::from_utf8_lossy(&route.stdout).contains(&format!("mtu {mtu}")) {
                break true;
            }
            if begin.elapsed() > Duration::from_secs(20) {
                break false;
            }
        };
        assert!(known, "{router} was not heard");
        assert!(door.maps().count(Counter::Spared).unwrap().packets > spared);
    }
}
