//! Headers as they should be and as they should not, whole and in every beginning.

use proptest::collection::vec;
use proptest::prelude::*;

use super::*;

/// What is said of `bytes` must be said of every beginning of them, or nothing yet.
fn parse_and_check(bytes: &[u8]) -> Result<Option<Header>, Malformed> {
    let whole = parse(bytes);
    for end in 0..=bytes.len() {
        let part = parse(&bytes[..end]);
        let text = bytes[..end].escape_ascii();
        match whole {
            Ok(Some(header)) if end >= header.consumed => assert_eq!(part, whole, "{text}"),
            Ok(_) => assert_eq!(part, Ok(None), "{text}"),
            Err(_) => assert!(matches!(part, Ok(None) | Err(_)), "{text}: {part:?}"),
        }
    }
    whole
}

fn client(client: &str, destination: &str) -> Source {
    Source::Client { client: client.parse().expect("a client"), destination: destination.parse().expect("an address") }
}

/// A header of version 2.
fn binary(version: u8, family: u8, payload: &[u8]) -> Vec<u8> {
    let mut bytes = V2.to_vec();
    bytes.extend([version, family]);
    bytes.extend((payload.len() as u16).to_be_bytes());
    bytes.extend(payload);
    bytes
}

fn payload(client: SocketAddr, destination: SocketAddr) -> (u8, Vec<u8>) {
    let mut bytes = Vec::new();
    let family = match (client.ip(), destination.ip()) {
        (IpAddr::V4(client), IpAddr::V4(destination)) => {
            bytes.extend(client.octets());
            bytes.extend(destination.octets());
            0x11
        }
        (IpAddr::V6(client), IpAddr::V6(destination)) => {
            bytes.extend(client.octets());
            bytes.extend(destination.octets());
            0x21
        }
        _ => unreachable!("both are of one family"),
    };
    bytes.extend(client.port().to_be_bytes());
    bytes.extend(destination.port().to_be_bytes());
    (family, bytes)
}

fn tlv(kind: u8, value: &[u8]) -> Vec<u8> {
    let mut bytes = vec![kind];
    bytes.extend((value.len() as u16).to_be_bytes());
    bytes.extend(value);
    bytes
}

/// Puts the checksum into a header whose payload ends with a TLV for it.
fn sealed(mut bytes: Vec<u8>) -> Vec<u8> {
    let at = bytes.len() - 4;
    let checksum = CRC32C.checksum(&bytes);
    bytes[at..].copy_from_slice(&checksum.to_be_bytes());
    bytes
}

#[test]
fn lines_say_who_the_client_is() {
    let check = |line: &str, expected: Source| {
        let bytes = [line.as_bytes(), b"GET / HTTP/1.1\r\n"].concat();
        let header = parse_and_check(&bytes).expect(line).expect(line);
        assert_eq!(header, Header { source: expected, consumed: line.len() }, "{line:?}");
    };
    check("PROXY TCP4 203.0.113.7 192.0.2.1 56324 443\r\n", client("203.0.113.7:56324", "192.0.2.1:443"));
    check("PROXY TCP4 0.0.0.0 255.255.255.255 0 65535\r\n", client("0.0.0.0:0", "255.255.255.255:65535"));
    check("PROXY TCP6 2001:db8::1 ::1 1 2\r\n", client("[2001:db8::1]:1", "[::1]:2"));
    check("PROXY TCP6 2001:DB8:0:0:0:0:0:1 ::1 1 2\r\n", client("[2001:db8::1]:1", "[::1]:2"));
    check("PROXY TCP6 ::ffff:203.0.113.7 ::1 1 2\r\n", client("[::ffff:203.0.113.7]:1", "[::1]:2"));
    check("PROXY UNKNOWN\r\n", Source::Unnamed);
    check("PROXY UNKNOWN whatever  it says\r\n", Source::Unnamed);
    let longest =
        "PROXY UNKNOWN ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff 65535 65535\r\n";
    assert_eq!(longest.len(), V1_BYTES_MAX);
    check(longest, Source::Unnamed);
}

#[test]
fn lines_that_can_be_read_in_two_ways_are_refused() {
    let check = |line: &str, expected| {
        assert_eq!(parse_and_check(line.as_bytes()), Err(expected), "{line:?}");
    };
    for words in [
        "203.0.113.7 192.0.2.1 56324",
        "203.0.113.7 192.0.2.1 56324 443 1",
        "203.0.113.7 192.0.2.1 56324 443 ",
        " 203.0.113.7 192.0.2.1 56324 443",
        "203.0.113.7  192.0.2.1 56324 443",
        "203.0.113.7\t192.0.2.1 56324 443",
        "203.0.113.07 192.0.2.1 56324 443",
        "203.0.113 192.0.2.1 56324 443",
        "203.0.113.256 192.0.2.1 56324 443",
        "0xcb.0.113.7 192.0.2.1 56324 443",
        "2001:db8::1 ::1 56324 443",
        "203.0.113.7 192.0.2.1 056324 443",
        "203.0.113.7 192.0.2.1 +1 443",
        "203.0.113.7 192.0.2.1 65536 443",
        "203.0.113.7 192.0.2.1 -1 443",
        "203.0.113.7 192.0.2.1  443",
        "",
    ] {
        check(&format!("PROXY TCP4 {words}\r\n"), Malformed::Addresses);
    }
    check("PROXY TCP6 203.0.113.7 192.0.2.1 1 2\r\n", Malformed::Addresses);
    check("PROXY TCP6 fe80::1%eth0 ::1 1 2\r\n", Malformed::Addresses);
    check("PROXY TCP6 [2001:db8::1] ::1 1 2\r\n", Malformed::Addresses);
    check("PROXY TCP4\r\n", Malformed::Addresses);
    check("PROXY \r\n", Malformed::Family);
    check("PROXY  TCP4 203.0.113.7 192.0.2.1 1 2\r\n", Malformed::Family);
    check("PROXY tcp4 203.0.113.7 192.0.2.1 1 2\r\n", Malformed::Family);
    check("PROXY UDP4 203.0.113.7 192.0.2.1 1 2\r\n", Malformed::Family);
    check("PROXY UNKNOWN\n", Malformed::LineEnd);
    check("PROXY UNKNOWN\r \r\n", Malformed::LineEnd);
    check("PROXY UNKNOWN a\nb\r\n", Malformed::LineEnd);
    check(&format!("PROXY UNKNOWN {}\r\n", "x".repeat(92)), Malformed::LineTooLong);
    check("PROXY\r\n", Malformed::Signature);
    check("proxy TCP4 203.0.113.7 192.0.2.1 1 2\r\n", Malformed::Signature);
    check("GET / HTTP/1.1\r\n", Malformed::Signature);
    check("POST / HTTP/1.1\r\n", Malformed::Signature);
    check("\x16\x03\x01", Malformed::Signature);
    check("\r\nGET / HTTP/1.1\r\n", Malformed::Signature);
}

#[test]
fn no_line_is_waited_for_beyond_its_length() {
    let bytes = [b"PROXY UNKNOWN ", &[b'x'; 200][..]].concat();
    assert_eq!(parse(&bytes[..V1_BYTES_MAX - 2]), Ok(None));
    assert_eq!(parse(&bytes[..V1_BYTES_MAX - 1]), Err(Malformed::LineTooLong));
}

#[test]
fn binary_headers_say_who_the_client_is() {
    let check = |bytes: &[u8], expected: Source| {
        let header = parse_and_check(&[bytes, b"\x16\x03\x01"].concat()).expect("a header").expect("all of one");
        assert_eq!(header, Header { source: expected, consumed: bytes.len() }, "{}", bytes.escape_ascii());
    };
    let v4 = [203, 0, 113, 7, 192, 0, 2, 1, 0xdc, 0x04, 0x01, 0xbb];
    check(&binary(0x21, 0x11, &v4), client("203.0.113.7:56324", "192.0.2.1:443"));
    let mut v6 = [0; 36];
    v6[..4].copy_from_slice(&[0x20, 0x01, 0x0d, 0xb8]);
    v6[15] = 7;
    v6[31] = 1;
    v6[33] = 80;
    check(&binary(0x21, 0x21, &v6), client("[2001:db8::7]:80", "[::1]:0"));
    check(&binary(0x21, 0x31, &[b'/'; 216]), Source::Unnamed);
    check(&binary(0x21, 0x00, b""), Source::Unnamed);
    check(&binary(0x21, 0x00, b"anything"), Source::Unnamed);
    // LOCAL: whatever it says is not looked at.
    check(&binary(0x20, 0x00, b""), Source::Hop);
    check(&binary(0x20, 0x11, &v4), Source::Hop);
    check(&binary(0x20, 0x12, b"x"), Source::Hop);
    // Names, TLS between client and hop, padding, types nobody has defined.
    let tlvs =
        [tlv(0x02, b"api.example.com"), tlv(0x20, &[1, 0, 0, 0, 0]), tlv(0x04, &[0; 7]), tlv(0xea, b"")].concat();
    check(&binary(0x21, 0x11, &[&v4[..], &tlvs].concat()), client("203.0.113.7:56324", "192.0.2.1:443"));
    let with_sum = [&v4[..], &tlvs, &tlv(TLV_CRC32C, &[0; 4])].concat();
    check(&sealed(binary(0x21, 0x11, &with_sum)), client("203.0.113.7:56324", "192.0.2.1:443"));
}

#[test]
fn the_checksum_is_that_of_rfc_3720() {
    // The check value every catalogue has for CRC32C.
    assert_eq!(CRC32C.checksum(b"123456789"), 0xe306_9283);
}

#[test]
fn binary_headers_that_do_not_fit_are_refused() {
    let check = |bytes: &[u8], expected| {
        assert_eq!(parse_and_check(bytes), Err(expected), "{}", bytes.escape_ascii());
    };
    let v4 = [203, 0, 113, 7, 192, 0, 2, 1, 0xdc, 0x04, 0x01, 0xbb];
    check(&binary(0x11, 0x11, &v4), Malformed::Version);
    check(&binary(0x31, 0x11, &v4), Malformed::Version);
    check(&binary(0x22, 0x11, &v4), Malformed::Command);
    for family in [0x12, 0x22, 0x32] {
        check(&binary(0x21, family, &[0; 216]), Malformed::Datagram);
    }
    for family in [0x01, 0x10, 0x13, 0x20, 0x30, 0x41, 0xff] {
        check(&binary(0x21, family, &[0; 216]), Malformed::Family);
    }
    check(&binary(0x21, 0x11, &v4[..11]), Malformed::PayloadTooShort);
    check(&binary(0x21, 0x21, &[0; 35]), Malformed::PayloadTooShort);
    check(&binary(0x21, 0x31, &[0; 215]), Malformed::PayloadTooShort);
    let with = |tlvs: &[u8]| binary(0x21, 0x11, &[&v4[..], tlvs].concat());
    check(&with(&[4]), Malformed::Tlv);
    check(&with(&[4, 0]), Malformed::Tlv);
    check(&with(&[4, 0, 1]), Malformed::Tlv);
    check(&with(&[4, 0xff, 0xff, 0]), Malformed::Tlv);
    check(&with(&tlv(TLV_CRC32C, &[0; 3])), Malformed::Tlv);
    check(&with(&tlv(TLV_CRC32C, &[0; 4])), Malformed::Checksum);
    check(&with(&[tlv(TLV_CRC32C, &[0; 4]), tlv(TLV_CRC32C, &[0; 4])].concat()), Malformed::ChecksumRepeated);
    check(b"\r\n\r\n\0\r\nQUIT\r\n", Malformed::Signature);
}

#[test]
fn a_payload_as_long_as_allowed_is_read_and_one_byte_more_is_not_waited_for() {
    let padded = |length: usize| {
        let addresses = [0; 12];
        binary(0x21, 0x11, &[&addresses[..], &tlv(0x04, &vec![0; length - 12 - 3])].concat())
    };
    let most = padded(PROXY_PAYLOAD_BYTES_MAX);
    assert!(matches!(parse(&most), Ok(Some(header)) if header.consumed == most.len()));
    let more = padded(PROXY_PAYLOAD_BYTES_MAX + 1);
    assert_eq!(parse(&more[..V2_FIXED_BYTES]), Err(Malformed::PayloadTooLong));
    // The peer itself may not say more either.
    assert_eq!(parse(&binary(0x20, 0, &[0; PROXY_PAYLOAD_BYTES_MAX + 1])), Err(Malformed::PayloadTooLong));
}

fn addresses() -> impl Strategy<Value = (SocketAddr, SocketAddr)> {
    let v4 = any::<(Ipv4Addr, u16, Ipv4Addr, u16)>()
        .prop_map(|(client, from, address, to)| (SocketAddr::from((client, from)), SocketAddr::from((address, to))));
    let v6 = any::<(Ipv6Addr, u16, Ipv6Addr, u16)>()
        .prop_map(|(client, from, address, to)| (SocketAddr::from((client, from)), SocketAddr::from((address, to))));
    prop_oneof![v4, v6]
}

/// Bytes that get past the first checks more often than chance would.
fn nearly() -> impl Strategy<Value = Vec<u8>> {
    let begin = prop_oneof![
        Just(Vec::new()),
        Just(V1.to_vec()),
        Just(b"PROXY TCP4 ".to_vec()),
        Just(V2.to_vec()),
        prop_oneof![Just(0x20u8), Just(0x21)].prop_flat_map(|version| {
            let family = prop_oneof![Just(0x00u8), Just(0x11), Just(0x21), Just(0x31), any::<u8>()];
            (family, 0..300u16).prop_map(move |(family, length)| {
                let mut bytes = V2.to_vec();
                bytes.extend([version, family]);
                bytes.extend(length.to_be_bytes());
                bytes
            })
        }),
    ];
    let byte = prop_oneof![any::<u8>(), proptest::sample::select(b" .:0123456789\r\n\0\x01\x03\x04".to_vec())];
    (begin, vec(byte, 0..320)).prop_map(|(begin, rest)| [begin, rest].concat())
}

proptest! {
    #[test]
    fn any_bytes_are_read_alike_however_they_come(bytes in nearly()) {
        let _ = parse_and_check(&bytes);
    }

    #[test]
    fn what_is_written_as_a_line_is_read((from, to) in addresses(), rest in vec(any::<u8>(), 0..20)) {
        let family = if from.is_ipv4() { "TCP4" } else { "TCP6" };
        let line = format!("PROXY {family} {} {} {} {}\r\n", from.ip(), to.ip(), from.port(), to.port());
        let header = parse_and_check(&[line.as_bytes(), &rest].concat());
        let source = Source::Client { client: from, destination: to };
        prop_assert_eq!(header, Ok(Some(Header { source, consumed: line.len() })));
    }

    #[test]
    fn what_is_written_in_binary_is_read_and_a_flipped_bit_is_seen(
        (from, to) in addresses(),
        tlvs in vec((4u8.., vec(any::<u8>(), 0..40)), 0..6),
        rest in vec(any::<u8>(), 0..20),
        flip in any::<proptest::sample::Index>(),
        bit in 0..8u32,
    ) {
        let (family, mut bytes) = payload(from, to);
        for (kind, value) in &tlvs {
            bytes.extend(tlv(*kind, value));
        }
        bytes.extend(tlv(TLV_CRC32C, &[0; 4]));
        let mut bytes = sealed(binary(0x21, family, &bytes));
        let length = bytes.len();
        bytes.extend(rest);
        let source = Source::Client { client: from, destination: to };
        prop_assert_eq!(parse_and_check(&bytes), Ok(Some(Header { source, consumed: length })));
        // Behind the 16 bytes that say what there is, no change may make another client.
        let at = V2_FIXED_BYTES + flip.index(length - V2_FIXED_BYTES);
        bytes[at] ^= 1 << bit;
        match parse(&bytes) {
            // The checksum's own TLV became another one, or a part of one.
            Ok(Some(header)) => prop_assert_eq!(header.source, source),
            Ok(None) => prop_assert!(false, "the length was not touched"),
            Err(_) => {}
        }
    }
}
