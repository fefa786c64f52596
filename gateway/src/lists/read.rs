//! Reads lists: what the configuration holds, and files in the forms that are published. A line that cannot be read refuses
//! the whole: a list that lost a line without a word is not the list that was meant.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read as _};
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use abi::compile::Cidr;

use super::{LISTS_MAX, path_of};
use crate::config::model::{Config, List, ListAction, ListFormat, ListMode};
use crate::limits::{LIST_ENTRIES_MAX, LIST_LINE_BYTES_MAX};
use crate::problem::{Place, Problem, quoted};

/// A list that was read.
pub struct Reading {
    pub name: String,
    pub cidrs: Vec<Cidr>,
}

/// Everything that came of reading.
#[derive(Default)]
pub struct Read {
    pub readings: Vec<Reading>,
    pub problems: Vec<Problem>,
    pub warnings: Vec<Problem>,
    /// Files that were read, also those that could not be.
    pub files: Vec<PathBuf>,
}

/// Finds the prefix of a line, if it has one, and whether bits behind it were set.
type Parse = fn(&str) -> Result<Option<(Cidr, bool)>, String>;

/// Bad lines of one file that are told.
const LINES_TOLD_MAX: usize = 20;

/// Prefixes wider than these are mistakes more often than not.
const WIDE_V4: u8 = 16;
const WIDE_V6: u8 = 32;

/// Reads every list of `config`. `folder`: of the file in which a key was written; `place`: where.
pub fn read(config: &Config, folder: &dyn Fn(&str) -> PathBuf, place: &dyn Fn(&str) -> Option<Place>) -> Read {
    let mut read = Read::default();
    if config.list.len() > LISTS_MAX {
        let what = format!("more than {LISTS_MAX} lists; put addresses that are treated alike into one");
        read.problems.push(Problem::new("list", what).at(place("list")));
        return read;
    }
    let mut room = LIST_ENTRIES_MAX;
    for (name, list) in &config.list {
        let mut reader =
            Reader { list, key: format!("list.{name}"), place, room, read: &mut read, cidrs: Vec::new(), masked: None };
        reader.inline();
        if let Some(file) = &list.file {
            reader.file(
                &path_of(&folder(&reader.key), file),
                list.locations.as_ref().map(|file| path_of(&folder(&format!("list.{name}")), file)),
            );
        }
        let Reader { cidrs, masked, key, .. } = reader;
        if let Some((count, first)) = masked {
            let what = format!("{count} with bits behind the prefix, which are ignored; the first is {first}");
            read.warnings.push(Problem::new(key.clone(), what).at(place(&key)));
        }
        room = room.saturating_sub(cidrs.len());
        read.readings.push(Reading { name: name.clone(), cidrs });
    }
    read
}

struct Reader<'a> {
    list: &'a List,
    /// `list.drop`
    key: String,
    place: &'a dyn Fn(&str) -> Option<Place>,
    /// Entries that may still come.
    room: usize,
    read: &'a mut Read,
    cidrs: Vec<Cidr>,
    /// How many had host bits, and where the first was.
    masked: Option<(usize, String)>,
}

/// Why reading stops.
enum Stop {
    /// It was told.
    Told,
    Io(io::Error),
}

impl From<io::Error> for Stop {
    fn from(error: io::Error) -> Stop {
        Stop::Io(error)
    }
}

impl Reader<'_> {
    fn problem(&mut self, key: &str, what: String) {
        let key = format!("{}.{key}", self.key);
        let at = (self.place)(&key);
        self.read.problems.push(Problem::new(key, what).at(at));
    }

    fn inline(&mut self) {
        for (index, text) in self.list.cidrs.iter().enumerate() {
            // What is no prefix was reported when the tree was walked.
            let Ok(parsed) = Cidr::parse(text) else { continue };
            let key = format!("cidrs[{index}]");
            if let Err(why) = self.take(parsed, || format!("{} (`{key}`)", quoted(text))) {
                self.problem(&key, why);
                return;
            }
        }
    }

    /// Takes a prefix in. `where_`: what it is called in a message.
    fn take(&mut self, (cidr, masked): (Cidr, bool), where_: impl Fn() -> String) -> Result<(), String> {
        if self.cidrs.len() >= self.room {
            return Err(format!(
                "more than {LIST_ENTRIES_MAX} addresses in all lists together; merge neighbouring prefixes or leave some out"
            ));
        }
        let wide = if cidr.addr().is_ipv4() { WIDE_V4 } else { WIDE_V6 };
        let turns_away = self.list.action == ListAction::Deny && self.list.mode == ListMode::Enforce;
        if cidr.length() < wide && turns_away && !self.list.force {
            return Err(format!(
                "{cidr} is wider than a /{wide}: a mistake more often than not; `force = true` in the list takes it all the same"
            ));
        }
        if masked {
            let (count, _) = self.masked.get_or_insert_with(|| (0, where_()));
            *count += 1;
        }
        self.cidrs.push(cidr);
        Ok(())
    }

    fn file(&mut self, path: &Path, locations: Option<PathBuf>) {
        self.read.files.push(path.to_owned());
        self.read.files.extend(locations.clone());
        let outcome = match File::open(path) {
            Ok(file) => self.lines(BufReader::with_capacity(1 << 16, file), path, locations.as_deref()),
            Err(error) => Err(Stop::Io(error)),
        };
        if let Err(Stop::Io(error)) = outcome {
            self.problem("file", format!("{}: {error}", path.display()));
        }
    }

    fn lines(&mut self, mut input: impl BufRead, path: &Path, locations: Option<&Path>) -> Result<(), Stop> {
        let format = match self.list.format {
            ListFormat::Auto => guess(input.fill_buf()?),
            format => format,
        };
        if format != ListFormat::Csv && (!self.list.select.is_empty() || locations.is_some()) {
            self.problem("file", format!("{}: only a csv file has columns to select by", path.display()));
            return Err(Stop::Told);
        }
        match format {
            ListFormat::Csv => self.csv(input, path, locations),
            ListFormat::Json => self.each_line(input, path, json_line),
            ListFormat::Text | ListFormat::Auto => self.each_line(input, path, text_line),
        }
    }

    /// Reads line by line; `parse` finds the prefix of a line, if it has one.
    fn each_line(&mut self, mut input: impl BufRead, path: &Path, parse: Parse) -> Result<(), Stop> {
        let mut line = Vec::new();
        let mut told = 0;
        for number in 1.. {
            line.clear();
            if input.by_ref().take(LIST_LINE_BYTES_MAX as u64 + 1).read_until(b'\n', &mut line)? == 0 {
                break;
            }
            let parsed = match std::str::from_utf8(&line) {
                _ if line.len() > LIST_LINE_BYTES_MAX => {
                    Err(format!("a line of more than {LIST_LINE_BYTES_MAX} bytes"))
                }
                Ok(text) => parse(text.trim()),
                Err(_) => Err("not UTF-8".to_owned()),
            };
            let too_long = line.len() > LIST_LINE_BYTES_MAX;
            let taken = match parsed {
                Ok(None) => continue,
                Ok(Some(parsed)) => self.take(parsed, || format!("{}:{number}", path.display())),
                Err(why) => Err(why),
            };
            if let Err(why) = taken {
                self.problem("file", format!("{}:{number}: {why}", path.display()));
                told += 1;
                // A file that is none, or one beyond every bound, says so once.
                if told == LINES_TOLD_MAX || too_long || self.cidrs.len() >= self.room {
                    return Err(Stop::Told);
                }
            }
        }
        if told > 0 { Err(Stop::Told) } else { Ok(()) }
    }

    fn csv(&mut self, input: impl BufRead, path: &Path, locations: Option<&Path>) -> Result<(), Stop> {
        let joined = match locations {
            Some(file) => Some(self.locations(file)?),
            None => None,
        };
        let mut reader = csv::ReaderBuilder::new().flexible(false).from_reader(input);
        let headers = reader.headers().map_err(csv_error)?.clone();
        let column = |name: &str| headers.iter().position(|header| header.trim() == name);
        let Some(network) = column("network") else {
            self.problem("file", format!("{}:1: no column `network`", path.display()));
            return Err(Stop::Told);
        };
        // Each condition: a column here, or the rows' place in the joined table.
        let geoname = column("geoname_id");
        let mut wanted = Vec::new();
        for (name, values) in &self.list.select {
            match column(name) {
                Some(at) => wanted.push((at, values)),
                None if joined.as_ref().is_some_and(|joined| joined.columns.contains(name)) => {}
                None => {
                    let known: Vec<&str> = headers.iter().collect();
                    self.problem(
                        "select",
                        format!("{} has no column `{name}`; it has {}", path.display(), known.join(", ")),
                    );
                    return Err(Stop::Told);
                }
            }
        }
        let mut row = csv::StringRecord::new();
        let mut told = 0;
        loop {
            let line = reader.position().line();
            let cidr = match reader.read_record(&mut row) {
                Ok(false) => break,
                Ok(true) => {
                    let here = wanted.iter().all(|(at, values)| values.iter().any(|value| row.get(*at) == Some(value)));
                    let there = joined.as_ref().is_none_or(|joined| {
                        geoname.and_then(|at| row.get(at)).is_some_and(|id| joined.ids.contains(id))
                    });
                    if !here || !there {
                        continue;
                    }
                    let text = row.get(network).unwrap_or_default();
                    Cidr::parse(text).map_err(|error| format!("{}: {error}", quoted(text)))
                }
                Err(error) => Err(error.to_string()),
            };
            let taken = cidr.and_then(|parsed| self.take(parsed, || format!("{}:{line}", path.display())));
            if let Err(why) = taken {
                self.problem("file", format!("{}:{line}: {why}", path.display()));
                told += 1;
                if told == LINES_TOLD_MAX || self.cidrs.len() >= self.room {
                    return Err(Stop::Told);
                }
            }
        }
        if told > 0 { Err(Stop::Told) } else { Ok(()) }
    }

    /// The rows of a second table that `select` picks.
    fn locations(&mut self, path: &Path) -> Result<Locations, Stop> {
        let tell = |reader: &mut Self, why: String| {
            reader.problem("locations", format!("{}: {why}", path.display()));
            Stop::Told
        };
        let file = File::open(path).map_err(|error| tell(self, error.to_string()))?;
        let mut reader = csv::ReaderBuilder::new().from_reader(BufReader::new(file));
        let headers = reader.headers().map_err(|error| tell(self, error.to_string()))?.clone();
        let columns: Vec<String> = headers.iter().map(|header| header.trim().to_owned()).collect();
        let column = |name: &str| columns.iter().position(|column| column == name);
        let Some(id) = column("geoname_id") else { return Err(tell(self, "no column `geoname_id`".to_owned())) };
        let wanted: Vec<(usize, &Vec<String>)> =
            self.list.select.iter().filter_map(|(name, values)| Some((column(name)?, values))).collect();
        let mut ids = std::collections::HashSet::new();
        for row in reader.records() {
            let row = row.map_err(|error| tell(self, error.to_string()))?;
            if wanted.iter().all(|(at, values)| values.iter().any(|value| row.get(*at) == Some(value)))
                && let Some(id) = row.get(id)
            {
                ids.insert(id.to_owned());
                if ids.len() > LIST_ENTRIES_MAX {
                    return Err(tell(self, format!("more than {LIST_ENTRIES_MAX} rows")));
                }
            }
        }
        Ok(Locations { columns, ids })
    }
}

/// A table of more columns.
struct Locations {
    columns: Vec<String>,
    /// `geoname_id`s of the rows that are wanted.
    ids: std::collections::HashSet<String>,
}

fn csv_error(error: csv::Error) -> Stop {
    Stop::Io(error.into())
}

/// What a file seems to be, by its beginning.
fn guess(start: &[u8]) -> ListFormat {
    let text = String::from_utf8_lossy(&start[..start.len().min(4096)]);
    let first = text.lines().map(str::trim).find(|line| !line.is_empty()).unwrap_or_default();
    match first {
        _ if first.starts_with('{') => ListFormat::Json,
        _ if first.split(',').any(|column| column.trim() == "network") && first.contains(',') => ListFormat::Csv,
        _ => ListFormat::Text,
    }
}

fn text_line(line: &str) -> Result<Option<(Cidr, bool)>, String> {
    let plain = line.split(['#', ';']).next().unwrap_or_default().trim();
    match plain {
        "" => Ok(None),
        plain => Cidr::parse(plain).map(Some).map_err(|error| format!("{}: {error}", quoted(plain))),
    }
}

/// Spamhaus' lists: an object a line, the last one about the list itself.
fn json_line(line: &str) -> Result<Option<(Cidr, bool)>, String> {
    if line.is_empty() {
        return Ok(None);
    }
    let row: HashMap<String, serde_json::Value> =
        serde_json::from_str(line).map_err(|error| format!("not a JSON object: {error}"))?;
    match row.get("cidr").and_then(serde_json::Value::as_str) {
        Some(text) => Cidr::parse(text).map(Some).map_err(|error| format!("{}: {error}", quoted(text))),
        None if row.get("type").and_then(serde_json::Value::as_str) == Some("metadata") => Ok(None),
        None => Err("no `cidr` in this object".to_owned()),
    }
}

/// Where an address stands in a list.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Located {
    pub cidr: String,
    /// `drop.txt:17`, or the key.
    pub place: String,
}

/// Finds the most specific line of a list that holds `address`, by reading it again. `None`: it does not stand there any more.
pub fn locate(name: &str, list: &List, folder: &Path, address: IpAddr) -> Option<Located> {
    let mut best: Option<(u8, Located)> = None;
    let mut see = |text: &str, place: &dyn Fn() -> String| {
        if let Ok((cidr, _)) = Cidr::parse(text)
            && holds(cidr, address)
            && best.as_ref().is_none_or(|(length, _)| cidr.length() >= *length)
        {
            best = Some((cidr.length(), Located { cidr: cidr.to_string(), place: place() }));
        }
    };
    for (index, text) in list.cidrs.iter().enumerate() {
        see(text, &|| format!("list.{name}.cidrs[{index}]"));
    }
    if let Some(file) = &list.file {
        let path = path_of(folder, file);
        let lines = File::open(&path).map(|file| BufReader::new(file).lines()).into_iter().flatten();
        for (number, line) in (1..).zip(lines.map_while(Result::ok)) {
            let json: Option<serde_json::Value> =
                line.trim_start().starts_with('{').then(|| serde_json::from_str(&line).ok()).flatten();
            let text = match &json {
                Some(row) => row.get("cidr").and_then(serde_json::Value::as_str).unwrap_or_default(),
                None => line.split(['#', ';', ',']).next().unwrap_or_default().trim(),
            };
            see(text, &|| format!("{}:{number}", path.display()));
        }
    }
    best.map(|(_, located)| located)
}

fn holds(cidr: Cidr, address: IpAddr) -> bool {
    Cidr::new(address.to_canonical(), cidr.length())
        .is_some_and(|of_address| of_address == cidr && of_address.addr().is_ipv4() == cidr.addr().is_ipv4())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Reads one list from a file: its prefixes, or every problem; and the warnings.
    fn read_list(settings: &str, file: &str) -> (Result<Vec<String>, Vec<String>>, Vec<String>) {
        let folder = tempfile::tempdir().expect("a folder");
        std::fs::write(folder.path().join("list.txt"), file).expect("a file");
        std::fs::write(
            folder.path().join("locations.csv"),
            "geoname_id,locale_code,country_iso_code,country_name\n1,en,AA,\"A, a\"\n2,en,BB,B\n",
        )
        .expect("a file");
        let text = format!("list.x = {{ action = 'deny', file = 'list.txt', {settings} }}");
        let config: Config = toml::from_str(&text).expect("a configuration");
        let read = read(&config, &|_| folder.path().to_owned(), &|_| None);
        let plain = |problems: Vec<Problem>| {
            let prefix = format!("{}/", folder.path().display());
            problems
                .into_iter()
                .map(|problem| format!("{}: {}", problem.key, problem.what.replace(&prefix, "")))
                .collect()
        };
        let cidrs = read.readings.iter().flat_map(|reading| &reading.cidrs).map(Cidr::to_string).collect();
        let problems: Vec<String> = plain(read.problems);
        (if problems.is_empty() { Ok(cidrs) } else { Err(problems) }, plain(read.warnings))
    }

    #[track_caller]
    fn check(settings: &str, file: &str, expected: Result<&[&str], &[&str]>) {
        let (got, _) = read_list(settings, file);
        let expected = expected
            .map(|cidrs| cidrs.iter().map(|&text| text.to_owned()).collect::<Vec<_>>())
            .map_err(|problems| problems.iter().map(|&text| text.to_owned()).collect::<Vec<_>>());
        assert_eq!(got, expected, "{settings} {file}");
    }

    #[test]
    fn the_forms_that_are_published_are_read() {
        let text = "# a list\n192.0.2.1\n\n 198.51.100.0/24 ; SBL1\n2001:db8::/48#x\r\n";
        check("", text, Ok(&["192.0.2.1/32", "198.51.100.0/24", "2001:db8::/48"]));
        let json = "{\"cidr\":\"192.0.2.0/24\",\"sblid\":\"SBL1\"}\n{\"type\":\"metadata\",\"size\":1}\n";
        check("", json, Ok(&["192.0.2.0/24"]));
        let csv = "network,geoname_id,x\n192.0.2.0/24,1,a\n198.51.100.0/24,2,b\n203.0.113.0/24,,a\n";
        check("", csv, Ok(&["192.0.2.0/24", "198.51.100.0/24", "203.0.113.0/24"]));
        check("select = { x = ['a'] }", csv, Ok(&["192.0.2.0/24", "203.0.113.0/24"]));
        let select = "locations = 'locations.csv', select = { country_iso_code = ['AA', 'CC'] }";
        check(select, csv, Ok(&["192.0.2.0/24"]));
        check("", "", Ok(&[]));
    }

    #[test]
    fn a_bad_line_is_told_with_its_number_and_refuses_the_whole() {
        check(
            "",
            "192.0.2.1\nhttp://x\n1.2.3\n",
            Err(&[
                "list.x.file: list.txt:2: \"http://x\": not an IP address, nor one with a prefix length like `192.0.2.0/24`",
                "list.x.file: list.txt:3: \"1.2.3\": not an IP address, nor one with a prefix length like `192.0.2.0/24`",
            ]),
        );
        check("", "{\"cidr\":1}\n", Err(&["list.x.file: list.txt:1: no `cidr` in this object"]));
        check("format = 'csv'", "a,b\n1,2\n", Err(&["list.x.file: list.txt:1: no column `network`"]));
        check(
            "select = { y = ['a'] }",
            "network,x\n192.0.2.1,a\n",
            Err(&["list.x.select: list.txt has no column `y`; it has network, x"]),
        );
        check(
            "",
            "10.0.0.0/8\n",
            Err(&[
                "list.x.file: list.txt:1: 10.0.0.0/8 is wider than a /16: a mistake more often than not; `force = true` in the list takes it all the same",
            ]),
        );
        check("force = true", "10.0.0.0/8\n0.0.0.0/0\n", Ok(&["10.0.0.0/8", "0.0.0.0/0"]));
        check("mode = 'shadow'", "10.0.0.0/8\n", Ok(&["10.0.0.0/8"]));
        let bad = "x\n".repeat(1000);
        assert_eq!(read_list("", &bad).0.expect_err("bad").len(), LINES_TOLD_MAX);
        let long = "1".repeat(LIST_LINE_BYTES_MAX + 1);
        assert_eq!(read_list("", &long).0.expect_err("bad").len(), 1);
    }

    #[test]
    fn host_bits_are_ignored_and_warned_about() {
        let (cidrs, warnings) = read_list("cidrs = ['192.0.2.7/24']", "198.51.100.1/24\n203.0.113.0/24\n");
        assert_eq!(cidrs.expect("good"), ["192.0.2.0/24", "198.51.100.0/24", "203.0.113.0/24"]);
        assert_eq!(
            warnings,
            ["list.x: 2 with bits behind the prefix, which are ignored; the first is \"192.0.2.7/24\" (`cidrs[0]`)"]
        );
    }

    #[test]
    fn the_line_of_an_address_is_found() {
        let folder = tempfile::tempdir().expect("a folder");
        std::fs::write(folder.path().join("l"), "10.0.0.0/8 # x\n10.1.0.0/16\n{\"cidr\":\"10.1.2.0/24\"}\n")
            .expect("a file");
        let config: Config =
            toml::from_str("list.x = { action = 'deny', cidrs = ['10.9.9.9'], file = 'l' }").expect("a configuration");
        let find = |address: &str| {
            locate("x", &config.list["x"], folder.path(), address.parse().expect("an address")).map(|found| {
                format!("{} {}", found.cidr, found.place.replace(&format!("{}/", folder.path().display()), ""))
            })
        };
        assert_eq!(find("10.1.2.3").as_deref(), Some("10.1.2.0/24 l:3"));
        assert_eq!(find("10.1.9.9").as_deref(), Some("10.1.0.0/16 l:2"));
        assert_eq!(find("10.9.9.9").as_deref(), Some("10.9.9.9/32 list.x.cidrs[0]"));
        assert_eq!(find("11.0.0.0"), None);
    }
}
