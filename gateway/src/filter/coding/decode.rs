//! A request's body on its way out of a content coding, step by step: bounded in memory, in size, and in how much a byte of
//! it may stand for. Pure: bytes in, bytes or [`Broken`] out.

use std::cell::Cell;

use brotli_decompressor::{BrotliDecompressStream, BrotliResult, BrotliState, StandardAlloc};
use flate2::{Decompress, FlushDecompress, Status};
use zstd::stream::raw::{DParameter, InBuffer, Operation, OutBuffer};

use super::Coding;
use crate::limits::{
    CODED_MEMBERS_MAX, DECODE_STEP_BYTES, DECODED_BYTES_FREE, DECODERS_BYTES_MAX, DECODING_WINDOW_LOG,
};

thread_local! {
    /// Bytes that the decoders of this thread may need in all.
    static HELD_BYTES: Cell<usize> = const { Cell::new(0) };
}

/// Why a body cannot be decoded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Broken {
    /// It is not what its coding says: what we saw.
    Malformed(&'static str),
    /// Decoded it is larger than its bound.
    TooLarge,
    /// A byte of it stands for too many.
    TooDense,
}

/// Decodes one body.
pub struct Decoder {
    engine: Engine,
    /// What the last step made.
    out: Box<[u8]>,
    /// The last step filled `out`: there may be more without more input.
    full: bool,
    /// Nothing began that has not ended.
    whole: bool,
    taken: u64,
    made: u64,
    members: u32,
    ratio_max: u64,
    bytes_max: u64,
    _place: Place,
}

enum Engine {
    Gzip(Decompress),
    /// "deflate" is zlib's format (RFC 9110 §8.4.1.2).
    Zlib(Decompress),
    Br(Box<BrotliState<StandardAlloc, StandardAlloc, StandardAlloc>>),
    Zstd(zstd::stream::raw::Decoder<'static>),
}

/// What one step of an engine did.
struct Step {
    taken: usize,
    made: usize,
    /// The coding has ended. More may follow where it allows that.
    ended: bool,
}

impl Decoder {
    /// A decoder of at most `bytes_max` bytes, of which from [`DECODED_BYTES_FREE`] on each byte taken stands for at most
    /// `ratio_max`. `None`: the worker's memory for decoding is in use.
    pub fn new(coding: Coding, ratio_max: u32, bytes_max: u64) -> Option<Decoder> {
        let place = Place::take(memory_of(coding))?;
        let engine = match coding {
            Coding::Gzip => Engine::Gzip(gzip()),
            Coding::Deflate => Engine::Zlib(Decompress::new(true)),
            Coding::Br => {
                let alloc = StandardAlloc::default;
                Engine::Br(Box::new(BrotliState::new_strict(alloc(), alloc(), alloc())))
            }
            Coding::Zstd => {
                let mut decoder = zstd::stream::raw::Decoder::new().ok()?;
                decoder.set_parameter(DParameter::WindowLogMax(DECODING_WINDOW_LOG)).ok()?;
                Engine::Zstd(decoder)
            }
        };
        Some(Decoder {
            engine,
            out: vec![0; DECODE_STEP_BYTES].into(),
            full: false,
            whole: true,
            taken: 0,
            made: 0,
            members: 0,
            ratio_max: ratio_max.into(),
            bytes_max,
            _place: place,
        })
    }

    /// Bounds what may come in all, beside the bound it has.
    pub fn bound(&mut self, bytes_max: u64) {
        self.bytes_max = self.bytes_max.min(bytes_max);
    }

    /// Whether a step without input may make something.
    pub fn has_more(&self) -> bool {
        self.full
    }

    /// The body has come to the end of its coding. An empty one never began.
    pub fn is_whole(&self) -> bool {
        self.whole && !self.full
    }

    /// Takes from the front of `input`: how many bytes, and what was made. Both nothing only when `input` is empty.
    pub fn step(&mut self, input: &[u8]) -> Result<(usize, &[u8]), Broken> {
        if self.whole && !input.is_empty() {
            self.begin()?;
        }
        let Step { taken, made, ended } = self.engine.step(input, &mut self.out)?;
        self.full = made == self.out.len();
        if taken == 0 && made == 0 && !input.is_empty() {
            return Err(Broken::Malformed("its coding stands still"));
        }
        self.whole = ended || (self.whole && input.is_empty());
        self.taken += taken as u64;
        self.made += made as u64;
        if self.made > self.bytes_max {
            return Err(Broken::TooLarge);
        }
        if self.made > DECODED_BYTES_FREE && self.made > self.taken.saturating_mul(self.ratio_max) {
            return Err(Broken::TooDense);
        }
        Ok((taken, &self.out[..made]))
    }

    /// More comes, first of all or behind an end: gzip and zstd bodies may be several put together (RFC 1952 §2.2,
    /// RFC 8878 §3.1).
    fn begin(&mut self) -> Result<(), Broken> {
        if self.members > 0 {
            match &mut self.engine {
                Engine::Gzip(engine) => *engine = gzip(),
                Engine::Zstd(_) => {}
                Engine::Zlib(_) | Engine::Br(_) => return Err(Broken::Malformed("bytes behind its end")),
            }
        }
        self.members += 1;
        self.whole = false;
        if self.members > CODED_MEMBERS_MAX { Err(Broken::Malformed("too many members")) } else { Ok(()) }
    }
}

fn gzip() -> Decompress {
    Decompress::new_gzip(15)
}

impl Engine {
    fn step(&mut self, input: &[u8], out: &mut [u8]) -> Result<Step, Broken> {
        match self {
            Engine::Gzip(engine) | Engine::Zlib(engine) => {
                let (before_in, before_out) = (engine.total_in(), engine.total_out());
                let status = engine.decompress(input, out, FlushDecompress::None);
                let status = status.map_err(|_| Broken::Malformed("not gzip or zlib (RFC 1952, RFC 1950)"))?;
                Ok(Step {
                    taken: (engine.total_in() - before_in) as usize,
                    made: (engine.total_out() - before_out) as usize,
                    ended: status == Status::StreamEnd,
                })
            }
            Engine::Br(state) => {
                let (mut left, mut taken, mut room, mut made, mut total) = (input.len(), 0, out.len(), 0, 0);
                let result =
                    BrotliDecompressStream(&mut left, &mut taken, input, &mut room, &mut made, out, &mut total, state);
                match result {
                    BrotliResult::ResultFailure => Err(Broken::Malformed("not brotli (RFC 7932)")),
                    result => Ok(Step { taken, made, ended: matches!(result, BrotliResult::ResultSuccess) }),
                }
            }
            Engine::Zstd(engine) => {
                let mut from = InBuffer::around(input);
                let mut to = OutBuffer::around(out);
                let hint = engine.run(&mut from, &mut to);
                let hint = hint.map_err(|_| Broken::Malformed("not zstd (RFC 8878), or with a window above 8 MiB"))?;
                Ok(Step { taken: from.pos(), made: to.pos(), ended: hint == 0 })
            }
        }
    }
}

/// The most a decoder needs: its window and some tables.
fn memory_of(coding: Coding) -> usize {
    const TABLES: usize = 512 * 1024;
    match coding {
        Coding::Gzip | Coding::Deflate => 128 * 1024,
        // RFC 7932 §9.1: windows are up to 16 MiB.
        Coding::Br => (16 << 20) + TABLES,
        Coding::Zstd => (1 << DECODING_WINDOW_LOG) + TABLES,
    }
}

/// A share of the worker's memory for decoding.
struct Place(usize);

impl Place {
    fn take(bytes: usize) -> Option<Place> {
        let held = HELD_BYTES.get() + bytes;
        (held <= DECODERS_BYTES_MAX).then(|| {
            HELD_BYTES.set(held);
            Place(bytes)
        })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        // A body may outlive its thread's count at exit.
        let _ = HELD_BYTES.try_with(|held| held.set(held.get().saturating_sub(self.0)));
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use proptest::prelude::*;

    use super::*;
    use crate::config::policies::CompressionLevel;
    use crate::filter::Transform;
    use crate::filter::coding::encode::Encoder;

    const CODINGS: [Coding; 4] = [Coding::Gzip, Coding::Br, Coding::Zstd, Coding::Deflate];

    fn coded(coding: Coding, text: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        if coding == Coding::Deflate {
            let mut writer = flate2::write::ZlibEncoder::new(out, flate2::Compression::default());
            writer.write_all(text).expect("memory");
            return writer.finish().expect("memory");
        }
        let mut encoder = Encoder::new(coding, CompressionLevel::Balanced).expect("a place");
        encoder.piece(text, &mut out);
        encoder.end(&mut out);
        out
    }

    /// All of `pieces` decoded, and whether they came to an end.
    fn decoded<'p>(
        decoder: &mut Decoder,
        pieces: impl IntoIterator<Item = &'p [u8]>,
    ) -> Result<(Vec<u8>, bool), Broken> {
        let mut whole = Vec::new();
        for mut piece in pieces {
            while !piece.is_empty() || decoder.has_more() {
                let (taken, made) = decoder.step(piece)?;
                assert!(made.len() <= DECODE_STEP_BYTES);
                whole.extend_from_slice(made);
                piece = &piece[taken..];
            }
        }
        Ok((whole, decoder.is_whole()))
    }

    fn lines(count: u32) -> Vec<u8> {
        (0..count).flat_map(|n| format!("{n}: {}\n", n.wrapping_mul(2_654_435_761)).into_bytes()).collect()
    }

    #[test]
    fn a_body_comes_out_however_it_is_cut() {
        for (coding, text) in
            CODINGS.into_iter().flat_map(|coding| [lines(0), lines(1), lines(20_000)].map(|text| (coding, text)))
        {
            let coded = coded(coding, &text);
            for size in [1, 2, 7, 1000, 64 * 1024, coded.len()] {
                let mut decoder = Decoder::new(coding, 20, u64::MAX).expect("memory");
                assert!(decoder.is_whole(), "nothing has begun");
                let (whole, ended) = decoded(&mut decoder, coded.chunks(size)).expect("good");
                assert!(whole == text && ended, "{coding:?} in pieces of {size}");
            }
        }
    }

    #[test]
    fn a_body_cut_short_is_not_whole_and_one_with_more_behind_it_is_malformed() {
        let text = lines(100);
        for coding in CODINGS {
            let good = coded(coding, &text);
            for end in 1..good.len() {
                let mut decoder = Decoder::new(coding, 20, u64::MAX).expect("memory");
                let outcome = decoded(&mut decoder, [&good[..end]]);
                assert!(outcome.is_ok_and(|(_, ended)| !ended), "{coding:?} cut at {end}");
            }
            let mut decoder = Decoder::new(coding, 20, u64::MAX).expect("memory");
            let behind = [&good[..], b"xyz"].concat();
            assert!(
                matches!(decoded(&mut decoder, [&behind[..]]), Err(Broken::Malformed(_)) | Ok((_, false))),
                "{coding:?}"
            );
        }
    }

    #[test]
    fn gzip_and_zstd_may_be_several_put_together() {
        for coding in CODINGS {
            let one = coded(coding, b"one ");
            let check = |times: usize| {
                let mut decoder = Decoder::new(coding, 20, u64::MAX).expect("memory");
                decoded(&mut decoder, [&one.repeat(times)[..]])
            };
            match coding {
                Coding::Gzip | Coding::Zstd => {
                    let max = CODED_MEMBERS_MAX as usize;
                    assert_eq!(check(max), Ok((b"one ".repeat(max), true)), "{coding:?}");
                    assert_eq!(check(max + 1), Err(Broken::Malformed("too many members")), "{coding:?}");
                }
                Coding::Br | Coding::Deflate => {
                    assert_eq!(check(2), Err(Broken::Malformed("bytes behind its end")), "{coding:?}");
                }
            }
        }
    }

    #[test]
    fn size_and_ratio_are_bounded() {
        for coding in CODINGS {
            let check = |text: &[u8], ratio_max: u32, bytes_max: u64| {
                let mut decoder = Decoder::new(coding, ratio_max, bytes_max).expect("memory");
                let outcome = decoded(&mut decoder, [&coded(coding, text)[..]]);
                let most = decoder.made;
                outcome.map(|(whole, _)| whole.len()).map_err(|broken| (broken, most))
            };
            let text = lines(1000);
            let len = text.len() as u64;
            assert_eq!(check(&text, 20, len), Ok(text.len()), "{coding:?}");
            assert!(matches!(check(&text, 20, len - 1), Err((Broken::TooLarge, _))), "{coding:?}");
            // Dense, but small.
            let free = DECODED_BYTES_FREE as usize;
            assert_eq!(check(&vec![0; free], 1, u64::MAX), Ok(free), "{coding:?}");
            assert!(matches!(check(&vec![0; free + 1], 20, u64::MAX), Err((Broken::TooDense, _))), "{coding:?}");
            // A bomb is noticed long before it is large.
            let (broken, made) = check(&vec![0; 50 << 20], 20, u64::MAX).expect_err("a bomb");
            assert_eq!(broken, Broken::TooDense);
            assert!(made <= DECODED_BYTES_FREE + DECODE_STEP_BYTES as u64, "{coding:?}: {made}");
        }
    }

    #[test]
    fn a_window_larger_than_http_has_is_refused() {
        let frame = |window_log: u32| {
            let mut writer = zstd::stream::write::Encoder::new(Vec::new(), 1).expect("memory");
            writer.set_parameter(zstd::stream::raw::CParameter::WindowLog(window_log)).expect("a size");
            writer.include_contentsize(false).expect("a flag");
            writer.write_all(b"x").expect("memory");
            writer.flush().expect("memory");
            writer.finish().expect("memory")
        };
        let check =
            |window_log| decoded(&mut Decoder::new(Coding::Zstd, 20, 1000).expect("memory"), [&frame(window_log)[..]]);
        assert_eq!(check(DECODING_WINDOW_LOG), Ok((b"x".to_vec(), true)));
        assert!(matches!(check(DECODING_WINDOW_LOG + 1), Err(Broken::Malformed(_))));
    }

    #[test]
    fn memory_is_given_back() {
        let most = DECODERS_BYTES_MAX / memory_of(Coding::Br);
        let mut held: Vec<Decoder> = (0..most).map(|_| Decoder::new(Coding::Br, 20, 1).expect("memory")).collect();
        assert!(Decoder::new(Coding::Br, 20, 1).is_none());
        held.pop();
        assert!(Decoder::new(Coding::Br, 20, 1).is_some());
    }

    proptest! {
        #[test]
        fn any_bytes_end_in_bytes_or_an_error(
            which in 0..4usize,
            slips in proptest::collection::vec((any::<proptest::sample::Index>(), any::<u8>()), 0..5),
            noise in proptest::option::of(proptest::collection::vec(any::<u8>(), 0..300)),
        ) {
            let coding = CODINGS[which];
            let mut bytes = noise.unwrap_or_else(|| coded(coding, &lines(50)));
            for (at, byte) in slips {
                if !bytes.is_empty() {
                    let at = at.index(bytes.len());
                    bytes[at] = byte;
                }
            }
            let mut decoder = Decoder::new(coding, 20, 100_000).expect("memory");
            if let Ok((whole, _)) = decoded(&mut decoder, bytes.chunks(10)) {
                prop_assert!(whole.len() <= 100_000);
            }
        }
    }
}
