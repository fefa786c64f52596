//! Which endpoint of an upstream gets a request. The choice is the worker's own; the endpoints are the snapshot's, and how busy
//! and how fast they are is known to all cores together ([`State`]).
//!
//! Two steps. [`Endpoints::compile`], on the control side and whenever something changes: who is usable, priorities, slow start
//! and panic become one weight for each endpoint ([`levels`]), and weights become a list of turns ([`schedule`]) or a table of
//! keys ([`hash`]). [`Endpoints::pick`], for every attempt: a look into those, at most a few endpoints' states, and no search,
//! however many endpoints there are.

mod ewma;
mod hash;
mod identity;
mod key;
mod levels;
mod schedule;
mod settings;

use std::cell::Cell;
use std::sync::Arc;

pub use self::ewma::Latency;
use self::hash::{Member, Table, below, spread};
pub use self::identity::{Http, Identity, Link, Prehashed, Wanted};
pub use self::key::{Key, Keyed};
use self::levels::Standing;
pub use self::settings::{Hashing, Policy, Settings};
use crate::config::model::HashTable;
use crate::limits::CONNECT_ATTEMPTS_MAX;
use crate::tables::health::State;
use crate::tables::health::record::Standing as Stands;

/// One address of an upstream.
#[derive(Debug)]
pub struct Endpoint {
    pub identity: Identity,
    /// The address as text, for logs.
    pub label: String,
    /// The address as it was written, for `host = "endpoint"`.
    pub written: String,
    pub weight: u32,
    /// The lower, the earlier it is used.
    pub priority: u8,
    /// What all cores know of it.
    pub state: Arc<State>,
}

/// What a pick goes by.
#[derive(Clone, Copy)]
pub struct Asking<'a> {
    /// Whose turn it is, for this worker.
    pub cursor: &'a Cell<u32>,
    /// Endpoints this exchange has tried: others go first.
    pub tried: &'a [Arc<Endpoint>],
    /// 64 random bits.
    pub lot: u64,
    /// What the request has in common with others, [`Endpoints::key`].
    pub key: Option<u64>,
    /// Milliseconds of the process.
    pub now_ms: u64,
}

/// The endpoints of an upstream and the order in which they are picked.
#[derive(Debug, Default)]
pub struct Endpoints {
    list: Vec<Arc<Endpoint>>,
    settings: Arc<Settings>,
    /// What a pick must know of each in `list`, side by side.
    slots: Vec<Slot>,
    /// Indices into `list` of those that get requests.
    live: Vec<u16>,
    order: Order,
    is_ramping: bool,
    panics: bool,
}

#[derive(Debug)]
struct Slot {
    state: Arc<State>,
    /// Of all requests, 0 to 1.
    share: f32,
}

/// Indices into `list`, as the policy wants them.
#[derive(Debug)]
enum Order {
    /// Each as often as its weight says.
    Turns(Vec<u16>),
    /// The same, to draw two from.
    Two {
        turns: Vec<u16>,
        others: Option<Vec<u32>>,
        by: By,
    },
    Table {
        table: Table,
        load_max: Option<f32>,
    },
}

/// Which of two is better.
#[derive(Debug, Clone, Copy)]
enum By {
    Requests,
    Latency,
}

impl Default for Order {
    fn default() -> Order {
        Order::Turns(Vec::new())
    }
}

/// Endpoints that are looked at for one key until one has room: if three of four have none, one in a hundred keys finds none
/// among so many.
const PROBES_MAX: usize = 16;

impl Endpoints {
    /// Endpoints that are all usable, in turn by weight.
    pub fn new(list: Vec<Arc<Endpoint>>) -> Endpoints {
        Endpoints::compile(list, &Arc::default(), |_| true, 0)
    }

    /// Who gets which requests, as things are at `now_ms` (milliseconds of the process). `usable`: who may be sent any. Must be
    /// asked again when that changes, and about once a second while [`Endpoints::is_ramping`]. At most 65,536 endpoints; more are
    /// left out. Takes time: tables of keys some milliseconds.
    pub fn compile(
        mut list: Vec<Arc<Endpoint>>,
        settings: &Arc<Settings>,
        usable: impl Fn(&Endpoint) -> bool,
        now_ms: u64,
    ) -> Endpoints {
        list.truncate(usize::from(u16::MAX) + 1);
        let standing = |endpoint: &Arc<Endpoint>| {
            let usable = usable(endpoint);
            let usable_ms = endpoint.state.usable_ms(usable, now_ms);
            let ramp = levels::ramp(usable_ms, settings.slow_start_ms);
            // Taken out by hand: it has no share, whoever is left.
            let weight = if endpoint.state.standing() == Stands::Drained { 0 } else { endpoint.weight };
            Standing { weight, priority: endpoint.priority, usable, ramp }
        };
        let standing: Vec<Standing> = list.iter().map(standing).collect();
        let weights = levels::weights(&standing, settings.panic_threshold);
        let sum = weights.iter().sum::<u64>() as f32;
        let slot = |(endpoint, &weight): (&Arc<Endpoint>, &u64)| Slot {
            state: endpoint.state.clone(),
            share: if weight == 0 { 0.0 } else { weight as f32 / sum },
        };
        let slots = list.iter().zip(&weights).map(slot).collect();
        let live: Vec<u16> = (0..list.len()).filter(|&at| weights[at] > 0).map(|at| at as u16).collect();
        let mut ramps = live.iter().map(|&at| standing[usize::from(at)].ramp);
        let first = ramps.next();
        // Where all have begun at one time they weigh the same all the time.
        let is_ramping = ramps.any(|ramp| Some(ramp) != first);
        let two = |by| {
            let turns = schedule::schedule(&weights);
            // Equal weights: two turns are two endpoints.
            let others = if turns.len() == live.len() { None } else { schedule::others(&turns) };
            Order::Two { turns, others, by }
        };
        let is_timed = settings.policy == Policy::PeakEwma;
        list.iter().for_each(|endpoint| endpoint.state.time(is_timed));
        let order = match &settings.policy {
            Policy::RoundRobin => Order::Turns(schedule::schedule(&weights)),
            Policy::LeastRequest => two(By::Requests),
            Policy::PeakEwma => two(By::Latency),
            Policy::Hash(hashing) => {
                if let Some(endpoint) = list.first() {
                    endpoint.state.upstream().count(hashing.load_max.is_some());
                }
                Order::Table { table: table(hashing.table, &list, &weights), load_max: hashing.load_max }
            }
        };
        let panics = levels::panics(&standing, settings.panic_threshold);
        Endpoints { list, settings: settings.clone(), slots, live, order, is_ramping, panics }
    }

    /// The same endpoints, compiled anew.
    pub fn again(&self, usable: impl Fn(&Endpoint) -> bool, now_ms: u64) -> Endpoints {
        Endpoints::compile(self.list.clone(), &self.settings, usable, now_ms)
    }

    /// Too few are usable: all get requests that nobody has taken out by hand.
    pub fn panics(&self) -> bool {
        self.panics
    }

    /// Some have begun later than others, and their weight grows with time.
    pub fn is_ramping(&self) -> bool {
        self.is_ramping
    }

    /// The IP addresses they are at.
    pub fn addresses(&self) -> impl Iterator<Item = std::net::IpAddr> {
        self.list.iter().filter_map(|endpoint| endpoint.identity.peer.ip())
    }

    pub fn list(&self) -> &[Arc<Endpoint>] {
        &self.list
    }

    /// Indices into the list of those that get requests.
    pub fn live(&self) -> &[u16] {
        &self.live
    }

    /// How many endpoints are worth a try before a request is given up.
    pub fn tries(&self) -> u32 {
        (self.live.len() as u32).min(CONNECT_ATTEMPTS_MAX)
    }

    /// What `request` has in common with others that should go to the same endpoint. `None`: nothing, or it does not matter.
    pub fn key(&self, request: Keyed<'_>) -> Option<u64> {
        match &self.settings.policy {
            Policy::Hash(hashing) => hashing.on.bits(request),
            _ => None,
        }
    }

    /// An endpoint for one attempt: one that was not tried yet, if there is one. O(1), no allocation. `None`: there is none that
    /// gets requests.
    pub fn pick(&self, asking: &Asking<'_>) -> Option<&Arc<Endpoint>> {
        let picked = match &self.order {
            Order::Turns(turns) => self.turn(turns, asking),
            Order::Two { turns, others, by } => self.better(turns, others.as_deref(), *by, asking),
            Order::Table { table, load_max } => self.at_home(table, *load_max, asking),
        }?;
        let picked = match self.is_tried(picked, asking) {
            true => self.untried(asking).unwrap_or(picked),
            false => picked,
        };
        self.list.get(usize::from(picked))
    }

    fn is_tried(&self, index: u16, asking: &Asking<'_>) -> bool {
        asking.tried.iter().any(|tried| Arc::ptr_eq(tried, &self.list[usize::from(index)]))
    }

    /// One that was not tried, whoever's turn it is: nobody is in `live` twice, so the first few hold one if there is one.
    fn untried(&self, asking: &Asking<'_>) -> Option<u16> {
        self.some_live(asking.lot).take(asking.tried.len() + 1).find(|&index| !self.is_tried(index, asking))
    }

    /// Those that get requests, each once, from a drawn one on.
    fn some_live(&self, lot: u64) -> impl Iterator<Item = u16> {
        let (front, back) = self.live.split_at(below(lot, self.live.len()));
        back.iter().chain(front).copied()
    }

    /// The next one in turn, and if it was tried, a few more.
    fn turn(&self, turns: &[u16], asking: &Asking<'_>) -> Option<u16> {
        let next = || {
            let turn = asking.cursor.get();
            asking.cursor.set(turn.wrapping_add(1));
            turns.get(turn as usize % turns.len().max(1)).copied()
        };
        let mut picked = next()?;
        for _ in 0..asking.tried.len() {
            if !self.is_tried(picked, asking) {
                break;
            }
            picked = next()?;
        }
        Some(picked)
    }

    /// The better of two that are drawn by weight. Of equals the first one drawn, so that weights hold where nobody is busy.
    fn better(&self, turns: &[u16], others: Option<&[u32]>, by: By, asking: &Asking<'_>) -> Option<u16> {
        let count = turns.len();
        let first_at = below(asking.lot, count);
        let first = *turns.get(first_at)?;
        if count == 1 {
            return Some(first);
        }
        // The low half, which the first draw has not used up.
        let mut second_at = first_at + 1 + below(asking.lot << 32, count - 1);
        if second_at >= count {
            second_at -= count;
        }
        let mut second = turns[second_at];
        if second == first {
            match others {
                Some(others) => second = turns[others[first_at] as usize],
                None => return Some(first),
            }
        }
        if !asking.tried.is_empty() {
            match (self.is_tried(first, asking), self.is_tried(second, asking)) {
                (false, true) | (true, true) => return Some(first),
                (true, false) => return Some(second),
                (false, false) => {}
            }
        }
        let (one, other) = (&self.slots[usize::from(first)], &self.slots[usize::from(second)]);
        let is_other_better = match by {
            By::Requests => other.requests() * one.share < one.requests() * other.share,
            By::Latency => other.cost(asking.now_ms) < one.cost(asking.now_ms),
        };
        Some(if is_other_better { second } else { first })
    }

    /// Where the key belongs; without a key, anybody. If there is no room, the next one that has some.
    fn at_home(&self, table: &Table, load_max: Option<f32>, asking: &Asking<'_>) -> Option<u16> {
        if table.is_empty() {
            return None;
        }
        let hash = spread(asking.key.unwrap_or(asking.lot));
        let mut place = table.place(hash);
        let home = table.at(place);
        // What each may run if all together run one more.
        let room = load_max.map(|load_max| {
            let running = self.slots[usize::from(home)].state.upstream().in_flight();
            load_max * (running + 1) as f32
        });
        let has_room = |index: u16| {
            let slot = &self.slots[usize::from(index)];
            room.is_none_or(|room| slot.requests() < (room * slot.share).ceil())
        };
        if has_room(home) && !self.is_tried(home, asking) {
            return Some(home);
        }
        let behind = std::iter::from_fn(|| {
            place = table.next(place);
            Some(table.at(place))
        });
        // Behind a heavy endpoint the same one may follow for long.
        let all = behind.take(PROBES_MAX).chain(self.some_live(hash).take(PROBES_MAX));
        let mut best = (f32::INFINITY, home);
        for index in all.filter(|&index| !self.is_tried(index, asking)) {
            if has_room(index) {
                return Some(index);
            }
            let slot = &self.slots[usize::from(index)];
            let load = slot.requests() / slot.share;
            if load < best.0 {
                best = (load, index);
            }
        }
        Some(best.1)
    }
}

impl Slot {
    fn requests(&self) -> f32 {
        self.state.in_flight() as f32
    }

    fn cost(&self, now_ms: u64) -> f32 {
        self.state.cost(now_ms)
    }
}

/// The table of those that get requests.
fn table(kind: HashTable, list: &[Arc<Endpoint>], weights: &[u64]) -> Table {
    // As they are written, and not as they are taken out by hand: nothing else may move because somebody goes.
    let written = list.iter().filter(|endpoint| endpoint.weight > 0).count();
    let mean = list.iter().map(|endpoint| f64::from(endpoint.weight)).sum::<f64>() / written.max(1) as f64;
    // Who stays as he was weighs most for what is written of him: his written weight.
    let unit = |(endpoint, &weight): (&Arc<Endpoint>, &u64)| weight as f64 / f64::from(endpoint.weight.max(1));
    let whole = list.iter().zip(weights).map(unit).fold(0.0, f64::max);
    let members = list.iter().enumerate().filter(|(at, _)| weights[*at] > 0).map(|(at, endpoint)| Member {
        index: at as u16,
        name: &endpoint.label,
        weight: weights[at],
        portion: weights[at] as f64 / whole / mean,
    });
    let members: Vec<Member<'_>> = members.collect();
    match kind {
        HashTable::Maglev => hash::maglev(&members, written),
        HashTable::RingHash => hash::ring(&members, written),
    }
}

#[cfg(test)]
mod tests;
