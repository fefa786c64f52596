//! What a client's frames cost beside what they bring: the 9-byte headers are read on their way to `h2`, and those that make
//! work without asking for any are paid for.
//!
//! A connection has points, which come back with time, with every answer and with what is sent. Resets, settings, pings, empty
//! data and the like cost some. A client that has spent them all is told ENHANCE_YOUR_CALM (RFC 9113 §7) and closed; one that
//! uses the protocol for requests never comes near. What `h2` bounds itself (streams at a time, fields of a head, frames of a
//! head, small data frames) is not counted again.

use std::cell::Cell;

use crate::limits::{HTTP2_POINTS_MAX, HTTP2_POINTS_PER_SECOND};
use crate::rt::deadline::now_ms;

/// The client's connection preface (RFC 9113 §3.4), which is no frame.
const PREFACE_BYTES: usize = 24;

/// Bytes of a frame's header (RFC 9113 §4.1).
const HEADER_BYTES: usize = 9;

const PING: u8 = 6;
const WINDOW_UPDATE: u8 = 8;

/// Points for an answer that was sent whole: more than a request and a few frames around it cost.
pub const PER_ANSWER: u32 = 8;

/// Points for a frame of data that was sent: a client may open its windows after each of them.
const PER_DATA_FRAME: u32 = 4;

/// Bytes sent for which a client may open a window once: there are clients that open both again after every 4 KiB they
/// have read.
const DATA_BYTES_PER_UPDATE: u64 = 2048;

/// Points of one connection.
pub struct Meter {
    points: Cell<u32>,
    /// Bytes of data sent for which no window was opened yet. Without a bound: a client may read late.
    unopened: Cell<u64>,
    /// Frames of data sent for which no ping came yet.
    unprobed: Cell<u64>,
    /// When points came back last, milliseconds of the process.
    filled_ms: Cell<u64>,
    is_spent: Cell<bool>,
}

/// Where in the stream of frames the next byte lies.
pub struct Frames {
    skip: usize,
    header: [u8; HEADER_BYTES],
    filled: usize,
}

impl Default for Meter {
    fn default() -> Meter {
        Meter {
            points: Cell::new(HTTP2_POINTS_MAX),
            unopened: Cell::new(0),
            unprobed: Cell::new(0),
            filled_ms: Cell::new(now_ms()),
            is_spent: Cell::new(false),
        }
    }
}

impl Meter {
    /// More was asked for than a client that means well ever needs.
    pub fn is_spent(&self) -> bool {
        self.is_spent.get()
    }

    /// Gives points for something useful.
    pub fn earn(&self, points: u32) {
        self.points.set(self.points.get().saturating_add(points).min(HTTP2_POINTS_MAX));
    }

    /// Gives points for a frame of data that was sent.
    pub fn earn_data(&self, bytes: usize) {
        self.unopened.set(self.unopened.get() + bytes as u64);
        self.unprobed.set(self.unprobed.get() + 1);
        self.earn(PER_DATA_FRAME);
    }

    /// Clients that measure how much may be under way (gRPC's do) ping when data comes and no ping of theirs is: at most once
    /// for a frame, and over a fast network hardly less.
    fn pay_ping(&self, cost: u32) {
        match self.unprobed.get().checked_sub(1) {
            Some(left) => self.unprobed.set(left),
            None => self.pay(cost),
        }
    }

    fn pay_update(&self) {
        match self.unopened.get().checked_sub(DATA_BYTES_PER_UPDATE) {
            Some(left) => self.unopened.set(left),
            None => self.pay(1),
        }
    }

    fn pay(&self, cost: u32) {
        if let Some(left) = self.points.get().checked_sub(cost) {
            return self.points.set(left);
        }
        let now = now_ms();
        let since_ms = now.saturating_sub(self.filled_ms.replace(now));
        self.earn((since_ms.min(60_000) * u64::from(HTTP2_POINTS_PER_SECOND) / 1000) as u32);
        match self.points.get().checked_sub(cost) {
            Some(left) => self.points.set(left),
            None => self.is_spent.set(true),
        }
    }
}

impl Default for Frames {
    fn default() -> Frames {
        Frames { skip: PREFACE_BYTES, header: [0; HEADER_BYTES], filled: 0 }
    }
}

impl Frames {
    /// Reads on, over whatever was received.
    pub fn see(&mut self, mut bytes: &[u8], meter: &Meter) {
        while !bytes.is_empty() {
            if self.skip > 0 {
                let skipped = self.skip.min(bytes.len());
                self.skip -= skipped;
                bytes = &bytes[skipped..];
                continue;
            }
            let taken = (HEADER_BYTES - self.filled).min(bytes.len());
            self.header[self.filled..self.filled + taken].copy_from_slice(&bytes[..taken]);
            self.filled += taken;
            bytes = &bytes[taken..];
            if self.filled == HEADER_BYTES {
                self.filled = 0;
                let [a, b, c, kind, flags, ..] = self.header;
                self.skip = usize::from(a) << 16 | usize::from(b) << 8 | usize::from(c);
                match cost(kind, flags, self.skip) {
                    0 => {}
                    _ if kind == WINDOW_UPDATE => meter.pay_update(),
                    cost if kind == PING => meter.pay_ping(cost),
                    cost => meter.pay(cost),
                }
            }
        }
    }
}

/// What a frame costs (RFC 9113 §6).
fn cost(kind: u8, flags: u8, length: usize) -> u32 {
    const FLAG: u8 = 0x1;
    match (kind, length) {
        // DATA: END_STREAM says something even when it is empty.
        (0, 0) if flags & FLAG == 0 => 20,
        (0, _) => 0,
        // HEADERS
        (1, _) => 1,
        // RST_STREAM: what was begun for the stream was for nothing.
        (3, _) => 10,
        // SETTINGS, which are answered, and their acknowledgement
        (4, _) if flags & FLAG == 0 => 20,
        // PING, which is answered
        (PING, _) if flags & FLAG == 0 => 5,
        // CONTINUATION
        (9, _) => 5,
        // PRIORITY, WINDOW_UPDATE, acknowledgements, GOAWAY, and what is unknown
        _ => 1,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(length: usize, kind: u8, flags: u8) -> Vec<u8> {
        let mut frame = vec![(length >> 16) as u8, (length >> 8) as u8, length as u8, kind, flags, 0, 0, 0, 1];
        frame.resize(9 + length, 0xff);
        frame
    }

    fn spent_after(frames: &[Vec<u8>], times: usize) -> bool {
        let meter = Meter::default();
        let mut reading = Frames::default();
        reading.see(&[0; 24], &meter);
        for _ in 0..times {
            frames.iter().for_each(|frame| reading.see(frame, &meter));
        }
        meter.is_spent()
    }

    #[test]
    fn frames_are_found_however_they_arrive() {
        let mut bytes = vec![0; 24];
        for _ in 0..HTTP2_POINTS_MAX / 20 {
            bytes.extend(frame(300, 0, 0));
            bytes.extend(frame(6, 4, 0));
        }
        for step in [1, 7, 9, 10, 1000, bytes.len()] {
            let meter = Meter::default();
            let mut reading = Frames::default();
            bytes.chunks(step).for_each(|piece| reading.see(piece, &meter));
            assert_eq!((meter.points.get(), meter.is_spent()), (0, false), "{step}");
            reading.see(&frame(0, 4, 0), &meter);
            assert!(meter.is_spent(), "{step}");
        }
    }

    #[test]
    fn a_ping_for_each_frame_of_data_is_free_and_more_are_not() {
        let meter = Meter::default();
        let mut reading = Frames::default();
        reading.see(&[0; 24], &meter);
        let ping = frame(8, 6, 0);
        // A stream of small messages for which a client pings, and pings late.
        for _ in 0..10 * HTTP2_POINTS_MAX {
            meter.earn_data(5);
            reading.see(&ping, &meter);
        }
        (0..10 * HTTP2_POINTS_MAX).for_each(|_| meter.earn_data(5));
        (0..10 * HTTP2_POINTS_MAX).for_each(|_| reading.see(&ping, &meter));
        assert_eq!((meter.points.get(), meter.is_spent()), (HTTP2_POINTS_MAX, false));
        for _ in 0..HTTP2_POINTS_MAX / 5 {
            reading.see(&ping, &meter);
        }
        assert_eq!((meter.points.get(), meter.is_spent()), (0, false));
        reading.see(&ping, &meter);
        assert!(meter.is_spent());
    }

    #[test]
    fn floods_are_spent_and_requests_are_not() {
        let many = HTTP2_POINTS_MAX as usize;
        for (what, flood) in [
            ("pings", vec![frame(8, 6, 0)]),
            ("settings", vec![frame(0, 4, 0)]),
            ("empty data", vec![frame(0, 0, 0)]),
            ("rapid reset", vec![frame(20, 1, 5), frame(4, 3, 0)]),
            ("priority", vec![frame(5, 2, 0)]),
            ("window updates", vec![frame(4, 8, 0)]),
            ("continuation", vec![frame(20, 9, 0)]),
            ("unknown", vec![frame(1, 0xbe, 0)]),
        ] {
            assert!(spent_after(&flood, many + 1), "{what}");
            assert!(!spent_after(&flood, 100), "{what}");
        }
        assert!(!spent_after(&[frame(1000, 0, 0), frame(0, 0, 1)], 100 * many), "an upload");
        let meter = Meter::default();
        let mut reading = Frames::default();
        reading.see(&[0; 24], &meter);
        for _ in 0..10 * many {
            for bytes in [frame(20, 1, 5), frame(4, 8, 0), frame(4, 8, 0)] {
                reading.see(&bytes, &meter);
            }
            meter.earn(PER_ANSWER);
            meter.earn_data(1);
        }
        assert!(!meter.is_spent(), "requests that are answered");
        let data = 100 * many * 4096;
        meter.earn_data(data);
        for _ in 0..data / 4096 {
            (0..2).for_each(|_| reading.see(&frame(4, 8, 0), &meter));
        }
        assert!(!meter.is_spent(), "windows that were used and are opened, however late");
    }
}
