//! Asks DNS servers one question at a time, through `hickory-resolver`, of which nothing else in the gateway knows.
//!
//! Of that library these parts are used: messages, UDP with TCP behind it where an answer is truncated, `/etc/resolv.conf` and
//! `/etc/hosts`. Its resolver is not: it takes any failure on the way through `search` for a reason to try the next name, so that
//! a server that is silent for a moment ends in "no such name"; it asks no second server where the first one says SERVFAIL; it
//! keeps answers by a clock of its own; and it looks for SRV records behind an alias at the wrong name.

use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use hickory_resolver::config::{ConnectionConfig, NameServerConfig, ResolverConfig, ResolverOpts};
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::net::xfer::{DnsHandle as _, FirstAnswer as _};
use hickory_resolver::net::{DnsError, NetError, NoRecords};
use hickory_resolver::proto::op::{DnsRequestOptions, Query, ResponseCode};
use hickory_resolver::proto::rr::{Name, RData, Record, RecordType};
use hickory_resolver::{Hosts, NameServerPool, PoolContext, TlsConfig, system_conf};
use tokio::sync::Semaphore;

use crate::config::model;
use crate::limits::{DNS_ALIASES_MAX, DNS_QUESTIONS_MAX};

/// Where the system says which servers to ask, and which names it knows without them.
const RESOLV_CONF: &str = "/etc/resolv.conf";
const HOSTS: &str = "/etc/hosts";

/// Port of DNS servers.
const PORT: u16 = 53;

/// What a question came to.
#[derive(Debug)]
pub(super) enum Reply {
    /// Not empty. The TTL is the least on the way to them, aliases included.
    Records {
        data: Vec<RData>,
        ttl: Duration,
    },
    /// No such name, or no such record; the servers say for how long.
    Denied {
        why: &'static str,
        ttl: Option<Duration>,
    },
    Failed(String),
}

/// Asks the servers of a configuration.
pub(super) struct Client {
    /// Empty: the system's.
    written: Vec<SocketAddr>,
    settings: Settings,
    /// As it was when it was last looked at.
    system: Mutex<Option<(Stamps, Arc<System>)>>,
    seats: Semaphore,
}

#[derive(Debug, Clone, Copy)]
struct Settings {
    timeout: Duration,
    tries: u32,
}

/// Whom to ask, and what is known without asking.
pub(super) struct System {
    servers: Vec<Server>,
    search: Vec<Name>,
    ndots: usize,
    hosts: Hosts,
}

struct Server {
    address: SocketAddr,
    pool: NameServerPool<TokioRuntimeProvider>,
}

/// When the system's files were changed.
type Stamps = [Option<SystemTime>; 2];

impl Client {
    pub(super) fn new(dns: &model::Dns) -> Client {
        let settings = Settings { timeout: dns.timeout.into(), tries: dns.tries };
        let written = dns.resolvers.iter().filter_map(|text| text.parse().ok()).collect();
        Client { written, settings, system: Mutex::default(), seats: Semaphore::new(DNS_QUESTIONS_MAX) }
    }

    /// Whom to ask now. Looks at two small files, and reads them if they have changed.
    pub(super) fn system(&self) -> Arc<System> {
        let changed = |path: &str| fs::metadata(path).and_then(|metadata| metadata.modified()).ok();
        let stamps = [changed(RESOLV_CONF), changed(HOSTS)];
        let mut known = self.system.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((of, system)) = &*known
            && *of == stamps
        {
            return system.clone();
        }
        let (addresses, search, ndots) = match self.written.is_empty() {
            true => read(&fs::read(RESOLV_CONF).unwrap_or_default()),
            false => (self.written.clone(), Vec::new(), 1),
        };
        // An unreadable file knows nothing, as it does for everybody else on this host.
        let hosts = Hosts::from_system().unwrap_or_default();
        let read = System { servers: servers(&addresses, self.settings), search, ndots, hosts };
        let system = Arc::new(read);
        *known = Some((stamps, system.clone()));
        system
    }

    /// Asks for the records of one kind at one complete name: each server in turn until one answers, as often as is written.
    pub(super) async fn ask(&self, system: &System, name: &Name, kind: RecordType) -> Reply {
        let mut name = name.clone();
        let mut least = Duration::MAX;
        for _ in 0..=DNS_ALIASES_MAX {
            let (answers, code, denied) = match self.exchange(system, &name, kind).await {
                Ok(answers) => answers,
                Err(why) => return Reply::Failed(why),
            };
            let Some((end, data, ttl)) = follow(&answers, &name, kind) else { break };
            least = least.min(ttl);
            if !data.is_empty() {
                return Reply::Records { data, ttl: least };
            }
            // A server that answers for its own zone only leaves the rest of the way to us.
            if end == name || code == ResponseCode::NXDomain {
                let why = if code == ResponseCode::NXDomain { "no such name" } else { "the name has no such record" };
                return Reply::Denied { why, ttl: denied };
            }
            name = end;
        }
        Reply::Failed(format!("more than {DNS_ALIASES_MAX} aliases (CNAME), or they lead to themselves"))
    }

    /// The answers to one question, with the code and for how long what is not there is said not to be.
    async fn exchange(&self, system: &System, name: &Name, kind: RecordType) -> Result<Answers, String> {
        let Ok(_seat) = self.seats.acquire().await else { return Err("the gateway stops".to_owned()) };
        let mut why = String::new();
        for _ in 0..self.settings.tries {
            for server in &system.servers {
                match server.ask(name, kind, self.settings.timeout).await {
                    Ok(answers) => return Ok(answers),
                    Err(error) => why = format!("{}: {error}", server.address),
                }
            }
        }
        Err(why)
    }
}

type Answers = (Vec<Record>, ResponseCode, Option<Duration>);

impl Server {
    async fn ask(&self, name: &Name, kind: RecordType, timeout: Duration) -> Result<Answers, String> {
        match self.exchange(name, kind, true, timeout).await {
            // RFC 6891 §7: servers older than EDNS say that they do not understand.
            Err(NetError::Dns(DnsError::ResponseCode(ResponseCode::FormErr | ResponseCode::NotImp))) => {
                self.exchange(name, kind, false, timeout).await
            }
            said => said,
        }
        .map_err(|error| match error {
            NetError::Timeout => {
                format!("no answer within {}", crate::config::units::Time::from_millis(timeout.as_millis() as u64))
            }
            NetError::Dns(DnsError::ResponseCode(code)) => code.to_string(),
            NetError::Dns(DnsError::NoRecordsFound(_)) => {
                "it names other servers and does not ask them itself".to_owned()
            }
            error => error.to_string(),
        })
    }

    async fn exchange(
        &self,
        name: &Name,
        kind: RecordType,
        edns: bool,
        timeout: Duration,
    ) -> Result<Answers, NetError> {
        let mut options = DnsRequestOptions::default();
        options.use_edns = edns;
        options.recursion_desired = true;
        let asked = self.pool.lookup(Query::query(name.clone(), kind), options).first_answer();
        // UDP and TCP have this time each; together they are one server that takes too long.
        match tokio::time::timeout(timeout, asked).await {
            Err(_) => Err(NetError::Timeout),
            Ok(Ok(response)) => {
                let code = response.response_code;
                if !matches!(code, ResponseCode::NoError | ResponseCode::NXDomain) {
                    return Err(NetError::Dns(DnsError::ResponseCode(code)));
                }
                let denied = response.negative_ttl().map(|secs| Duration::from_secs(secs.into()));
                Ok((response.into_message().answers, code, denied))
            }
            Ok(Err(NetError::Dns(DnsError::NoRecordsFound(none)))) if !is_referral(&none) => {
                let denied = none.negative_ttl.map(|secs| Duration::from_secs(secs.into()));
                Ok((Vec::new(), none.response_code, denied))
            }
            Ok(Err(error)) => Err(error),
        }
    }
}

/// An answer with nothing in it but the names of other servers: this one does not ask for others, so it knows nothing.
fn is_referral(none: &NoRecords) -> bool {
    none.response_code == ResponseCode::NoError && none.soa.is_none() && none.ns.is_some()
}

/// Goes along the aliases in one answer: where they end, what is there, and the least TTL on the way. `None`: there are too many, or
/// they have no end.
fn follow(answers: &[Record], name: &Name, kind: RecordType) -> Option<(Name, Vec<RData>, Duration)> {
    let mut name = name.clone();
    let mut least = u32::MAX;
    for _ in 0..=DNS_ALIASES_MAX {
        let here = || answers.iter().filter(|record| record.name == name);
        let data: Vec<&Record> = here().filter(|record| record.record_type() == kind).collect();
        if !data.is_empty() {
            least = data.iter().map(|record| record.ttl).fold(least, u32::min);
            let data = data.into_iter().map(|record| record.data.clone()).collect();
            return Some((name, data, Duration::from_secs(least.into())));
        }
        let alias = here().find_map(|record| match &record.data {
            RData::CNAME(alias) => Some((alias.0.clone(), record.ttl)),
            _ => None,
        });
        let Some((next, ttl)) = alias else {
            return Some((name, Vec::new(), Duration::from_secs(least.into())));
        };
        least = least.min(ttl);
        name = next;
    }
    None
}

impl System {
    /// The complete names that `text` may mean, in the order in which they are asked for (resolv.conf(5), `ndots`).
    pub(super) fn candidates(&self, text: &str) -> Vec<Name> {
        let Ok(mut name) = Name::from_ascii(text) else { return Vec::new() };
        if name.is_fqdn() || self.search.is_empty() {
            name.set_fqdn(true);
            return vec![name];
        }
        let searched = self.search.iter().filter_map(|domain| {
            let mut whole = name.clone().append_domain(domain).ok()?;
            whole.set_fqdn(true);
            Some(whole)
        });
        let mut candidates: Vec<Name> = searched.collect();
        let is_first = usize::from(name.num_labels()) > self.ndots;
        let at = if is_first { 0 } else { candidates.len() };
        let mut plain = name.clone();
        plain.set_fqdn(true);
        candidates.insert(at, plain);
        candidates
    }

    /// What is known of a name without asking: `/etc/hosts`, and that `localhost` is this host (RFC 6761 §6.3). `None`: nothing.
    pub(super) fn known(&self, text: &str) -> Option<Vec<IpAddr>> {
        let mut name = Name::from_ascii(text.to_ascii_lowercase()).ok()?;
        name.set_fqdn(true);
        let listed = |kind| self.hosts.lookup_static_host(&Query::query(name.clone(), kind));
        let listed: Vec<IpAddr> = [RecordType::A, RecordType::AAAA]
            .into_iter()
            .filter_map(listed)
            .flat_map(|lookup| lookup.answers().iter().filter_map(|record| address(&record.data)).collect::<Vec<_>>())
            .collect();
        if !listed.is_empty() {
            return Some(listed);
        }
        let last = name.iter().next_back()?.to_ascii_lowercase();
        let here = || vec![IpAddr::from(Ipv4Addr::LOCALHOST), IpAddr::from(Ipv6Addr::LOCALHOST)];
        (last == b"localhost").then(here)
    }
}

/// Servers, search list and `ndots`, by the text of `/etc/resolv.conf`. One that names no server means the one on this host
/// (resolv.conf(5)).
fn read(text: &[u8]) -> (Vec<SocketAddr>, Vec<Name>, usize) {
    let (config, ndots) = match system_conf::parse_resolv_conf(text) {
        Ok((config, options)) => (config, options.ndots),
        Err(_) => (ResolverConfig::default(), 1),
    };
    let mut addresses: Vec<SocketAddr> =
        config.name_servers().iter().map(|server| SocketAddr::new(server.ip, PORT)).collect();
    if addresses.is_empty() {
        addresses.push(SocketAddr::from((Ipv4Addr::LOCALHOST, PORT)));
    }
    let search = match config.search() {
        [] => config.domain().filter(|domain| !domain.is_root()).cloned().into_iter().collect(),
        search => search.to_vec(),
    };
    (addresses, search, ndots)
}

/// The address a record holds.
pub(super) fn address(data: &RData) -> Option<IpAddr> {
    match data {
        RData::A(address) => Some(IpAddr::from(address.0)),
        RData::AAAA(address) => Some(IpAddr::from(address.0).to_canonical()),
        _ => None,
    }
}

/// A pool of one each: which of them is asked when is ours to say.
fn servers(addresses: &[SocketAddr], Settings { timeout, .. }: Settings) -> Vec<Server> {
    let server = |&address: &SocketAddr| {
        let mut options = ResolverOpts::default();
        options.timeout = timeout;
        options.attempts = 0;
        options.num_concurrent_reqs = 1;
        let connections = [ConnectionConfig::udp(), ConnectionConfig::tcp()].map(|mut connection| {
            connection.port = address.port();
            connection
        });
        let config = NameServerConfig::new(address.ip(), true, connections.to_vec());
        // It holds nothing where there is no DNS over TLS.
        let context = PoolContext::new(options, TlsConfig::new().ok()?);
        let pool = NameServerPool::from_config([config], Arc::new(context), TokioRuntimeProvider::default());
        Some(Server { address, pool })
    };
    addresses.iter().filter_map(server).collect()
}

#[cfg(test)]
mod tests;
