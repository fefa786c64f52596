//! `cargo xtask bench WHAT`: the gateway beside its peers on this machine. Ratios within one round count; a figure alone
//! says more about the machine than about the program.

mod chaos;
mod client;
mod cost;
mod crowd;
mod endpoints;
mod front;
mod gigabyte;
mod grpc;
mod h2;
mod h2load;
mod handshake;
mod idle;
mod instructions;
mod peers;
mod plain;
mod reload;
mod report;
mod rounds;
mod routes;
mod silent;
mod stuck;
mod takeover;
mod tls;
mod traffic;
mod window;
mod wrk;
mod xdp;

use std::str::FromStr;

use anyhow::{Context, Result, bail};

use peers::Peer;

const USAGE: &str = "\
usage: cargo xtask bench WHAT [options]

  plain   CPU per request, rate, latency and memory of every peer as a plain proxy
            --rounds N     interleaved rounds (9)
            --seconds N    length of one measured window (3)
            --peers A,B    bawab, nginx, haproxy, envoy, traefik, floor (all)
            --rows A,B     small, 1k, 64k, 1m, logs (all)
  tls     the same over TLS 1.3, and the gateway's memory while a GiB passes it each way
            --rounds N     interleaved rounds (9)
            --seconds N    length of one measured window (3)
            --peers A,B    bawab, nginx, haproxy, envoy, traefik (all)
            --parts A,B    requests, gigabyte (all)
  h2      the same over HTTP/2: 16 connections of 32 streams
            --rounds N     interleaved rounds (9)
            --seconds N    length of one measured window (3)
            --peers A,B    bawab, nginx, haproxy, envoy, traefik (all)
  grpc    calls of gRPC, TLS 1.3 and HTTP/2 towards clients, HTTP/2 towards the service; and the gateway alone with clients of
          HTTP/1.1 and services of both kinds
            --rounds N     interleaved rounds (9)
            --seconds N    length of one measured window (3)
            --peers A,B    bawab, nginx, haproxy, envoy, traefik (all)
            --parts A,B    calls, h1-h2 (all)
  handshake
          CPU per TLS handshake, in full and resumed, each with one request
            --rounds N     interleaved rounds (9)
            --seconds N    length of one measured window (3)
            --peers A,B    bawab, nginx, haproxy, envoy, traefik (all)
            --kinds A,B    full, resumed (all)
  idle    memory per silent connection
            --rounds N     (1)
            --peers A,B    bawab, nginx, haproxy, envoy, traefik (all)
            --protocols A,B
                           plain, tls, h2 (all)
  instructions
          user-space instructions of one exchange (callgrind), over HTTP/1.1 and HTTP/2, against recorded bounds
  reload  10,000 routes, reloaded once a second beside a load of 40 % of capacity
            --rounds N     pairs of windows, with reloads and without (7)
            --seconds N    length of one window (10)
            --peers A,B    bawab, nginx, traefik (all)
  routes  look-ups and compiling of 10 to 100,000 routes, and CPU per request for random requests over all routes
            --rounds N     interleaved rounds (7)
            --seconds N    length of one measured window (3)
            --peers A,B    bawab, nginx, envoy (all)
            --parts A,B    lookup, compile, memory, proxy (all)
  chaos   a fixed rate of requests beside 20 endpoints of which up to 5 are killed, stopped, slow, silent or wrong
            --seconds N    (300)
            --rate N       requests a second (1000)
            --seed N       of what goes wrong and when (1)
            --peers A,B    bawab, nginx, envoy (all)
  endpoints
          the gateway's CPU per request before ten endpoints that are checked and ejected, beside one that is not
            --rounds N     interleaved rounds (9)
            --seconds N    length of one measured window (3)
  stuck   1,000 clients that stop inside a head, beside others that do not
            --peers A,B    (bawab, nginx, haproxy)
  takeover
          the gateway hands its sockets to a new process, again and again, and no client may notice
            --times N      (20)
  xdp     nanoseconds the XDP program takes for a packet, beside the kernel's own maps with the same lists
          and through a veth pair: a flood with the program, with nftables, with neither; and how soon a ban holds
            --rounds N     of trial, at least 7 (7)
            --floods N     interleaved rounds (5)
            --seconds N    length of one measured window of a flood (3)
            --bans N       addresses to ban (300)
            --parts A,B    trial, flood, ban (all)";

pub(crate) fn run(words: &[String]) -> Result<bool> {
    match words.split_first() {
        Some((what, rest)) if !rest.iter().any(|word| word == "--help") => match what.as_str() {
            "plain" => plain::run(rest),
            "tls" => tls::run(rest),
            "h2" => h2::run(rest),
            "grpc" => grpc::run(rest),
            "handshake" => handshake::run(rest),
            "idle" => idle::run(rest),
            "instructions" => instructions::run(rest),
            "reload" => reload::run(rest),
            "routes" => routes::run(rest),
            "endpoints" => endpoints::run(rest),
            "stuck" => stuck::run(rest),
            "takeover" => takeover::run(rest),
            "chaos" => chaos::run(rest),
            // Its endpoints; nobody else starts them.
            chaos::endpoint::COMMAND => chaos::endpoint::serve(rest),
            "xdp" => xdp::run(rest),
            "--help" => help(),
            _ => bail!("there is no bench `{what}`\n\n{USAGE}"),
        },
        _ => help(),
    }
}

fn help() -> Result<bool> {
    println!("{USAGE}");
    Ok(true)
}

/// `--name value` pairs, each taken out by the one who knows it; what is left at the end is a mistake.
struct Options<'a> {
    pairs: Vec<(&'a str, &'a str)>,
}

impl<'a> Options<'a> {
    fn read(words: &'a [String]) -> Result<Self> {
        let mut pairs = Vec::new();
        for pair in words.chunks(2) {
            match pair {
                [name, value] if name.starts_with("--") => pairs.push((name.as_str(), value.as_str())),
                _ => bail!("`{}` is not an option with a value\n\n{USAGE}", pair.join(" ")),
            }
        }
        Ok(Self { pairs })
    }

    fn text(&mut self, name: &str) -> Option<&'a str> {
        let at = self.pairs.iter().position(|(known, _)| *known == name)?;
        Some(self.pairs.remove(at).1)
    }

    fn number<T: FromStr>(&mut self, name: &str, default: T) -> Result<T> {
        match self.text(name) {
            Some(text) => text.parse().ok().with_context(|| format!("{name}: `{text}` is not a number it takes")),
            None => Ok(default),
        }
    }

    fn peers(&mut self, default: &[Peer]) -> Result<Vec<Peer>> {
        match self.text("--peers") {
            Some(names) => names.split(',').map(Peer::from_name).collect(),
            None => Ok(default.to_vec()),
        }
    }

    fn done(self) -> Result<()> {
        match self.pairs.first() {
            Some((name, _)) => bail!("`{name}` is no option here\n\n{USAGE}"),
            None => Ok(()),
        }
    }
}
