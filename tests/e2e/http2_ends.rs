//! HTTP/2 towards clients: where bodies, tunnels and connections end, and who may be taken for an attacker.

use e2e::http2::{ACK, END_HEADERS, END_STREAM, Frame, Frames, block, code, frame, kind, literal};
use e2e::message::Head;
use e2e::origin::{echo, ok};
use e2e::{Gateway, Origin, Peer};

const WITH_WEBSOCKET: &str =
    "[[route]]\nname = \"ws\"\npath = \"/**\"\nupstream = \"main\"\nauth = \"none\"\nupgrade = [\"websocket\"]\n";

fn frames(gateway: &Gateway) -> Frames {
    Frames::open(gateway.client().unwrap(), &[]).unwrap()
}

/// The upstream's view of the next request: its connection and its head.
fn seen(origin: &Origin) -> (Peer, Head) {
    let mut upstream = origin.accept().unwrap();
    let head = Head::read(&mut upstream).unwrap();
    (upstream, head)
}

/// Asks for a tunnel by an extended CONNECT (RFC 8441 §4).
fn websocket(path: &str) -> Vec<u8> {
    let more = [(":scheme", "http"), (":path", path), (":authority", "e2e.test"), ("sec-websocket-version", "13")];
    let all = [(":method", "CONNECT"), (":protocol", "websocket")].into_iter().chain(more);
    all.flat_map(|(name, value)| literal(name, value)).collect()
}

/// What a service says that has understood the key of `head`.
fn switched(head: &Head) -> String {
    use base64::Engine as _;
    let key = head.field("sec-websocket-key").unwrap();
    let digest = sha1_smol::Sha1::from(format!("{key}258EAFA5-E914-47DA-95CA-C5AB0DC85B11")).digest().bytes();
    let accept = base64::engine::general_purpose::STANDARD.encode(digest);
    let head = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n";
    format!("{head}Sec-WebSocket-Accept: {accept}\r\n\r\n")
}

/// The whole of a body that was in nobody's announcement is looked at when it is here already, to be sent a second time.
#[test]
fn a_body_that_is_too_large_is_refused_when_all_of_it_is_here_already() {
    let origin = Origin::tcp().unwrap().answer(|request| echo(&request.head));
    let gateway = Gateway::start("[limits]\nbody_bytes = \"10B\"", origin.address()).unwrap();
    let mut client = frames(&gateway);
    // A connection to the service is kept.
    client.send(kind::HEADERS, END_HEADERS | END_STREAM, 1, &block("GET", "/", &[])).unwrap();
    assert_eq!(client.status(1).unwrap(), 200);
    client.find(|frame| frame.stream == 1 && frame.flags & END_STREAM != 0).unwrap();
    let whole = [
        frame(kind::HEADERS, END_HEADERS, 3, &block("PUT", "/large", &[])),
        frame(kind::DATA, 0, 3, b"12345678"),
        frame(kind::DATA, END_STREAM, 3, b"12345678"),
    ];
    client.peer.send(whole.concat()).unwrap();
    client.find(|frame| frame.kind == kind::HEADERS && frame.stream == 3).unwrap();
    let line = gateway.access_log().unwrap().of_path("/large").unwrap();
    assert_eq!((line["status"].as_u64(), line["refusal"].as_str()), (Some(413), Some("body_too_large")));
    // The same for trailers.
    let long = "x".repeat(20_000);
    let whole = [
        frame(kind::HEADERS, END_HEADERS, 5, &block("PUT", "/trailers", &[])),
        frame(kind::DATA, 0, 5, b"1234"),
        frame(
            kind::HEADERS,
            END_HEADERS | END_STREAM,
            5,
            &[literal("x-a", &long[..8000]), literal("x-b", &long[..8000])].concat(),
        ),
    ];
    client.peer.send(whole.concat()).unwrap();
    client.find(|frame| frame.kind == kind::HEADERS && frame.stream == 5).unwrap();
    let line = gateway.access_log().unwrap().of_path("/trailers").unwrap();
    assert_eq!((line["status"].as_u64(), line["refusal"].as_str()), (Some(431), Some("trailers_too_large")));
}

#[test]
fn a_tunnel_ends_whose_client_never_does() {
    let origin = Origin::tcp().unwrap();
    let overrides = format!("{WITH_WEBSOCKET}[timeouts]\ntunnel_idle = \"200ms\"");
    let gateway = Gateway::start(&overrides, origin.address()).unwrap();
    let mut client = frames(&gateway);
    client.send(kind::HEADERS, END_HEADERS, 1, &websocket("/chat")).unwrap();
    let (mut upstream, head) = seen(&origin);
    upstream.send(switched(&head)).unwrap();
    assert_eq!(client.status(1).unwrap(), 200);
    // The service ends its side; the client says nothing to that.
    upstream.fin().unwrap();
    client.find(|frame| frame.stream == 1 && frame.flags & END_STREAM != 0).unwrap();
    upstream.finish().unwrap();
    gateway.metrics_when("nothing runs", |metrics| metrics.sum("bawab_requests_in_flight", &[]) == 0.0).unwrap();
    client.find(|frame| frame.stream == 1 && frame.kind == kind::RST_STREAM).unwrap();
}

/// RFC 8441 §5: any 2xx opens the tunnel.
#[test]
fn a_tunnel_that_is_not_opened_does_not_look_open() {
    let origin = Origin::tcp().unwrap().answer(|request| echo(&request.head));
    for (overrides, status, refusal) in [("", 501, "connect_unsupported"), (WITH_WEBSOCKET, 502, "upgrade_mismatch")] {
        let gateway = Gateway::start(overrides, origin.address()).unwrap();
        let mut client = frames(&gateway);
        client.send(kind::HEADERS, END_HEADERS, 1, &websocket("/chat")).unwrap();
        let head = client.find(|frame| frame.kind == kind::HEADERS).unwrap();
        assert_ne!(head.payload.first(), Some(&0x88), "{refusal}");
        let line = gateway.access_log().unwrap().of_path("/chat").unwrap();
        assert_eq!((line["status"].as_u64(), line["refusal"].as_str()), (Some(status), Some(refusal)));
    }
}

/// Some clients open both windows again after every 4 KiB they have read.
#[test]
fn a_client_that_opens_its_windows_often_is_no_attacker() {
    const BYTES: usize = 32 * 1024 * 1024;
    let origin = Origin::tcp().unwrap().answer(|_| ok(vec![b'x'; BYTES]));
    let gateway = Gateway::start("", origin.address()).unwrap();
    let mut client = frames(&gateway);
    client.send(kind::HEADERS, END_HEADERS | END_STREAM, 1, &block("GET", "/", &[])).unwrap();
    let mut got = 0;
    while got < BYTES {
        let data = client.find(|frame| matches!(frame.kind, kind::DATA | kind::GOAWAY)).unwrap();
        assert_eq!(data.kind, kind::DATA, "after {got} bytes: {}", data.code());
        got += data.payload.len();
        let mut updates = Vec::new();
        for piece in data.payload.chunks(4096) {
            for stream in [0, 1] {
                updates.extend(frame(kind::WINDOW_UPDATE, 0, stream, &(piece.len() as u32).to_be_bytes()));
            }
        }
        client.peer.send(updates).unwrap();
    }
}

#[test]
fn what_was_answered_is_sent_before_a_connection_ends() {
    const BYTES: usize = 512 * 1024;
    const STREAMS: u32 = 32;
    let origin = Origin::tcp().unwrap().answer(|_| ok(vec![b'x'; BYTES]));
    let config = format!("[limits]\nrequests_per_connection = {STREAMS}");
    let gateway = Gateway::start(&config, origin.address()).unwrap();
    let peer = Peer::connect_with_receive_buffer(32 * 1024, gateway.address_of("main").unwrap()).unwrap();
    let mut client = Frames::open(peer, &[(4, 0x7fff_ffff)]).unwrap();
    client.send(kind::WINDOW_UPDATE, 0, 0, &0x7fff_0000_u32.to_be_bytes()).unwrap();
    for nth in 0..STREAMS {
        client.send(kind::HEADERS, END_HEADERS | END_STREAM, 2 * nth + 1, &block("GET", "/", &[])).unwrap();
    }
    let (mut got, mut ends) = (0, 0);
    // Frame by frame, and nothing beyond: what is not asked for stays with the gateway.
    let mut take = |client: &mut Frames| {
        let head = client.peer.take(9).unwrap();
        let length = u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize;
        client.peer.skip(length as u64).unwrap();
        if head[3] == kind::DATA {
            got += length;
            ends += u32::from(head[4] & END_STREAM != 0);
        }
        (got, ends)
    };
    // Up to where the service has said all, and the rest waits to be taken.
    while take(&mut client).0 < BYTES || gateway.metrics().unwrap().sum("bawab_requests_in_flight", &[]) > 0.0 {}
    // The link is slow for a while: longer than anybody lingers, by the gateway's own clock, which ticks every 50 ms.
    let ticks = gateway.metrics().unwrap().sum("bawab_worker_deadline_sweeps_total", &[]);
    let over = ticks + 80.0;
    gateway
        .metrics_when("four seconds", |metrics| metrics.sum("bawab_worker_deadline_sweeps_total", &[]) >= over)
        .unwrap();
    while take(&mut client).1 < STREAMS {}
    assert_eq!(got, BYTES * STREAMS as usize);
}

#[test]
fn a_client_that_does_not_hear_its_goaway_gets_no_more_streams() {
    let origin = Origin::tcp().unwrap().answer(|request| echo(&request.head));
    let config = "[limits]\nrequests_per_connection = 1\nhttp2_streams = 2";
    let gateway = Gateway::start(config, origin.address()).unwrap();
    let mut client = frames(&gateway);
    let mut answered = 0;
    // The ping of the GOAWAY is never answered, and there is always another request.
    for nth in 0..50 {
        let stream = 2 * nth + 1;
        client.send(kind::HEADERS, END_HEADERS | END_STREAM, stream, &block("GET", "/", &[])).unwrap();
        let end = client
            .find(|frame| frame.stream == stream && (frame.flags & END_STREAM != 0 || frame.kind == kind::RST_STREAM))
            .unwrap();
        match end.kind {
            kind::RST_STREAM => {
                assert_eq!(end.code(), code::REFUSED_STREAM);
                break;
            }
            _ => answered += 1,
        }
    }
    assert!((1..=5).contains(&answered), "{answered} requests were answered");
    client.peer.rest().unwrap();
}

#[test]
fn a_path_is_a_path() {
    let origin = Origin::tcp().unwrap().answer(|request| echo(&request.head));
    let gateway = Gateway::start("", origin.address()).unwrap();
    for (method, path) in [
        ("GET", "http://e2e.test/x"),
        ("GET", "http://other.test/x"),
        ("GET", "x"),
        ("GET", "e2e.test:80"),
        ("GET", "*"),
        ("GET", "?a"),
    ] {
        let mut client = frames(&gateway);
        client.send(kind::HEADERS, END_HEADERS | END_STREAM, 1, &block(method, path, &[])).unwrap();
        let answer = client.find(|frame| matches!(frame.kind, kind::HEADERS | kind::RST_STREAM)).unwrap();
        assert!(answer.kind == kind::RST_STREAM || answer.payload.first() == Some(&0x8c), "{path}");
    }
    let mut client = frames(&gateway);
    let head = [
        literal(":method", "GET"),
        literal(":scheme", "http"),
        literal(":path", "/two"),
        literal("host", "e2e.test"),
        literal("host", "other.test"),
    ];
    client.send(kind::HEADERS, END_HEADERS | END_STREAM, 1, &head.concat()).unwrap();
    assert_eq!(client.status(1).unwrap(), 400);
}

/// Each of them may need a connection to a service, as a client's connection by HTTP/1 does.
#[test]
fn streams_count_as_the_connections_they_stand_for() {
    let origin = Origin::tcp().unwrap();
    let gateway = Gateway::start("[limits]\nconnections_per_address = 3", origin.address()).unwrap();
    let mut client = frames(&gateway);
    let ask = |client: &mut Frames, stream: u32| {
        client.send(kind::HEADERS, END_HEADERS | END_STREAM, stream, &block("GET", "/", &[])).unwrap();
    };
    let mut upstreams = Vec::new();
    for stream in [1, 3, 5] {
        ask(&mut client, stream);
        upstreams.push(seen(&origin).0);
    }
    ask(&mut client, 7);
    let refused = client.find(|frame| frame.kind == kind::RST_STREAM).unwrap();
    assert_eq!((refused.stream, refused.code()), (7, code::REFUSED_STREAM));
    assert!(gateway.get("/").is_err(), "another connection is one too many");
    let metrics = gateway.metrics().unwrap();
    assert_eq!(metrics.sum("bawab_connections_refused_total", &[("reason", "address_limit")]), 2.0);
    // One that has ended makes room.
    client.send(kind::RST_STREAM, 0, 3, &code::CANCEL.to_be_bytes()).unwrap();
    upstreams[1].finish().unwrap();
    gateway.metrics_when("it has ended", |metrics| metrics.sum("bawab_requests_in_flight", &[]) == 2.0).unwrap();
    ask(&mut client, 9);
    let (mut upstream, _) = seen(&origin);
    upstream.send(ok("room")).unwrap();
    assert_eq!(client.status(9).unwrap(), 200);
    // All of it is given back with the connection.
    client.peer.reset().unwrap();
    gateway.metrics_when("nobody is left", |metrics| metrics.sum("bawab_connections_open", &[]) == 0.0).unwrap();
    let mut other = frames(&gateway);
    for stream in [1, 3, 5] {
        ask(&mut other, stream);
    }
    gateway.metrics_when("as many run", |metrics| metrics.sum("bawab_requests_in_flight", &[]) == 3.0).unwrap();
}

#[test]
fn an_upload_whose_end_comes_in_a_frame_of_its_own_is_not_reset() {
    let origin = Origin::tcp().unwrap().answer(|request| ok(request.body.len().to_string()));
    let gateway = Gateway::start("", origin.address()).unwrap();
    let mut client = frames(&gateway);
    for stream in [1, 3] {
        let head = block("POST", "/", &[("content-length", "5")]);
        client.send(kind::HEADERS, END_HEADERS, stream, &head).unwrap();
        client.send(kind::DATA, 0, stream, b"12345").unwrap();
        let not_reset = |frame: &Frame| assert_ne!((frame.kind, frame.stream), (kind::RST_STREAM, stream));
        // It is answered as soon as all that was announced is here.
        let is_end = |frame: &Frame| frame.kind == kind::DATA && frame.flags & END_STREAM != 0;
        let last = client.find(|frame| (not_reset(frame), is_end(frame)).1).unwrap();
        assert_eq!(last.payload, b"5");
        client.send(kind::DATA, END_STREAM, stream, b"").unwrap();
        client.send(kind::PING, 0, 0, &[1; 8]).unwrap();
        let is_pong = |frame: &Frame| frame.kind == kind::PING && frame.flags & ACK != 0;
        client.find(|frame| (not_reset(frame), is_pong(frame)).1).unwrap();
    }
    assert_eq!(origin.connections(), 1, "an upload that came whole leaves its connection to the next");
    gateway.metrics_when("both have ended", |metrics| metrics.sum("bawab_requests_in_flight", &[]) == 0.0).unwrap();
}

#[test]
fn a_head_that_is_too_large_is_refused_as_in_http1() {
    let origin = Origin::tcp().unwrap().answer(|request| echo(&request.head));
    let gateway = Gateway::start("[limits]\nhead_bytes = \"2KiB\"\nfields = 100", origin.address()).unwrap();
    let mut log = gateway.access_log().unwrap();
    let mut client = frames(&gateway);
    // Many small fields: as HPACK counts them more than may be, as bytes not (RFC 9113 §6.5.2).
    let names: Vec<String> = (0..90).map(|at| format!("x-{at}")).collect();
    let many: Vec<_> = names.iter().map(|name| (name.as_str(), "1")).collect();
    client.send(kind::HEADERS, END_HEADERS | END_STREAM, 1, &block("GET", "/many", &many)).unwrap();
    assert_eq!(client.status(1).unwrap(), 200);
    assert_eq!(log.of_path("/many").unwrap()["status"].as_u64(), Some(200));
    let value = "v".repeat(2048);
    client.send(kind::HEADERS, END_HEADERS | END_STREAM, 3, &block("GET", "/", &[("x-large", &value)])).unwrap();
    let line = log.next_line().unwrap();
    assert_eq!((line["status"].as_u64(), line["refusal"].as_str()), (Some(431), Some("head_too_large")));
    assert_eq!(line["protocol"].as_str(), Some("HTTP/2"));
    client.find(|frame| frame.kind == kind::DATA && frame.stream == 3 && frame.flags & END_STREAM != 0).unwrap();
}
