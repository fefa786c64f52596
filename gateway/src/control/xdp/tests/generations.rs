//! Lists replaced while packets are judged by them.

use std::cell::{Cell, RefCell};
use std::io::ErrorKind;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use abi::compile::Cidr;
use abi::door::Counter;
use abi::{Action, Entry, Table};
use proptest::prelude::*;

use super::super::{DoorError, Program, Trial};
use super::frame::{ACK, Shape, frame, tcp};
use super::{counts, deny, entry, program, root_only};

const ROUNDS: u32 = 1000;
/// Verdicts of each family in one call.
const REPEAT: u32 = 20_000;

/// Two generations that differ in everything but what they say of two addresses, and those by other rules.
fn generations() -> [Table; 2] {
    let generation = |first: u16, seed: u64| {
        let mut entries = Vec::new();
        // The classes are numbered in the order of addresses: one generation's class is another's bystander.
        let v4 = [("10.0.0.0/8", 9 + first), ("192.0.2.9", first), ("192.0.2.0/25", 11 + first)];
        let v6 = [("2001:db8::/32", 13 + first), ("2001:db8:bad::/64", 2 + first)];
        let before = [("1.0.0.0/8", 5 + first), ("2.0.0.0/8", 7 + first)];
        for (cidr, rule) in before.into_iter().take(usize::from(first)).chain(v4).chain(v6) {
            entries.push(entry(cidr, Action::Deny, rule));
        }
        Table::compile(&entries, seed).unwrap()
    };
    [generation(1, 1), generation(2, 77)]
}

#[test]
fn no_packet_is_judged_by_two_generations() {
    root_only!();
    let [first, second] = generations();
    let mut program = program(&first);
    let runner = program.runner().unwrap();
    let done = AtomicBool::new(false);
    let frames = ["192.0.2.9", "2001:db8:bad::9"]
        .map(|source| frame(source.parse().unwrap(), &tcp(1, 443, ACK), &Shape::default()));
    let (judged, cut_short) = thread::scope(|scope| {
        let judge = scope.spawn(|| {
            let (mut judged, mut cut_short) = (0_u64, 0_u64);
            while !done.load(Ordering::Relaxed) || judged < 10_000_000 {
                for frame in &frames {
                    match runner.run(frame, REPEAT) {
                        Ok(trial) => {
                            assert_eq!(trial.action, Trial::DROP);
                            judged += u64::from(REPEAT);
                        }
                        // Something else wanted this thread; how many verdicts there were the kernel does not say.
                        Err(DoorError::Kernel { error, .. }) if error.kind() == ErrorKind::Interrupted => {
                            cut_short += 1
                        }
                        Err(error) => panic!("{error}"),
                    }
                }
            }
            (judged, cut_short)
        });
        for round in 0..ROUNDS {
            program.publish(if round % 2 == 0 { &second } else { &first }).unwrap();
        }
        done.store(true, Ordering::Relaxed);
        judge.join().unwrap()
    });
    let counts = counts(program.maps());
    let packets = |index: u32| counts.iter().find(|(found, _)| *found == index).unwrap().1;
    // 1 and 3 of the first generation, 2 and 4 of the second.
    let by_rule: u64 = (1..=4).map(packets).sum();
    let all = judged..=judged + cut_short * u64::from(REPEAT);
    assert!(all.contains(&by_rule), "{by_rule} of {all:?}: {counts:?}");
    assert!((1..=4).all(|rule| packets(rule) > 0), "{counts:?}");
    assert_eq!(packets(Counter::Dropped.index()), by_rule);
    assert_eq!(packets(Counter::Passed.index()), 0);
    assert!((5..16).all(|rule| packets(rule) == 0), "{counts:?}");
}

#[test]
fn a_table_beyond_the_room_is_refused_and_the_old_one_stays() {
    root_only!();
    let mut program = program(&deny("192.0.2.0/24", 1));
    let runner = program.runner().unwrap();
    let hosts = |count: u32| -> Table {
        let host = |number: u32| Cidr::host(Ipv4Addr::from_bits(number.wrapping_mul(0x9e37_79b1)).into());
        let entry = |number| Entry { cidr: host(number), action: Action::Deny, rule: 2, shadow: false };
        Table::compile(&(0..count).map(entry).collect::<Vec<_>>(), 1).unwrap()
    };
    let error = program.publish(&hosts(10_000)).unwrap_err();
    assert!(matches!(error, DoorError::TableSize { .. }), "{error}");
    let denied = frame("192.0.2.1".parse().unwrap(), &tcp(1, 443, ACK), &Shape::default());
    assert_eq!(runner.run(&denied, 1).unwrap().action, Trial::DROP);
    program.publish(&Table::empty()).unwrap();
    assert_eq!(runner.run(&denied, 1).unwrap().action, Trial::PASS);
}

fn entries() -> impl Strategy<Value = Vec<Entry>> {
    let v4 = (0..32_u32, 16..=32_u8)
        .prop_map(|(bits, length)| Cidr::new(Ipv4Addr::from_bits(0xc000_0200 ^ bits).into(), length));
    let v6 = (0..32_u128, 0..5_u32, 20..=128_u8).prop_map(|(bits, shift, length)| {
        Cidr::new(Ipv6Addr::from_bits((0x2001_0db8 << 96) ^ (bits << (shift * 24))).into(), length)
    });
    let said = prop::sample::select(vec![Action::Manage, Action::Deny, Action::Deny, Action::Exempt]);
    let entry = (prop_oneof![v4, v6], said, 1..15_u16, any::<bool>()).prop_map(|(cidr, action, rule, shadow)| Entry {
        cidr: cidr.unwrap(),
        action,
        rule,
        shadow: shadow && action == Action::Deny,
    });
    prop::collection::vec(entry, 0..60)
}

/// Both tiers say the same for the same address: the program in the kernel, and the table that user space asks.
#[test]
fn the_kernel_and_user_space_agree() {
    root_only!();
    let program = Program::load(&super::object(), &Table::empty(), 1 << 17, super::Draw::Packet).unwrap();
    let program = RefCell::new(program);
    let runner = program.borrow_mut().runner().unwrap();
    let checked = Cell::new(0);
    proptest!(ProptestConfig { cases: 150, failure_persistence: None, ..ProptestConfig::default() }, |(entries in entries(), seed: u64)| {
        let table = Table::compile(&entries, seed).unwrap();
        program.borrow_mut().publish(&table).unwrap();
        let program = program.borrow();
        for entry in &entries {
            let addrs: [IpAddr; 3] = match entry.cidr.addr() {
                IpAddr::V4(addr) => [0, 1, 0x80].map(|bit| Ipv4Addr::from_bits(addr.to_bits() ^ bit).into()),
                IpAddr::V6(addr) => [0, 1, 1 << 68].map(|bit| Ipv6Addr::from_bits(addr.to_bits() ^ bit).into()),
            };
            for addr in addrs {
                let before = counts(program.maps());
                let trial = runner.run(&frame(addr, &tcp(1, 443, ACK), &Shape::default()), 1).unwrap();
                let after = counts(program.maps());
                let moved: Vec<u32> = before.iter().zip(&after).filter(|(before, after)| before != after).map(|(_, after)| after.0).collect();
                let verdict = table.verdict(addr);
                prop_assert_eq!(trial.action == Trial::DROP, verdict.denies(), "{}", addr);
                for rule in [verdict.rule, verdict.shadow].into_iter().filter(|rule| *rule != 0) {
                    prop_assert!(moved.contains(&u32::from(rule)), "{} {:?} {:?}", addr, verdict, moved);
                }
                prop_assert_eq!(moved.iter().filter(|index| **index < 16).count(), {
                    let mut rules = vec![verdict.rule, verdict.shadow];
                    rules.retain(|rule| *rule != 0);
                    rules.dedup();
                    rules.len()
                });
                checked.set(checked.get() + 1);
            }
        }
    });
    assert!(checked.get() > 1000, "{}", checked.get());
}
