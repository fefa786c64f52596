//! What content codings cost: a piece of 64 KiB of an answer compressed and flushed, a request body decoded.
//!
//! Expected on a core of 2020, for JSON: 0.2 to 0.3 ms at `fast`, 0.3 (zstd) to 0.9 ms (br) at `balanced`, 0.8 to 1.7 ms at
//! `small`; decoding 32 KiB takes less than 0.1 ms.

use std::hint::black_box;

use bawab::config::policies::CompressionLevel;
use bawab::filter::Transform as _;
use bawab::filter::coding::Coding;
use bawab::filter::coding::decode::Decoder;
use bawab::filter::coding::encode::Encoder;
use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};

const PIECE_BYTES: usize = 64 * 1024;
const PIECES: usize = 16;

/// Lines of JSON that differ as records of a table do.
fn text(bytes: usize) -> Vec<u8> {
    let mut text = Vec::with_capacity(bytes + 100);
    for number in 0u64.. {
        if text.len() >= bytes {
            break;
        }
        let mixed = number.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        text.extend_from_slice(
            format!(
                "{{\"id\":{number},\"sku\":\"{:08x}\",\"price\":{},\"in_stock\":true}}\n",
                mixed >> 32,
                mixed % 10_000
            )
            .as_bytes(),
        );
    }
    text.truncate(bytes);
    text
}

fn encode(coding: Coding, level: CompressionLevel, body: &[u8]) -> Vec<u8> {
    let mut encoder = Encoder::new(coding, level).expect("a place");
    let mut coded = Vec::new();
    for piece in body.chunks(PIECE_BYTES) {
        encoder.piece(piece, &mut coded);
        encoder.flush(&mut coded);
    }
    encoder.end(&mut coded);
    coded
}

fn answers(c: &mut Criterion) {
    let body = text(PIECES * PIECE_BYTES);
    let mut group = c.benchmark_group("encode/64KiB");
    group.throughput(Throughput::Bytes(body.len() as u64)).sample_size(10);
    for coding in [Coding::Zstd, Coding::Br, Coding::Gzip] {
        for level in [CompressionLevel::Fast, CompressionLevel::Balanced, CompressionLevel::Small] {
            let name = format!("{}/{level:?}", coding.name());
            group.bench_function(name, |b| b.iter(|| encode(coding, level, black_box(&body))));
        }
    }
}

fn requests(c: &mut Criterion) {
    let body = text(PIECES * PIECE_BYTES);
    let mut group = c.benchmark_group("decode");
    group.throughput(Throughput::Bytes(body.len() as u64)).sample_size(10);
    for coding in [Coding::Zstd, Coding::Br, Coding::Gzip] {
        let coded = encode(coding, CompressionLevel::Balanced, &body);
        group.bench_function(coding.name(), |b| {
            b.iter_batched(
                || Decoder::new(coding, 10_000, u64::MAX).expect("memory"),
                |mut decoder| {
                    let (mut at, mut decoded) = (0, 0);
                    while at < coded.len() || decoder.has_more() {
                        let (read, made) = decoder.step(&coded[at..]).expect("good");
                        at += read;
                        decoded += made.len();
                    }
                    decoded
                },
                BatchSize::SmallInput,
            );
        });
    }
}

criterion_group!(benches, answers, requests);
criterion_main!(benches);
