//! The door in the kernel, as an operator sees it: the real binary in a namespace, clients in another. For root only.

use std::net::SocketAddr;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::Result;
use e2e::gateway::{end, started_with};
use e2e::message::Message;
use e2e::netns::{Network, ip};
use e2e::origin::ok;
use e2e::{Gateway, Origin, binary, patience};
use rustix::process::Signal;

/// How long a connection that must not come about is waited for.
const SHUT: Duration = Duration::from_millis(400);

macro_rules! root_only {
    () => {
        if !rustix::process::geteuid().is_root() {
            println!("not run: XDP programs and network namespaces are for root");
            return;
        }
    };
}

/// Removes what a gateway left in the kernel, however the test ends.
struct Detached<'a>(&'a str);

impl Drop for Detached<'_> {
    fn drop(&mut self) {
        let _ = bawab(&["xdp", "detach", "--interface", self.0]);
    }
}

fn bawab(args: &[&str]) -> (Option<i32>, String, String) {
    let output = Command::new(binary::path()).args(args).output().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
    (output.status.code(), text(output.stdout), text(output.stderr))
}

fn config(network: &Network, more: &str) -> String {
    format!(
        "[[listener]]\nname = \"main\"\naddress = \"10.78.0.1:0\"\n[xdp]\ninterfaces = [\"{}\"]\n{more}",
        network.interface
    )
}

/// An origin and a gateway, both on the gateway's side.
fn start(network: &Network, more: &str) -> (Gateway, e2e::origin::Serving) {
    network
        .at_gateway(|| {
            let origin = Origin::tcp()?.answer(|_| ok("x"));
            let gateway = Gateway::start(&config(network, more), origin.address())?;
            Ok((gateway, origin))
        })
        .unwrap()
}

fn served(network: &Network, from: &str, to: SocketAddr) -> Result<u16> {
    let mut client = network.connect(from, to, patience())?;
    client.send("GET / HTTP/1.1\r\nHost: h\r\n\r\n")?;
    Ok(Message::answer(&mut client, "GET")?.head.status())
}

#[track_caller]
fn assert_shut(network: &Network, from: &str, to: SocketAddr) {
    assert!(network.connect(from, to, SHUT).is_err(), "{from} connects");
}

#[test]
fn lists_and_bans_reach_the_kernel_and_outlive_the_gateway() {
    root_only!();
    let network = Network::new().unwrap();
    let _detached = Detached(&network.interface);
    let lists = "[list.drop]\naction = \"deny\"\ncidrs = [\"10.78.0.3\"]\n";
    let (gateway, origin) = start(&network, lists);
    let to = gateway.address_of("main").unwrap();
    let file = gateway.config_file();
    let with = |args: &[&str]| bawab(&[args, &["--config", file.to_str().unwrap()]].concat());
    assert_eq!(served(&network, "10.78.0.2", to).unwrap(), 200);
    assert_shut(&network, "10.78.0.3", to);
    let (_, said, _) = with(&["xdp", "status"]);
    assert!(said.contains(&format!("{}: attached, native", network.interface)), "{said}");
    let (_, said, _) = with(&["explain", "ip", "10.78.0.3", "--running"]);
    assert!(
        said.contains("turned away") && said.contains(&format!("says the same on {}", network.interface)),
        "{said}"
    );
    gateway
        .metrics_when("packets a list dropped", |metrics| {
            metrics.sum("bawab_xdp_list_packets_total", &[("list", "drop")]) >= 1.0
        })
        .unwrap();

    // A ban is there at once, and gone at once.
    let (code, said, _) = with(&["ban", "add", "10.78.0.4", "--for", "10m"]);
    assert_eq!(code, Some(0));
    assert!(said.contains(&format!("in the kernel on every port of {}", network.interface)), "{said}");
    assert_shut(&network, "10.78.0.4", to);
    assert_eq!(with(&["ban", "del", "10.78.0.4"]).0, Some(0));
    let deadline = Instant::now() + patience();
    while served(&network, "10.78.0.4", to).is_err() {
        assert!(Instant::now() < deadline);
    }
    assert_eq!(with(&["ban", "add", "10.78.0.5", "--for", "1h"]).0, Some(0));
    assert_shut(&network, "10.78.0.5", to);

    // The kill word lets everybody in, as far as the kernel goes.
    let bypass = |state: &str| bawab(&["xdp", "bypass", state, "--interface", &network.interface]);
    let said = bypass("on").1;
    assert!(said.starts_with(&format!("the kernel drops nothing any more on {}", network.interface)), "{said}");
    gateway.metrics_when("the bypass", |metrics| metrics.sum("bawab_xdp_bypassed", &[]) == 1.0).unwrap();
    assert!(with(&["xdp", "status"]).1.contains("BYPASSED"));
    network.connect("10.78.0.3", to, patience()).unwrap();
    assert_eq!(bypass("off").0, Some(0));
    assert_shut(&network, "10.78.0.3", to);

    // Killed without a word: the kernel goes on, and the next gateway finds bans and program where they were.
    gateway.signal(Signal::KILL).unwrap();
    drop((gateway, origin));
    assert_ne!(network.at_gateway(|| Ok(bawab(&["xdp", "detach", "--interface", "nothing0"]).1)).unwrap(), "");
    let (gateway, _origin) = start(&network, lists);
    let to = gateway.address_of("main").unwrap();
    assert_eq!(served(&network, "10.78.0.2", to).unwrap(), 200);
    assert_shut(&network, "10.78.0.3", to);
    assert_shut(&network, "10.78.0.5", to);
    let file = gateway.config_file();
    let (_, said, _) = bawab(&["ban", "list", "--config", file.to_str().unwrap()]);
    assert!(said.contains("10.78.0.5"), "{said}");

    // Other lists without a gap; then no door any more.
    gateway.rewrite(&config(&network, "[list.drop]\naction = \"deny\"\ncidrs = [\"10.78.0.4\"]\n")).unwrap();
    assert_eq!(gateway.reload().unwrap().head.status(), 200);
    assert_eq!(served(&network, "10.78.0.3", to).unwrap(), 200);
    assert_shut(&network, "10.78.0.4", to);
    gateway.rewrite("[[listener]]\nname = \"main\"\naddress = \"10.78.0.1:0\"").unwrap();
    assert_eq!(gateway.reload().unwrap().head.status(), 200);
    // The kernel lets go of a program on its own time once nobody holds it.
    let deadline = Instant::now() + e2e::patience();
    let has_program = || {
        let links =
            network.at_gateway(|| Ok(Command::new("ip").args(["-d", "link", "show", &network.interface]).output()?));
        String::from_utf8_lossy(&links.unwrap().stdout).contains("prog/xdp")
    };
    while has_program() {
        assert!(Instant::now() < deadline, "the program is still attached");
    }
    assert_eq!(served(&network, "10.78.0.4", to).unwrap(), 200);
}

#[test]
fn a_list_that_would_lock_out_is_refused() {
    root_only!();
    let network = Network::new().unwrap();
    let _detached = Detached(&network.interface);
    network.at_gateway(|| ip("route add default via 10.78.0.2")).unwrap();
    let (gateway, _origin) = start(&network, "");
    let to = gateway.address_of("main").unwrap();
    gateway.rewrite(&config(&network, "[list.drop]\naction = \"deny\"\ncidrs = [\"10.78.0.0/24\"]\n")).unwrap();
    let refused = gateway.reload().unwrap();
    assert_eq!(refused.head.status(), 422);
    let said = refused.text();
    assert!(said.contains("list.drop: it would deny 10.78.0.2, this host's default gateway"), "{said}");
    assert_eq!(served(&network, "10.78.0.2", to).unwrap(), 200);
    let hop =
        "[gateway]\ntrusted_hops = [\"10.78.0.4/32\"]\n[list.drop]\naction = \"deny\"\ncidrs = [\"10.78.0.4/31\"]\n";
    gateway.rewrite(&config(&network, hop)).unwrap();
    let said = gateway.reload().unwrap().text();
    assert!(said.contains("list.drop: it would deny 10.78.0.4, one of `gateway.trusted_hops`"), "{said}");
    // What is managed may be on a list.
    let managed = "manage = [\"10.78.0.2/32\"]\n[list.drop]\naction = \"deny\"\ncidrs = [\"10.78.0.0/24\"]\n";
    gateway.rewrite(&config(&network, managed)).unwrap();
    assert_eq!(gateway.reload().unwrap().head.status(), 200);
    assert_eq!(served(&network, "10.78.0.2", to).unwrap(), 200);
    assert_shut(&network, "10.78.0.3", to);
}

#[test]
fn new_connections_beyond_the_limit_are_dropped() {
    root_only!();
    let network = Network::new().unwrap();
    let _detached = Detached(&network.interface);
    let (gateway, _origin) = start(&network, "syn_limit = { rate = \"1/s\", burst = 5 }\n");
    let to = gateway.address_of("main").unwrap();
    let open: Vec<_> = (0..20).map(|_| network.connect("10.78.0.2", to, SHUT)).collect();
    let taken = open.iter().filter(|connection| connection.is_ok()).count();
    // Five at once and one a second: a SYN that is sent again may be the one.
    assert!((5..16).contains(&taken), "{taken} of 20");
    // Others have limits of their own.
    assert_eq!(served(&network, "10.78.0.3", to).unwrap(), 200);
    gateway
        .metrics_when("SYNs dropped", |metrics| metrics.sum("bawab_xdp_packets_total", &[("outcome", "syn_v4")]) >= 1.0)
        .unwrap();
}

#[test]
fn without_a_door_the_lists_hold_in_user_space_and_the_reason_is_said() {
    let origin = Origin::tcp().unwrap().answer(|_| ok("x"));
    let gateway = Gateway::start(
        "[xdp]\ninterfaces = [\"nothing0\"]\nrequired = true\n[list.drop]\naction = \"deny\"\ncidrs = [\"127.0.0.1\"]",
        origin.address(),
    )
    .unwrap();
    gateway.event("XDP program not attached").unwrap();
    let ready = gateway.admin("/readyz").unwrap();
    assert_eq!((ready.head.status(), ready.json().unwrap()["reasons"][0].as_str()), (503, Some("xdp")));
    let mut client = gateway.client().unwrap();
    let _ = client.send("GET / HTTP/1.1\r\nHost: h\r\n\r\n");
    assert!(Message::answer(&mut client, "GET").is_err());
    assert_eq!(gateway.metrics().unwrap().sum("bawab_xdp_attached", &[("interface", "nothing0")]), 0.0);
    let file = gateway.config_file();
    let (_, said, _) = bawab(&["xdp", "status", "--config", file.to_str().unwrap()]);
    assert!(said.contains("nothing0: NOT attached: there is no network interface `nothing0`"), "{said}");
}

/// What the unit and its drop-in say behind `key=`, line by line.
fn unit(key: &str) -> Vec<String> {
    let conf = binary::workspace().join("conf");
    let texts = ["bawab.service", "bawab-door.conf"].map(|name| std::fs::read_to_string(conf.join(name)).unwrap());
    let lines = texts.iter().flat_map(|text| text.lines());
    lines.filter_map(|line| Some(line.strip_prefix(key)?.strip_prefix('=')?.to_owned())).collect()
}

/// Ends every gateway that runs with a configuration, however the test ends.
struct Ended<'a>(&'a std::path::Path);

impl Drop for Ended<'_> {
    fn drop(&mut self) {
        for pid in started_with(self.0) {
            end(pid, Signal::KILL);
        }
    }
}

#[test]
fn a_user_with_what_the_units_drop_in_gives_has_a_door_and_takes_it_over() {
    root_only!();
    let network = Network::new().unwrap();
    let dir = tempfile::tempdir().unwrap();
    std::fs::set_permissions(dir.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let file = dir.path().join("gateway.toml");
    let interface = &network.interface;
    std::fs::write(
        &file,
        format!(
            "[admin]\naddress = \"127.0.0.1:9180\"\n[[listener]]\naddress = \"10.78.0.1:80\"\n\
             [xdp]\ninterfaces = [\"{interface}\"]\n[list.drop]\naction = \"deny\"\ncidrs = [\"10.78.0.3\"]\n\
             [[route]]\npath = \"/\"\nauth = \"none\"\nrespond = {{ body = \"x\" }}\n"
        ),
    )
    .unwrap();
    // As systemd does it: /sys/fs/bpf is root's alone, the unit's folder in it is writable, and the rest of it is not.
    let prepare = unit("ExecStartPre").into_iter().find_map(|line| line.strip_prefix('+').map(str::to_owned)).unwrap();
    let prepare = prepare.replace("bawab:bawab", "65534:65534");
    let folder = unit("ReadWritePaths").remove(0).trim_start_matches('-').to_owned();
    let powers = unit("AmbientCapabilities").join(" ");
    assert_eq!(powers, unit("CapabilityBoundingSet").join(" "));
    let powers: String =
        powers.split(' ').map(|power| format!(",+{}", power.trim_start_matches("CAP_").to_lowercase())).collect();
    let script = format!(
        "mount -t bpf -o mode=700 bpf /sys/fs/bpf && {prepare} && mount --bind {folder} {folder} && \
         mount -o remount,bind,ro /sys/fs/bpf && exec setpriv --reuid=65534 --regid=65534 --clear-groups \
         --inh-caps=-all{powers} --ambient-caps=-all{powers} --bounding-set=-all{powers} --no-new-privs \"$@\""
    );
    let _ended = Ended(&file);
    // Others may not get to where the binary was built.
    let program = dir.path().join("bawab");
    std::fs::copy(binary::path(), &program).unwrap();
    let mut gateway = network
        .at_gateway(|| {
            let words = ["--mount", "--propagation", "private", "sh", "-c", &script, "sh"];
            let mut command = Command::new("unshare");
            command.args(words).arg(&program).arg("run").arg(&file);
            Ok(command.stdin(Stdio::null()).stdout(Stdio::null()).spawn()?)
        })
        .unwrap();
    let with = |args: &[&str]| {
        let args = [args, &["--config", file.to_str().unwrap()]].concat();
        network.at_gateway(|| Ok(bawab(&args))).unwrap()
    };
    let attached = |bans: usize| {
        let deadline = Instant::now() + patience();
        loop {
            let (_, said, wrong) = with(&["xdp", "status"]);
            if said.contains(&format!("{interface}: attached, native")) && said.contains(&format!(" {bans} bans")) {
                return;
            }
            assert!(Instant::now() < deadline, "{said}{wrong}");
        }
    };
    attached(0);
    let (_, said, wrong) = with(&["ban", "add", "10.78.0.4"]);
    assert!(said.contains("in the kernel on every port"), "{said}{wrong}");
    // Another process takes over, and has the same in its hands: what it does reaches the kernel.
    rustix::process::kill_process(e2e::root::pid(&gateway).unwrap(), Signal::USR2).unwrap();
    assert!(e2e::root::ended(&mut gateway).unwrap().success());
    attached(1);
    assert_eq!(with(&["ban", "del", "10.78.0.4"]).1, "10.78.0.4 is banned no more\n");
    attached(0);
    let to = "10.78.0.1:80".parse().unwrap();
    assert_shut(&network, "10.78.0.3", to);
    assert_eq!(served(&network, "10.78.0.2", to).unwrap(), 200);
}
