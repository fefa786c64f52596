//! What an exchange costs to count and to log, on the core that does it. Expected: a line of the access log below 400 ns,
//! everything counted for an exchange below 20 ns. A scrape is not the data path, but must not hold the control thread long.

use std::hint::black_box;
use std::net::Ipv4Addr;

use bawab::observe::access_log::{AccessLog, Lines, Record, Target};
use bawab::observe::histogram::Histogram;
use bawab::observe::metrics::Metrics;
use criterion::{Criterion, criterion_group, criterion_main};

/// An ordinary exchange.
fn ordinary(time_unix_us: u64) -> Record<'static> {
    Record {
        time_unix_us,
        listener: "public",
        client: Ipv4Addr::new(192, 0, 2, 33).into(),
        request_id: b"01J9ZC7V3N8QK2X4T6W8Y0A1B3",
        trace_id: b"4bf92f3577b34da6a3ce929d0e0e4736",
        method: b"GET",
        host: b"api.example.com",
        path: b"/v1/shelves/history/books/1984",
        protocol: "HTTP/1.1",
        status: 200,
        route: "book",
        upstream: "books",
        endpoint: "10.0.0.11:8000",
        attempts: 1,
        grpc_status: "",
        retried_for: "",
        not_retried: "",
        reused: true,
        ended_by: "",
        refusal: "",
        detail: "",
        request_bytes: 0,
        response_bytes: 5_312,
        duration_us: 4_321,
        upstream_us: 3_900,
        user_agent: b"Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0",
        client_cert_subject: "",
        client_cert_sha256: "",
    }
}

/// Five microseconds between two lines, as on a busy core.
fn lines(bench: &mut criterion::Bencher<'_>, lines: &mut Lines, record: impl Fn(u64) -> Record<'static>) {
    let mut time_unix_us = 1_795_424_918_123_456;
    bench.iter(|| {
        time_unix_us += 5;
        lines.write(black_box(&record(time_unix_us)));
    });
}

fn access_log(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("access_log");
    // The encoder, with the hand-over to a writer that does next to nothing.
    let log = AccessLog::start(&Target::File("/dev/null".into())).expect("there is a /dev/null");
    let mut core = log.lines();
    group.bench_function("ordinary", |bench| lines(bench, &mut core, ordinary));
    group.bench_function("escaped", |bench| {
        let user_agent = "تصفّح \"7\"\r\n".as_bytes();
        lines(bench, &mut core, |time| Record { path: "/كتاب/\x1b[31m".as_bytes(), user_agent, ..ordinary(time) });
    });
    let off = AccessLog::start(&Target::Off).expect("nothing is opened");
    group.bench_function("off", |bench| lines(bench, &mut off.lines(), ordinary));
    group.finish();
}

fn counting(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("metrics");
    let metrics = Metrics::new(2, &["no_route"]);
    let (route, upstream) = (metrics.route("book"), metrics.upstream("books"));
    group.bench_function("exchange", |bench| {
        let mut us = 0;
        bench.iter(|| {
            us = (us + 7) % 100_000;
            let core = metrics.core(black_box(1));
            core.requests.inc();
            core.requests_in_flight.inc();
            let upstream = upstream.core(1);
            upstream.requests.inc();
            upstream.reused.inc();
            upstream.first_byte.observe_us(black_box(us));
            let route = route.core(1);
            route.class(black_box(200)).inc();
            route.duration.observe_us(black_box(us));
            route.request_bytes.add(0);
            route.response_bytes.add(5_312);
            core.requests_in_flight.dec();
        });
    });
    let histogram = Histogram::default();
    group.bench_function("observe", |bench| {
        let mut us = 0;
        bench.iter(|| {
            us = (us + 7) % 100_000;
            histogram.observe_us(black_box(us));
        });
    });
    let metrics = Metrics::new(8, &["no_route"]);
    let held: Vec<_> =
        (0..100).map(|at| (metrics.route(&format!("r{at}")), metrics.upstream(&format!("u{at}")))).collect();
    group.bench_function("scrape_100_routes", |bench| bench.iter(|| metrics.render().len()));
    drop(held);
    group.finish();
}

criterion_group!(benches, access_log, counting);
criterion_main!(benches);
