//! Address lists: read from the configuration and its files, compiled into tables, asked by every tier.
//!
//! What is denied or exempt everywhere is one table ([`abi::Table`]): the kernel's program has a copy of its words and reads
//! them with the same lookup, so both tiers say the same. A list that a listener or a route names is a table of its own.
//! `manage` goes before deny before exempt; within one of them the most specific prefix decides which list it was.

mod read;

use std::collections::{BTreeMap, HashMap};
use std::hash::{BuildHasher as _, RandomState};
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use abi::compile::{Cidr, CompileError};
use abi::{Action, Entry, RULES_MAX, Table, Verdict};
use foldhash::fast::FixedState;

pub use self::read::{Located, Read, Reading, locate, read};
use crate::config::model::{Config, List, ListAction, ListMode};

/// The rule of `xdp.manage`.
const MANAGE_RULE: u16 = 1;

/// The first rule of a list; those below are ours.
const LIST_RULES: u16 = 16;

/// Lists at one time: each has a rule.
pub const LISTS_MAX: usize = (RULES_MAX - LIST_RULES) as usize;

/// Every list, compiled.
pub struct Lists {
    /// What holds everywhere.
    pub table: Arc<Table>,
    /// By rule.
    rules: BTreeMap<u16, Rule>,
    /// Each list that somebody names, by its name.
    sets: BTreeMap<String, Arc<Table>>,
    /// What each list was read from, and the folder its file is relative to.
    sources: BTreeMap<String, (List, PathBuf)>,
    /// Some list is enforced everywhere.
    denies: bool,
}

/// What a rule of the table stands for.
#[derive(Debug, Clone)]
pub struct Rule {
    /// Name of the list; `xdp.manage` for those.
    pub list: String,
    pub action: Action,
    pub shadow: bool,
    pub entries: usize,
}

/// Lists of a listener or a route.
#[derive(Default)]
pub struct Gate {
    deny: Vec<Arc<Table>>,
    allow: Vec<Arc<Table>>,
}

/// Why there are no tables.
#[derive(Debug)]
pub struct Uncompiled(pub CompileError);

impl Default for Lists {
    fn default() -> Lists {
        Lists {
            table: Arc::new(Table::empty()),
            rules: BTreeMap::new(),
            sets: BTreeMap::new(),
            sources: BTreeMap::new(),
            denies: false,
        }
    }
}

impl Lists {
    /// Compiles what was read. Linear in the number of addresses; a million take a quarter of a second.
    /// `folder`: of the file in which a key was written.
    pub fn compile(
        config: &Config,
        readings: &[Reading],
        folder: &dyn Fn(&str) -> PathBuf,
    ) -> Result<Lists, Uncompiled> {
        let manage: Vec<Cidr> = config
            .xdp
            .iter()
            .flat_map(|xdp| &xdp.manage)
            .filter_map(|network| Cidr::new(network.addr(), network.prefix_len()))
            .collect();
        let ids = rule_ids(readings.iter().map(|reading| reading.name.as_str()));
        let mut rules = BTreeMap::new();
        let mut entries: Vec<Entry> = Vec::new();
        if !manage.is_empty() {
            let (action, shadow) = (Action::Manage, false);
            rules.insert(MANAGE_RULE, Rule { list: "xdp.manage".to_owned(), action, shadow, entries: manage.len() });
            entries.extend(manage.iter().map(|&cidr| Entry { cidr, action, rule: MANAGE_RULE, shadow }));
        }
        for reading in readings {
            let List { action, mode, .. } = &config.list[&reading.name];
            let action = match action {
                ListAction::Deny => Action::Deny,
                ListAction::Exempt => Action::Exempt,
                ListAction::Named => continue,
            };
            let (rule, shadow) = (ids[reading.name.as_str()], *mode == ListMode::Shadow);
            rules.insert(rule, Rule { list: reading.name.clone(), action, shadow, entries: reading.cidrs.len() });
            entries.extend(reading.cidrs.iter().map(|&cidr| Entry { cidr, action, rule, shadow }));
        }
        // Nobody can aim at a bucket whose seed they do not know.
        let seed = RandomState::new().hash_one(0u8);
        let table = Table::compile(&entries, seed).map_err(Uncompiled)?;
        drop(entries);
        let mut sets = BTreeMap::new();
        for name in named(config) {
            let Some(reading) = readings.iter().find(|reading| reading.name == name) else { continue };
            let entries: Vec<Entry> = reading
                .cidrs
                .iter()
                .map(|&cidr| Entry { cidr, action: Action::Exempt, rule: MANAGE_RULE, shadow: false })
                .collect();
            sets.insert(name.to_owned(), Arc::new(Table::compile(&entries, seed).map_err(Uncompiled)?));
        }
        let denies = rules.values().any(|rule| rule.action == Action::Deny);
        let sources =
            config.list.iter().map(|(name, list)| (name.clone(), (list.clone(), folder(&format!("list.{name}")))));
        Ok(Lists { table: Arc::new(table), rules, sets, sources: sources.collect(), denies })
    }

    /// What the lists that hold everywhere say about an address.
    pub fn verdict(&self, address: IpAddr) -> Verdict {
        // Without a list that denies there is nothing to look up, on most gateways.
        if self.denies { self.table.verdict(address) } else { Verdict::PASS }
    }

    /// The same, also where nothing is denied: who is managed, who is exempt.
    pub fn standing(&self, address: IpAddr) -> Verdict {
        self.table.verdict(address)
    }

    /// The lists of a listener or a route. Names were checked.
    pub fn gate(&self, deny: &[String], allow: &[String]) -> Gate {
        let tables = |names: &[String]| names.iter().filter_map(|name| self.sets.get(name).cloned()).collect();
        Gate { deny: tables(deny), allow: tables(allow) }
    }

    /// The line that says what a rule does about an address, as the list's file has it now.
    pub fn locate(&self, rule: u16, address: IpAddr) -> Option<Located> {
        let name = &self.rules.get(&rule)?.list;
        let (list, folder) = self.sources.get(name)?;
        locate(name, list, folder, address)
    }

    /// What a rule stands for.
    pub fn rule(&self, rule: u16) -> Option<&Rule> {
        self.rules.get(&rule)
    }

    /// Every rule.
    pub fn rules(&self) -> impl Iterator<Item = (u16, &Rule)> {
        self.rules.iter().map(|(id, rule)| (*id, rule))
    }

    /// Tells apart what was compiled: the generation of each table.
    pub fn digest(&self) -> Vec<u8> {
        let tables = [&self.table].into_iter().chain(self.sets.values());
        tables.flat_map(|table| table.generation().to_le_bytes()).collect()
    }

    /// Names what was compiled, as it is shown: 16 hexadecimal digits.
    pub fn generation(&self) -> String {
        format!("{:016x}", self.table.generation())
    }
}

impl Gate {
    /// Whether an address is let through.
    pub fn admits(&self, address: IpAddr) -> bool {
        let on = |table: &Arc<Table>| table.verdict(address).action != Action::Pass;
        !self.deny.iter().any(on) && (self.allow.is_empty() || self.allow.iter().any(on))
    }

    pub fn is_empty(&self) -> bool {
        self.deny.is_empty() && self.allow.is_empty()
    }
}

/// Lists that listeners and routes name, each once.
fn named(config: &Config) -> Vec<&str> {
    let listeners = config.listener.iter().flat_map(|listener| listener.deny.iter().chain(&listener.allow));
    let routes = config.route.iter().flat_map(|route| route.deny.iter().chain(&route.allow));
    let mut names: Vec<&str> = listeners.chain(routes).map(String::as_str).collect();
    names.sort_unstable();
    names.dedup();
    names
}

/// A rule for each name. The same name has the same rule from one generation to the next, and after a restart, as far as no
/// two names want the same: the kernel counts by rule, and what it counts outlives us.
fn rule_ids<'a>(names: impl Iterator<Item = &'a str>) -> HashMap<&'a str, u16> {
    let mut names: Vec<&str> = names.collect();
    names.sort_unstable();
    let mut ids = HashMap::new();
    let mut taken = vec![false; LISTS_MAX];
    for name in names.into_iter().take(LISTS_MAX) {
        let start = (FixedState::with_seed(0).hash_one(name) % LISTS_MAX as u64) as usize;
        let free = (0..LISTS_MAX).map(|step| (start + step) % LISTS_MAX).find(|&at| !taken[at]);
        let at = free.expect("there are as many rules as names");
        taken[at] = true;
        ids.insert(name, LIST_RULES + at as u16);
    }
    ids
}

/// Where a list's file is: relative to the file its name was written in.
pub fn path_of(folder: &Path, file: &str) -> PathBuf {
    folder.join(file)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reading(name: &str, cidrs: &[&str]) -> Reading {
        let cidrs = cidrs.iter().map(|text| text.parse().expect("a prefix")).collect();
        Reading { name: name.to_owned(), cidrs }
    }

    fn config(text: &str) -> Config {
        toml::from_str(text).expect("a configuration")
    }

    #[test]
    fn manage_goes_before_deny_before_exempt() {
        let config = config(
            "xdp = { interfaces = ['lo'], manage = ['10.1.0.0/24'] }\n\
             list.drop = { action = 'deny' }\nlist.tried = { action = 'deny', mode = 'shadow' }\n\
             list.friends = { action = 'exempt' }\nlist.staff = { action = 'named' }\n\
             route = [{ path = '/**', auth = 'none', allow = ['staff'], deny = ['drop'] }]",
        );
        let readings = [
            reading("drop", &["10.0.0.0/8", "2001:db8::/32"]),
            reading("tried", &["192.0.2.0/24"]),
            reading("friends", &["10.2.0.0/16", "198.51.100.0/24"]),
            reading("staff", &["192.0.2.7/32"]),
        ];
        let lists = Lists::compile(&config, &readings, &|_| PathBuf::new()).expect("it fits");
        for (address, action, list, shadow) in [
            ("10.9.9.9", Action::Deny, "drop", None),
            ("10.1.0.7", Action::Manage, "xdp.manage", None),
            ("10.2.0.1", Action::Deny, "drop", None),
            ("198.51.100.1", Action::Exempt, "friends", None),
            ("192.0.2.7", Action::Pass, "", Some("tried")),
            ("2001:db8::1", Action::Deny, "drop", None),
            ("::ffff:10.9.9.9", Action::Deny, "drop", None),
            ("203.0.113.1", Action::Pass, "", None),
        ] {
            let verdict = lists.verdict(address.parse().expect("an address"));
            let name = |rule: u16| lists.rule(rule).map_or("", |rule| &rule.list);
            assert_eq!((verdict.action, name(verdict.rule)), (action, list), "{address}");
            assert_eq!((verdict.shadow > 0).then(|| name(verdict.shadow)), shadow, "{address}");
        }
        let gate = lists.gate(&["drop".to_owned()], &["staff".to_owned()]);
        for (address, admitted) in [("192.0.2.7", true), ("192.0.2.8", false), ("10.9.9.9", false)] {
            assert_eq!(gate.admits(address.parse().expect("an address")), admitted, "{address}");
        }
    }

    #[test]
    fn a_name_keeps_its_rule_whatever_others_come() {
        let some = rule_ids(["b", "a"].into_iter());
        let more = rule_ids(["c", "a", "b", "d"].into_iter());
        assert_eq!((some["a"], some["b"]), (more["a"], more["b"]));
        let names: Vec<String> = (0..LISTS_MAX).map(|number| number.to_string()).collect();
        let all = rule_ids(names.iter().map(String::as_str));
        let mut ids: Vec<u16> = all.into_values().collect();
        ids.sort_unstable();
        ids.dedup();
        assert_eq!((ids.len(), ids[0], ids[LISTS_MAX - 1]), (LISTS_MAX, LIST_RULES, RULES_MAX - 1));
    }
}
