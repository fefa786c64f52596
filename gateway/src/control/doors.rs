//! The doors of this gateway, one for each interface of `[xdp]`, on a thread of their own: publishing lists waits for the
//! kernel (5 to 50 ms), and the control loop does not.
//!
//! The thread alone writes to the kernel. It is told what is wanted; where a door cannot be had it says why, once, tries again
//! every few seconds, and the lists are enforced in user space meanwhile, which they are in any case. Doors stay where they are
//! when the thread ends: filtering goes on over restarts.

use std::collections::{HashMap, HashSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TrySendError, sync_channel};
use std::time::{Duration, Instant};
use std::{io, thread};

use abi::door::Counter;
use tokio::sync::oneshot;

use super::admin::Ready;
use super::xdp::{self, Banned, Door, DoorError, Mode, ModeChoice, Rate, Settings, SynLimits};
use crate::config::model::{ClientAddress, Config, ListMode, Malformed, SynLimit, Xdp, XdpMode};
use crate::lists::Lists;
use crate::observe::doors::{DoorStatus, ListStatus};
use crate::observe::metrics::Metrics;
use crate::tables::bans::{Ban, Bans, key, unix_ms};

/// Commands that wait for the thread. A ban beyond is enforced in user space only, and counted.
const COMMANDS_MAX: usize = 1024;

/// How often counters are read, bans swept, samples taken.
const TICK: Duration = Duration::from_secs(1);

/// How often a door that could not be had is tried again.
const RETRY: Duration = Duration::from_secs(5);

/// Samples taken from a door at one tick.
const SAMPLES_MAX: usize = 10_000;

/// Sources that are counted by sample; the quietest makes room.
const SOURCES_MAX: usize = 1_000;

/// Sources that are shown.
const SOURCES_SHOWN: usize = 10;

/// The reason code of bans in the kernel; the words are in user space.
const BANNED: u16 = 1;

/// Why the gateway is not ready while a door that is required cannot be had.
const NOT_READY: &str = "xdp";

/// What the doors should be.
pub(super) struct Wanted {
    interfaces: Vec<String>,
    mode: ModeChoice,
    required: bool,
    shadow: bool,
    drop_malformed: bool,
    syn: SynLimits,
    /// Some listener learns its clients by their packets' addresses; else bans are not for the kernel.
    by_peer: bool,
    lists: Arc<Lists>,
}

enum Command {
    Want(Box<Wanted>, oneshot::Sender<()>),
    Ban {
        client: IpAddr,
        left: Duration,
        done: oneshot::Sender<Vec<String>>,
    },
    Unban(IpAddr, oneshot::Sender<()>),
    /// Close them: another process opens them.
    PassOn(oneshot::Sender<()>),
}

/// The thread. It ends with the process, or when nobody holds a handle any more.
pub(super) struct Doors {
    handle: Handle,
}

/// What may be asked of the doors, from anywhere.
#[derive(Clone)]
pub struct Handle {
    commands: SyncSender<Command>,
    metrics: Arc<Metrics>,
}

impl Wanted {
    /// What `config` asks for. `ports`: those the gateway listens on. `None`: nothing.
    pub(super) fn of(config: &Config, lists: &Arc<Lists>, ports: Vec<u16>) -> Option<Wanted> {
        let xdp = config.xdp.as_ref().filter(|xdp| xdp.mode != XdpMode::Off)?;
        Some(Wanted {
            interfaces: xdp.interfaces.clone(),
            mode: match xdp.mode {
                XdpMode::Native => ModeChoice::Native,
                XdpMode::Generic => ModeChoice::Generic,
                XdpMode::Auto | XdpMode::Off => ModeChoice::Auto,
            },
            required: xdp.required,
            shadow: xdp.shadow,
            drop_malformed: xdp.malformed == Malformed::Drop,
            syn: syn_limits(xdp, ports),
            by_peer: Wanted::by_peer(config),
            lists: lists.clone(),
        })
    }

    /// Whether some listener of `config` knows its clients by the addresses of their packets.
    pub(super) fn by_peer(config: &Config) -> bool {
        config.listener.iter().any(|listener| listener.client_address == ClientAddress::Peer)
    }

    fn nothing() -> Wanted {
        Wanted {
            interfaces: Vec::new(),
            mode: ModeChoice::Auto,
            required: false,
            shadow: false,
            drop_malformed: false,
            syn: SynLimits::default(),
            by_peer: false,
            lists: Arc::default(),
        }
    }
}

/// An IPv6 /48 may hold many clients, so it has the limit of eight.
const NET48_FACTOR: u32 = 8;

fn syn_limits(xdp: &Xdp, ports: Vec<u16>) -> SynLimits {
    let Some(SynLimit { rate, burst, all_per_core, mode }) = &xdp.syn_limit else { return SynLimits::default() };
    let rate =
        |factor: u32| Some(Rate { per_second: rate.0.saturating_mul(factor), burst: burst.saturating_mul(factor) });
    SynLimits {
        ports,
        v4: rate(1),
        v6_net64: rate(1),
        v6_net48: rate(NET48_FACTOR),
        // A tenth of a second's worth at once: more than any scheduler holds back.
        governor_per_cpu: all_per_core.map(|rate| Rate { per_second: rate.0, burst: (rate.0 / 10).max(1) }),
        shadow: *mode == ListMode::Shadow,
    }
}

impl Doors {
    /// Starts the thread; it has no door yet.
    pub(super) fn start(metrics: &Arc<Metrics>, bans: &Arc<Bans>, ready: &Arc<Ready>) -> io::Result<Doors> {
        let (commands, inbox) = sync_channel(COMMANDS_MAX);
        let work = Work {
            wanted: Wanted::nothing(),
            doors: Vec::new(),
            unbanned: HashSet::new(),
            metrics: metrics.clone(),
            bans: bans.clone(),
            ready: ready.clone(),
        };
        thread::Builder::new().name("doors".to_owned()).spawn(move || work.run(&inbox))?;
        Ok(Doors { handle: Handle { commands, metrics: metrics.clone() } })
    }

    pub(super) fn handle(&self) -> Handle {
        self.handle.clone()
    }

    /// Has them be what is wanted. Over when it was tried.
    pub(super) async fn want(&self, wanted: Option<Wanted>) {
        let (done, over) = oneshot::channel();
        self.handle.send(Command::Want(Box::new(wanted.unwrap_or_else(Wanted::nothing)), done));
        // The thread ends only with the process.
        let _ = over.await;
    }

    /// Lets go of them, for another process.
    pub(super) async fn pass_on(&self) {
        let (done, over) = oneshot::channel();
        self.handle.send(Command::PassOn(done));
        let _ = over.await;
    }
}

impl Handle {
    fn send(&self, command: Command) {
        // Blocks only behind a thousand others.
        let _ = self.commands.send(command);
    }

    /// Turns a client away in the kernel, too. What comes back are the interfaces where it holds from then on; an error says
    /// that too much waits, and user space does it alone.
    pub(super) fn ban(&self, client: IpAddr, left: Duration) -> oneshot::Receiver<Vec<String>> {
        let (done, holds) = oneshot::channel();
        if let Err(TrySendError::Full(_)) = self.commands.try_send(Command::Ban { client, left, done }) {
            self.metrics.doors.bans_missed.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        }
        holds
    }

    /// Lets a client in again. What comes back says when.
    pub(super) fn unban(&self, client: IpAddr) -> oneshot::Receiver<()> {
        let (done, over) = oneshot::channel();
        self.send(Command::Unban(client, done));
        over
    }

    /// How they stand, as of the last tick.
    pub(super) fn status(&self) -> Vec<DoorStatus> {
        self.metrics.doors.status()
    }
}

/// Why there is no door.
#[derive(Clone, PartialEq, Eq)]
struct Why {
    text: String,
    /// Another process has it, and may be about to leave it.
    busy: bool,
}

/// A door, or why there is none.
struct Held {
    interface: String,
    door: Result<Door, Why>,
    /// The lists it has.
    generation: u64,
    tried: Instant,
    /// Sampled drops by source, and the sources of each rule.
    sources: HashMap<IpAddr, u64>,
    by_rule: HashMap<u32, HashSet<IpAddr>>,
}

struct Work {
    wanted: Wanted,
    doors: Vec<Held>,
    /// Whose ban ended while some door could not be had, which may still hold it.
    unbanned: HashSet<IpAddr>,
    metrics: Arc<Metrics>,
    bans: Arc<Bans>,
    ready: Arc<Ready>,
}

impl Work {
    fn run(mut self, inbox: &Receiver<Command>) {
        let mut tick_at = Instant::now() + TICK;
        loop {
            match inbox.recv_timeout(tick_at.saturating_duration_since(Instant::now())) {
                Ok(command) => self.obey(command),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return,
            }
            if Instant::now() >= tick_at {
                self.tick();
                tick_at = Instant::now() + TICK;
            }
        }
    }

    fn obey(&mut self, command: Command) {
        match command {
            Command::Want(wanted, done) => {
                self.want(*wanted);
                // Whoever asked may have gone.
                let _ = done.send(());
            }
            Command::Ban { client, left, done } => {
                self.unbanned.remove(&key(client));
                let mut holds = Vec::new();
                for held in &mut self.doors {
                    let Ok(door) = &mut held.door else { continue };
                    match door.maps_mut().ban(Banned::client(client), left, BANNED, false) {
                        Ok(()) => holds.push(held.interface.clone()),
                        Err(error) => {
                            tracing::error!(%client, interface = held.interface, %error, "a ban is enforced in user space only");
                        }
                    }
                }
                // Whoever asked may have gone.
                let _ = done.send(holds);
            }
            Command::Unban(client, done) => {
                if self.doors.iter().any(|held| held.door.is_err()) {
                    self.unbanned.insert(key(client));
                }
                for held in &mut self.doors {
                    if let Ok(door) = &mut held.door
                        && let Err(error) = door.maps_mut().unban(Banned::client(client))
                    {
                        tracing::error!(%client, interface = held.interface, %error, "a ban stays in the kernel until it ends");
                    }
                }
                let _ = done.send(());
            }
            Command::PassOn(done) => {
                self.doors.clear();
                self.wanted = Wanted::nothing();
                let _ = done.send(());
            }
        }
    }

    fn want(&mut self, wanted: Wanted) {
        let (gone, kept): (Vec<Held>, Vec<Held>) =
            std::mem::take(&mut self.doors).into_iter().partition(|held| !wanted.interfaces.contains(&held.interface));
        for held in gone {
            if let Ok(door) = held.door {
                match door.detach() {
                    Ok(()) => tracing::info!(interface = held.interface, "XDP program detached"),
                    Err(error) => {
                        tracing::error!(interface = held.interface, %error, "the XDP program is not detached")
                    }
                }
            }
        }
        let is_other_mode = wanted.mode != self.wanted.mode;
        self.doors = kept;
        if self.wanted.interfaces.is_empty() {
            for left in xdp::pinned_interfaces(&Settings::default().pins) {
                if !wanted.interfaces.contains(&left) && std::path::Path::new("/sys/class/net").join(&left).exists() {
                    let hint = "`bawab xdp detach --interface` removes it";
                    tracing::warn!(
                        interface = left,
                        hint,
                        "the XDP program of an earlier gateway goes on turning away"
                    );
                }
            }
        }
        self.wanted = wanted;
        if is_other_mode {
            // A door of another mode is opened anew.
            self.doors.clear();
        }
        self.publish();
        for interface in self.wanted.interfaces.clone() {
            if !self.doors.iter().any(|held| held.interface == interface) {
                let held = Held {
                    door: self.open(&interface, None),
                    generation: self.wanted.lists.table.generation(),
                    interface,
                    tried: Instant::now(),
                    sources: HashMap::new(),
                    by_rule: HashMap::new(),
                };
                self.doors.push(held);
            }
        }
        for held in &mut self.doors {
            if let Ok(door) = &mut held.door {
                configure(door, &self.wanted);
            }
        }
        self.report();
    }

    /// Opens a door. `before`: why it could not be had at the last attempt, which is not said twice.
    fn open(&self, interface: &str, before: Option<&Why>) -> Result<Door, Why> {
        let settings = Settings { mode: self.wanted.mode, ..Settings::default() };
        match Door::open(interface, &settings, &self.wanted.lists.table) {
            Ok(mut door) => {
                configure(&mut door, &self.wanted);
                // Bans that outlived the process before: user space keeps them, too; and those from before this door.
                let now = unix_ms();
                let kept: Vec<(IpAddr, Duration)> = door
                    .maps()
                    .bans()
                    .map(|ban| match ban.who {
                        Banned::Host(address) => (address, ban.left),
                        Banned::Net64(address) => (IpAddr::V6(address), ban.left),
                    })
                    .collect();
                for (client, left) in &kept {
                    if self.unbanned.contains(client) {
                        if let Err(error) = door.maps_mut().unban(Banned::client(*client)) {
                            tracing::error!(%client, interface, %error, "a ban stays in the kernel until it ends");
                        }
                        continue;
                    }
                    if self.bans.find(*client, now).is_none() {
                        let ban = Ban { until_ms: now + left.as_millis() as u64, reason: "kept by the kernel".into() };
                        let _ = self.bans.ban(*client, ban);
                    }
                }
                let for_the_kernel = if self.wanted.by_peer { self.bans.list(now) } else { Vec::new() };
                for (client, ban) in for_the_kernel {
                    let left = Duration::from_millis(ban.until_ms.saturating_sub(now));
                    if let Err(error) = door.maps_mut().ban(Banned::client(client), left, BANNED, false) {
                        tracing::error!(%client, interface, %error, "a ban is enforced in user space only");
                        break;
                    }
                }
                let mode = door.mode();
                tracing::info!(interface, %mode, entries = self.wanted.lists.table.entries(), bans = kept.len(), "XDP program attached");
                if mode == Mode::Generic && self.wanted.mode == ModeChoice::Auto {
                    tracing::warn!(
                        interface,
                        "the driver cannot run XDP programs: the stack does, several times slower"
                    );
                }
                Ok(door)
            }
            Err(error) => {
                let why = Why { text: error.to_string(), busy: matches!(error, DoorError::Busy { .. }) };
                if before != Some(&why) {
                    let hint = "the lists are enforced in user space only";
                    match error {
                        // The process before this one lets go of it in a moment.
                        DoorError::Busy { .. } => {
                            tracing::info!(interface, why = why.text, "XDP program not attached yet")
                        }
                        _ => tracing::error!(interface, why = why.text, hint, "XDP program not attached"),
                    }
                }
                Err(why)
            }
        }
    }

    fn publish(&mut self) {
        let generation = self.wanted.lists.table.generation();
        for held in self.doors.iter_mut().filter(|held| held.generation != generation) {
            if let Ok(door) = &mut held.door {
                let begin = Instant::now();
                match door.publish(&self.wanted.lists.table) {
                    Ok(()) => {
                        held.generation = generation;
                        let (entries, took) = (self.wanted.lists.table.entries(), begin.elapsed());
                        tracing::info!(interface = held.interface, entries, ?took, "XDP program has the lists");
                    }
                    Err(error) => {
                        tracing::error!(interface = held.interface, %error, "the kernel has the lists from before")
                    }
                }
            }
        }
    }

    fn tick(&mut self) {
        self.bans.sweep(unix_ms());
        for at in 0..self.doors.len() {
            let (interface, why, due) = {
                let held = &mut self.doors[at];
                if held.door.as_ref().is_ok_and(|door| !door.is_attached()) {
                    tracing::error!(interface = held.interface, "the XDP program is gone from the interface");
                    let text = "the program is gone from the interface".to_owned();
                    held.door = Err(Why { text, busy: false });
                }
                if let Ok(door) = &mut held.door {
                    door.maps_mut().sweep();
                    sample(door, &mut held.sources, &mut held.by_rule);
                }
                // One that another process is about to leave is looked for at every tick.
                let busy = held.door.as_ref().err().is_some_and(|why| why.busy);
                let due = held.door.is_err() && (busy || held.tried.elapsed() >= RETRY);
                (held.interface.clone(), held.door.as_ref().err().cloned(), due)
            };
            if due {
                let door = self.open(&interface, why.as_ref());
                let generation = self.wanted.lists.table.generation();
                let held = &mut self.doors[at];
                (held.door, held.generation, held.tried) = (door, generation, Instant::now());
            }
        }
        if self.doors.iter().all(|held| held.door.is_ok()) {
            self.unbanned.clear();
        }
        // Lists that the kernel did not take.
        self.publish();
        self.report();
    }

    /// Says how the doors stand.
    fn report(&self) {
        let open = self.doors.iter().all(|held| held.door.is_ok());
        match self.wanted.required && !open {
            true => self.ready.block(NOT_READY),
            false => self.ready.clear(NOT_READY),
        }
        self.metrics.doors.set(self.doors.iter().map(|held| held.status(&self.wanted.lists)).collect());
    }
}

/// Tells a door what is wanted beside the lists.
fn configure(door: &mut Door, wanted: &Wanted) {
    let maps = door.maps_mut();
    maps.set_syn_limits(&wanted.syn);
    maps.set_shadow(wanted.shadow);
    maps.set_drop_malformed(wanted.drop_malformed);
    // Every 64th on each CPU: evidence, and no flood of its own.
    maps.set_sampling(6);
}

fn sample(door: &mut Door, sources: &mut HashMap<IpAddr, u64>, by_rule: &mut HashMap<u32, HashSet<IpAddr>>) {
    for _ in 0..SAMPLES_MAX {
        let Some(event) = door.maps_mut().event() else { return };
        let bits = u128::from(event.source[0]) << 64 | u128::from(event.source[1]);
        let source = match event.v6 {
            true => IpAddr::V6(bits.into()),
            false => IpAddr::V4((event.source[1] as u32).into()),
        };
        if sources.len() >= SOURCES_MAX && !sources.contains_key(&source) {
            let quietest = sources.iter().min_by_key(|(_, count)| **count).map(|(source, _)| *source);
            quietest.and_then(|source| sources.remove(&source));
        }
        *sources.entry(source).or_default() += 1;
        let rule = by_rule.entry(event.counter).or_default();
        if rule.len() < SOURCES_MAX {
            rule.insert(source);
        }
    }
}

impl Held {
    fn status(&self, lists: &Lists) -> DoorStatus {
        let door = match &self.door {
            Ok(door) => door,
            Err(why) => {
                let (interface, why) = (self.interface.clone(), Some(why.text.clone()));
                return DoorStatus { interface, why, ..DoorStatus::default() };
            }
        };
        let maps = door.maps();
        let mut sources: Vec<(IpAddr, u64)> = self.sources.iter().map(|(source, count)| (*source, *count)).collect();
        sources.sort_by_key(|(source, count)| (std::cmp::Reverse(*count), *source));
        let packets = |counter: Counter| (counter.name(), maps.count(counter).unwrap_or_default().packets);
        DoorStatus {
            interface: self.interface.clone(),
            mode: Some(door.mode().to_string()),
            why: None,
            bypass: maps.bypass(),
            generation: format!("{:016x}", self.generation),
            entries: lists.table.entries(),
            bans: maps.bans().count(),
            packets: Counter::ALL.into_iter().map(packets).collect(),
            lists: lists
                .rules()
                .map(|(id, rule)| {
                    let count = maps.rule_count(id).unwrap_or_default();
                    ListStatus {
                        list: rule.list.clone(),
                        shadow: rule.shadow,
                        packets: count.packets,
                        bytes: count.bytes,
                        sources: self.by_rule.get(&u32::from(id)).map_or(0, HashSet::len),
                    }
                })
                .collect(),
            sources: sources
                .into_iter()
                .take(SOURCES_SHOWN)
                .map(|(source, count)| (source.to_string(), count))
                .collect(),
        }
    }
}

/// Turns every drop off, or on again, on an interface or on all that have a program. On which.
pub fn bypass(interface: Option<&str>, on: bool) -> Result<Vec<String>, DoorError> {
    let pins = Settings::default().pins;
    let interfaces = match interface {
        Some(interface) => vec![interface.to_owned()],
        None => xdp::pinned_interfaces(&pins),
    };
    let mut done = Vec::new();
    for interface in interfaces {
        if xdp::set_bypass(&interface, &pins, on)? {
            done.push(interface);
        }
    }
    Ok(done)
}

/// Removes what earlier gateways left on an interface, or on all of them. What was removed.
pub fn detach(interface: Option<&str>) -> Result<Vec<String>, DoorError> {
    let pins = Settings::default().pins;
    let interfaces = match interface {
        Some(interface) => vec![interface.to_owned()],
        None => xdp::pinned_interfaces(&pins),
    };
    let mut removed = Vec::new();
    for interface in interfaces {
        if xdp::detach(&interface, &pins)? {
            removed.push(interface);
        }
    }
    Ok(removed)
}
