//! WebSocket as other people's libraries speak it, Python's `websockets` and JavaScript's `ws`, on both sides of the gateway. What
//! is said is in `tests/programs/websocket_*`.

use e2e::Gateway;
use e2e::program::{Language, Program};

const CASES: [&str; 6] = ["messages", "fragments", "pings", "closes", "subprotocols", "many"];
const ROUTE: &str = "[[route]]\npath = \"/**\"\nupstream = \"main\"\nauth = \"none\"\nupgrade = [\"websocket\"]\n";

/// Every client with one language's server.
fn pass(server: Language) {
    let Some((service, address)) = Program::serve(server, "websocket_server", None).unwrap() else { return };
    let folder = tempfile::tempdir().unwrap();
    let made = e2e::tls::certificate(folder.path(), "api", &["localhost"]).unwrap();
    let (cert, key) = (made.cert.display().to_string(), made.key.display());
    let listeners = format!(
        "{ROUTE}[[listener]]\nname = \"main\"\naddress = \"127.0.0.1:0\"\n[[listener]]\nname = \"tls\"\naddress = \"127.0.0.1:0\"\n\
         tls = {{ certificates = [{{ cert = \"{cert}\", key = \"{key}\" }}] }}"
    );
    let gateway = Gateway::start(&listeners, &address).unwrap();
    let port = |name: &str| gateway.address_of(name).unwrap().port();
    let (plain, tls) = (format!("127.0.0.1:{}", port("main")), format!("localhost:{}", port("tls")));
    let mut clients = 0;
    for language in Language::BOTH {
        for (address, ca) in [(&plain, "-"), (&tls, cert.as_str())] {
            let said = Program::cases(language, "websocket_client", address, ca, &CASES).unwrap();
            clients += usize::from(said.is_some());
        }
    }
    if clients > 0 {
        for (code, reason) in [(1011, "as asked"), (4999, "as asked"), (4242, "the client's own")] {
            service
                .event(|event| event["event"] == "closed" && event["code"] == code && event["reason"] == reason)
                .unwrap();
        }
    }
    let over = |metrics: &e2e::metrics::Metrics| metrics.sum("bawab_requests_in_flight", &[]) == 0.0;
    let metrics = gateway.metrics_when("the end of all tunnels", over).unwrap();
    assert_eq!(metrics.sum("bawab_refusals_total", &[]), 0.0);
}

#[test]
fn python_serves_both() {
    pass(Language::Python);
}

#[test]
fn javascript_serves_both() {
    pass(Language::JavaScript);
}
