//! What outlives the process, who may have the door, and what is said when it cannot be had.

use std::io::{BufRead, BufReader};
use std::net::Ipv4Addr;
use std::os::fd::AsFd;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use abi::compile::Cidr;
use abi::door::Counter;
use abi::{Action, Entry, Table};
use caps::{CapSet, Capability};

use super::super::{Banned, Door, DoorError, Mode, ModeChoice, Object, Settings, detach, pinned_interfaces, sys};
use super::network::{Network, ip};
use super::{deny, object, program, root_only, settings};

const DENIED: &str = "10.77.0.3";
const LONG: Duration = Duration::from_secs(1000);

fn open(network: &Network, table: &Table) -> Result<Door, DoorError> {
    network.at_gateway(|| Door::open(&network.interface, &settings(), table))
}

fn table() -> Table {
    deny("10.77.0.3/32", 1)
}

/// Larger than the first rungs, and with the denied source in it.
fn large() -> Table {
    let host = |number: u32| Cidr::host(Ipv4Addr::from_bits(number.wrapping_mul(0x9e37_79b1)).into());
    let mut entries: Vec<Entry> =
        (0..3000).map(|number| Entry { cidr: host(number), action: Action::Deny, rule: 2, shadow: false }).collect();
    entries.retain(|entry| !entry.cidr.to_string().starts_with("10.77.0."));
    entries.push(Entry { cidr: DENIED.parse().unwrap(), action: Action::Deny, rule: 1, shadow: false });
    Table::compile(&entries, 3).unwrap()
}

const HOLD: &str = "BAWAB_TEST_HOLD";

/// A process that opens the door of an interface and bans one more, killed when this is dropped.
struct Holder(Child);

impl Holder {
    fn start(network: &Network, test: &str) -> Self {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args(["--exact", test, "--nocapture"]).env(HOLD, &network.interface).stdout(Stdio::piped());
        // A child is in the namespace of the thread that starts it.
        let mut child = network.at_gateway(|| command.spawn()).unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let said: Vec<String> =
            lines.map_while(Result::ok).take_while(|line| !line.contains("the door is shut")).collect();
        assert!(child.try_wait().unwrap().is_none(), "{said:?}");
        Self(child)
    }

    fn kill(mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

impl Drop for Holder {
    fn drop(&mut self) {
        _ = self.0.kill();
        _ = self.0.wait();
    }
}

/// Is the holder, in the process that is one.
fn hold() {
    let Ok(interface) = std::env::var(HOLD) else { return };
    let mut door = Door::open(&interface, &settings(), &table()).unwrap_or_else(|error| panic!("{error}"));
    door.maps_mut().ban(Banned::Host("10.77.0.4".parse().unwrap()), LONG, 5, false).unwrap();
    println!("the door is shut");
    loop {
        std::thread::park();
    }
}

#[test]
fn no_packet_of_a_denied_source_arrives_over_kill_restart_and_upgrade() {
    root_only!();
    hold();
    let network = Network::new();
    let name = "control::xdp::tests::lifecycle::no_packet_of_a_denied_source_arrives_over_kill_restart_and_upgrade";
    let holder = Holder::start(&network, name);
    assert!(matches!(open(&network, &table()), Err(DoorError::Busy { .. })));
    assert!(matches!(detach(&network.interface, &settings().pins), Err(DoorError::Busy { .. })));
    let good = network.flood("10.77.0.2");
    let denied = network.flood(DENIED);
    let banned = network.flood("10.77.0.4");
    good.assert_flows();
    holder.kill();
    // Nobody runs now.
    good.assert_flows();
    let mut door = open(&network, &table()).unwrap();
    let bans: Vec<_> = door.maps().bans().map(|ban| (ban.who, ban.reason)).collect();
    assert_eq!(bans, [(Banned::Host("10.77.0.4".parse().unwrap()), 5)]);
    assert!(door.maps().rule_count(1).unwrap().packets > 0, "the counters did not stay");
    good.assert_flows();
    // A table that needs larger maps, and so another program.
    door.publish(&large()).unwrap();
    good.assert_flows();
    drop(door);
    good.assert_flows();
    assert_eq!(banned.arrived(), 0);
    // The pins of a version with another layout.
    let pins = network.pins();
    std::fs::rename(pins.join(format!("v{}", abi::LAYOUT)), pins.join("v0")).unwrap();
    let mut door = open(&network, &large()).unwrap();
    assert!(!pins.join("v0").exists());
    // Bans are of the old layout and gone with it.
    assert_eq!(door.maps().bans().count(), 0);
    let tables = [large(), deny("10.77.0.3/32", 1)];
    for round in 0..10 {
        door.publish(&tables[round % 2]).unwrap();
        good.assert_flows();
    }
    good_is_denied_now(&network, &mut door);
    assert_eq!(denied.arrived(), 0);
    assert!(door.maps().count(Counter::Dropped).unwrap().packets > 0);
}

/// What was let in all the time is kept out when told so: the test could have failed.
fn good_is_denied_now(network: &Network, door: &mut Door) {
    door.publish(&deny("10.77.0.0/29", 1)).unwrap();
    network.assert_shut("10.77.0.2", &network.listen("10.77.0.1"));
}

#[test]
fn bans_outlive_a_killed_process() {
    root_only!();
    hold();
    let network = Network::new();
    let listener = network.listen("10.77.0.1");
    let holder = Holder::start(&network, "control::xdp::tests::lifecycle::bans_outlive_a_killed_process");
    network.assert_shut("10.77.0.4", &listener);
    holder.kill();
    network.assert_shut("10.77.0.4", &listener);
    network.assert_open("10.77.0.2", &listener);
    assert!(pinned_interfaces(&settings().pins).contains(&network.interface));
    assert!(detach(&network.interface, &settings().pins).unwrap());
    network.assert_open("10.77.0.4", &listener);
    assert!(!detach(&network.interface, &settings().pins).unwrap());
}

#[test]
fn a_thousand_generations_leak_nothing() {
    root_only!();
    let network = Network::new();
    let tables = [table(), deny("10.77.0.3/32", 2)];
    let mut door = open(&network, &tables[0]).unwrap();
    let (good, denied) = (network.flood("10.77.0.2"), network.flood(DENIED));
    for round in 0..1000 {
        door.publish(&tables[round % 2]).unwrap();
    }
    good.assert_flows();
    assert_eq!(denied.arrived(), 0);
    assert!(door.maps().rule_count(1).unwrap().packets > 0 && door.maps().rule_count(2).unwrap().packets > 0);
}

#[test]
fn a_program_of_somebody_else_is_left_alone() {
    root_only!();
    let network = Network::new();
    let mut foreign = program(&Table::empty());
    let entry = foreign.entry("clock").unwrap().fd().unwrap().as_fd().try_clone_to_owned().unwrap();
    let number = super::super::number;
    let link =
        network.at_gateway(|| sys::create_link(entry.as_fd(), number(&network.interface).unwrap(), true)).unwrap();
    let error = open(&network, &table()).err().unwrap();
    assert!(matches!(&error, DoorError::Foreign { name, .. } if name == "clock"), "{error}");
    assert!(error.to_string().contains("`clock`"), "{error}");
    drop(link);
    assert!(open(&network, &table()).is_ok());
}

#[test]
fn an_interface_that_comes_back_is_another_one() {
    root_only!();
    let network = Network::new();
    let door = open(&network, &table()).unwrap();
    assert!(network.at_gateway(|| door.is_attached()));
    network.remake();
    assert!(!network.at_gateway(|| door.is_attached()));
    drop(door);
    let door = open(&network, &table()).unwrap();
    assert!(network.at_gateway(|| door.is_attached()));
    network.assert_shut(DENIED, &network.listen("10.77.0.1"));
}

#[test]
fn the_mode_can_be_changed() {
    root_only!();
    let network = Network::new();
    let open = |mode| {
        let settings = Settings { mode, ..settings() };
        network.at_gateway(|| Door::open(&network.interface, &settings, &table())).unwrap()
    };
    assert_eq!(open(ModeChoice::Generic).mode(), Mode::Generic);
    // What is there will do.
    assert_eq!(open(ModeChoice::Auto).mode(), Mode::Generic);
    assert_eq!(open(ModeChoice::Native).mode(), Mode::NativeFrags);
    assert_eq!(open(ModeChoice::Auto).mode(), Mode::NativeFrags);
    network.assert_shut(DENIED, &network.listen("10.77.0.1"));
}

#[test]
fn what_is_missing_is_said() {
    root_only!();
    let network = Network::new();
    let said = |interface: &str, settings: &Settings| {
        network.at_gateway(|| Door::open(interface, settings, &table())).err().unwrap().to_string()
    };
    assert_eq!(said("nosuch0", &settings()), "there is no network interface `nosuch0`");
    let elsewhere = Settings { pins: "/tmp/nowhere".into(), ..settings() };
    assert_eq!(
        said(&network.interface, &elsewhere),
        "/tmp/nowhere is on no BPF file system; mount one (`mount -t bpf bpf /sys/fs/bpf`)"
    );
    // Of one thread only.
    let unable = std::thread::scope(|scope| {
        let ask = || {
            for capability in [Capability::CAP_SYS_ADMIN, Capability::CAP_BPF, Capability::CAP_NET_ADMIN] {
                caps::drop(None, CapSet::Effective, capability).unwrap();
            }
            Door::open("lo", &settings(), &table()).err().unwrap().to_string()
        };
        scope.spawn(ask).join().unwrap()
    });
    assert_eq!(unable, "the process lacks CAP_NET_ADMIN and CAP_BPF, which XDP programs need");
}

#[test]
fn a_packet_too_large_for_native_mode_without_pieces_is_no_reason_to_fail() {
    root_only!();
    let network = Network::new();
    network.at_gateway(|| ip(&["link", "set", &network.interface, "mtu", "9000"]));
    network.at_client(|| ip(&["link", "set", &network.interface.replacen("bw", "bp", 1), "mtu", "9000"]));
    let door = open(&network, &table()).unwrap();
    assert_eq!(door.mode(), Mode::NativeFrags);
    network.assert_shut(DENIED, &network.listen("10.77.0.1"));
    network.assert_open("10.77.0.2", &network.listen("10.77.0.1"));
}

#[test]
fn what_the_verifier_says_of_a_program_it_refuses_is_shown() {
    root_only!();
    // Some answer of the program becomes a load from an address that is none.
    const ANSWER: [u8; 8] = [0xb7, 0, 0, 0, 2, 0, 0, 0];
    const LOAD: [u8; 8] = [0x79, 0, 0, 0, 0, 0, 0, 0];
    let mut bytes = object().bytes().to_vec();
    let places: Vec<usize> = bytes.windows(8).enumerate().filter(|(_, at)| *at == ANSWER).map(|(at, _)| at).collect();
    assert!(!places.is_empty());
    places.into_iter().for_each(|at| bytes[at..at + 8].copy_from_slice(&LOAD));
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), bytes).unwrap();
    let settings = Settings { object: Object::read(file.path()).unwrap(), ..settings() };
    let network = Network::new();
    let said = network.at_gateway(|| Door::open(&network.interface, &settings, &table())).err().unwrap().to_string();
    assert!(said.starts_with("the kernel refuses the XDP program; its log:\n"), "{said}");
    assert!(said.contains("R0 invalid mem access") || said.contains("R0 !read_ok"), "{said}");
}
