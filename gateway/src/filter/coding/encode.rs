//! An answer's body on its way into a content coding, piece by piece at bounded memory.

use std::cell::Cell;
use std::io::Write;

use brotli::CompressorWriter;
use flate2::write::GzEncoder;
use zstd::stream::raw::CParameter;

use super::Coding;
use crate::config::policies::CompressionLevel;
use crate::filter::Transform;
use crate::limits::{BUFFER_BYTES, COMPRESSION_WINDOW_LOG, COMPRESSORS_MAX};

thread_local! {
    static RUNNING: Cell<usize> = const { Cell::new(0) };
    static MISSED: Cell<u64> = const { Cell::new(0) };
}

/// Times there was no place on this thread for another body.
pub fn missed() -> u64 {
    MISSED.get()
}

/// Compresses one body. One of at most [`COMPRESSORS_MAX`] a worker has at a time.
pub struct Encoder {
    /// `None` once the body has ended.
    writer: Option<Writer>,
    _place: Place,
}

/// Each writes to memory, which is emptied after every piece.
enum Writer {
    Gzip(GzEncoder<Vec<u8>>),
    Br(Box<CompressorWriter<Vec<u8>>>),
    Zstd(zstd::stream::write::Encoder<'static, Vec<u8>>),
}

impl Encoder {
    /// `None`: as many bodies are being compressed on this worker as may be.
    pub fn new(coding: Coding, level: CompressionLevel) -> Option<Encoder> {
        let place = Place::take()?;
        let pick = |levels: [i32; 3]| levels[level as usize];
        // No level takes more than about half a millisecond for a step: what compresses better belongs where the answer is
        // made.
        let writer = match coding {
            Coding::Gzip => {
                let level = flate2::Compression::new(pick([1, 4, 6]).unsigned_abs());
                Writer::Gzip(GzEncoder::new(Vec::new(), level))
            }
            Coding::Br => {
                let quality = pick([1, 4, 5]).unsigned_abs();
                let writer = CompressorWriter::new(Vec::new(), BUFFER_BYTES, quality, COMPRESSION_WINDOW_LOG);
                Writer::Br(Box::new(writer))
            }
            Coding::Deflate => return None,
            Coding::Zstd => {
                let mut writer = zstd::stream::write::Encoder::new(Vec::new(), pick([1, 3, 6])).ok()?;
                writer.set_parameter(CParameter::WindowLog(COMPRESSION_WINDOW_LOG)).ok()?;
                Writer::Zstd(writer)
            }
        };
        Some(Encoder { writer: Some(writer), _place: place })
    }
}

/// Writing to memory does not fail, and no coder refuses any bytes.
const NEVER_FAILS: &str = "compressing to memory does not fail";

impl Transform for Encoder {
    fn piece(&mut self, piece: &[u8], out: &mut Vec<u8>) {
        let Some(writer) = &mut self.writer else { return };
        writer.inner().write_all(piece).expect(NEVER_FAILS);
        out.append(writer.made());
    }

    fn flush(&mut self, out: &mut Vec<u8>) {
        let Some(writer) = &mut self.writer else { return };
        writer.inner().flush().expect(NEVER_FAILS);
        out.append(writer.made());
    }

    fn end(&mut self, out: &mut Vec<u8>) {
        let mut made = match self.writer.take() {
            Some(Writer::Gzip(writer)) => writer.finish().expect(NEVER_FAILS),
            Some(Writer::Br(writer)) => writer.into_inner(),
            Some(Writer::Zstd(writer)) => writer.finish().expect(NEVER_FAILS),
            None => return,
        };
        out.append(&mut made);
    }
}

impl Writer {
    fn inner(&mut self) -> &mut dyn Write {
        match self {
            Writer::Gzip(writer) => writer,
            Writer::Br(writer) => writer,
            Writer::Zstd(writer) => writer,
        }
    }

    fn made(&mut self) -> &mut Vec<u8> {
        match self {
            Writer::Gzip(writer) => writer.get_mut(),
            Writer::Br(writer) => writer.get_mut(),
            Writer::Zstd(writer) => writer.get_mut(),
        }
    }
}

/// Room for one among the bodies being compressed.
struct Place;

impl Place {
    fn take() -> Option<Place> {
        let running = RUNNING.get();
        if running == COMPRESSORS_MAX {
            MISSED.set(MISSED.get() + 1);
            return None;
        }
        RUNNING.set(running + 1);
        Some(Place)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        // A body may outlive its thread's count at exit.
        let _ = RUNNING.try_with(|running| running.set(running.get().saturating_sub(1)));
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::*;

    const CODINGS: [Coding; 3] = [Coding::Gzip, Coding::Br, Coding::Zstd];
    const LEVELS: [CompressionLevel; 3] = [CompressionLevel::Fast, CompressionLevel::Balanced, CompressionLevel::Small];

    /// As much of `coded` as can be decoded; it may be cut anywhere.
    fn decoded(coding: Coding, coded: &[u8]) -> Vec<u8> {
        let mut reader: Box<dyn Read> = match coding {
            Coding::Gzip => Box::new(flate2::read::GzDecoder::new(coded)),
            Coding::Br => Box::new(brotli::Decompressor::new(coded, 4096)),
            Coding::Zstd => Box::new(zstd::stream::read::Decoder::new(coded).expect("a decoder")),
            Coding::Deflate => unreachable!("nothing is compressed to it"),
        };
        let mut whole = Vec::new();
        let mut part = [0; 1000];
        while let Ok(n) = reader.read(&mut part) {
            if n == 0 {
                break;
            }
            whole.extend_from_slice(&part[..n]);
        }
        whole
    }

    fn text(len: usize) -> Vec<u8> {
        (0..)
            .flat_map(|n: u32| format!("{{\"id\":{n},\"name\":\"n{}\"}},", n.wrapping_mul(2_654_435_761)).into_bytes())
            .take(len)
            .collect()
    }

    #[test]
    fn every_piece_can_be_read_once_it_is_flushed() {
        for (coding, level) in CODINGS.into_iter().flat_map(|coding| LEVELS.map(|level| (coding, level))) {
            let mut encoder = Encoder::new(coding, level).expect("a place");
            let (mut coded, mut sent) = (Vec::new(), Vec::new());
            for len in [1, 5, 1000, BUFFER_BYTES, 3, BUFFER_BYTES] {
                let piece = text(len);
                encoder.piece(&piece, &mut coded);
                encoder.flush(&mut coded);
                sent.extend_from_slice(&piece);
                assert_eq!(decoded(coding, &coded), sent, "{coding:?} {level:?} {len}");
            }
            encoder.end(&mut coded);
            assert_eq!(decoded(coding, &coded), sent, "{coding:?} {level:?}");
            assert!(coded.len() < sent.len() / 2, "{coding:?} {level:?}: {} of {}", coded.len(), sent.len());
        }
    }

    #[test]
    fn places_are_given_back() {
        let mut held: Vec<Encoder> = (0..COMPRESSORS_MAX)
            .map(|_| Encoder::new(Coding::Gzip, CompressionLevel::Fast).expect("a place"))
            .collect();
        assert_eq!(missed(), 0);
        assert!(Encoder::new(Coding::Gzip, CompressionLevel::Fast).is_none());
        assert_eq!(missed(), 1);
        held.pop();
        assert!(Encoder::new(Coding::Gzip, CompressionLevel::Fast).is_some());
    }
}
