//! Finding a route, and compiling what it is found in. Expected: below 500 ns whatever the number of routes, and at 100,000
//! of them, asked for at random, at most five times what it costs at 10. `cargo xtask bench routes` holds it to that.

use bawab::lists::Lists;
use bawab::observe::metrics::Metrics;
use bawab::route::RouteTable;
use bawab::snapshot;
use benches::routes::{self, Mix, Requests};
use criterion::{BatchSize, BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};

const COUNTS: [usize; 4] = [10, 1_000, 10_000, 100_000];

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// One iteration looks up every request once; the throughput is look-ups per second.
fn lookup(criterion: &mut Criterion) {
    for mix in Mix::ALL {
        for hit in [true, false] {
            let name = format!("route/{}/{}", mix.name(), if hit { "hit" } else { "miss" });
            let mut group = criterion.benchmark_group(name);
            group.sample_size(20);
            for count in COUNTS {
                let table = routes::table(mix, count).expect("the bench's own routes compile");
                let requests = Requests::draw(mix, count, hit);
                requests.check(&table).expect("the table answers as it should");
                group.throughput(Throughput::Elements(requests.count() as u64));
                group.bench_function(BenchmarkId::from_parameter(count), |bench| {
                    bench.iter(|| requests.look_up(&table))
                });
            }
            group.finish();
        }
    }
}

/// The table from routes as types; what is thrown away is not counted.
fn compile(criterion: &mut Criterion) {
    for mix in Mix::ALL {
        let mut group = criterion.benchmark_group(format!("route/{}/compile", mix.name()));
        group.sample_size(10);
        for count in COUNTS {
            let config = routes::config(mix, count).expect("the bench's own routes are read");
            let metrics = Metrics::new(1, &[]);
            group.throughput(Throughput::Elements(count as u64));
            group.bench_function(BenchmarkId::from_parameter(count), |bench| {
                bench.iter_batched(
                    || snapshot::routes(&config, &Lists::default(), &metrics),
                    RouteTable::new,
                    BatchSize::PerIteration,
                );
            });
        }
        group.finish();
    }
}

criterion_group!(benches, lookup, compile);
criterion_main!(benches);
