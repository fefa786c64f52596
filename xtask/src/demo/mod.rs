//! `cargo xtask demo [--stay]`: the gateway at work. Builds it, starts it with `conf/demo.toml` before services of the
//! demo's own, sends real requests through each thing that exists, changes it while it serves, shows what went and came, and
//! checks every answer.

mod addresses;
mod gateway;
mod grpc;
mod lifecycle;
mod names;
mod policies;
mod routes;
mod services;
mod stage;
mod steps;
mod websocket;

use std::time::Duration;

use anyhow::{Result, bail};

use crate::{process, workspace};
use gateway::Gateway;
use services::Services;
use stage::Stage;

/// How often `--stay` looks whether the gateway is still there.
const LOOK: Duration = Duration::from_millis(200);

pub(crate) fn run(words: &[String]) -> Result<bool> {
    let stay = match words {
        [] => false,
        [word] if word == "--stay" => true,
        _ => bail!("usage: cargo xtask demo [--stay]"),
    };
    process::run(workspace::cargo()?.args(["build", "--package", "bawab", "--bin", "bawab"]))?;
    let services = Services::start()?;
    let mut gateway = Gateway::start(&workspace::target()?.join("debug/bawab"), &services)?;
    println!("the gateway runs conf/demo.toml: clients at {}, admin at {}", gateway.public, gateway.admin.display());
    let mut stage = Stage::default();
    for (title, step) in steps::ALL {
        stage.begin(title);
        if let Err(error) = step(&mut stage, &mut gateway, &services) {
            stage.check(&format!("no error ({error:#})"), false);
        }
    }
    if stay && stage.is_well() {
        invite(&mut gateway)?;
    }
    stage.begin("the end: SIGTERM");
    let status = gateway.stop()?;
    let claim = format!("the process that took over lets running exchanges finish and ends with 0 ({status})");
    stage.check(&claim, status.success());
    println!("\n{stage}");
    Ok(stage.is_well())
}

/// Keeps everything up until Ctrl-C, or until the gateway ends.
fn invite(gateway: &mut Gateway) -> Result<()> {
    let (public, admin) = (gateway.public, gateway.admin.display());
    println!(
        "\nit stays up; end it with Ctrl-C. Try:
  curl -i -H 'Host: api.example' http://{public}/books/42
  curl -i -H 'Host: cats.static.example' http://{public}/pictures
  curl -i -H 'Host: api.example' -X POST -T - http://{public}/media/upload      (type, then Ctrl-D)
  curl -i -H 'Host: api.example' http://{public}/slow
  curl -i -H 'Host: nowhere.example' http://{public}/
  curl -i -H 'Host: api.example' -H 'X-Canary: 1' http://{public}/books/42
  curl -i -H 'Host: api.example' http://{public}/old/page
  curl -s --unix-socket {admin} http://admin/metrics
  curl -s --unix-socket {admin} 'http://admin/explain/route?method=GET&url=http://api.example/books/42&format=text'
access log:"
    );
    while gateway.is_running()? {
        for line in gateway.access_lines(LOOK) {
            println!("{line}");
        }
        // There are few, and they are for the person at the terminal.
        for event in gateway.events() {
            eprintln!("{event}");
        }
    }
    Ok(())
}
