//! Figures of the route table for `cargo xtask bench routes`, as JSON on one line. Each run is one round.
//!
//! `routes lookup MIX COUNT,COUNT...` looks requests up in tables of these sizes, in turn. `routes compile MIX COUNT` loads a
//! configuration of that many routes from files and compiles it. Times are those of this thread on a CPU: what another
//! process does on the core is not in them.
#![expect(clippy::print_stdout, reason = "its answer")]

use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use bawab::observe::metrics::Metrics;
use bawab::route::RouteTable;
use bawab::{config, snapshot};
use benches::routes::{self, Mix, Requests};
use rustix::time::{ClockId, clock_gettime};

// As in the gateway: compiling routes is mostly allocating.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Timed passes over all requests of a table; their median counts.
const PASSES: usize = 5;

fn main() -> Result<()> {
    // As in the gateway: with huge pages a table would be reached at another price.
    rustix::thread::disable_transparent_huge_pages(true)?;
    let words: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let (mix, counts) = match words[..] {
        [_, mix, counts] => (Mix::from_name(mix).context("there is no such mix")?, counts),
        _ => bail!("usage: routes lookup MIX COUNT,COUNT... | routes compile MIX COUNT"),
    };
    let counts: Vec<usize> = counts.split(',').map(str::parse).collect::<Result<_, _>>()?;
    ensure!(!counts.contains(&0), "a table has a route");
    let answer = match words[0] {
        "lookup" => lookup(mix, &counts)?,
        "compile" => compile(mix, counts[0])?,
        _ => bail!("there is `lookup` and `compile`"),
    };
    println!("{answer}");
    Ok(())
}

/// A table and what it is asked.
struct Place {
    table: RouteTable,
    hits: Requests,
    misses: Requests,
    hit_ns: Vec<f64>,
    miss_ns: Vec<f64>,
}

/// Nanoseconds a look-up, for requests that have a route and for others.
fn lookup(mix: Mix, counts: &[usize]) -> Result<serde_json::Value> {
    let place = |&count: &usize| {
        let (hits, misses) = (Requests::draw(mix, count, true), Requests::draw(mix, count, false));
        let place = Place { table: routes::table(mix, count)?, hits, misses, hit_ns: Vec::new(), miss_ns: Vec::new() };
        Ok(place)
    };
    let mut places: Vec<Place> = counts.iter().map(place).collect::<Result<_>>()?;
    for _ in 0..PASSES {
        for place in &mut places {
            place.hit_ns.push(time(&place.hits, &place.table)?);
            place.miss_ns.push(time(&place.misses, &place.table)?);
        }
    }
    let rows = counts.iter().zip(&mut places).map(|(count, place)| {
        serde_json::json!({ "routes": count, "hit_ns": median(&mut place.hit_ns), "miss_ns": median(&mut place.miss_ns) })
    });
    Ok(rows.collect())
}

fn time(requests: &Requests, table: &RouteTable) -> Result<f64> {
    // As the sizes take turns, the first pass pays for what the other tables threw out of the caches.
    requests.check(table)?;
    let before = thread_time();
    std::hint::black_box(requests.look_up(std::hint::black_box(table)));
    Ok((thread_time() - before).as_secs_f64() * 1e9 / requests.count() as f64)
}

/// Milliseconds of the way from files to a snapshot, and of its last part alone.
fn compile(mix: Mix, count: usize) -> Result<serde_json::Value> {
    let folder = tempfile::tempdir()?;
    let file = routes::write(mix, count, folder.path())?;
    let metrics = Metrics::new(1, &[]);
    let begin = thread_time();
    let loaded = config::load(&file).map_err(|problems| anyhow::anyhow!("{}", problems.lines().join("\n")))?;
    let load = thread_time() - begin;
    let begin = thread_time();
    let snapshot = snapshot::compile(&loaded.config, &loaded.lists, &loaded.tls, &metrics);
    let compile = thread_time() - begin;
    Requests::draw(mix, count, true).check(&snapshot.routes)?;
    let routes = snapshot::routes(&loaded.config, &loaded.lists, &metrics);
    let begin = thread_time();
    let table = RouteTable::new(routes);
    let build = thread_time() - begin;
    ensure!(table.iter().count() == count, "a route is missing");
    let ms = |time: Duration| time.as_secs_f64() * 1e3;
    Ok(serde_json::json!({ "routes": count, "load_ms": ms(load), "compile_ms": ms(compile), "table_ms": ms(build) }))
}

fn thread_time() -> Duration {
    let now = clock_gettime(ClockId::ThreadCPUTime);
    Duration::new(u64::try_from(now.tv_sec).unwrap_or(0), u32::try_from(now.tv_nsec).unwrap_or(0))
}

fn median(figures: &mut [f64]) -> f64 {
    figures.sort_by(f64::total_cmp);
    figures[figures.len() / 2]
}
