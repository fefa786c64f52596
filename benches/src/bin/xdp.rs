//! The figures of `cargo xtask bench xdp`, a JSON object a line. Root only.
//!
//! `BPF_PROG_TEST_RUN` of the object that is shipped, on one core: the program draws its sources itself (a switch in its
//! constants), because one source again and again measures a cache line and not a list. The same sources are asked of the
//! kernel's own maps by small programs beside it.
#![expect(clippy::print_stdout, reason = "its answer")]

use std::fmt::Write as _;
use std::hint::black_box;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::os::fd::{AsFd, OwnedFd};
use std::process::Command;
use std::time::{Duration, Instant};

use abi::compile::Cidr;
use abi::door::{bench_source4, bench_source6};
use abi::{Action, Entry, Table};
use anyhow::{Context, Result, ensure};
use aya::maps::lpm_trie::{Key, LpmTrie};
use aya::maps::{HashMap, MapData};
use aya::programs::Xdp;
use aya::{Ebpf, EbpfLoader};
use bawab::control::xdp::{Door, Draw, ModeChoice, Object, Program, Rate, Runner, Settings, SynLimits};
use rustix::thread::{CpuSet, sched_setaffinity};
use rustix::time::{ClockId, clock_gettime};
use serde_json::json;

static ANCHORS: &[u8] =
    aya::include_bytes_aligned!(concat!(env!("CARGO_MANIFEST_DIR"), "/../ebpf/prebuilt/anchors.bpf.o"));

/// A million, as a power of two: the program draws from so many.
const MANY: u32 = 1 << 20;
const REPEAT: u32 = 1 << 20;
/// The largest size of tables, so that small and large lists lie in maps of one size.
const ROOM: usize = 1 << 23;

fn main() -> Result<()> {
    let mut words = std::env::args().skip(1);
    let rounds: usize = words.next().map_or(Ok(7), |word| word.parse()).context("rounds")?;
    ensure!(rustix::process::geteuid().is_root(), "BPF needs root");
    // One core for everything, so that caches are that core's.
    let mut cpus = CpuSet::new();
    cpus.set(0);
    sched_setaffinity(None, &cpus)?;
    let mut bench = Bench { rounds, lines: Vec::new() };
    bench.run()
}

struct Bench {
    rounds: usize,
    /// Programs and the frame they run on, measured in turn in each round: what the machine does meanwhile hits all alike.
    lines: Vec<(&'static str, Runner, Vec<u8>)>,
}

impl Bench {
    fn run(&mut self) -> Result<()> {
        let text = text();
        let (entries, table4) = loading(&text, self.rounds)?;
        let one4 = Table::compile(&entries[..1], 1)?;
        let (entries6, table6) = list6()?;
        let one6 = Table::compile(&entries6[..1], 1)?;

        let frames = [frame4(0x10), frame6(0x10), frame4(0x02), frame6(0x02)];
        let [ack4, ack6, syn4, syn6] = &frames;
        let any = [(1, "any"), (0, "listed")];
        let mut kept = Vec::new();
        let mut programs = Vec::new();

        let anchors = Anchors::load(&entries, &entries6, any[0].0)?;
        for (name, program) in [
            ("empty", "empty"),
            ("empty_random", "empty_random"),
            ("lpm4_any", "lpm4"),
            ("lpm6_any", "lpm6"),
            ("hash4_any", "hash4"),
            ("lru4_any", "lru4"),
        ] {
            let frame = if program == "lpm6" { ack6 } else { ack4 };
            self.lines.push((name, anchors.runner(program)?, frame.clone()));
        }
        kept.push(anchors);
        let anchors = Anchors::load(&entries, &entries6, any[1].0)?;
        for (name, program) in
            [("lpm4_hit", "lpm4"), ("lpm6_hit", "lpm6"), ("hash4_hit", "hash4"), ("lru4_hit", "lru4")]
        {
            let frame = if program == "lpm6" { ack6 } else { ack4 };
            self.lines.push((name, anchors.runner(program)?, frame.clone()));
        }
        kept.push(anchors);

        let listed = Draw::Listed(MANY);
        for (name, table, draw, frame) in [
            ("base4", &Table::empty(), Draw::Nobody, ack4),
            ("base6", &Table::empty(), Draw::Nobody, ack6),
            ("no_lists4", &Table::empty(), Draw::Any, ack4),
            ("no_lists6", &Table::empty(), Draw::Any, ack6),
            ("innocent4_1", &one4, Draw::Any, ack4),
            ("innocent4_1m", &table4, Draw::Any, ack4),
            ("innocent6_1", &one6, Draw::Any, ack6),
            ("innocent6_1m", &table6, Draw::Any, ack6),
            ("deny4_cold_1m", &table4, listed, ack4),
            ("deny6_cold_1m", &table6, listed, ack6),
            ("deny4_hot_1m", &table4, Draw::Listed(1), ack4),
        ] {
            let mut program = Program::load(&Object::embedded(), table, ROOM, draw)?;
            self.lines.push((name, program.runner()?, frame.clone()));
            programs.push(program);
        }
        let rate = |per_second| Some(Rate { per_second, burst: per_second * 4 });
        for (name, draw, frame, refuses) in [
            ("syn4_any", Draw::Any, syn4, false),
            ("syn4_1m", listed, syn4, false),
            ("syn4_1m_refused", listed, syn4, true),
            ("syn6_1m", listed, syn6, false),
        ] {
            let mut program = Program::load(&Object::embedded(), &Table::empty(), ROOM, draw)?;
            let limit = if refuses { Some(Rate { per_second: 1, burst: 1 }) } else { rate(50) };
            program.maps_mut().set_syn_limits(&SynLimits {
                ports: vec![443],
                v4: limit,
                v6_net64: limit,
                v6_net48: rate(500),
                ..SynLimits::default()
            });
            self.lines.push((name, program.runner()?, frame.clone()));
            programs.push(program);
        }
        self.measure()?;
        let generator = kept[0].runner("reflect")?;
        let denied = Table::compile(&[deny("10.0.0.2".parse()?)], 1)?;
        let mut program = Program::load(&Object::embedded(), &denied, 0, Draw::Packet)?;
        note(&format!(
            "{} instructions verified; a table of {} entries is {} MiB",
            program.verified_instructions()?.context("the kernel does not say")?,
            table4.entries(),
            (table4.words().len() * 8) >> 20
        ));
        note(&live(&denied, &generator)?);
        Ok(())
    }

    fn measure(&self) -> Result<()> {
        // Warm: the compiler of the kernel, the maps that fill as they are asked.
        for (_, runner, frame) in &self.lines {
            runner.run(frame, REPEAT)?;
        }
        for round in 0..self.rounds {
            for (name, runner, frame) in &self.lines {
                let trial = runner.run(frame, REPEAT)?;
                println!(
                    "{}",
                    json!({ "kind": "packet", "round": round, "name": name, "nanos": trial.time.as_nanos() as u64, "action": trial.action })
                );
            }
        }
        Ok(())
    }
}

fn note(text: &str) {
    println!("{}", json!({ "kind": "note", "text": text }));
}

/// A list as operators have it: half of it addresses from anywhere, half prefixes of /24 to /31.
fn cidr4(number: u32) -> Cidr {
    let length = if number.is_multiple_of(2) { 32 } else { 24 + (number / 2 % 8) as u8 };
    Cidr::new(Ipv4Addr::from_bits(bench_source4(number)).into(), length).expect("a length of the family")
}

fn deny(cidr: Cidr) -> Entry {
    Entry { cidr, action: Action::Deny, rule: 1, shadow: false }
}

fn text() -> String {
    let mut text = String::new();
    for number in 0..MANY {
        _ = writeln!(text, "{}", cidr4(number));
    }
    text
}

/// From text to live, and swaps alone.
fn loading(text: &str, rounds: usize) -> Result<(Vec<Entry>, Table)> {
    let mut program = Program::load(&Object::embedded(), &Table::empty(), ROOM, Draw::Packet)?;
    let mut last = None;
    for _ in 0..rounds {
        let (begin, cpu) = (Instant::now(), cpu_millis());
        let entries: Result<Vec<Entry>, _> = text.lines().map(|line| line.parse().map(deny)).collect();
        let entries = entries?;
        let parsed = begin.elapsed();
        let table = Table::compile(&entries, 77)?;
        let compiled = begin.elapsed();
        let staged = program.stage(&table)?;
        let in_kernel = begin.elapsed();
        program.swap(staged)?;
        let live = begin.elapsed();
        let millis = |time: Duration| time.as_secs_f64() * 1000.0;
        println!(
            "{}",
            json!({ "kind": "load", "parsed": millis(parsed), "compiled": millis(compiled), "staged": millis(in_kernel), "live": millis(live), "cpu": cpu_millis() - cpu })
        );
        last = Some((entries, table));
    }
    let (entries, table) = last.context("no rounds")?;
    let runner = program.runner()?;
    for _ in 0..100 {
        let staged = program.stage(&table)?;
        black_box(runner.run(&frame4(0x10), 1)?);
        let begin = Instant::now();
        program.swap(staged)?;
        println!("{}", json!({ "kind": "swap", "millis": begin.elapsed().as_secs_f64() * 1000.0 }));
    }
    Ok((entries, table))
}

/// Of this thread: what the work costs where the machine is somebody else's as well.
fn cpu_millis() -> f64 {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    time.tv_sec as f64 * 1e3 + time.tv_nsec as f64 / 1e6
}

fn list6() -> Result<(Vec<Entry>, Table)> {
    let cidr = |number| Cidr::new(Ipv6Addr::from_bits(u128::from(bench_source6(number)) << 64).into(), 64);
    let entries: Option<Vec<Entry>> = (0..u64::from(MANY)).map(|number| cidr(number).map(deny)).collect();
    let entries = entries.context("/64 is a length")?;
    let table = Table::compile(&entries, 77)?;
    Ok((entries, table))
}

/// The kernel's maps with the same lists, asked for sources drawn like the door's.
struct Anchors {
    ebpf: Ebpf,
}

impl Anchors {
    fn load(entries: &[Entry], entries6: &[Entry], any: u32) -> Result<Self> {
        let mut loader = EbpfLoader::new();
        loader.btf(None).override_global("DRAW_MASK", &(MANY - 1), true).override_global("DRAW_ANY", &any, true);
        for map in ["LPM4", "LPM6", "HASH4", "LRU4"] {
            loader.map_max_entries(map, MANY);
        }
        let mut ebpf = loader.load(ANCHORS)?;
        let map = |name: &str, ebpf: &mut Ebpf| ebpf.take_map(name).with_context(|| format!("no map {name}"));
        let mut lpm4: LpmTrie<MapData, u32, u32> = map("LPM4", &mut ebpf)?.try_into()?;
        let mut hash4: HashMap<MapData, u32, u64> = map("HASH4", &mut ebpf)?.try_into()?;
        let begin = Instant::now();
        for entry in entries {
            let std::net::IpAddr::V4(addr) = entry.cidr.addr() else { continue };
            lpm4.insert(&Key::new(entry.cidr.length().into(), addr.to_bits().to_be()), 1, 0)?;
        }
        println!("{}", json!({ "kind": "lpm_load", "millis": begin.elapsed().as_secs_f64() * 1000.0 }));
        for number in 0..MANY {
            hash4.insert(bench_source4(number), 1, 0)?;
        }
        let mut lpm6: LpmTrie<MapData, [u32; 4], u32> = map("LPM6", &mut ebpf)?.try_into()?;
        for entry in entries6 {
            let std::net::IpAddr::V6(addr) = entry.cidr.addr() else { continue };
            let high = (addr.to_bits() >> 64) as u64;
            let key = [((high >> 32) as u32).to_be(), (high as u32).to_be(), 0, 0];
            lpm6.insert(&Key::new(64, key), 1, 0)?;
        }
        for name in ["empty", "empty_random", "lpm4", "lpm6", "hash4", "lru4", "reflect"] {
            let program: &mut Xdp = ebpf.program_mut(name).context("a program is missing")?.try_into()?;
            program.load()?;
        }
        Ok(Self { ebpf })
    }

    fn runner(&self, name: &str) -> Result<Runner> {
        let program: &Xdp = self.ebpf.program(name).context("a program is missing")?.try_into()?;
        let program: OwnedFd = program.fd()?.as_fd().try_clone_to_owned()?;
        Ok(Runner::of(program))
    }
}

/// 64 bytes: TCP with these flags to port 443, from an address that the program replaces but for the hot trial.
fn frame4(flags: u8) -> Vec<u8> {
    let mut frame = vec![0; 64];
    frame[12..14].copy_from_slice(&[8, 0]);
    frame[14] = 0x45;
    frame[17] = 50;
    frame[22..24].copy_from_slice(&[64, 6]);
    frame[26..34].copy_from_slice(&[10, 0, 0, 2, 10, 0, 0, 1]);
    frame[36..38].copy_from_slice(&443_u16.to_be_bytes());
    frame[46..48].copy_from_slice(&[0x50, flags]);
    frame
}

fn frame6(flags: u8) -> Vec<u8> {
    let mut frame = vec![0; 86];
    frame[12..14].copy_from_slice(&[0x86, 0xdd]);
    frame[14] = 0x60;
    frame[19..22].copy_from_slice(&[32, 6, 64]);
    frame[56..58].copy_from_slice(&443_u16.to_be_bytes());
    frame[66..68].copy_from_slice(&[0x50, flags]);
    frame
}

/// Live packets through a veth pair in namespaces of this process: what the kernel itself says a run took, with the stack,
/// the driver and both ends of the cable using the same caches.
fn live(table: &Table, generator: &Runner) -> Result<String> {
    #[expect(unsafe_code, reason = "the other flags of unshare(2) can break what others rely on; this one cannot")]
    // SAFETY: the network namespace of this thread only; no descriptor table or file system state is taken apart.
    unsafe { rustix::thread::unshare_unsafe(rustix::thread::UnshareFlags::NEWNET) }?;
    let (gateway, client) = (format!("bg{}", std::process::id()), format!("bc{}", std::process::id()));
    for words in [
        format!("link add {gateway} type veth peer name {client}"),
        format!("link set {gateway} up"),
        format!("link set {client} up"),
    ] {
        let done = Command::new("ip").args(words.split(' ')).status()?;
        ensure!(done.success(), "ip {words}");
    }
    let settings = Settings { mode: ModeChoice::Native, ..Settings::default() };
    let mut door = Door::open(&gateway, &settings, table)?;
    let measured = run_live(&mut door, generator, &client);
    door.detach()?;
    measured
}

fn run_live(door: &mut Door, generator: &Runner, client: &str) -> Result<String> {
    let socket = rustix::net::socket(rustix::net::AddressFamily::INET, rustix::net::SocketType::DGRAM, None)?;
    let number = rustix::net::netdevice::name_to_index(&socket, client)?;
    let _stats = aya::sys::enable_stats(aya::sys::Stats::RunTime)?;
    let before = door.program_mut().run_stats()?;
    generator.run_live(&frame4(0x10), REPEAT, number)?;
    let after = door.program_mut().run_stats()?;
    let (count, nanos) = (after.0 - before.0, after.1 - before.1);
    ensure!(count > 0, "no packet came through the veth pair");
    Ok(format!(
        "live on a veth pair, one denied source: {:.0} ns a run, {count} runs, two clock reads in each",
        nanos as f64 / count as f64
    ))
}
