//! The steps of the demo that turn clients away by their address: lists, bans, and the door in the kernel.

use std::net::SocketAddr;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::Result;
use e2e::message::Message;
use e2e::netns::Network;
use e2e::{Peer, patience};
use rustix::process::{Signal, geteuid};

use super::gateway::Gateway;
use super::services::Services;
use super::stage::Stage;

/// How long a connection that must not come about is waited for.
const SHUT: Duration = Duration::from_millis(400);

const STAFF: &str = "GET /staff HTTP/1.1\r\nHost: api.example\r\n\r\n";

pub(super) fn listed(stage: &mut Stage, gateway: &mut Gateway, _: &Services) -> Result<()> {
    let answer = stage.ask(gateway.public, STAFF)?;
    stage.check("a client on no list is served", answer.text() == "for staff\n");
    let answer = stage.ask_from("127.0.0.65", gateway.public, STAFF)?;
    stage.check("a guest is not, on this route", answer.refusal()? == (403, "address_denied".to_owned()));
    let turned_away = no_answer("127.0.0.66", gateway.public)?;
    stage.check("whom a list denies everywhere ends at accept: no answer to 127.0.0.66", turned_away);
    let said = stage.run(&mut gateway.command(&["explain", "ip", "127.0.0.66"]))?;
    stage.check("which list, and which line of it", said.contains("drop, 127.0.0.66/32 in list.drop.cidrs[0]"));
    Ok(())
}

pub(super) fn banned(stage: &mut Stage, gateway: &mut Gateway, _: &Services) -> Result<()> {
    const CLIENT: &str = "127.0.0.71";
    let guest = "GET /books/1 HTTP/1.1\r\nHost: api.example\r\n\r\n";
    let mut open = Peer::connect_from(CLIENT.parse()?, gateway.public)?;
    let answer = stage.ask_on(&mut open, guest)?;
    stage.check("served", answer.head.status() == 200);
    let words = ["ban", "add", CLIENT, "--for", "10m", "--reason", "too many questions"];
    let said = stage.run(&mut gateway.command(&words))?;
    stage.check("banned for ten minutes", said.starts_with("127.0.0.71 is banned for 10m"));
    let answer = stage.ask_on(&mut open, guest)?;
    stage.check("on a connection that is open: 403", answer.refusal()? == (403, "address_banned".to_owned()));
    stage.check("on a new one: nothing", no_answer(CLIENT, gateway.public)?);
    let said = stage.run(&mut gateway.command(&["explain", "ip", CLIENT, "--running"]))?;
    stage.check("why, and how long still", said.contains("ban ") && said.contains("too many questions"));
    stage.run(&mut gateway.command(&["ban", "del", CLIENT]))?;
    let answer = stage.ask_from(CLIENT, gateway.public, guest)?;
    stage.check("forgiven: served again", answer.head.status() == 200);
    Ok(())
}

/// Whether a connection from this address ends without a word.
fn no_answer(from: &str, to: SocketAddr) -> Result<bool> {
    let mut client = Peer::connect_from(from.parse()?, to)?;
    // It may be closed already.
    let _ = client.send(STAFF);
    Ok(Message::answer(&mut client, "GET").is_err() && client.received() == 0)
}

/// Another gateway, in a network namespace with one interface, and clients in another one.
pub(super) fn door(stage: &mut Stage, gateway: &mut Gateway, _: &Services) -> Result<()> {
    if !geteuid().is_root() {
        stage.note("not shown: XDP programs and network namespaces are for root");
        return Ok(());
    }
    let network = match Network::new() {
        Ok(network) => network,
        Err(error) => {
            stage.note(&format!("not shown: no network namespaces can be made here: {error:#}"));
            return Ok(());
        }
    };
    let interface = network.interface.as_str();
    let folder = tempfile::Builder::new().prefix("bawab-demo-door-").tempdir()?;
    let text = format!(
        "[admin]\naddress = \"unix:{}/admin.sock\"\n\n[log]\nformat = \"json\"\naccess = \"off\"\n\n\
         [[listener]]\nname = \"door\"\naddress = \"10.78.0.1:0\"\n\n[xdp]\ninterfaces = [\"{interface}\"]\n\n\
         [list.drop]\naction = \"deny\"\ncidrs = [\"10.78.0.3\"]\n\n\
         [[route]]\npath = \"/\"\nauth = \"none\"\nrespond = {{ body = \"in\\n\" }}\n",
        folder.path().display()
    );
    text.lines().for_each(|line| stage.note(&format!("  {line}")));
    let place = folder.path().to_owned();
    // Not attached to the thread that starts it, which ends at once.
    let mut command = Command::new(&gateway.program);
    command.arg("run").arg(place.join("gateway.toml")).stdin(Stdio::null());
    let mut other = network.at_gateway(|| e2e::Gateway::start_by(&mut command, &text, folder))?;
    let about = |words: &[&str]| {
        let mut command = Command::new(&gateway.program);
        command.args(words).args(["--config", "gateway.toml"]).current_dir(&place);
        command
    };
    let to = other.address_of("door")?;
    let shown = watch(stage, &network, &mut other, to, &about);
    // Whatever came of it, nothing is left behind.
    let _ = other.signal(Signal::KILL);
    drop(other);
    let detached = stage.run(Command::new(&gateway.program).args(["xdp", "detach", "--interface", interface]))?;
    if shown? {
        stage.check("removed", detached == format!("detached from {interface}\n"));
    }
    Ok(())
}

/// What the door does. Whether there is one.
fn watch(
    stage: &mut Stage,
    network: &Network,
    gateway: &mut e2e::Gateway,
    to: SocketAddr,
    about: &dyn Fn(&[&str]) -> Command,
) -> Result<bool> {
    let served = |from: &str| network.connect(from, to, patience()).is_ok();
    let shut = |from: &str| network.connect(from, to, SHUT).is_err();
    let said = stage.run(&mut about(&["xdp", "status"]))?;
    if said.contains("lacks CAP_") || said.contains("BPF file system") {
        stage.note("not shown: this root may not attach XDP programs");
        return Ok(false);
    }
    stage.check("the program runs in the driver", said.contains(&format!("{}: attached, native", network.interface)));
    stage.check("10.78.0.2 connects", served("10.78.0.2"));
    stage.check("10.78.0.3, which a list denies, does not: its packets end before the stack", shut("10.78.0.3"));
    let said = stage.run(&mut about(&["ban", "add", "10.78.0.4", "--for", "1h"]))?;
    stage.check("a ban reaches the kernel", said.contains("in the kernel on every port") && shut("10.78.0.4"));
    let said = stage.run(&mut about(&["explain", "ip", "10.78.0.3", "--running"]))?;
    let agree = said.contains(&format!("says the same on {}", network.interface));
    stage.check("both tiers agree, by one table", agree);
    let program = about(&[]).get_program().to_owned();
    let bypass = |state: &str| {
        let mut command = Command::new(&program);
        command.args(["xdp", "bypass", state, "--interface", &network.interface]);
        command
    };
    stage.run(&mut bypass("on"))?;
    stage.check("the kill word: 10.78.0.3 connects, as far as the kernel goes", served("10.78.0.3"));
    stage.run(&mut bypass("off"))?;
    stage.check("and not any more", shut("10.78.0.3"));
    stage.note("SIGKILL to the gateway");
    gateway.signal(Signal::KILL)?;
    gateway.exit()?;
    let refused = |from: &str| network.connect(from, to, SHUT).err().is_some_and(|error| is_refused(&error));
    // The kernel closes what a ring held a moment after the process.
    let deadline = Instant::now() + patience();
    while !refused("10.78.0.2") && Instant::now() < deadline {}
    stage.check("10.78.0.2 is refused by the stack: nobody listens", refused("10.78.0.2"));
    stage.check("10.78.0.3 gets no word from it: the door stays shut", shut("10.78.0.3") && !refused("10.78.0.3"));
    Ok(true)
}

fn is_refused(error: &anyhow::Error) -> bool {
    let kinds = error.chain().filter_map(|cause| cause.downcast_ref::<std::io::Error>()).map(std::io::Error::kind);
    kinds.into_iter().any(|kind| kind == std::io::ErrorKind::ConnectionRefused)
}
