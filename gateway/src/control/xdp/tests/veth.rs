//! Between two hosts: real connections, ARP and neighbour discovery.

use std::time::Duration;

use abi::Table;
use abi::door::Counter;

use super::super::{Banned, Door, Mode, ModeChoice, Settings};
use super::network::Network;
use super::{deny, root_only, settings};

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
