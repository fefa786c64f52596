//! The steps of the demo that change the gateway while it serves: another configuration, another process.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Sender, channel};
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use e2e::message::Message;
use e2e::tls::{HandshakeKind, ProtocolVersion, certificate, secure, trusting};
use e2e::{Kept, Peer, patience};

use super::gateway::Gateway;
use super::services::Services;
use super::stage::Stage;

const GET: &str = "GET /books/42 HTTP/1.1\r\nHost: api.example\r\n\r\n";
const RELOAD: &str = "POST /reload HTTP/1.1\r\nHost: admin\r\nContent-Length: 0\r\n\r\n";

/// What stands before the upstream of the first route.
const BOOKS: &str = "name = \"books\"\nhost = \"api.example\"\npath = \"/books/**\"\nmethods = [\"GET\", \"HEAD\"]\n";

/// Answers that are waited for before, and again after, one process takes over from another.
const BUSY_ANSWERS: usize = 50;

pub(super) fn reload(stage: &mut Stage, gateway: &mut Gateway, _: &Services) -> Result<()> {
    let mut client = Peer::connect(gateway.public)?;
    let framing = |answer: &Message| answer.head.field("x-frame-options").unwrap_or("nothing").to_owned();
    let before = stage.ask_on(&mut client, GET)?;
    stage.check("before, the route adds X-Frame-Options: DENY", framing(&before) == "DENY");

    stage.note("the configuration: add = { X-Frame-Options = \"DENY\" } becomes \"SAMEORIGIN\"");
    gateway.rewrite("X-Frame-Options = \"DENY\"", "X-Frame-Options = \"SAMEORIGIN\"")?;
    let answer = stage.ask_admin(&gateway.admin, RELOAD)?;
    stage.check("POST /reload says that it is applied", answer.json()?["outcome"] == "applied");
    let after = stage.ask_on(&mut client, GET)?;
    stage.check("the connection that was open has it with its next answer", framing(&after) == "SAMEORIGIN");

    stage.note("the configuration: upstream = \"books\" becomes \"boks\"");
    let (right, wrong) = (format!("{BOOKS}upstream = \"books\""), format!("{BOOKS}upstream = \"boks\""));
    gateway.rewrite(&right, &wrong)?;
    let answer = stage.ask_admin(&gateway.admin, RELOAD)?;
    let told = answer.text();
    stage.check("a mistake is refused: 422 config_problems", answer.refusal()? == (422, "config_problems".to_owned()));
    stage.check("with its place and a guess", told.contains("demo.toml:") && told.contains("did you mean"));
    let after = stage.ask_on(&mut client, GET)?;
    stage.check("and changes nothing, on the same connection still", framing(&after) == "SAMEORIGIN");
    gateway.rewrite(&wrong, &right)?;
    let answer = stage.ask_admin(&gateway.admin, RELOAD)?;
    stage.check("put right, it is what runs already", answer.json()?["outcome"] == "unchanged");
    Ok(())
}

pub(super) fn tls(stage: &mut Stage, gateway: &mut Gateway, _: &Services) -> Result<()> {
    const BEHIND: &str = "# Two endpoints, in turn.\n";
    const SECURE: &str = "[[listener]]\nname = \"secure\"\naddress = \"127.0.0.1:0\"\n\
        tls = { certificates = [{ cert = \"api.pem\", key = \"api.key\" }] }\n";
    let made = certificate(gateway.folder(), "api", &["api.example"])?;
    stage.note("the configuration gets one more listener:");
    SECURE.lines().for_each(|line| stage.note(line));
    gateway.rewrite(BEHIND, &format!("{SECURE}\n{BEHIND}"))?;
    let answer = stage.ask_admin(&gateway.admin, RELOAD)?;
    stage.check("POST /reload says that it is applied", answer.json()?["outcome"] == "applied");
    let to = gateway.listening("secure")?;

    let client = trusting(&[&made.cert], &[])?;
    let mut kept = secure(Peer::connect(to)?, "api.example", &client)?;
    let version = kept.tls().and_then(|tls| tls.protocol_version());
    stage.check(&format!("a client that trusts api.pem speaks {version:?}"), version == Some(ProtocolVersion::TLSv1_3));
    let answer = stage.ask_on(&mut kept, GET)?;
    stage.check("the service hears of https", answer.text().to_lowercase().contains("x-forwarded-proto: https"));
    let again = secure(Peer::connect(to)?, "api.example", &client)?;
    let kind = again.tls().and_then(|tls| tls.handshake_kind());
    stage.check("its next connection goes by a ticket", kind == Some(HandshakeKind::Resumed));
    let answer = stage.ask(to, GET)?;
    stage.check("plain HTTP there is refused: 400 tls_required", answer.refusal()? == (400, "tls_required".to_owned()));

    stage.note("api.pem and api.key are renewed");
    certificate(gateway.folder(), "api", &["api.example"])?;
    let answer = stage.ask_admin(&gateway.admin, RELOAD)?;
    stage.check("POST /reload says that it is applied", answer.json()?["outcome"] == "applied");
    let renewed = secure(Peer::connect(to)?, "api.example", &trusting(&[&made.cert], &[])?);
    stage.check("a client that trusts the new one alone is content", renewed.is_ok());
    let answer = stage.ask_on(&mut kept, GET)?;
    stage.check("the connection from before goes on", answer.head.status() == 200);
    Ok(())
}

pub(super) fn take_over(stage: &mut Stage, gateway: &mut Gateway, _: &Services) -> Result<()> {
    let (before, public) = (gateway.pid(), gateway.public);
    let over = AtomicBool::new(false);
    let (answered, answers) = channel();
    let (ended, lost) = std::thread::scope(|scope| {
        let clients = [true, false].map(|keeps| {
            let (over, answered) = (&over, answered.clone());
            scope.spawn(move || ask_until(over, public, keeps, &answered))
        });
        drop(answered);
        let busy = || -> Result<()> {
            let deadline = Instant::now() + patience();
            for _ in 0..BUSY_ANSWERS {
                let left = deadline.saturating_duration_since(Instant::now());
                answers.recv_timeout(left).context("the clients get no answers")?;
            }
            Ok(())
        };
        let ended = busy().and_then(|()| {
            stage.note(&format!("two clients ask without a pause; SIGUSR2 to process {before}"));
            let ended = gateway.take_over()?;
            // What was answered up to here may be the old one's.
            let before = answers.try_iter().count();
            stage.note(&format!("{before} answers meanwhile"));
            busy()?;
            Ok(ended)
        });
        over.store(true, Ordering::Relaxed);
        let mut lost = Vec::new();
        for client in clients {
            match client.join() {
                Ok(Ok(())) => {}
                Ok(Err(error)) => lost.push(format!("{error:#}")),
                Err(_) => lost.push("a client panicked".to_owned()),
            }
        }
        (ended, lost)
    });
    let ended = ended?;
    stage.check(&format!("process {} serves instead", gateway.pid()), gateway.pid() != before && gateway.is_running()?);
    stage.check(&format!("the one before has ended with 0 ({ended})"), ended.success());
    for error in &lost {
        stage.note(error);
    }
    stage.check("no request was refused, reset or left without an answer", lost.is_empty());
    let ready = stage.ask_admin(&gateway.admin, "GET /readyz HTTP/1.1\r\nHost: admin\r\n\r\n")?;
    stage.check("the admin listener is the new one's", ready.head.status() == 200);
    let answer = stage.ask(public, GET)?;
    stage.check("a client that comes now is served", answer.head.status() == 200);
    Ok(())
}

/// Asks again and again until it is over, on one connection for as long as that is kept, or on a new one each time.
fn ask_until(over: &AtomicBool, to: SocketAddr, keeps: bool, answered: &Sender<()>) -> Result<()> {
    let mut client = Kept::connect(to)?;
    while !over.load(Ordering::Relaxed) {
        let answer = client.ask(GET)?;
        ensure!(answer.head.status() == 200, "{}", answer.head.start);
        // Nobody counts any more when the step is failing.
        let _ = answered.send(());
        if !keeps {
            client.reconnect()?;
        }
    }
    Ok(())
}
