//! What the codec costs for one message: reading a head, knowing what it means, writing it again.
//!
//! `httparse` rows are the tokenizer alone, the floor under `read`. Expected on a core of 2020: a curl-like head is read
//! in a quarter of a microsecond, a browser's in one.

use std::hint::black_box;
use std::mem::MaybeUninit;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use http1::chunked::encode_chunk_line;
use http1::{ChunkLimits, Decoded, Decoder, HeadLimits, Known, PathPolicy, Scanner, encode};

const LIMITS: HeadLimits = HeadLimits { head_bytes: 64 * 1024, fields: 100, target_bytes: 8 * 1024 };

const CURL: &[u8] =
    b"GET /orders/4711?lang=en HTTP/1.1\r\nHost: api.example.com\r\nUser-Agent: curl/7.88.1\r\nAccept: */*\r\n\r\n";

const BROWSER: &[u8] = b"GET /catalog/books/9780131103627/reviews?page=2&sort=newest HTTP/1.1\r\n\
Host: www.example.com\r\n\
Connection: keep-alive\r\n\
Cache-Control: max-age=0\r\n\
sec-ch-ua: \"Chromium\";v=\"126\", \"Not.A/Brand\";v=\"24\"\r\n\
sec-ch-ua-mobile: ?0\r\n\
sec-ch-ua-platform: \"Linux\"\r\n\
DNT: 1\r\n\
Upgrade-Insecure-Requests: 1\r\n\
User-Agent: Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/126.0.0.0 Safari/537.36\r\n\
Accept: text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,image/webp,*/*;q=0.8\r\n\
Sec-Fetch-Site: same-origin\r\n\
Sec-Fetch-Mode: navigate\r\n\
Sec-Fetch-User: ?1\r\n\
Sec-Fetch-Dest: document\r\n\
Referer: https://www.example.com/catalog/books\r\n\
Accept-Encoding: gzip, deflate, br, zstd\r\n\
Accept-Language: en-GB,en;q=0.9,ar;q=0.8\r\n\
Cookie: session=3b1f0c2d9a8e7f6b5a4c3d2e1f0a9b8c; theme=dark; consent=eyJhIjoxLCJiIjowfQ\r\n\
If-None-Match: \"5e8c-61b2f3a4c5d6e\"\r\n\
If-Modified-Since: Tue, 18 Jun 2024 09:30:00 GMT\r\n\r\n";

const RESPONSE: &[u8] = b"HTTP/1.1 200 OK\r\nServer: nginx\r\nDate: Tue, 18 Jun 2024 09:30:00 GMT\r\nContent-Type: text/plain\r\nContent-Length: 128\r\nConnection: keep-alive\r\nETag: \"6671-80\"\r\n\r\n";

fn heads(c: &mut Criterion) {
    for (name, head) in [("curl", CURL), ("browser", BROWSER)] {
        let mut group = c.benchmark_group(format!("request/{name}"));
        group.throughput(Throughput::Bytes(head.len() as u64));
        let mut fields = Vec::with_capacity(128);
        group.bench_function("httparse", |b| {
            b.iter(|| {
                let mut headers = [const { MaybeUninit::<httparse::Header<'_>>::uninit() }; 128];
                let mut request = httparse::Request::new(&mut []);
                request.parse_with_uninit_headers(black_box(head), &mut headers).map(|status| status.is_complete())
            });
        });
        group.bench_function("scan", |b| b.iter(|| Scanner::default().scan(black_box(head))));
        group.bench_function("parse", |b| b.iter(|| http1::parse_request(black_box(head), &LIMITS, &mut fields)));
        group.bench_function("read", |b| {
            b.iter(|| http1::read_request(&mut Scanner::default(), black_box(head), &LIMITS, &mut fields));
        });
        // The worst a sender can do: a read for every byte.
        group.bench_function("read_byte_by_byte", |b| {
            b.iter(|| {
                let mut scanner = Scanner::default();
                (1..=head.len()).find_map(|end| {
                    http1::read_request(&mut scanner, black_box(&head[..end]), &LIMITS, &mut fields).ok().flatten()
                })
            });
        });
        let line = http1::parse_request(head, &LIMITS, &mut fields).expect("the head is well-formed");
        group.bench_function("meaning", |b| {
            b.iter(|| {
                let target = http1::parse_target(black_box(head), &line, line.host);
                let framing = http1::request_framing(head, line.version, &fields);
                (target, framing, http1::connection_options(head, &fields))
            });
        });
        let mut out = Vec::with_capacity(8 * 1024);
        group.bench_function("encode", |b| {
            b.iter(|| {
                out.clear();
                encode::request_line(&mut out, line.method_span.of(head), line.target.of(head), None);
                encode::fields(&mut out, black_box(head), &fields, |field| !field.known.is_hop_by_hop());
                encode::field(&mut out, b"via", b"1.1 bawab");
                encode::field(&mut out, b"x-forwarded-for", b"192.0.2.1");
                encode::end(&mut out);
                out.len()
            });
        });
        group.bench_function("encode_each", |b| {
            b.iter(|| {
                out.clear();
                encode::request_line(&mut out, line.method_span.of(head), line.target.of(head), None);
                for field in fields.iter().filter(|field| !field.known.is_hop_by_hop()) {
                    encode::field(&mut out, field.name.of(black_box(head)), field.value.of(head));
                }
                encode::field(&mut out, b"via", b"1.1 bawab");
                encode::field(&mut out, b"x-forwarded-for", b"192.0.2.1");
                encode::end(&mut out);
                out.len()
            });
        });
        group.finish();
    }
}

fn responses(c: &mut Criterion) {
    let mut group = c.benchmark_group("response");
    group.throughput(Throughput::Bytes(RESPONSE.len() as u64));
    let mut fields = Vec::with_capacity(128);
    group.bench_function("read", |b| {
        b.iter(|| http1::read_response(&mut Scanner::response(), black_box(RESPONSE), &LIMITS, &mut fields));
    });
    let line = http1::parse_response(RESPONSE, &LIMITS, &mut fields).expect("the head is well-formed");
    let mut out = Vec::with_capacity(8 * 1024);
    group.bench_function("encode", |b| {
        b.iter(|| {
            out.clear();
            encode::status_line(&mut out, line.status);
            encode::fields(&mut out, black_box(RESPONSE), &fields, |field| {
                !field.known.is_hop_by_hop() && field.known != Known::ContentLength
            });
            encode::field_u64(&mut out, b"content-length", black_box(128));
            encode::end(&mut out);
            out.len()
        });
    });
    group.finish();
}

fn paths(c: &mut Criterion) {
    let mut group = c.benchmark_group("path");
    let mut out = Vec::with_capacity(1024);
    for (name, path) in [
        ("plain", &b"/catalog/books/9780131103627/reviews"[..]),
        ("well_known", b"/.well-known/openid-configuration"),
        ("escaped", b"/catalog/%D9%83%D8%AA%D8%A7%D8%A8/a%2db"),
        ("dots", b"/catalog/./books/../books//9780131103627"),
    ] {
        group.throughput(Throughput::Bytes(path.len() as u64));
        group.bench_function(name, |b| b.iter(|| http1::canonical_path(black_box(path), &PathPolicy::KEEP, &mut out)));
    }
    group.finish();
}

fn chunked(c: &mut Criterion) {
    let limits = ChunkLimits { extension_bytes: 256, trailer_bytes: 8 * 1024, trailer_fields: 32 };
    let mut group = c.benchmark_group("chunked");
    for size in [1usize, 64, 4096] {
        let mut body = Vec::new();
        let mut line = [0; 18];
        for _ in 0..16 * 1024 / size {
            let len = encode_chunk_line(size, &mut line);
            body.extend_from_slice(&line[..len]);
            body.resize(body.len() + size, b'x');
            body.extend_from_slice(b"\r\n");
        }
        body.extend_from_slice(http1::chunked::LAST_CHUNK);
        group.throughput(Throughput::Bytes(body.len() as u64));
        group.bench_function(format!("decode/{size}"), |b| {
            b.iter(|| {
                let mut decoder = Decoder::new(limits);
                let (mut at, mut data_bytes) = (0, 0);
                loop {
                    let (used, decoded) = decoder.decode(black_box(&body[at..])).expect("the body is well-formed");
                    at += used;
                    match decoded {
                        Decoded::Data { len, .. } => data_bytes += len,
                        Decoded::More | Decoded::End => return data_bytes,
                    }
                }
            });
        });
    }
    group.finish();
}

criterion_group!(benches, heads, responses, paths, chunked);
criterion_main!(benches);
