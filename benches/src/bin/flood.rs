//! A flood from denied sources through a veth pair, for `cargo xtask bench xdp`: a JSON object a line. Root only.
//!
//! Live frames of `BPF_PROG_TEST_RUN` are the flood: evenly at a given rate, each from another address of a list of 65,536
//! prefixes. Flood and clients have one core; the gateway (the real binary, which `BAWAB_BIN` names) and the kernel thread
//! that receives for its interface have the other. In each round the list is enforced by the XDP program, by an nftables set
//! on the interface's ingress hook, which is the earliest it has, and by nobody.
#![expect(clippy::print_stdout, reason = "its answer")]

use std::fmt::Write as _;
use std::fs;
use std::io::Write as _;
use std::net::{Ipv4Addr, SocketAddr};
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use abi::compile::Cidr;
use abi::door::bench_source4;
use anyhow::{Context, Result, ensure};
use aya::EbpfLoader;
use aya::maps::{MapData, PerCpuArray};
use aya::programs::Xdp;
use bawab::control::xdp::Runner;
use benches::core;
use benches::detached::Detached;
use e2e::Gateway;
use e2e::netns::{Network, ip};
use rustix::process::{Pid, setpriority_process};
use serde_json::json;

static ANCHORS: &[u8] =
    aya::include_bytes_aligned!(concat!(env!("CARGO_MANIFEST_DIR"), "/../ebpf/prebuilt/anchors.bpf.o"));

/// Prefixes of the list, a power of two: the flood draws from so many.
const LISTED: u32 = 1 << 16;
/// Frames of one call. A call waits some 20 ms for the kernel before and after, so that it is to be long.
const BURST: u32 = 1 << 19;
/// Niceness of everything here, so that what else the machine does takes little of the two cores.
const NICE: i32 = -10;
/// Of the kernel threads that receive: before the gateway, as interrupts go before everything.
const NICE_RECEIVER: i32 = -20;

/// Who enforces the list.
#[derive(Clone, Copy, PartialEq)]
enum Guard {
    Xdp,
    Nftables,
    Nobody,
}

impl Guard {
    const ALL: [Self; 3] = [Self::Xdp, Self::Nftables, Self::Nobody];

    fn name(self) -> &'static str {
        match self {
            Self::Xdp => "xdp",
            Self::Nftables => "nftables",
            Self::Nobody => "nobody",
        }
    }
}

fn main() -> Result<()> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let number = |at: usize, default: u64| words.get(at).map_or(Ok(default), |word| word.parse()).context("a number");
    let (rounds, seconds, rate) = (number(0, 5)?, number(1, 3)?, number(2, 1_000_000)?);
    ensure!(rustix::process::geteuid().is_root(), "BPF needs root");
    ensure!(thread::available_parallelism()?.get() > core::SERVING, "a flood needs two cores");
    ensure!(rounds > 0 && seconds > 0, "at least one round of one second");
    ensure!((1_000..=10_000_000).contains(&rate), "a flood of 1,000 to 10,000,000 packets a second");
    setpriority_process(None, NICE)?;
    let folder = tempfile::tempdir()?;
    let list = folder.path().join("list.txt");
    fs::write(&list, (0..LISTED).map(|number| format!("{}\n", cidr(number))).collect::<String>())?;

    let network = Network::new()?;
    let stage = Stage::set(&network, &list, Duration::from_secs(seconds), (1_000_000_000 / rate) as u32)?;
    for round in 0..rounds as usize {
        // Each begins a round in its turn.
        for nth in 0..Guard::ALL.len() {
            let guard = Guard::ALL[(round + nth) % Guard::ALL.len()];
            let _detached = Detached(network.interface.clone());
            println!("{}", stage.measure(guard).with_context(|| format!("with {}", guard.name()))?);
        }
    }
    Ok(())
}

/// Half of the list addresses, half prefixes of /24 to /31.
fn cidr(number: u32) -> Cidr {
    let length = if number.is_multiple_of(2) { 32 } else { 24 + (number / 2 % 8) as u8 };
    Cidr::new(Ipv4Addr::from_bits(bench_source4(number)).into(), length).expect("a length of the family")
}

struct Stage<'a> {
    network: &'a Network,
    list: &'a Path,
    time: Duration,
    /// As fast as a core makes it: so the receiver never sleeps, and what it costs is what a packet costs.
    full: Flood,
    /// At the given rate, beside clients.
    paced: Flood,
}

impl<'a> Stage<'a> {
    fn set(network: &'a Network, list: &'a Path, time: Duration, gap_nanos: u32) -> Result<Self> {
        let near = &network.interface;
        // A veth pair hands packets to the stack on the sender's core, unless it receives as a card does: by a ring, for all
        // packets, whoever enforces the list.
        network.at_client(|| run("ethtool", &["-K", &network.far, "tso", "off"]))?;
        network.at_gateway(|| {
            run("ethtool", &["-K", near, "gro", "on"])?;
            // What this mounts is gone with its namespace.
            let threaded = format!("mount -t sysfs sysfs /sys && echo 1 > /sys/class/net/{near}/threaded");
            run("unshare", &["--mount", "sh", "-c", &threaded])?;
            // A peer that is known needs no answer in a flood.
            ip("route add default via 10.78.0.2")
        })?;
        let address = network.at_gateway(|| hardware_address(near))?;
        let far = network.at_client(|| {
            let socket = rustix::net::socket(rustix::net::AddressFamily::INET, rustix::net::SocketType::DGRAM, None)?;
            Ok(rustix::net::netdevice::name_to_index(&socket, &network.far)?)
        })?;
        Ok(Self {
            network,
            list,
            time,
            full: Flood::load(0, address, far)?,
            paced: Flood::load(gap_nanos, address, far)?,
        })
    }

    fn clear(&self) -> Result<()> {
        self.network.at_gateway(|| run("nft", &["flush", "ruleset"]))
    }

    /// The cost of the flood alone, and requests beside it, and beside none.
    fn measure(&self, guard: Guard) -> Result<serde_json::Value> {
        let gateway = self.network.at_gateway(|| {
            core::stay(None, core::SERVING)?;
            let gateway = Gateway::start(&self.config(guard), "127.0.0.1:9")?;
            if guard == Guard::Nftables {
                nftables(&self.network.interface, self.list)?;
            }
            Ok(gateway)
        })?;
        ensure!(gateway.admin("/readyz")?.head.status() == 200, "the gateway is not ready");
        let receivers = receivers(&self.network.interface)?;
        for receiver in &receivers {
            core::stay(Pid::from_raw(*receiver), core::SERVING)?;
            setpriority_process(Pid::from_raw(*receiver), NICE_RECEIVER)?;
        }
        let to = gateway.address_of("main")?;

        let calm = self.requests(to)?;
        let dropped = self.dropped(guard, &gateway)?;
        let cpu = cpu_nanos(&receivers)?;
        let (offered, ()) = self.beside(&self.full, || {
            thread::sleep(self.time);
            Ok(())
        })?;
        let cpu = cpu_nanos(&receivers)? - cpu;
        let dropped = dropped.zip(self.dropped(guard, &gateway)?).map(|(before, after)| after - before);
        let (before, begin) = (cpu_nanos(&receivers)?, Instant::now());
        let (flooded, requests) = self.beside(&self.paced, || self.requests(to))?;
        let took = begin.elapsed();
        let busy = (cpu_nanos(&receivers)? - before) / took.as_nanos() as f64;
        if guard == Guard::Nftables {
            self.clear()?;
        }
        if let Some(dropped) = dropped {
            ensure!(dropped > 0.0 && dropped <= offered as f64, "{dropped} packets of {offered} were dropped");
        }
        Ok(json!({ "kind": "flood", "guard": guard.name(), "calm": calm, "requests": requests, "offered": offered,
            "dropped": dropped, "nanos": dropped.map(|dropped| cpu / dropped), "busy": busy,
            "rate": flooded as f64 / took.as_secs_f64() }))
    }

    fn config(&self, guard: Guard) -> String {
        let mut config = "[[listener]]\nname = \"main\"\naddress = \"10.78.0.1:0\"\n\
            [[route]]\nname = \"all\"\npath = \"/**\"\nauth = \"none\"\n\
            [route.respond]\nstatus = 200\nbody = \"well behaved\"\n"
            .to_owned();
        if guard == Guard::Xdp {
            let (interface, list) = (&self.network.interface, self.list.display());
            _ = write!(
                config,
                "[xdp]\ninterfaces = [\"{interface}\"]\nmode = \"native\"\nrequired = true\n\
                [list.flood]\naction = \"deny\"\nfile = \"{list}\"\n"
            );
        }
        config
    }

    /// Packets the guard dropped so far, by its own count.
    fn dropped(&self, guard: Guard, gateway: &Gateway) -> Result<Option<f64>> {
        match guard {
            Guard::Xdp => Ok(Some(gateway.metrics()?.sum("bawab_xdp_list_packets_total", &[("list", "flood")]))),
            Guard::Nftables => self.network.at_gateway(|| {
                let text = output("nft", &["list", "counter", "netdev", "bench", "dropped"])?;
                let count = text.split_once("packets ").and_then(|(_, rest)| rest.split(' ').next()?.parse().ok());
                Ok(Some(count.with_context(|| format!("no count in {text}"))?))
            }),
            Guard::Nobody => Ok(None),
        }
    }

    /// What clients got in a second.
    fn requests(&self, to: SocketAddr) -> Result<f64> {
        self.network.at_client(|| {
            core::stay(None, core::LOADING)?;
            let time = format!("{}s", self.time.as_secs());
            let text = output("wrk", &["-t1", "-c16", "-d", &time, &format!("http://{to}/")])?;
            let answered = text.lines().find_map(|line| line.split_once(" requests in ")?.0.trim().parse::<f64>().ok());
            ensure!(!text.contains("Non-2xx"), "wrk was refused:\n{text}");
            Ok(answered.with_context(|| format!("wrk printed something unexpected:\n{text}"))?
                / self.time.as_secs_f64())
        })
    }

    /// Does something while a flood runs. Packets that were sent meanwhile, and what it found.
    fn beside<T>(&self, flood: &Flood, what: impl FnOnce() -> Result<T>) -> Result<(u64, T)> {
        let (stop, before) = (AtomicBool::new(false), flood.sent()?);
        let found = thread::scope(|scope| {
            let flood = scope.spawn(|| self.network.at_client(|| flood.run(&stop)));
            let found = what();
            stop.store(true, Ordering::Relaxed);
            flood.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
            found
        })?;
        Ok((flood.sent()? - before, found))
    }
}

struct Flood {
    program: Runner,
    /// Of each CPU, when the next packet is due and how many there were.
    sent: PerCpuArray<MapData, [u64; 2]>,
    frame: Vec<u8>,
    /// The client's interface.
    far: u32,
}

impl Flood {
    fn load(gap_nanos: u32, to: [u8; 6], far: u32) -> Result<Self> {
        let mut loader = EbpfLoader::new();
        loader.btf(None).override_global("DRAW_MASK", &(LISTED - 1), true);
        let mut ebpf = loader.override_global("GAP_NANOS", &gap_nanos, true).load(ANCHORS)?;
        let sent = ebpf.take_map("FLOOD").context("a map is missing")?.try_into()?;
        let program: &mut Xdp = ebpf.program_mut("flood").context("a program is missing")?.try_into()?;
        program.load()?;
        let program: OwnedFd = program.fd()?.as_fd().try_clone_to_owned()?;
        Ok(Self { program: Runner::of(program), sent, frame: frame(to), far })
    }

    fn sent(&self) -> Result<u64> {
        Ok(self.sent.get(&0, 0)?.iter().map(|[_, count]| count).sum())
    }

    fn run(&self, stop: &AtomicBool) -> Result<()> {
        core::stay(None, core::LOADING)?;
        while !stop.load(Ordering::Relaxed) {
            self.program.run_live(&self.frame, BURST, self.far)?;
        }
        Ok(())
    }
}

/// The list as a set of the interface's ingress hook, which comes before the rest of the stack.
fn nftables(interface: &str, list: &Path) -> Result<()> {
    let elements = fs::read_to_string(list)?.lines().collect::<Vec<_>>().join(", ");
    let rules = format!(
        "table netdev bench {{\n counter dropped {{ }}\n\
         set denied {{ type ipv4_addr; flags interval; auto-merge; elements = {{ {elements} }}; }}\n\
         chain ingress {{ type filter hook ingress device \"{interface}\" priority -500; policy accept;\n\
         ip saddr @denied counter name dropped drop; }}\n}}\n"
    );
    let mut nft = Command::new("nft").args(["-f", "-"]).stdin(Stdio::piped()).spawn().context("run nft")?;
    nft.stdin.take().context("piped")?.write_all(rules.as_bytes())?;
    ensure!(nft.wait()?.success(), "nft refused the list");
    Ok(())
}

/// The kernel threads that receive for an interface.
fn receivers(interface: &str) -> Result<Vec<i32>> {
    let wanted = format!("napi/{interface}-");
    let threads: Vec<i32> = fs::read_dir("/proc")?
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .filter(|pid: &i32| fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|name| name.starts_with(&wanted)))
        .collect();
    ensure!(!threads.is_empty(), "no kernel thread receives for {interface}");
    Ok(threads)
}

/// Time these threads ran so far.
fn cpu_nanos(threads: &[i32]) -> Result<f64> {
    threads
        .iter()
        .map(|thread| {
            let text = fs::read_to_string(format!("/proc/{thread}/schedstat"))?;
            text.split(' ').next().and_then(|nanos| nanos.parse::<f64>().ok()).context("schedstat begins with a time")
        })
        .sum()
}

fn hardware_address(interface: &str) -> Result<[u8; 6]> {
    let text = output("ip", &["-brief", "link", "show", interface])?;
    let address = text.split_whitespace().nth(2).context("ip shows no hardware address")?;
    let bytes: Option<Vec<u8>> = address.split(':').map(|byte| u8::from_str_radix(byte, 16).ok()).collect();
    bytes.and_then(|bytes| bytes.try_into().ok()).with_context(|| format!("{address} is no hardware address"))
}

/// 64 bytes: a UDP datagram without a checksum to the discard port; the program sets the source.
fn frame(to: [u8; 6]) -> Vec<u8> {
    let mut frame = vec![0; 64];
    frame[..6].copy_from_slice(&to);
    frame[6..12].copy_from_slice(&[2, 0, 0, 0, 0, 1]);
    frame[12..14].copy_from_slice(&[8, 0]);
    frame[14] = 0x45;
    frame[17] = 50;
    frame[22..24].copy_from_slice(&[64, 17]);
    frame[30..34].copy_from_slice(&[10, 78, 0, 1]);
    frame[34..40].copy_from_slice(&[0x80, 0, 0, 9, 0, 30]);
    frame
}

fn run(program: &str, words: &[&str]) -> Result<()> {
    output(program, words).map(drop)
}

fn output(program: &str, words: &[&str]) -> Result<String> {
    let done = Command::new(program).args(words).output().with_context(|| format!("run {program}"))?;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    ensure!(done.status.success(), "{program} {}: {}{}", words.join(" "), text(&done.stdout), text(&done.stderr));
    Ok(text(&done.stdout))
}
