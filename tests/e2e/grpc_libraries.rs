//! gRPC as its own libraries speak it: the C core (by Python) and the one that is all JavaScript, on both sides of the gateway.
//! What a call is to look like is in `tests/programs/grpc_*`; here is what stands between its two ends, and what happens to it.

use e2e::Gateway;
use e2e::metrics::Metrics;
use e2e::program::{Language, Program};
use rustix::process::Signal;

const GRPC: &str = "[upstream.main]\nprotocol = \"http2\"\n";

/// What every client is to find with every server.
const CASES: [&str; 7] = ["kinds", "metadata", "statuses", "deadline", "cancel", "big", "many"];

fn serve(language: Language) -> Option<(Program, String)> {
    Program::serve(language, "grpc_server", None).unwrap()
}

/// Runs a client's cases through the gateway.
fn cases(language: Language, gateway: &Gateway, cases: &[&str]) -> Option<Vec<String>> {
    let address = gateway.address_of("main").unwrap().to_string();
    Program::cases(language, "grpc_client", &address, "-", cases).unwrap()
}

/// The status and the message a client was told.
fn told(said: &[String]) -> (String, String) {
    said.iter().find_map(|line| serde_json::from_str(line).ok()).unwrap_or_else(|| panic!("{said:?}"))
}

/// Every case, each of the calls seen by the gateway for what it was.
fn pass(client: Language, server: Language) {
    let Some((service, address)) = serve(server) else { return };
    let gateway = Gateway::start(GRPC, &address).unwrap();
    if cases(client, &gateway, &CASES).is_none() {
        return;
    }
    for name in ["deadline", "cancel"] {
        service.event(|event| event["event"] == "cancelled" && event["name"] == name).unwrap();
    }
    let metrics = gateway.metrics().unwrap();
    let calls = |status| metrics.sum("bawab_route_grpc_calls_total", &[("grpc_status", status)]);
    // One each, alone and behind messages.
    for status in ["not_found", "aborted", "data_loss", "unauthenticated"] {
        assert_eq!(calls(status), 2.0, "{status}");
    }
    assert_eq!(metrics.sum("bawab_http2_calmed_total", &[]), 0.0);
}

#[test]
fn python_calls_javascript() {
    pass(Language::Python, Language::JavaScript);
}

#[test]
fn javascript_calls_python() {
    pass(Language::JavaScript, Language::Python);
}

#[test]
fn by_tls_both_call_python() {
    let Some((_service, address)) = serve(Language::Python) else { return };
    let folder = tempfile::tempdir().unwrap();
    let made = e2e::tls::certificate(folder.path(), "api", &["localhost"]).unwrap();
    let (cert, key) = (made.cert.display().to_string(), made.key.display());
    let listener = format!(
        "{GRPC}[[listener]]\nname = \"main\"\naddress = \"127.0.0.1:0\"\n\
         tls = {{ certificates = [{{ cert = \"{cert}\", key = \"{key}\" }}] }}"
    );
    let gateway = Gateway::start(&listener, &address).unwrap();
    let address = format!("localhost:{}", gateway.address_of("main").unwrap().port());
    for language in Language::BOTH {
        let said = Program::cases(language, "grpc_client", &address, &cert, &CASES).unwrap();
        assert!(said.is_none_or(|said| said.len() >= CASES.len()));
    }
}

#[test]
fn a_refusal_of_ours_is_the_status_that_its_caller_expects() {
    let overrides = "[upstream.gone]\nprotocol = \"http2\"\nendpoints = [\"127.0.0.1:1\"]\n\
         [[route]]\npath = \"/nowhere\"\nupstream = \"gone\"\nauth = \"none\"\n";
    let unrouted = Gateway::start(overrides, "127.0.0.1:1").unwrap();
    let dead = Gateway::start(GRPC, "127.0.0.1:1").unwrap();
    for language in Language::BOTH {
        for (gateway, status, code) in
            [(&unrouted, "UNIMPLEMENTED", "no_route"), (&dead, "UNAVAILABLE", "upstream_connect_failed")]
        {
            let Some(said) = cases(language, gateway, &["refused"]) else { continue };
            let (found, message) = told(&said);
            assert_eq!(found, status, "{language:?}");
            assert!(message.starts_with(&format!("{code}: ")), "{language:?}: {message}");
        }
    }
}

#[test]
fn a_wait_that_is_over_here_is_a_deadline_there_and_the_service_is_told() {
    let Some((service, address)) = serve(Language::Python) else { return };
    let gateway = Gateway::start(&format!("{GRPC}timeout.total = \"300ms\"\n"), &address).unwrap();
    if cases(Language::Python, &gateway, &["no_answer"]).is_some() {
        service.event(|event| event["event"] == "cancelled" && event["name"] == "no_answer").unwrap();
    }
}

#[test]
fn a_service_that_is_killed_is_unavailable() {
    for language in Language::BOTH {
        let Some((service, address)) = serve(language) else { continue };
        let gateway = Gateway::start(GRPC, &address).unwrap();
        let to = gateway.address_of("main").unwrap().to_string();
        let Some(mut client) = Program::start(language, "grpc_client", &[&to, "-", "killed"]).unwrap() else {
            continue;
        };
        service.event(|event| event["event"] == "waiting").unwrap();
        service.signal(Signal::KILL).unwrap();
        client.end().unwrap();
        let (status, message): (String, String) = client.find(|line| serde_json::from_str(line).ok()).unwrap();
        assert_eq!(status, "UNAVAILABLE", "{language:?}");
        assert!(message.starts_with("upstream_closed: "), "{message}");
    }
}

#[test]
fn a_client_that_asks_for_signs_of_life_all_the_time_is_no_flood() {
    let Some((_service, address)) = serve(Language::Python) else { return };
    let gateway = Gateway::start(GRPC, &address).unwrap();
    if cases(Language::Python, &gateway, &["pings"]).is_some() {
        let metrics = gateway.metrics().unwrap();
        assert_eq!(metrics.sum("bawab_http2_connections_total", &[]), 1.0);
        assert_eq!(metrics.sum("bawab_http2_calmed_total", &[]), 0.0);
    }
}

/// A call may say nothing, or little, for longer than an upload may: only the service's silence counts once it has spoken.
#[test]
fn a_conversation_may_pause() {
    let Some((_service, address)) = serve(Language::Python) else { return };
    let overrides =
        format!("{GRPC}timeout.idle = \"20s\"\n[timeouts]\nbody_idle = \"100ms\"\n[limits]\nrate_min = \"1MiB\"\n");
    let gateway = Gateway::start(&overrides, &address).unwrap();
    cases(Language::Python, &gateway, &["pauses"]);
}

#[test]
fn a_hundred_mebibytes_pass_and_are_not_held() {
    let Some((_service, address)) = serve(Language::Python) else { return };
    let gateway = Gateway::start(GRPC, &address).unwrap();
    for language in Language::BOTH {
        // Its buffers and those of its allocator are there after the first.
        let before = gateway.rss_bytes().unwrap();
        if cases(language, &gateway, &["stream"]).is_some() {
            let grown = gateway.rss_bytes().unwrap().saturating_sub(before);
            assert!(grown < 16 * 1024 * 1024, "{language:?}: {grown} bytes more");
        }
    }
}

/// A server that is ended as servers are (GOAWAY, and what runs is finished) costs no call, because there is another one. One on the
/// C core answers `cancelled` to calls that come while it ends.
#[test]
fn services_go_away_one_by_one_and_no_call_fails() {
    for language in Language::BOTH {
        let (Some((first, one)), Some((_second, two))) = (serve(language), serve(language)) else { continue };
        let overrides = format!(
            "[upstream.main]\nprotocol = \"http2\"\nendpoints = [\"{one}\", \"{two}\"]\n\
             retry = {{ on = [\"connect\", \"reset\", \"cancelled\"], methods = [\"POST\"], budget = \"100%\" }}\n"
        );
        let gateway = Gateway::start(&overrides, "").unwrap();
        let to = gateway.address_of("main").unwrap().to_string();
        let Some(mut client) = Program::start(Language::Python, "grpc_client", &[&to, "-", "steady"]).unwrap() else {
            continue;
        };
        let served = |calls: f64| move |metrics: &Metrics| metrics.sum("bawab_upstream_requests_total", &[]) >= calls;
        gateway.metrics_when("calls", served(200.0)).unwrap();
        first.signal(Signal::TERM).unwrap();
        first.event(|event| event["event"] == "leaving").unwrap();
        let so_far = gateway.metrics().unwrap().sum("bawab_upstream_requests_total", &[]);
        gateway.metrics_when("more calls", served(so_far + 200.0)).unwrap();
        // Another one in its place.
        let port = one.rsplit_once(':').unwrap().1.parse().unwrap();
        let mut first = first;
        first.end().unwrap();
        let (_again, _) = Program::serve(language, "grpc_server", Some(port)).unwrap().unwrap();
        let so_far = gateway.metrics().unwrap().sum("bawab_upstream_requests_total", &[]);
        gateway.metrics_when("more calls still", served(so_far + 200.0)).unwrap();
        client.tell("enough").unwrap();
        client.end().unwrap();
        let metrics = gateway.metrics().unwrap();
        let calls = |status| metrics.sum("bawab_route_grpc_calls_total", &[("grpc_status", status)]);
        assert!(calls("ok") >= 600.0, "{language:?}");
        assert_eq!(metrics.sum("bawab_route_grpc_calls_total", &[]), calls("ok"), "{language:?}");
    }
}
