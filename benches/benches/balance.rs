//! Picking an endpoint, and compiling what it is picked from. Expected: at most 40 ns a pick for 1,000 endpoints under any
//! policy, with all their states warm; no pick allocates.

use std::cell::Cell;
use std::sync::Arc;

use bawab::balance::{Asking, Endpoint, Endpoints, Hashing, Identity, Key, Policy, Settings};
use bawab::config::model::HashTable;
use bawab::rt::Peer;
use bawab::tables::health::{Health, InFlight};
use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};

const COUNTS: [u16; 3] = [2, 100, 1_000];

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn policies() -> Vec<(&'static str, Policy)> {
    let hash = |table, load_max| Policy::Hash(Hashing { table, on: Key::Path, load_max });
    vec![
        ("round_robin", Policy::RoundRobin),
        ("least_request", Policy::LeastRequest),
        ("peak_ewma", Policy::PeakEwma),
        ("maglev", hash(HashTable::Maglev, None)),
        ("maglev_bounded", hash(HashTable::Maglev, Some(1.25))),
        ("ring_hash", hash(HashTable::RingHash, None)),
        ("ring_hash_bounded", hash(HashTable::RingHash, Some(1.25))),
    ]
}

/// Endpoints of unequal weights that have each answered once, and what runs at them: some 4 requests each.
fn world(policy: &Policy, count: u16) -> (Endpoints, Vec<InFlight>) {
    let health = Health::default();
    let endpoint = |port: u16| {
        let peer = Peer::Tcp(([10, 0, 0, 1], port).into());
        let label = peer.to_string();
        Arc::new(Endpoint {
            state: health.of("orders", &label),
            identity: Identity::new(peer, Arc::default()),
            written: label.clone(),
            label,
            weight: 1 + u32::from(port % 3),
            priority: 0,
            about: Arc::default(),
        })
    };
    let settings = Arc::new(Settings { policy: policy.clone(), ..Settings::default() });
    let endpoints = Endpoints::compile((1..=count).map(endpoint).collect(), &settings, |_| true, 0);
    let mut running = Vec::new();
    for (nth, endpoint) in endpoints.list().iter().enumerate() {
        endpoint.state.answered(200, 1_000 + nth as u64 * 7 % 1_000, 0);
    }
    let cursor = Cell::new(0);
    for nth in 0..4 * u64::from(count) {
        let picked = endpoints.pick(&asking(&cursor, nth.wrapping_mul(0x9e37_79b9_7f4a_7c15)));
        running.push(picked.expect("one of them").state.begin());
    }
    (endpoints, running)
}

fn asking(cursor: &Cell<u32>, lot: u64) -> Asking<'_> {
    // Time passes between an observation and a pick.
    Asking { cursor, tried: &[], lot, key: Some(lot), held: None, now_ms: 1_000 + (lot & 0xff) }
}

fn pick(criterion: &mut Criterion) {
    for (name, policy) in policies() {
        let mut group = criterion.benchmark_group(format!("balance/{name}"));
        group.sample_size(20);
        for count in COUNTS {
            let (endpoints, _running) = world(&policy, count);
            let cursor = Cell::new(0);
            let mut lot = 0u64;
            group.bench_function(BenchmarkId::from_parameter(count), |bench| {
                bench.iter(|| {
                    lot = lot.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(0x1405_7b7e_f767_814f);
                    // Its low bits repeat soon.
                    endpoints.pick(&asking(&cursor, lot ^ (lot >> 33)))
                });
            });
        }
        group.finish();
    }
}

/// What a change of one endpoint costs the control side.
fn compile(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("balance/compile");
    group.sample_size(10);
    for (name, policy) in policies() {
        let (endpoints, _running) = world(&policy, 1_000);
        group
            .bench_function(BenchmarkId::from_parameter(name), |bench| bench.iter(|| endpoints.again(|_| true, 1_000)));
    }
    group.finish();
}

criterion_group!(benches, pick, compile);
criterion_main!(benches);
