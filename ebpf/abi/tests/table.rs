//! The compiled table against a list read from top to bottom, and the lookup on words that nobody compiled.
#![expect(clippy::unwrap_used, reason = "helpers of tests")]

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use abi::compile::{Cidr, CidrError, TABLE_WORDS_MAX};
use abi::{Action, CompileError, Entry, RULES_MAX, Table, Verdict, table};
use proptest::prelude::*;

fn entry(cidr: &str, action: Action, rule: u16) -> Entry {
    Entry { cidr: cidr.parse().unwrap(), action, rule, shadow: false }
}

fn shadow(cidr: &str, rule: u16) -> Entry {
    Entry { shadow: true, ..entry(cidr, Action::Deny, rule) }
}

fn holds(cidr: Cidr, addr: IpAddr) -> bool {
    Cidr::new(addr, cidr.length()) == Some(cidr) && cidr.addr().is_ipv4() == addr.is_ipv4()
}

/// The definition, as slow as it is plain.
fn oracle(entries: &[Entry], addr: IpAddr) -> Verdict {
    let best = |action: Action, shadow: bool| {
        let of_layer = |entry: &&Entry| entry.action == action && entry.shadow == shadow && holds(entry.cidr, addr);
        let rank = |entry: &&Entry| (entry.cidr.length(), std::cmp::Reverse(entry.rule));
        entries.iter().filter(of_layer).max_by_key(rank).map_or(0, |entry| entry.rule)
    };
    let in_shadow = best(Action::Deny, true);
    for (action, shadow) in [(Action::Manage, 0), (Action::Deny, 0), (Action::Exempt, in_shadow)] {
        let rule = best(action, false);
        if rule != 0 {
            return Verdict { action, rule, shadow };
        }
    }
    Verdict { action: Action::Pass, rule: 0, shadow: in_shadow }
}

/// The first and last address of a prefix and their neighbours: where a mistake by one shows.
fn edges(cidr: Cidr) -> Vec<IpAddr> {
    match cidr.addr() {
        IpAddr::V4(addr) => {
            let first = addr.to_bits();
            let last = first | u32::MAX.checked_shr(cidr.length().into()).unwrap_or(0);
            [first.wrapping_sub(1), first, last, last.wrapping_add(1), first | 0x80, first ^ 0x8000]
                .map(|bits| Ipv4Addr::from_bits(bits).into())
                .into()
        }
        IpAddr::V6(addr) => {
            let first = addr.to_bits();
            let last = first | u128::MAX.checked_shr(cidr.length().into()).unwrap_or(0);
            [first.wrapping_sub(1), first, last, last.wrapping_add(1), first | 1 << 70, first ^ 1 << 96]
                .map(|bits| Ipv6Addr::from_bits(bits).into())
                .into()
        }
    }
}

fn check(entries: &[Entry], seed: u64, others: &[IpAddr]) {
    let table = Table::compile(entries, seed).unwrap();
    for addr in entries.iter().flat_map(|entry| edges(entry.cidr)).chain(others.iter().copied()) {
        // A mapped address is asked for as its IPv4 address; the oracle knows IPv6 prefixes that hold it.
        if addr.to_canonical() == addr {
            assert_eq!(table.verdict(addr), oracle(entries, addr), "{addr} in {entries:?}");
        }
    }
}

/// Few places and many lengths, so that prefixes overlap.
fn cidrs() -> impl Strategy<Value = Cidr> {
    let v4 = (prop::sample::select(vec![0_u32, 0xc000_0200, 0xc0a8_0000, 0xffff_ff00]), any::<u32>(), 0..=32_u8)
        .prop_map(|(base, noise, length)| Cidr::new(Ipv4Addr::from_bits(base ^ (noise & 0x3ff)).into(), length));
    let far = (any::<u32>(), 0..=32_u8).prop_map(|(bits, length)| Cidr::new(Ipv4Addr::from_bits(bits).into(), length));
    let places = vec![0_u128, 0x2001_0db8 << 96, 0x2001_0db8_0001 << 80, u128::MAX];
    let v6 = (prop::sample::select(places), any::<u128>(), 0..=6_u32, 0..=128_u8).prop_map(
        |(base, noise, shift, length)| {
            let noise = (noise & 0x7) << (shift * 20);
            Cidr::new(Ipv6Addr::from_bits(base ^ noise).into(), length)
        },
    );
    prop_oneof![3 => v4, 1 => far, 4 => v6].prop_map(|cidr| cidr.unwrap())
}

fn entries() -> impl Strategy<Value = Vec<Entry>> {
    let said = prop::sample::select(vec![
        (Action::Manage, false),
        (Action::Deny, false),
        (Action::Deny, false),
        (Action::Exempt, false),
        (Action::Deny, true),
    ]);
    let entry =
        (cidrs(), said, 1..6_u16).prop_map(|(cidr, (action, shadow), rule)| Entry { cidr, action, rule, shadow });
    prop::collection::vec(entry, 0..120)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, ..ProptestConfig::default() })]

    #[test]
    fn a_table_says_what_the_lists_say(entries in entries(), seed: u64, v4: [u32; 8], v6: [u128; 8]) {
        let others: Vec<IpAddr> = v4.map(|bits| Ipv4Addr::from_bits(bits).into()).into_iter()
            .chain(v6.map(|bits| Ipv6Addr::from_bits(bits).into())).collect();
        check(&entries, seed, &others);
    }

    #[test]
    fn the_generation_names_what_was_compiled(mut entries in entries(), seed: u64, other: u64) {
        let table = Table::compile(&entries, seed).unwrap();
        entries.reverse();
        prop_assert_eq!(Table::compile(&entries, other).unwrap().generation(), table.generation());
        entries.push(entry("203.0.113.77", Action::Deny, 9));
        prop_assert_ne!(Table::compile(&entries, seed).unwrap().generation(), table.generation());
    }

    /// Words of a compiled table, damaged anywhere: some verdict, and no panic.
    #[test]
    fn damaged_tables_answer(entries in entries(), damage: Vec<(prop::sample::Index, u64)>, v4: u32, v6: u128) {
        let mut words = Table::compile(&entries, 1).unwrap().words().to_vec();
        for (index, word) in damage {
            let at = index.index(words.len());
            words[at] ^= word;
        }
        for (index, word) in [(2, 0), (4, v6 as u64), (5, u64::MAX), (7, u64::MAX), (9, v6 as u64)] {
            table::verdict4(words.as_slice(), v4);
            table::verdict6(words.as_slice(), (v6 >> 64) as u64, v6 as u64);
            words[index] ^= word;
        }
    }

    #[test]
    fn arbitrary_words_answer(words: Vec<u64>, v4: u32, v6: u128) {
        table::verdict4(words.as_slice(), v4);
        table::verdict6(words.as_slice(), (v6 >> 64) as u64, v6 as u64);
    }

    #[test]
    fn the_text_of_a_prefix_is_read_as_the_standard_library_reads_it(text in r"[0-9a-f:./]{0,20}") {
        let (addr, length) = match text.split_once('/') {
            Some((addr, length)) => (addr, Some(length)),
            None => (text.as_str(), None),
        };
        let wanted = addr.parse::<IpAddr>().ok().and_then(|addr| {
            let length = match length {
                // `+24` and `024` are numbers to the standard library, but no lengths.
                Some(text) if text.starts_with(['+', '0']) && text != "0" => return None,
                Some(text) => text.parse().ok()?,
                None => if addr.is_ipv4() { 32 } else { 128 },
            };
            Cidr::new(addr, length)
        });
        prop_assert_eq!(text.parse::<Cidr>().ok(), wanted);
    }
}

#[test]
fn precedence_is_manage_deny_exempt_and_then_length() {
    let entries = [
        entry("0.0.0.0/0", Action::Deny, 1),
        entry("10.0.0.0/8", Action::Exempt, 2),
        entry("10.1.0.0/16", Action::Manage, 3),
        entry("10.1.2.0/24", Action::Deny, 4),
        entry("10.1.2.3", Action::Manage, 5),
        entry("172.16.0.0/31", Action::Deny, 6),
    ];
    let table = Table::compile(&entries, 7).unwrap();
    for (addr, action, rule) in [
        ("0.0.0.0", Action::Deny, 1),
        ("255.255.255.255", Action::Deny, 1),
        ("10.0.0.1", Action::Deny, 1),
        ("10.1.0.0", Action::Manage, 3),
        ("10.1.2.2", Action::Manage, 3),
        ("10.1.2.3", Action::Manage, 5),
        ("172.16.0.1", Action::Deny, 6),
        ("172.16.0.2", Action::Deny, 1),
        ("::ffff:10.1.2.3", Action::Manage, 5),
    ] {
        assert_eq!(table.verdict(addr.parse().unwrap()), Verdict { action, rule, shadow: 0 }, "{addr}");
    }
    assert_eq!(table.verdict("::1".parse().unwrap()), Verdict::PASS);
}

#[test]
fn a_shadow_changes_nothing_but_what_it_would_do() {
    let entries = [
        shadow("0.0.0.0/0", 1),
        entry("10.0.0.0/8", Action::Deny, 2),
        entry("11.0.0.0/8", Action::Exempt, 3),
        entry("12.0.0.0/8", Action::Manage, 4),
        shadow("2001:db8::/33", 5),
    ];
    let table = Table::compile(&entries, 7).unwrap();
    for (addr, action, rule, shadow) in [
        ("9.9.9.9", Action::Pass, 0, 1),
        ("10.0.0.1", Action::Deny, 2, 0),
        ("11.0.0.1", Action::Exempt, 3, 1),
        ("12.0.0.1", Action::Manage, 4, 0),
        ("2001:db8:7fff::1", Action::Pass, 0, 5),
        ("2001:db8:8000::1", Action::Pass, 0, 0),
    ] {
        assert_eq!(table.verdict(addr.parse().unwrap()), Verdict { action, rule, shadow }, "{addr}");
    }
}

#[test]
fn a_table_is_as_large_as_its_content() {
    let bytes = |entries: &[Entry]| Table::compile(entries, 1).unwrap().words().len() * 8;
    assert_eq!(bytes(&[]), 12 << 10);
    assert!(bytes(&[entry("192.0.2.1", Action::Deny, 1)]) < 18 << 10);
    assert!(bytes(&[entry("0.0.0.0/0", Action::Deny, 1)]) == 12 << 10);
    assert!(bytes(&[entry("2001:db8::/32", Action::Deny, 1), entry("::/0", Action::Exempt, 2)]) < 14 << 10);
}

#[test]
fn what_cannot_be_compiled_says_why() {
    let check = |entries: &[Entry], wanted: CompileError| {
        assert_eq!(Table::compile(entries, 1), Err(wanted));
    };
    check(&[entry("::/0", Action::Deny, 0)], CompileError::Rule { entry: 0, rule: 0 });
    check(&[entry("::/0", Action::Deny, RULES_MAX)], CompileError::Rule { entry: 0, rule: RULES_MAX });
    check(&[entry("::/0", Action::Pass, 1)], CompileError::Pass { entry: 0 });
    let exempt = Entry { shadow: true, ..entry("::/0", Action::Exempt, 1) };
    check(&[exempt], CompileError::ShadowOf { entry: 0, action: Action::Exempt });
    let rules = |count: u16| -> Vec<Entry> {
        let cidr = |rule| Cidr::host(Ipv4Addr::from_bits(u32::from(rule)).into());
        (1..=count).map(|rule| Entry { cidr: cidr(rule), action: Action::Deny, rule, shadow: false }).collect()
    };
    assert!(Table::compile(&rules(253), 1).is_ok());
    check(&rules(254), CompileError::Classes { classes_max: 253 });
}

#[test]
fn lists_beyond_the_largest_table_are_refused() {
    // 17 rules in turn, so that a /24 is a page: 2^18 - 1 of them can be named.
    let entries = |nets: u32| -> Vec<Entry> {
        let host = |number: u32| {
            let cidr = Cidr::host(Ipv4Addr::from_bits(((number / 17) << 8) | (number % 17)).into());
            Entry { cidr, action: Action::Deny, rule: 1 + (number % 17) as u16, shadow: false }
        };
        (0..nets * 17).map(host).collect()
    };
    let table = Table::compile(&entries(1 << 16), 1).unwrap();
    assert!(table.words().len() <= TABLE_WORDS_MAX as usize);
    assert_eq!(table.verdict("0.0.255.16".parse().unwrap()).rule, 17);
    assert!(matches!(Table::compile(&entries(1 << 18), 1), Err(CompileError::Size { .. })));
    // A long IPv6 prefix takes a third of a line, so these are too many as well.
    let hosts: Vec<Entry> = (0..4_000_000_u128)
        .map(|host| {
            let cidr = Cidr::host(Ipv6Addr::from_bits((0x2001_0db8 << 96) | (host * 7)).into());
            Entry { cidr, action: Action::Deny, rule: 1, shadow: false }
        })
        .collect();
    assert!(matches!(Table::compile(&hosts, 1), Err(CompileError::Size { .. })));
}

#[test]
fn a_large_list_is_all_there() {
    let mut state = 1_u64;
    let mut random = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        state >> 20
    };
    let mut entries = Vec::new();
    for _ in 0..200_000 {
        let v4 = Ipv4Addr::from_bits(random() as u32);
        let v6 = Ipv6Addr::from_bits(0x2 << 124 | u128::from(random()) << 80 | u128::from(random()) << 40);
        for (addr, length) in [(IpAddr::from(v4), 32 - (random() % 12 * (random() % 2)) as u8), (v6.into(), 64)] {
            let cidr = Cidr::new(addr, length).unwrap();
            entries.push(Entry { cidr, action: Action::Deny, rule: 1 + (random() % 3) as u16, shadow: false });
        }
    }
    let table = Table::compile(&entries, 99).unwrap();
    assert!(entries.iter().all(|entry| table.verdict(entry.cidr.addr()).denies()));
    // One IPv4 address in some twenty is listed and no IPv6 address that is drawn at random.
    let hits = (0..100_000).filter(|_| table.verdict(Ipv4Addr::from_bits(random() as u32).into()).denies()).count();
    assert!(hits < 20_000, "{hits}");
    let other = |bits: u64| Ipv6Addr::from_bits(0x3 << 124 | u128::from(bits) << 70).into();
    assert!((0..100_000).all(|_| !table.verdict(other(random())).denies()));
}

#[test]
fn the_text_of_a_prefix() {
    let check = |text: &str, wanted: Result<(&str, bool), CidrError>| {
        let found = Cidr::parse(text).map(|(cidr, host_bits)| (cidr.to_string(), host_bits));
        assert_eq!(found, wanted.map(|(text, host_bits)| (text.to_owned(), host_bits)), "{text}");
    };
    check("192.0.2.1", Ok(("192.0.2.1/32", false)));
    check("192.0.2.1/24", Ok(("192.0.2.0/24", true)));
    check("0.0.0.0/0", Ok(("0.0.0.0/0", false)));
    check("2001:db8::/32", Ok(("2001:db8::/32", false)));
    check("2001:db8::1/32", Ok(("2001:db8::/32", true)));
    check("::ffff:192.0.2.1", Ok(("192.0.2.1/32", false)));
    check("::ffff:192.0.2.1/120", Ok(("192.0.2.0/24", true)));
    check("192.0.2.0/33", Err(CidrError::Length { length_max: 32 }));
    check("192.0.2.0/", Err(CidrError::Length { length_max: 32 }));
    check("192.0.2.0/024", Err(CidrError::Length { length_max: 32 }));
    check("::/129", Err(CidrError::Length { length_max: 128 }));
    check("192.0.2", Err(CidrError::Address));
    check("192.0.2.01", Err(CidrError::Address));
    check("192.0.2.256", Err(CidrError::Address));
    check("192.0.2.1 ", Err(CidrError::Address));
    check("example.com", Err(CidrError::Address));
    check("", Err(CidrError::Address));
}
