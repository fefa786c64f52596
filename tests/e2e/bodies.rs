//! Large bodies: streamed both ways at constant memory, whole, and no faster than the slower side.
//! `BAWAB_BODY_MIB` sets the size of the largest.

use std::sync::{Arc, LazyLock};
use std::time::Duration;

use anyhow::{Result, ensure};
use e2e::message::Head;
use e2e::tls::{Authority, serving};
use e2e::{Gateway, Origin, Peer};
use rustix::event::{PollFd, PollFlags, Timespec, poll};

const MIB: u64 = 1024 * 1024;

/// What resident memory may grow by while one body of any size passes: some buffers, not the body.
const GROWTH_BYTES_MAX: u64 = 12 * MIB;

/// More than 31 bits count, so that a length kept in an `i32` somewhere shows.
fn body_bytes() -> u64 {
    std::env::var("BAWAB_BODY_MIB").ok().and_then(|mib| mib.parse::<u64>().ok()).unwrap_or(2048) * MIB
}

/// Bodies repeat after so many bytes. A prime, so that no piece of a round size can be lost, repeated or moved unseen.
const PERIOD_BYTES: usize = 1024 * 1024 + 7;

/// `count` bytes of a body from its byte `at` on, at most a period of them. Made once: a test that makes gigabytes is
/// slower than the gateway.
fn body(at: u64, count: usize) -> &'static [u8] {
    static TWICE: LazyLock<Vec<u8>> = LazyLock::new(|| {
        let words = 0..PERIOD_BYTES.div_ceil(8) as u64;
        let mut bytes: Vec<u8> =
            words.flat_map(|word| word.wrapping_mul(0x9e37_79b9_7f4a_7c15).to_le_bytes()).collect();
        bytes.truncate(PERIOD_BYTES);
        bytes.repeat(2)
    });
    let from = (at % PERIOD_BYTES as u64) as usize;
    &TWICE[from..from + count]
}

/// Pieces of at most `size` bytes that make up a body: where each begins, and its bytes.
fn pieces(bytes: u64, size: usize) -> impl Iterator<Item = (u64, &'static [u8])> {
    (0..bytes).step_by(size).map(move |at| (at, body(at, (bytes - at).min(size as u64) as usize)))
}

/// One write's share of a body.
const WRITE_BYTES: usize = 1024 * 1024;

fn write_body(to: &mut Peer, bytes: u64) -> Result<()> {
    pieces(bytes, WRITE_BYTES).try_for_each(|(_, piece)| to.send(piece))
}

/// Reads a body; `now_and_then` is called every few mebibytes.
fn read_body(from: &mut Peer, bytes: u64, mut now_and_then: impl FnMut() -> Result<()>) -> Result<()> {
    let mut at = 0;
    from.take_each(bytes, |piece| {
        ensure!(piece == body(at, piece.len()), "bytes {at} and {} more are not what was sent", piece.len() - 1);
        let before = at;
        at += piece.len() as u64;
        if before / (4 * MIB) < at / (4 * MIB) { now_and_then() } else { Ok(()) }
    })
}

/// Answered once, so that what a first exchange allocates for good is there.
fn warm(gateway: &Gateway, origin: &Origin) -> Result<()> {
    let mut client = gateway.client()?;
    client.send("GET / HTTP/1.1\r\nHost: e2e.test\r\n\r\n")?;
    let mut upstream = origin.accept()?;
    Head::read(&mut upstream)?;
    upstream.send("HTTP/1.1 204 No Content\r\nConnection: close\r\n\r\n")?;
    Head::read(&mut client)?;
    Ok(())
}

#[test]
fn an_upload_passes_whole_at_constant_memory() {
    let bytes = body_bytes();
    let origin = Origin::tcp().unwrap();
    let gateway = Gateway::start("[limits]\nbody_bytes = \"4GiB\"", origin.address()).unwrap();
    warm(&gateway, &origin).unwrap();
    let before = gateway.rss_bytes().unwrap();
    let mut client = gateway.client().unwrap();
    client.send(format!("PUT / HTTP/1.1\r\nHost: e2e.test\r\nContent-Length: {bytes}\r\n\r\n")).unwrap();
    let mut writer = client.writer().unwrap();
    let writing = std::thread::spawn(move || write_body(&mut writer, bytes));
    let mut upstream = origin.accept().unwrap();
    Head::read(&mut upstream).unwrap();
    let mut most = 0;
    read_body(&mut upstream, bytes, || {
        most = most.max(gateway.rss_bytes()?);
        Ok(())
    })
    .unwrap();
    writing.join().unwrap().unwrap();
    upstream.send(e2e::origin::ok("done")).unwrap();
    assert_eq!(Head::read(&mut client).unwrap().status(), 200);
    assert!(most < before + GROWTH_BYTES_MAX, "memory grew from {before} to {most} over {bytes}");
}

#[test]
fn a_download_passes_whole_at_constant_memory() {
    let bytes = body_bytes();
    let origin = Origin::tcp().unwrap();
    let gateway = Gateway::start("", origin.address()).unwrap();
    warm(&gateway, &origin).unwrap();
    let before = gateway.rss_bytes().unwrap();
    let mut client = gateway.client().unwrap();
    client.send("GET / HTTP/1.1\r\nHost: e2e.test\r\n\r\n").unwrap();
    let mut upstream = origin.accept().unwrap();
    Head::read(&mut upstream).unwrap();
    let writing = std::thread::spawn(move || {
        upstream.send(format!("HTTP/1.1 200 OK\r\nContent-Length: {bytes}\r\n\r\n"))?;
        write_body(&mut upstream, bytes)
    });
    Head::read(&mut client).unwrap();
    let mut most = 0;
    read_body(&mut client, bytes, || {
        most = most.max(gateway.rss_bytes()?);
        Ok(())
    })
    .unwrap();
    writing.join().unwrap().unwrap();
    assert!(most < before + GROWTH_BYTES_MAX, "memory grew from {before} to {most} over {bytes}");
}

#[test]
fn bodies_pass_whole_both_ways_at_constant_memory_over_tls_to_the_service() {
    let bytes = body_bytes() / 8;
    let folder = tempfile::tempdir().unwrap();
    let authority = Authority::new(folder.path(), "authority").unwrap();
    let own = authority.service("books", 1, &["127.0.0.1"], |_| {}).unwrap();
    let tls = Arc::new(serving(&own, &[], None).unwrap());
    let origin = Origin::tcp().unwrap();
    let config = format!(
        "[limits]\nbody_bytes = \"4GiB\"\n[upstream.main.timeout]\nconnect = \"10s\"\n[upstream.main.tls]\nca = \"{}\"\n",
        authority.cert.display()
    );
    let gateway = Gateway::start(&config, origin.address()).unwrap();
    let mut before = 0;
    // The first, short one is there so that what an exchange allocates for good is there.
    for bytes in [1024, bytes] {
        let mut client = gateway.client().unwrap();
        client.send(format!("PUT / HTTP/1.1\r\nHost: e2e.test\r\nContent-Length: {bytes}\r\n\r\n")).unwrap();
        let mut writer = client.writer().unwrap();
        let uploading = std::thread::spawn(move || write_body(&mut writer, bytes));
        let mut upstream = origin.accept().unwrap();
        upstream.accept_tls(&tls).unwrap();
        Head::read(&mut upstream).unwrap();
        let mut most = 0;
        read_body(&mut upstream, bytes, || {
            most = most.max(gateway.rss_bytes()?);
            Ok(())
        })
        .unwrap();
        uploading.join().unwrap().unwrap();
        let downloading = std::thread::spawn(move || {
            upstream.send(format!("HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: {bytes}\r\n\r\n"))?;
            write_body(&mut upstream, bytes)
        });
        assert_eq!(Head::read(&mut client).unwrap().status(), 200);
        read_body(&mut client, bytes, || {
            most = most.max(gateway.rss_bytes()?);
            Ok(())
        })
        .unwrap();
        downloading.join().unwrap().unwrap();
        if before > 0 {
            assert!(most < before + GROWTH_BYTES_MAX, "memory grew from {before} to {most} over {bytes} each way");
        }
        before = gateway.rss_bytes().unwrap();
    }
}

#[test]
fn a_chunked_download_passes_whole_at_constant_memory() {
    let bytes = 64 * MIB;
    let origin = Origin::tcp().unwrap();
    let gateway = Gateway::start("", origin.address()).unwrap();
    warm(&gateway, &origin).unwrap();
    let before = gateway.rss_bytes().unwrap();
    let mut client = gateway.client().unwrap();
    client.send("GET / HTTP/1.1\r\nHost: e2e.test\r\n\r\n").unwrap();
    let mut upstream = origin.accept().unwrap();
    Head::read(&mut upstream).unwrap();
    let writing = std::thread::spawn(move || -> Result<()> {
        upstream.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")?;
        for (_, piece) in pieces(bytes, 64 * 1024) {
            upstream.send(format!("{:x}\r\n", piece.len()))?;
            upstream.send(piece)?;
            upstream.send("\r\n")?;
        }
        upstream.send("0\r\n\r\n")
    });
    let head = Head::read(&mut client).unwrap();
    assert_eq!(head.field("transfer-encoding"), Some("chunked"));
    let (mut most, mut at) = (0, 0);
    while let Some(chunk) = e2e::message::chunk(&mut client).unwrap() {
        assert!(chunk == body(at, chunk.len()), "the chunk at {at} is not what was sent");
        at += chunk.len() as u64;
        most = most.max(gateway.rss_bytes().unwrap());
    }
    writing.join().unwrap().unwrap();
    assert_eq!(at, bytes);
    assert!(most < before + GROWTH_BYTES_MAX, "memory grew from {before} to {most} over {bytes}");
}

/// Writes until nothing more is taken for a while; fails when `limit` bytes were. A slow machine can only make it pass.
fn stalls_below(limit: u64, writer: &mut Peer) -> Result<u64> {
    let mut written = 0;
    writer.socket().set_nonblocking(true)?;
    while written < limit {
        let mut polled = [PollFd::new(writer.socket(), PollFlags::OUT)];
        if poll(&mut polled, Some(&Timespec::try_from(Duration::from_millis(700))?))? == 0 {
            return Ok(written);
        }
        match writer.socket().send(body(0, 64 * 1024)) {
            Ok(count) => written += count as u64,
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(error.into()),
        }
    }
    anyhow::bail!("{written} bytes were taken that nobody reads")
}

#[test]
fn an_upstream_is_not_read_faster_than_the_client_reads() {
    let origin = Origin::tcp().unwrap();
    let gateway = Gateway::start("[limits]\nrate_min = \"0B\"", origin.address()).unwrap();
    warm(&gateway, &origin).unwrap();
    let before = gateway.rss_bytes().unwrap();
    let mut client = Peer::connect_with_receive_buffer(16 * 1024, gateway.address_of("main").unwrap()).unwrap();
    client.send("GET / HTTP/1.1\r\nHost: e2e.test\r\n\r\n").unwrap();
    let mut upstream = origin.accept().unwrap();
    Head::read(&mut upstream).unwrap();
    upstream.send(format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", 256 * MIB)).unwrap();
    let written = stalls_below(64 * MIB, &mut upstream).unwrap();
    let stalled = gateway.rss_bytes().unwrap();
    assert!(stalled < before + GROWTH_BYTES_MAX, "memory grew from {before} to {stalled}");
    // And it goes on where it stopped once the client reads.
    Head::read(&mut client).unwrap();
    client.skip(written).unwrap();
}

#[test]
fn a_client_is_not_read_faster_than_the_upstream_reads() {
    let origin = Origin::tcp().unwrap();
    let gateway = Gateway::start("[limits]\nrate_min = \"0B\"\nbody_bytes = \"1GiB\"", origin.address()).unwrap();
    warm(&gateway, &origin).unwrap();
    let before = gateway.rss_bytes().unwrap();
    let mut client = gateway.client().unwrap();
    client.send(format!("PUT / HTTP/1.1\r\nHost: e2e.test\r\nContent-Length: {}\r\n\r\n", 256 * MIB)).unwrap();
    let mut upstream = origin.accept().unwrap();
    Head::read(&mut upstream).unwrap();
    let written = stalls_below(64 * MIB, &mut client).unwrap();
    let stalled = gateway.rss_bytes().unwrap();
    assert!(stalled < before + GROWTH_BYTES_MAX, "memory grew from {before} to {stalled}");
    upstream.skip(written).unwrap();
}

/// Both at once on one connection: neither side waits for the other to end.
#[test]
fn a_body_may_be_answered_while_it_is_sent() {
    let bytes = 16 * MIB;
    let origin = Origin::tcp().unwrap();
    let gateway = Gateway::start("", origin.address()).unwrap();
    let mut client = gateway.client().unwrap();
    client.send(format!("POST / HTTP/1.1\r\nHost: e2e.test\r\nContent-Length: {bytes}\r\n\r\n")).unwrap();
    let mut writer = client.writer().unwrap();
    let writing = std::thread::spawn(move || write_body(&mut writer, bytes));
    let mut upstream = origin.accept().unwrap();
    Head::read(&mut upstream).unwrap();
    let echoing = std::thread::spawn(move || -> Result<()> {
        upstream.send(format!("HTTP/1.1 200 OK\r\nContent-Length: {bytes}\r\n\r\n"))?;
        for (_, piece) in pieces(bytes, 64 * 1024) {
            let got = upstream.take(piece.len())?;
            upstream.send(got)?;
        }
        Ok(())
    });
    assert_eq!(Head::read(&mut client).unwrap().status(), 200);
    read_body(&mut client, bytes, || Ok(())).unwrap();
    writing.join().unwrap().unwrap();
    echoing.join().unwrap().unwrap();
    assert!(client.pending().unwrap().is_empty(), "more came than was sent");
}

/// A tunnel streams as well, both ways, and holds nobody up.
#[test]
fn a_tunnel_carries_any_amount_both_ways() {
    let bytes = 16 * MIB;
    let origin = Origin::tcp().unwrap();
    let config = "[[route]]\npath = \"/**\"\nupstream = \"main\"\nauth = \"none\"\nupgrade = [\"websocket\"]";
    let gateway = Gateway::start(config, origin.address()).unwrap();
    let mut client = gateway.client().unwrap();
    client.send("GET / HTTP/1.1\r\nHost: e2e.test\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n").unwrap();
    let mut upstream = origin.accept().unwrap();
    Head::read(&mut upstream).unwrap();
    upstream.send("HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n").unwrap();
    assert_eq!(Head::read(&mut client).unwrap().status(), 101);
    let mut writer = client.writer().unwrap();
    let writing = std::thread::spawn(move || write_body(&mut writer, bytes));
    let echoing = std::thread::spawn(move || -> Result<()> {
        for (_, piece) in pieces(bytes, 64 * 1024) {
            let got = upstream.take(piece.len())?;
            upstream.send(got)?;
        }
        Ok(())
    });
    read_body(&mut client, bytes, || Ok(())).unwrap();
    writing.join().unwrap().unwrap();
    echoing.join().unwrap().unwrap();
    client.finish().unwrap();
}
