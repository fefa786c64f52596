//! Which endpoint of an upstream gets a request. The choice is the worker's own; the endpoints are the snapshot's, and how busy
//! and how fast they are is known to all cores together ([`State`]).
//!
//! Two steps. [`Endpoints::compile`], on the control side and whenever something changes: who is usable, priorities, slow start
//! and panic become one weight for each endpoint ([`levels`]), and weights become a list of turns ([`schedule`]) or a table of
//! keys ([`hash`]). [`Endpoints::pick`], for every attempt: a look into those, at most a few endpoints' states, and no search,
//! however many endpoints there are.

mod about;
mod ewma;
mod hash;
mod identity;
mod key;
mod levels;
mod schedule;
mod settings;
mod sticky;
mod subset;

use std::cell::Cell;
use std::sync::Arc;

pub use self::about::{About, Distance};
pub use self::ewma::Latency;
use self::hash::{Member, Table, below, spread};
pub use self::identity::{Http, Identity, Link, Prehashed, Wanted};
pub use self::key::{Key, Keyed};
use self::levels::Standing;
pub use self::settings::{Hashing, Policy, Settings};
use self::sticky::Names;
pub use self::sticky::{Session, Sticky};
pub use self::subset::{Destination, Subset, Subsets};
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
    /// What is said of it, which several addresses of one name share.
    pub about: Arc<About>,
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
    /// Index of the endpoint it is to stay with, [`Endpoints::session`].
    pub held: Option<u16>,
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
    /// Indices of those that get none because nearer ones, or ones of an earlier priority, can take all: where these fail, or
    /// are full, they come in. The first ones first.
    spare: Vec<Vec<u16>>,
    /// How many some request may get to.
    reach: usize,
    order: Order,
    /// What cookies call those in `list`, where clients are kept with them.
    names: Option<Arc<Names>>,
    /// In the order of [`Settings::subsets`]. `None`: all endpoints stand in.
    subsets: Vec<Option<Box<Endpoints>>>,
    is_ramping: bool,
    panics: bool,
}

#[derive(Debug)]
struct Slot {
    state: Arc<State>,
    /// Of all requests, 0 to 1.
    share: f32,
    /// It takes those that are to stay with it, whether or not it gets others.
    keeps: bool,
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

/// Endpoints that are looked at for one key until one has room, or until one is found that is well: if three of four have none, or
/// are not, one in a hundred finds none among so many.
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
        Endpoints::compile_beside(None, list, settings, usable, now_ms)
    }

    /// `known`: the same endpoints as they were compiled before, whose names need not be found again.
    fn compile_beside(
        known: Option<&Endpoints>,
        list: Vec<Arc<Endpoint>>,
        settings: &Arc<Settings>,
        usable: impl Fn(&Endpoint) -> bool,
        now_ms: u64,
    ) -> Endpoints {
        let names = |known: Option<&Endpoints>, list: &[Arc<Endpoint>]| match known {
            Some(known) => known.names.clone(),
            None => settings.sticky.as_ref().map(|sticky| Arc::new(Names::new(sticky, list))),
        };
        let subset = |(at, subset): (usize, &Subset)| {
            let some: Vec<Arc<Endpoint>> = list.iter().filter(|endpoint| subset.holds(endpoint)).cloned().collect();
            let is_there = some.iter().any(|endpoint| endpoint.weight > 0 && usable(endpoint));
            if !is_there && subset.falls_back() {
                return None;
            }
            let known = known.and_then(|known| known.subsets.get(at)?.as_deref());
            let names = names(known, &some);
            Some(Box::new(Endpoints::weigh(some, settings, names, &usable, now_ms)))
        };
        let subsets: Vec<Option<Box<Endpoints>>> = settings.subsets.iter().enumerate().map(subset).collect();
        let names = names(known, &list);
        let whole = Endpoints::weigh(list, settings, names, usable, now_ms);
        let is_ramping = whole.is_ramping || subsets.iter().flatten().any(|subset| subset.is_ramping);
        Endpoints { subsets, is_ramping, ..whole }
    }

    /// Those of a subset, by its number among [`Settings::subsets`] and 1; 0 is the whole, and so is a subset that falls back.
    pub fn of(&self, subset: u16) -> &Endpoints {
        match self.subsets.get(usize::from(subset).wrapping_sub(1)) {
            Some(Some(some)) => some,
            _ => self,
        }
    }

    /// Each subset and its endpoints; `None`: all of them, for want of its own.
    pub fn subsets(&self) -> impl ExactSizeIterator<Item = (&Subset, Option<&Endpoints>)> {
        self.settings.subsets.iter().zip(self.subsets.iter().map(Option::as_deref))
    }

    fn weigh(
        list: Vec<Arc<Endpoint>>,
        settings: &Arc<Settings>,
        names: Option<Arc<Names>>,
        usable: impl Fn(&Endpoint) -> bool,
        now_ms: u64,
    ) -> Endpoints {
        let standing = |endpoint: &Arc<Endpoint>| {
            let usable = usable(endpoint);
            let usable_ms = endpoint.state.usable_ms(usable, now_ms);
            let ramp = levels::ramp(usable_ms, settings.slow_start_ms);
            Standing { weight: weight(endpoint), level: level(endpoint, settings), usable, ramp }
        };
        let standing: Vec<Standing> = list.iter().map(standing).collect();
        let weights = levels::weights(&standing, settings.panic_threshold);
        let sum = weights.iter().sum::<u64>() as f32;
        let slot = |((endpoint, standing), &weight): ((&Arc<Endpoint>, &Standing), &u64)| Slot {
            state: endpoint.state.clone(),
            share: if weight == 0 { 0.0 } else { weight as f32 / sum },
            // Who has begun with one that is taken out by hand, or weighs nothing now, may finish there: that is what it is
            // taken out gently for.
            keeps: names.is_some() && (weight > 0 || standing.usable || endpoint.state.is_drained_well()),
        };
        let slots: Vec<Slot> = list.iter().zip(&standing).zip(&weights).map(slot).collect();
        let live: Vec<u16> = (0..list.len()).filter(|&at| weights[at] > 0).map(|at| at as u16).collect();
        let spare = spare(&standing, &weights);
        let others = spare.iter().map(Vec::len).sum::<usize>();
        let reach = live.len() + others.max(slots.iter().filter(|slot| slot.keeps && slot.share == 0.0).count());
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
        Endpoints {
            list,
            settings: settings.clone(),
            slots,
            live,
            spare,
            reach,
            order,
            names,
            subsets: Vec::new(),
            is_ramping,
            panics,
        }
    }

    /// The same endpoints, compiled anew.
    pub fn again(&self, usable: impl Fn(&Endpoint) -> bool, now_ms: u64) -> Endpoints {
        Endpoints::compile_beside(Some(self), self.list.clone(), &self.settings, usable, now_ms)
    }

    /// Too few are usable: all get requests that nobody has taken out by hand.
    pub fn panics(&self) -> bool {
        self.panics
    }

    /// Whether all would get requests if these were the usable ones.
    pub fn would_panic(&self, usable: impl Fn(&Endpoint) -> bool) -> bool {
        let standing = |endpoint: &Arc<Endpoint>| Standing {
            weight: weight(endpoint),
            level: level(endpoint, &self.settings),
            usable: usable(endpoint),
            ramp: 1.0,
        };
        levels::panics(&self.list.iter().map(standing).collect::<Vec<_>>(), self.settings.panic_threshold)
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
        (self.reach as u32).min(CONNECT_ATTEMPTS_MAX)
    }

    /// What `request` has in common with others that should go to the same endpoint. `None`: nothing, or it does not matter.
    pub fn key(&self, request: Keyed<'_>) -> Option<u64> {
        match &self.settings.policy {
            Policy::Hash(hashing) => hashing.on.bits(request),
            _ => None,
        }
    }

    /// How clients are kept with these endpoints. `None`: they are not.
    pub fn sticky(&self) -> Option<&Sticky> {
        self.names.as_deref().map(Names::sticky)
    }

    /// What the value of a client's cookie says, [`Sticky::now_s`]. `None`: nothing that is good.
    pub fn session(&self, value: &[u8], now_s: u32) -> Option<Session> {
        self.names.as_ref()?.read(value, now_s)
    }

    /// An endpoint for one attempt: the one the request is held to, if that one takes it, else one that was not tried yet, if
    /// there is one. A request that has failed goes to none that fails itself or has been taken out since these were compiled,
    /// as long as another is found at once: it has no attempts to find out who is well again. O(1), no allocation. `None`: there
    /// is none that gets requests.
    pub fn pick(&self, asking: &Asking<'_>) -> Option<&Arc<Endpoint>> {
        if let Some(held) = asking.held
            && self.slots.get(usize::from(held)).is_some_and(|slot| slot.keeps)
            && !self.is_tried(held, asking)
        {
            return self.list.get(usize::from(held));
        }
        let picked = match &self.order {
            Order::Turns(turns) => self.turn(turns, asking),
            Order::Two { turns, others, by } => self.better(turns, others.as_deref(), *by, asking),
            Order::Table { table, load_max } => self.at_home(table, *load_max, asking),
        }?;
        let picked = match self.is_tried(picked, asking) {
            true => self.untried(asking).or_else(|| self.untried_spare(asking)).unwrap_or(picked),
            false => picked,
        };
        let picked = match !asking.tried.is_empty() && !self.is_well(picked) {
            true => self.well(asking).unwrap_or(picked),
            false => picked,
        };
        self.list.get(usize::from(picked))
    }

    fn is_tried(&self, index: u16, asking: &Asking<'_>) -> bool {
        asking.tried.iter().any(|tried| Arc::ptr_eq(tried, &self.list[usize::from(index)]))
    }

    /// One that was not tried, whoever's turn it is: nobody is in `live` twice, so the first few hold one if there is one.
    fn untried(&self, asking: &Asking<'_>) -> Option<u16> {
        self.some(&self.live, asking.lot).take(asking.tried.len() + 1).find(|&index| !self.is_tried(index, asking))
    }

    fn is_well(&self, index: u16) -> bool {
        self.slots[usize::from(index)].state.is_well()
    }

    /// One that was not tried and is well, if it is among the first few.
    fn well(&self, asking: &Asking<'_>) -> Option<u16> {
        let mut some = self.some(&self.live, asking.lot).take(PROBES_MAX + asking.tried.len());
        some.find(|&index| self.is_well(index) && !self.is_tried(index, asking))
    }

    /// The same of those that get no requests while all is well.
    fn untried_spare(&self, asking: &Asking<'_>) -> Option<u16> {
        // Whoever has tried all of one group has tried so many; groups are not empty.
        self.spare.iter().take(asking.tried.len() + 1).find_map(|group| {
            self.some(group, asking.lot).take(asking.tried.len() + 1).find(|&index| !self.is_tried(index, asking))
        })
    }

    /// These, each once, from a drawn one on.
    fn some<'a>(&self, these: &'a [u16], lot: u64) -> impl Iterator<Item = u16> + use<'a> {
        let (front, back) = these.split_at(below(lot, these.len()));
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
        let all = behind.take(PROBES_MAX).chain(self.some(&self.live, hash).take(PROBES_MAX));
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

/// What goes before it: lower priorities first, and among equals who is nearer, where that counts.
fn level(endpoint: &Endpoint, settings: &Settings) -> (u8, Option<Distance>) {
    (endpoint.priority, if settings.prefers_near { endpoint.about.distance } else { None })
}

/// What an endpoint weighs. Taken out by hand it has no share, whoever is left.
fn weight(endpoint: &Endpoint) -> u32 {
    if endpoint.state.standing() == Stands::Drained { 0 } else { endpoint.weight }
}

impl Slot {
    fn requests(&self) -> f32 {
        self.state.in_flight() as f32
    }

    fn cost(&self, now_ms: u64) -> f32 {
        self.state.cost(now_ms)
    }
}

/// Those that are usable and have no share, by their level.
fn spare(standing: &[Standing], weights: &[u64]) -> Vec<Vec<u16>> {
    let is_spare = |at: &usize| standing[*at].usable && standing[*at].weight > 0 && weights[*at] == 0;
    let mut spare: Vec<usize> = (0..standing.len()).filter(is_spare).collect();
    spare.sort_by_key(|&at| standing[at].level);
    let groups = spare.chunk_by(|&one, &next| standing[one].level == standing[next].level);
    groups.map(|group| group.iter().map(|&at| at as u16).collect()).collect()
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
