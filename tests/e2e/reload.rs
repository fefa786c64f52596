//! Another configuration while the gateway runs: what changes, what stays, and what a bad one does (nothing).

use std::collections::VecDeque;
use std::fs;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Instant;

use e2e::message::{Head, Message};
use e2e::metrics::Metrics;
use e2e::{Gateway, Kept, Origin, Peer, binary, config, origin, patience};
use rustix::process::Signal;

const GET: &str = "GET / HTTP/1.1\r\nHost: e2e.test\r\n\r\n";

/// A configuration that is told by an answer's field.
fn edition(edition: &str) -> String {
    format!(
        "[[route]]\nname = \"all\"\npath = \"/**\"\nupstream = \"main\"\nauth = \"none\"\n\
         headers.response.set = {{ x-edition = \"{edition}\" }}\n"
    )
}

fn edition_seen(client: &mut Peer) -> String {
    client.send(GET).unwrap();
    let answer = Message::answer(client, "GET").unwrap();
    assert_eq!(answer.head.status(), 200);
    answer.head.field("x-edition").unwrap_or("none").to_owned()
}

fn assert_applied(answer: &Message) {
    assert_eq!(answer.head.status(), 200, "{}", answer.text());
    assert_eq!(answer.json().unwrap()["outcome"], "applied");
}

#[test]
fn a_reload_changes_what_open_connections_get_and_keeps_them_and_the_upstreams() {
    let origin = Origin::tcp().unwrap().answer(|_| origin::ok("x"));
    let gateway = Gateway::start(&edition("1"), origin.address()).unwrap();
    let mut client = gateway.client().unwrap();
    assert_eq!(edition_seen(&mut client), "1");
    gateway.rewrite(&edition("2")).unwrap();
    let answer = gateway.reload().unwrap();
    assert_applied(&answer);
    assert_eq!(answer.json().unwrap()["generation"], 2);
    assert_eq!(edition_seen(&mut client), "2");
    gateway.rewrite(&edition("3")).unwrap();
    gateway.signal(Signal::HUP).unwrap();
    gateway.event_again("configuration reloaded", 2).unwrap();
    assert_eq!(edition_seen(&mut client), "3");
    assert_eq!(origin.connections(), 1, "the connection to the service is kept, too");
    let counted = |metrics: &Metrics| metrics.sum("bawab_route_requests_total", &[("route", "all")]) == 3.0;
    let metrics = gateway.metrics_when("all requests under one route", counted).unwrap();
    assert_eq!(metrics.sum("bawab_config_generation", &[]), 3.0);
}

#[test]
fn what_says_the_same_is_no_change() {
    let origin = Origin::tcp().unwrap().answer(|_| origin::ok("x"));
    let gateway = Gateway::start("", origin.address()).unwrap();
    let text = fs::read_to_string(gateway.config_file()).unwrap();
    fs::write(gateway.config_file(), format!("# Another word about it.\n{text}")).unwrap();
    assert_eq!(gateway.reload().unwrap().json().unwrap()["outcome"], "unchanged");
    assert_eq!(gateway.metrics().unwrap().sum("bawab_config_generation", &[]), 1.0);
}

#[test]
fn a_broken_configuration_is_told_with_its_place_and_changes_nothing() {
    let origin = Origin::tcp().unwrap().answer(|_| origin::ok("x"));
    let gateway = Gateway::start(&edition("1"), origin.address()).unwrap();
    gateway.rewrite("[gateway]\nwatch = false\n[limits]\nheadbytes = \"1KiB\"").unwrap();
    let answer = gateway.reload().unwrap();
    assert_eq!(answer.refusal().unwrap(), (422, "config_problems".to_owned()));
    let problems = answer.json().unwrap()["problems"].as_array().unwrap().clone();
    assert_eq!(problems.len(), 1);
    let problem = problems[0].as_str().unwrap();
    assert!(problem.contains("gateway.toml:") && problem.contains("did you mean \"head_bytes\"?"), "{problem}");
    assert_eq!(edition_seen(&mut gateway.client().unwrap()), "1");
    let status = gateway.admin("/config").unwrap().json().unwrap();
    assert_eq!(status["generation"], 1);
    assert_eq!(status["last_reload"]["outcome"], "failed");
    assert_eq!(status["last_reload"]["problems"][0], problem);
    assert_eq!(gateway.metrics().unwrap().sum("bawab_config_last_reload_successful", &[]), 0.0);
}

#[test]
fn a_file_is_read_when_it_changes_half_written_vanished_and_whole_again() {
    let origin = Origin::tcp().unwrap().answer(|_| origin::ok("x"));
    let gateway = Gateway::start(&edition("1"), origin.address()).unwrap();
    let mut client = gateway.client().unwrap();
    gateway.rewrite(&edition("2")).unwrap();
    gateway.event_again("configuration reloaded", 1).unwrap();
    assert_eq!(edition_seen(&mut client), "2");
    let whole = fs::read_to_string(gateway.config_file()).unwrap();
    fs::write(gateway.config_file(), &whole[..whole.len() / 2]).unwrap();
    gateway.event_again("configuration not reloaded; the one before goes on", 1).unwrap();
    fs::remove_file(gateway.config_file()).unwrap();
    gateway.event_again("configuration not reloaded; the one before goes on", 2).unwrap();
    assert_eq!(edition_seen(&mut client), "2");
    fs::write(gateway.config_file(), whole.replace("\"2\"", "\"3\"")).unwrap();
    gateway.event_again("configuration reloaded", 2).unwrap();
    assert_eq!(edition_seen(&mut client), "3");
}

#[test]
fn a_link_swapped_above_a_file_is_a_change() {
    let origin = Origin::tcp().unwrap().answer(|_| origin::ok("x"));
    let dir = tempfile::tempdir().unwrap();
    let write = |folder: &str, text: &str| {
        fs::create_dir(dir.path().join(folder)).unwrap();
        fs::write(dir.path().join(folder).join("routes.toml"), text).unwrap();
    };
    write("one", &edition("1"));
    write("two", &edition("2"));
    let swap = |target: &str, link: &Path| {
        let new = dir.path().join("new");
        symlink(target, &new).unwrap();
        fs::rename(&new, link).unwrap();
    };
    let link = dir.path().join("data");
    swap("one", &link);
    let include = format!("[gateway]\ninclude = [\"{}/*.toml\"]", link.display());
    let base = config::over_base(&include).unwrap();
    let mut table: toml::Table = base.parse().unwrap();
    table.remove("route");
    let own = tempfile::tempdir().unwrap();
    let values =
        [("upstream".to_owned(), origin.address().to_owned()), ("dir".to_owned(), own.path().display().to_string())];
    let text = config::fill(&table.to_string(), &values.into());
    let gateway = Gateway::start_exactly(&text, own).unwrap();
    let mut client = gateway.client().unwrap();
    assert_eq!(edition_seen(&mut client), "1");
    swap("two", &link);
    gateway.event("configuration reloaded").unwrap();
    assert_eq!(edition_seen(&mut client), "2");
}

#[test]
fn a_hundred_reloads_a_second_lose_no_request() {
    let origin = Origin::tcp().unwrap().answer(|_| origin::ok("x"));
    let gateway = Gateway::start(&format!("[gateway]\nwatch = false\n{}", edition("0")), origin.address()).unwrap();
    let (done, asked) = (AtomicBool::new(false), AtomicUsize::new(0));
    std::thread::scope(|scope| {
        for keeps in [true, true, false, false] {
            let (gateway, done, asked) = (&gateway, &done, &asked);
            scope.spawn(move || {
                let mut client = gateway.client().unwrap();
                while !done.load(Ordering::Relaxed) {
                    edition_seen(&mut client);
                    asked.fetch_add(1, Ordering::Relaxed);
                    if !keeps {
                        client = gateway.client().unwrap();
                    }
                }
            });
        }
        let begin = Instant::now();
        for at in 1..=100 {
            gateway.rewrite(&format!("[gateway]\nwatch = false\n{}", edition(&at.to_string()))).unwrap();
            gateway.signal(Signal::HUP).unwrap();
            // A hundred a second, but for a machine that is slower.
            while begin.elapsed().as_millis() < at * 10 {
                std::thread::yield_now();
            }
        }
        assert_eq!(gateway.reload().unwrap().head.status(), 200);
        done.store(true, Ordering::Relaxed);
    });
    assert_eq!(edition_seen(&mut gateway.client().unwrap()), "100");
    assert!(asked.into_inner() > 0);
    let metrics = gateway.metrics().unwrap();
    assert_eq!(metrics.sum("bawab_config_reloads_total", &[("outcome", "failed")]), 0.0);
    assert_eq!(metrics.sum("bawab_task_panics_total", &[]), 0.0);
}

#[test]
fn listeners_come_and_go() {
    let origin = Origin::tcp().unwrap();
    let gateway = Gateway::start("", origin.address()).unwrap();
    let first = gateway.address_of("main").unwrap();
    let mut running = gateway.client().unwrap();
    running.send(GET).unwrap();
    let mut upstream = origin.accept().unwrap();
    Head::read(&mut upstream).unwrap();
    gateway.rewrite("[[listener]]\nname = \"other\"\naddress = \"127.0.0.2:0\"").unwrap();
    assert_applied(&gateway.reload().unwrap());
    gateway.event("no longer listening").unwrap();
    // What runs on the listener that is gone comes to its end, and is its connection's last.
    upstream.send("HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nlast").unwrap();
    let answer = Message::answer(&mut running, "GET").unwrap();
    assert_eq!(answer.text(), "last");
    assert_eq!(answer.head.field("connection"), Some("close"));
    running.finish().unwrap();
    let deadline = Instant::now() + patience();
    while TcpStream::connect(first).is_ok() {
        assert!(Instant::now() < deadline, "connections are still taken");
        std::thread::yield_now();
    }
    let mut client = Peer::connect(gateway.address_of("other").unwrap()).unwrap();
    client.send(GET).unwrap();
    upstream = match origin.accept_now().unwrap() {
        Some(upstream) => upstream,
        None => upstream,
    };
    Head::read(&mut upstream).unwrap();
    upstream.send("HTTP/1.1 204 No Content\r\n\r\n").unwrap();
    assert_eq!(Message::answer(&mut client, "GET").unwrap().head.status(), 204);
}

#[test]
fn connections_queued_at_a_listener_that_goes_are_served() {
    let origin = Origin::tcp().unwrap().answer(|_| origin::ok("x"));
    let base = "[gateway]\nwatch = false\nworkers = 2\n[limits]\nconnections = 6000\nconnections_per_address = 6000\n";
    let gateway = Gateway::start(base, origin.address()).unwrap();
    let address = gateway.address_of("main").unwrap();
    gateway.rewrite(&format!("{base}[[listener]]\naddress = \"127.0.0.2:0\"")).unwrap();
    let answered = |mut client: Peer| {
        assert_eq!(Message::answer(&mut client, "GET").unwrap().head.status(), 200);
    };
    let mut clients: VecDeque<Peer> = VecDeque::new();
    let mut refused = false;
    gateway.signal(Signal::HUP).unwrap();
    let deadline = Instant::now() + patience();
    // Every connection the kernel took is served, up to the very last one before the listener is gone.
    while !refused {
        assert!(Instant::now() < deadline, "connections are still taken");
        match Peer::connect(address) {
            Ok(mut client) => {
                // Asked at once: who is silent for a second on a listener that goes may be let go.
                client.send(GET).unwrap();
                clients.push_back(client);
            }
            Err(_) => refused = true,
        }
        // The last ones are those that may be in a queue; the gateway takes a bounded number from one address.
        if clients.len() > 300 {
            clients.pop_front().into_iter().for_each(answered);
        }
    }
    clients.into_iter().for_each(answered);
}

#[test]
fn workers_become_more_and_fewer() {
    let origin = Origin::tcp().unwrap().answer(|_| origin::ok("x"));
    let gateway = Gateway::start("[gateway]\nworkers = 1", origin.address()).unwrap();
    let mut clients: Vec<Kept> = Vec::new();
    let address = gateway.address_of("main").unwrap();
    for workers in [4, 2, 3, 1] {
        gateway.rewrite(&format!("[gateway]\nworkers = {workers}")).unwrap();
        assert_applied(&gateway.reload().unwrap());
        // Enough to meet every worker, the kernel spreading them.
        clients.extend((0..32).map(|_| Kept::connect(address).unwrap()));
        // Answers of workers that have to go say that their connections close.
        for client in &mut clients {
            assert_eq!(client.ask(GET).unwrap().head.status(), 200);
        }
    }
    let metrics = gateway.metrics_when("one worker", |metrics| metrics.sum("bawab_workers", &[]) == 1.0).unwrap();
    assert_eq!(metrics.sum("bawab_worker_deadline_sweeps_total", &[("worker", "2")]), 0.0);
    assert_eq!(gateway.get("/").unwrap().head.status(), 200);
}

/// Starts a gateway with two workers by the shell's `script`, has it reload with 64, and says what came of that; whatever it
/// is, the gateway goes on.
fn become_too_many(script: &str) -> Message {
    let origin = Origin::tcp().unwrap().answer(|_| origin::ok("x"));
    let dir = tempfile::tempdir().unwrap();
    let config = |workers: u32| {
        let values = [
            ("upstream".to_owned(), origin.address().to_owned()),
            ("dir".to_owned(), dir.path().display().to_string()),
        ];
        let text = format!("[gateway]\nworkers = {workers}\nwatch = false\n[limits]\nconnections = 10");
        config::fill(&config::over_base(&text).unwrap(), &values.into())
    };
    let (few, many) = (config(2), config(64));
    let file = dir.path().join("gateway.toml");
    let mut command = Command::new("sh");
    command.args(["-c", script]).arg(binary::path()).arg(&file).stdin(Stdio::null());
    let mut gateway = Gateway::start_by(&mut command, &few, dir).unwrap();
    fs::write(&file, many).unwrap();
    let answer = gateway.reload().unwrap();
    assert_eq!(gateway.get("/").unwrap().head.status(), 200);
    fs::write(&file, few).unwrap();
    assert_eq!(gateway.reload().unwrap().head.status(), 200);
    gateway.metrics_when("two workers", |metrics| metrics.sum("bawab_workers", &[]) == 2.0).unwrap();
    assert!(gateway.alive());
    answer
}

#[test]
fn workers_without_descriptors_refuse_the_configuration() {
    // Enough for two workers and ten connections, and not for sixty-four.
    let answer = become_too_many("ulimit -n 100; exec \"$0\" run \"$1\"");
    assert_eq!(answer.head.status(), 422, "{}", answer.text());
}

#[test]
fn workers_without_rings_refuse_the_configuration() {
    if !rustix::process::geteuid().is_root() {
        println!("not run: what rings of other tests take counts as well, except for root");
        return;
    }
    let answer =
        become_too_many("ulimit -l 4096; exec setpriv --inh-caps -ipc_lock --bounding-set -ipc_lock \"$0\" run \"$1\"");
    match answer.head.status() {
        200 => println!("not run: this kernel does not count rings as locked memory"),
        status => assert_eq!(status, 422, "{}", answer.text()),
    }
}

/// A worker's ring is half a MiB that the kernel lends: those of forty would be more than it does by default.
#[test]
fn workers_that_left_leave_nothing_behind() {
    let origin = Origin::tcp().unwrap().answer(|_| origin::ok("x"));
    let gateway = Gateway::start("[gateway]\nworkers = 1\nwatch = false", origin.address()).unwrap();
    let become_so_many = |workers: u32| {
        gateway.rewrite(&format!("[gateway]\nworkers = {workers}\nwatch = false")).unwrap();
        assert_applied(&gateway.reload().unwrap());
        let holds = |metrics: &Metrics| metrics.sum("bawab_workers", &[]) == f64::from(workers);
        gateway.metrics_when("the configured workers", holds).unwrap();
    };
    let around = || {
        become_so_many(5);
        // Enough for each to have served somebody.
        for _ in 0..20 {
            assert_eq!(gateway.get("/").unwrap().head.status(), 200);
        }
        become_so_many(1);
    };
    around();
    let before = gateway.descriptors().unwrap();
    (0..9).for_each(|_| around());
    let deadline = Instant::now() + patience();
    while gateway.descriptors().unwrap() > before + 2 {
        assert!(Instant::now() < deadline, "{} descriptors, before {before}", gateway.descriptors().unwrap());
        std::thread::yield_now();
    }
    assert_eq!(gateway.get("/").unwrap().head.status(), 200);
}

#[test]
fn a_worker_that_has_to_go_cuts_what_does_not_end() {
    let origin = Origin::tcp().unwrap();
    let drain = "drain = { delay = \"0s\", deadline = \"300ms\" }";
    let gateway = Gateway::start(&format!("[gateway]\nworkers = 2\n{drain}"), origin.address()).unwrap();
    // Enough for both workers to have some, none of which is ever answered.
    let mut clients: Vec<Peer> = (0..32).map(|_| gateway.client().unwrap()).collect();
    clients.iter_mut().for_each(|client| client.send(GET).unwrap());
    let _upstreams: Vec<Peer> = clients.iter().map(|_| origin.accept().unwrap()).collect();
    gateway.rewrite(&format!("[gateway]\nworkers = 1\n{drain}")).unwrap();
    assert_applied(&gateway.reload().unwrap());
    gateway.metrics_when("one worker", |metrics| metrics.sum("bawab_workers", &[]) == 1.0).unwrap();
    let sockets: Vec<_> = clients.iter().map(Peer::socket).collect();
    let cut = origin::readable(&sockets, patience()).unwrap().into_iter().filter(|ended| *ended).count();
    assert!((1..clients.len()).contains(&cut), "{cut} clients were let go");
}

#[test]
fn a_port_that_is_taken_refuses_the_whole_configuration() {
    let origin = Origin::tcp().unwrap().answer(|_| origin::ok("x"));
    let gateway = Gateway::start(&edition("1"), origin.address()).unwrap();
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address: SocketAddr = taken.local_addr().unwrap();
    let listeners = format!(
        "[[listener]]\nname = \"main\"\naddress = \"127.0.0.1:0\"\n[[listener]]\nname = \"second\"\naddress = \"{address}\"\n"
    );
    gateway.rewrite(&format!("{listeners}{}", edition("2"))).unwrap();
    let answer = gateway.reload().unwrap();
    assert_eq!(answer.head.status(), 422);
    assert!(answer.text().contains("listener `second`") && answer.text().contains("in use"), "{}", answer.text());
    assert_eq!(edition_seen(&mut gateway.client().unwrap()), "1");
    drop(taken);
    assert_applied(&gateway.reload().unwrap());
    assert_eq!(edition_seen(&mut Peer::connect(address).unwrap()), "2");
}

#[test]
fn bounds_on_connections_follow_the_configuration() {
    let origin = Origin::tcp().unwrap().answer(|_| origin::ok("x"));
    let gateway = Gateway::start("[limits]\nconnections_per_address = 5", origin.address()).unwrap();
    let mut open: Vec<Peer> = (0..3).map(|_| gateway.client().unwrap()).collect();
    open.iter_mut().for_each(|client| assert_eq!(edition_seen(client), "none"));
    gateway.rewrite("[limits]\nconnections_per_address = 3").unwrap();
    assert_applied(&gateway.reload().unwrap());
    gateway.client().unwrap().finish().unwrap();
    assert_eq!(edition_seen(&mut open[0]), "none", "those that are open stay");
}

#[test]
fn the_admin_listener_follows_its_address_and_token() {
    let origin = Origin::tcp().unwrap().answer(|_| origin::ok("x"));
    let gateway = Gateway::start("", origin.address()).unwrap();
    gateway.rewrite("[admin]\ntoken = \"a-token-of-some-length\"").unwrap();
    assert_applied(&gateway.reload().unwrap());
    let deadline = Instant::now() + patience();
    while gateway.admin("/config").unwrap().head.status() != 401 {
        assert!(Instant::now() < deadline, "the token is not asked for");
    }
    gateway.rewrite("").unwrap();
    let answer = gateway.post("/reload", "Authorization: Bearer a-token-of-some-length\r\n").unwrap();
    assert_applied(&answer);
    while gateway.admin("/config").unwrap().head.status() != 200 {
        assert!(Instant::now() < deadline, "the token is still asked for");
    }
    // A path that belongs to somebody refuses the configuration.
    let taken = gateway.dir().join("taken");
    fs::write(&taken, "mine").unwrap();
    gateway.rewrite(&format!("[admin]\naddress = \"unix:{}\"", taken.display())).unwrap();
    let answer = gateway.reload().unwrap();
    assert_eq!(answer.head.status(), 422);
    assert!(answer.text().contains("not a socket"), "{}", answer.text());
    assert_eq!(fs::read_to_string(&taken).unwrap(), "mine");
    assert_eq!(gateway.admin("/livez").unwrap().head.status(), 200);
}

#[test]
fn a_page_in_a_browser_reloads_nothing() {
    let origin = Origin::tcp().unwrap().answer(|_| origin::ok("x"));
    let gateway = Gateway::start("", origin.address()).unwrap();
    let answer = gateway.post("/reload", "Origin: http://evil.test\r\n").unwrap();
    assert_eq!(answer.refusal().unwrap(), (403, "cross_origin".to_owned()));
    assert_eq!(gateway.admin("/reload").unwrap().head.status(), 405);
}

#[test]
fn the_access_log_follows_its_path() {
    let origin = Origin::tcp().unwrap().answer(|_| origin::ok("x"));
    let gateway = Gateway::start("", origin.address()).unwrap();
    gateway.get("/before").unwrap();
    gateway.access_log().unwrap().of_path("/before").unwrap();
    let other = gateway.dir().join("other.log");
    gateway.rewrite(&format!("[log]\naccess = \"{}\"", other.display())).unwrap();
    assert_applied(&gateway.reload().unwrap());
    let deadline = Instant::now() + patience();
    while !fs::read_to_string(&other).unwrap_or_default().contains("/after") {
        assert!(Instant::now() < deadline, "the new log has no line");
        gateway.get("/after").unwrap();
    }
    assert!(gateway.metrics().unwrap().sum("bawab_access_log_lines_total", &[]) >= 2.0, "it goes on counting");
}
