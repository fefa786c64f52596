//! When a request is sent again (`retry`): for what, how often, after which pause, and whether the budget has room. Decides
//! and sends nothing: `exchange::attempts` and `fetch` ask, each with what it has seen.
//!
//! Only causes before any byte of an answer went to the client are asked about.

use http1::Method;

use super::fields::Fields;
use super::grpc;
use crate::config::model::{self, MethodGroup, RetryMethods};
use crate::config::words::status_range;
use crate::rt::deadline::ms;
use crate::snapshot::UpstreamTimeouts;
use crate::tables::load::Load;

/// A `retry` table.
#[derive(Debug)]
pub struct Retry {
    on_connect: bool,
    on_reset: bool,
    on_timeout: bool,
    /// First and last of each range.
    statuses: Vec<(u16, u16)>,
    /// A bit for each status of gRPC.
    grpc: u32,
    attempts_max: u32,
    /// milliseconds
    per_try: Option<u64>,
    /// Repetitions for a million requests.
    budget_share: u32,
    budget_min: u32,
    back_off: u64,
    back_off_max: u64,
    methods: RetryMethods,
    pub body_bytes_max: usize,
}

/// Why a request is sent again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cause {
    /// A kept connection was closed by its service. Asks for no table.
    Stale,
    /// There was no connection, so nothing was sent.
    Connect,
    /// The service hung up before its answer.
    Reset,
    Timeout,
    /// The answer has this status.
    Status(u16),
    /// The call ended with this one, without a message.
    Grpc(grpc::Status),
}

impl Cause {
    /// The labels of the counters, in the order of [`Cause::index`].
    pub const LABELS: [&str; 6] = ["stale", "connect", "reset", "timeout", "status", "grpc_status"];

    pub fn index(self) -> usize {
        match self {
            Cause::Stale => 0,
            Cause::Connect => 1,
            Cause::Reset => 2,
            Cause::Timeout => 3,
            Cause::Status(_) => 4,
            Cause::Grpc(_) => 5,
        }
    }
}

/// Why a request is not sent again although its table names the cause.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Denied {
    /// The service may have acted on it, and its method is none that may be sent twice.
    Method,
    /// Its body is longer than what is kept, or the rest of it cannot be waited for.
    Body,
    /// It had all its attempts.
    Attempts,
    /// The service asks for a longer pause than may be made, or the exchange ends before it.
    Pause,
    Budget,
}

impl Denied {
    pub fn name(self) -> &'static str {
        match self {
            Denied::Method => "method",
            Denied::Body => "body",
            Denied::Attempts => "attempts",
            Denied::Pause => "pause",
            Denied::Budget => "budget",
        }
    }
}

/// An attempt that came to nothing.
#[derive(Debug, Clone, Copy)]
pub struct Missed {
    pub cause: Cause,
    /// What `Retry-After` asks for.
    pub retry_after: Option<Later>,
    /// The body can be sent from its beginning.
    pub replayable: bool,
    /// How long the exchange has left, milliseconds.
    pub left_ms: u64,
    /// Any number, for the pause.
    pub lot: u64,
    /// microseconds of the process
    pub now_us: u64,
}

/// What `Retry-After` asks for (RFC 9110 §10.2.3).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Later {
    Seconds(u64),
    /// A date, which is seldom near, or nothing that can be read.
    Unknown,
}

impl Later {
    /// What an answer with this status says: 503 (RFC 9110 §15.6.4) and 429 (RFC 6585 §4) do.
    pub fn of(status: u16, fields: &Fields) -> Option<Later> {
        if !matches!(status, 429 | 503) {
            return None;
        }
        let text = std::str::from_utf8(fields.get(b"retry-after")?).unwrap_or_default();
        let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
        Some(match text.parse() {
            Ok(seconds) if digits => Later::Seconds(seconds),
            _ => Later::Unknown,
        })
    }
}

impl Retry {
    pub fn of(written: &model::Retry) -> Retry {
        let on = |cause: &str| written.on.iter().any(|known| known == cause);
        Retry {
            on_connect: on("connect"),
            on_reset: on("reset"),
            on_timeout: on("timeout"),
            statuses: written.on.iter().filter_map(|text| status_range(text)).collect(),
            grpc: written
                .on
                .iter()
                .filter_map(|text| grpc::Status::named(text))
                .fold(0, |bits, status| bits | 1 << status.index()),
            attempts_max: written.attempts_max,
            per_try: written.per_try.map(|time| ms(time.into())),
            budget_share: written.budget.millionths(),
            budget_min: written.budget_min,
            back_off: ms(written.back_off.into()),
            back_off_max: ms(written.back_off_max.into()),
            methods: written.methods.clone(),
            body_bytes_max: written.body_bytes.0 as usize,
        }
    }

    pub fn wants(&self, cause: Cause) -> bool {
        match cause {
            Cause::Stale => false,
            Cause::Connect => self.on_connect,
            Cause::Reset => self.on_reset,
            Cause::Timeout => self.on_timeout,
            Cause::Grpc(status) => self.grpc & 1 << status.index() != 0,
            Cause::Status(status) => self.statuses.iter().any(|&(first, last)| (first..=last).contains(&status)),
        }
    }

    fn takes(&self, method: Method, text: &[u8]) -> bool {
        match &self.methods {
            RetryMethods::Group(MethodGroup::Idempotent) => method.is_idempotent(),
            RetryMethods::Group(MethodGroup::Safe) => method.is_safe(),
            RetryMethods::These(methods) => methods.iter().any(|known| known.as_bytes() == text),
        }
    }

    /// The pause before the `nth` repetition, from 1 on, in milliseconds: half of it to all of it, so that those who failed
    /// together do not come back together.
    fn pause(&self, nth: u32, lot: u64) -> u64 {
        let doubled = self.back_off.saturating_mul(1_u64.checked_shl(nth.saturating_sub(1)).unwrap_or(u64::MAX));
        let whole = doubled.min(self.back_off_max);
        whole - lot % (whole / 2 + 1)
    }
}

/// The attempts of one request.
pub struct Tries<'r> {
    retry: &'r Retry,
    load: &'r Load,
    /// It may be sent again once a service may have seen it.
    method: bool,
    /// Repetitions the table allowed.
    repeated: u32,
    /// Why the last one that came to nothing was not repeated.
    pub denied: Option<Denied>,
}

impl<'r> Tries<'r> {
    /// Counts the request towards the budget of its upstream.
    pub fn new(retry: &'r Retry, load: &'r Load, method: Method, text: &[u8]) -> Tries<'r> {
        load.save(retry.budget_share);
        Tries { retry, load, method: retry.takes(method, text), repeated: 0, denied: None }
    }

    pub fn retry(&self) -> &'r Retry {
        self.retry
    }

    /// Whether it is worth keeping what is sent.
    pub fn takes_method(&self) -> bool {
        self.method
    }

    /// How long a connection may take to open.
    pub fn connect(&self, wait_ms: u64) -> u64 {
        self.retry.per_try.map_or(wait_ms, |per_try| per_try.min(wait_ms))
    }

    /// The waits of an attempt that has taken `spent_ms` already.
    pub fn waits(&self, waits: UpstreamTimeouts, spent_ms: u64) -> UpstreamTimeouts {
        let Some(per_try) = self.retry.per_try else { return waits };
        let left = per_try.saturating_sub(spent_ms).max(1);
        UpstreamTimeouts { first_byte: waits.first_byte.min(left), idle: waits.idle.min(left), ..waits }
    }

    /// Whether there is another attempt after one without a connection, whatever was sent before, and after how many
    /// milliseconds. `attempts`: those made. `elsewhere`: there is an endpoint that was not tried, which needs no pause.
    /// Outside the budget: a refused connection costs a service nothing.
    pub fn reconnect(&mut self, attempts: u32, attempts_max: u32, elsewhere: bool, missed: &Missed) -> Option<u64> {
        if attempts >= attempts_max.max(self.retry.attempts_max) {
            self.denied = Some(Denied::Attempts);
            return None;
        }
        let pause = if elsewhere { 0 } else { self.retry.pause(attempts, missed.lot) };
        self.denied = (pause >= missed.left_ms).then_some(Denied::Pause);
        self.denied.is_none().then_some(pause)
    }

    /// Whether there is another attempt after one that was `missed`, and after how many milliseconds. `attempts`: those made.
    /// A yes is a withdrawal from the budget.
    pub fn repeat(&mut self, attempts: u32, missed: &Missed) -> Option<u64> {
        self.denied = None;
        if !self.retry.wants(missed.cause) {
            return None;
        }
        match self.judge(attempts, missed) {
            Ok(pause) => {
                self.repeated += 1;
                Some(pause)
            }
            Err(denied) => {
                self.denied = Some(denied);
                None
            }
        }
    }

    fn judge(&self, attempts: u32, missed: &Missed) -> Result<u64, Denied> {
        let retry = self.retry;
        if !self.method {
            return Err(Denied::Method);
        }
        if !missed.replayable {
            return Err(Denied::Body);
        }
        if attempts >= retry.attempts_max {
            return Err(Denied::Attempts);
        }
        let own = retry.pause(self.repeated + 1, missed.lot);
        let pause = match missed.retry_after {
            None => own,
            Some(Later::Seconds(seconds)) => own.max(seconds.saturating_mul(1000)),
            Some(Later::Unknown) => u64::MAX,
        };
        if pause > retry.back_off_max || pause >= missed.left_ms {
            return Err(Denied::Pause);
        }
        // The last question, because it costs.
        match self.load.spend(retry.budget_min, missed.now_us) {
            true => Ok(pause),
            false => Err(Denied::Budget),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::units::{Percentage, Time};
    use crate::proxy::trace::Ids;

    fn written() -> model::Retry {
        model::Retry { attempts_max: 4, ..model::Retry::default() }
    }

    fn missed(cause: Cause) -> Missed {
        Missed { cause, retry_after: None, replayable: true, left_ms: 60_000, lot: 0, now_us: 0 }
    }

    #[test]
    fn causes_are_those_that_are_written() {
        let on = ["reset", "500", "502-504"].map(str::to_owned).to_vec();
        let retry = Retry::of(&model::Retry { on, ..written() });
        let causes = [Cause::Reset, Cause::Status(500), Cause::Status(502), Cause::Status(504)];
        assert!(causes.into_iter().all(|cause| retry.wants(cause)));
        let others = [Cause::Stale, Cause::Connect, Cause::Timeout, Cause::Status(501), Cause::Status(505)];
        assert!(!others.into_iter().any(|cause| retry.wants(cause)));
    }

    #[test]
    fn pauses_double_up_to_their_bound_and_are_a_half_to_a_whole_of_it() {
        let retry = Retry::of(&written());
        let mut ids = Ids::new().expect("seed");
        for (nth, whole) in [(1, 25), (2, 50), (3, 100), (4, 200), (5, 250), (6, 250), (90, 250)] {
            assert_eq!(retry.pause(nth, 0), whole);
            let drawn: Vec<u64> = (0..1000).map(|_| retry.pause(nth, ids.next_u64())).collect();
            assert!(drawn.iter().all(|&pause| (whole - whole / 2..=whole).contains(&pause)), "{nth}: {drawn:?}");
            assert!(drawn.iter().any(|&pause| pause != drawn[0]), "{nth}: all the same");
        }
        let none = Retry::of(&model::Retry { back_off: Time::from_millis(0), ..written() });
        assert_eq!(none.pause(3, u64::MAX), 0);
    }

    #[test]
    fn a_retry_after_is_waited_for_up_to_the_bound() {
        let check = |value: &[u8], expected: Option<Later>, pause: Result<u64, Denied>| {
            let mut fields = Fields::new();
            fields.add(b"retry-after", value);
            assert_eq!(Later::of(503, &fields), expected, "{}", value.escape_ascii());
            assert_eq!(Later::of(500, &fields), None, "says nothing beside another status");
            let retry = Retry::of(&model::Retry { back_off_max: Time::from_secs(2), ..written() });
            let load = Load::default();
            let tries = Tries::new(&retry, &load, Method::Get, b"GET");
            let missed = Missed { retry_after: Later::of(503, &fields), ..missed(Cause::Status(503)) };
            assert_eq!(tries.judge(1, &missed), pause, "{}", value.escape_ascii());
        };
        check(b"0", Some(Later::Seconds(0)), Ok(25));
        check(b"2", Some(Later::Seconds(2)), Ok(2000));
        check(b"3", Some(Later::Seconds(3)), Err(Denied::Pause));
        check(b"18446744073709551615", Some(Later::Seconds(u64::MAX)), Err(Denied::Pause));
        for odd in [&b"99999999999999999999"[..], b"+1", b"-1", b"", b"1.5", b"\xff", b"Fri, 07 Aug 2026 00:00:00 GMT"]
        {
            check(odd, Some(Later::Unknown), Err(Denied::Pause));
        }
        assert_eq!(Later::of(503, &Fields::new()), None);
    }

    #[test]
    fn what_stands_against_a_repetition_is_named() {
        let retry = Retry::of(&written());
        let reset = missed(Cause::Reset);
        let judge = |method: Method, attempts: u32, missed: Missed| {
            Tries::new(&retry, &Load::default(), method, method.name().as_bytes()).judge(attempts, &missed)
        };
        assert_eq!(judge(Method::Put, 3, reset), Ok(25));
        assert_eq!(judge(Method::Post, 1, reset), Err(Denied::Method));
        assert_eq!(judge(Method::Get, 4, reset), Err(Denied::Attempts));
        assert_eq!(judge(Method::Get, 1, Missed { replayable: false, ..reset }), Err(Denied::Body));
        assert_eq!(judge(Method::Get, 1, Missed { left_ms: 25, ..reset }), Err(Denied::Pause));
        let broke = Retry::of(&model::Retry { budget_min: 0, budget: Percentage::from_whole(0), ..written() });
        let load = Load::default();
        let mut tries = Tries::new(&broke, &load, Method::Get, b"GET");
        assert_eq!((tries.repeat(1, &reset), tries.denied), (None, Some(Denied::Budget)));
        assert_eq!((tries.repeat(1, &missed(Cause::Status(500))), tries.denied), (None, None), "not a cause it names");
    }

    #[test]
    fn methods_are_a_group_or_a_list() {
        let takes = |methods: RetryMethods, method: Method| {
            Retry::of(&model::Retry { methods, ..written() }).takes(method, method.name().as_bytes())
        };
        let these = || RetryMethods::These(vec!["POST".to_owned()]);
        let group = RetryMethods::Group;
        for (method, expected) in [
            (Method::Get, [true, true, false]),
            (Method::Put, [true, false, false]),
            (Method::Post, [false, false, true]),
        ] {
            let methods = [group(MethodGroup::Idempotent), group(MethodGroup::Safe), these()];
            assert_eq!(methods.map(|methods| takes(methods, method)), expected, "{method:?}");
        }
    }

    #[test]
    fn connections_are_tried_as_often_as_there_are_endpoints_or_attempts() {
        let retry = Retry::of(&model::Retry { attempts_max: 2, ..written() });
        let load = Load::default();
        let mut tries = Tries::new(&retry, &load, Method::Post, b"POST");
        let missed = missed(Cause::Connect);
        assert_eq!(tries.reconnect(1, 3, true, &missed), Some(0));
        assert_eq!(tries.reconnect(2, 3, true, &missed), Some(0));
        assert_eq!((tries.reconnect(3, 3, true, &missed), tries.denied), (None, Some(Denied::Attempts)));
        assert_eq!(tries.reconnect(1, 1, false, &missed), Some(25), "the same one again, after a pause");
        assert_eq!((tries.reconnect(2, 1, false, &missed), tries.denied), (None, Some(Denied::Attempts)));
    }

    #[test]
    fn an_attempt_has_what_its_connection_left_of_it() {
        let waits = UpstreamTimeouts { connect: 1000, first_byte: 15_000, idle: 60_000, total: 3_600_000 };
        let load = Load::default();
        let retry = Retry::of(&model::Retry { per_try: Some(Time::from_millis(500)), ..written() });
        let tries = Tries::new(&retry, &load, Method::Get, b"GET");
        assert_eq!(tries.connect(waits.connect), 500);
        let of = |spent| (tries.waits(waits, spent).first_byte, tries.waits(waits, spent).idle);
        assert_eq!((of(0), of(499), of(500), of(900)), ((500, 500), (1, 1), (1, 1), (1, 1)));
        let retry = Retry::of(&written());
        let tries = Tries::new(&retry, &load, Method::Get, b"GET");
        assert_eq!((tries.connect(1000), tries.waits(waits, 900).first_byte), (1000, 15_000));
    }
}
