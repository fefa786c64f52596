//! A whole exchange: accept to answer, client and service included, all on one core and through the kernel's loopback.

use criterion::{Criterion, criterion_group, criterion_main};

fn exchange(c: &mut Criterion) {
    let mut group = c.benchmark_group("exchange");
    group.sample_size(10);
    group.bench_function("small_get", |b| {
        b.iter_custom(|count| benches::exchange::run(count, 1).expect("it runs"));
    });
    group.bench_function("small_get_http2", |b| {
        b.iter_custom(|count| benches::exchange::run_http2(count).expect("it runs"));
    });
    group.finish();
}

criterion_group!(benches, exchange);
criterion_main!(benches);
