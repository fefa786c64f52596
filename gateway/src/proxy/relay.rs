//! One attempt of an exchange on one upstream connection: the request goes out, the answer comes back.
//!
//! The straight case, a request whose body is here already, is a write, a read and a write. While a body is still being
//! uploaded both directions move at the same time: an answer that comes early is passed on early. An early error (4xx or
//! 5xx), or an early answer that is complete, stops the upload; any other one lets it go on beside it.

use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::task::Poll;

use bytes::Bytes;
use http1::Fault;

use super::answer::Answer;
use super::body::Body;
use super::finishing::Done;
use super::forward;
use super::h1::body::BodyError;
use super::h2::body::Answered;
use super::retry;
use super::tee::Tee;
use super::upstream::call::{Deadline, Down, HeadError, Received, Up};
use super::wire::{Chunk, Halt, Wait};
use crate::filter::Transform;
use crate::filter::coding::decode::Broken;
use crate::limits::{BUFFER_BYTES, COMPRESSION_STEP_BYTES, INTERIM_MAX};
use crate::refusal::Refusal;
use crate::rt::deadline::{Cause, now_us};
use crate::rt::{Either, select, yield_now};
use crate::snapshot::UpstreamTimeouts;
use crate::tls::NoAgreement;

/// Why an attempt failed.
#[derive(Debug)]
pub struct Failure {
    pub refusal: Refusal,
    /// What we saw, for the log.
    pub detail: String,
    /// The service hung up before a byte of its answer: on a kept connection it may never have seen the request. One that is
    /// there and silent has.
    pub unanswered: bool,
    /// The service has said that it did nothing with the request: it may be sent again, whatever it is.
    pub unprocessed: bool,
}

impl Failure {
    /// What the attempt failed for, where another one could end otherwise.
    pub fn cause(&self) -> Option<retry::Cause> {
        match self.refusal {
            Refusal::UpstreamClosed => Some(retry::Cause::Reset),
            Refusal::UpstreamFirstByteTimeout | Refusal::UpstreamIdleTimeout => Some(retry::Cause::Timeout),
            _ => None,
        }
    }

    /// The exchange as a whole was over first.
    pub fn over() -> Failure {
        Failure::new(Refusal::UpstreamTotalTimeout, String::new())
    }

    pub fn new(refusal: Refusal, detail: impl Into<String>) -> Failure {
        Failure { refusal, detail: detail.into(), unanswered: false, unprocessed: false }
    }
}

/// How far the request body got.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Upload {
    Complete,
    /// The answer came first: neither connection can be used again.
    Stopped,
}

/// The request's side of an attempt, for the steps below.
pub struct Sending<'s, 'b> {
    pub body: &'s mut Body<'b>,
    pub up: Up<'s>,
    pub timeouts: UpstreamTimeouts,
    /// Who else wants the body.
    pub mirror: Option<&'s Tee>,
    /// What keeps it, to be sent again.
    pub replay: Option<&'s Tee>,
    /// The rest of it can be waited for when this attempt has ended: the client does not ask first whether to send it.
    pub settles: bool,
    /// Who is told that the answer has begun.
    pub answered: Option<Answered>,
}

impl Sending<'_, '_> {
    fn idle(&self) -> Wait {
        Wait { ms: self.timeouts.idle, cause: Cause::Idle }
    }

    fn seen(&mut self, piece: Option<&Chunk>) {
        if let Some(piece) = piece {
            self.mirror.into_iter().chain(self.replay).for_each(|tee| tee.see(piece.bytes()));
        }
    }
}

/// A final head and when its first byte was there, in microseconds of the process.
pub struct Headed {
    pub received: Received,
    pub first_byte_us: u64,
}

/// What of a request is out after the first write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sent {
    All,
    /// The body goes on.
    Part,
    /// The upstream takes nothing more. It may have answered already.
    Broken,
}

/// Sends the head, and of the body what is here.
pub async fn send_first(sending: &mut Sending<'_, '_>) -> Result<Sent, Failure> {
    let idle = sending.idle();
    let first = sending.body.next_buffered().map_err(client_failure)?;
    sending.seen(first.as_ref());
    let ended = sending.body.ended();
    let sent = match first {
        piece if ended => sending.up.end(piece, sending.body.trailers(), idle).await,
        Some(piece) => sending.up.piece(piece, idle).await,
        None => sending.up.flush(idle).await,
    };
    // A service may answer and close before it has read everything: its answer is worth more than our error.
    match sent {
        Ok(()) if ended => Ok(Sent::All),
        Ok(()) => Ok(Sent::Part),
        Err(Halt::Expired(Cause::Idle)) => Err(Failure::new(Refusal::UpstreamIdleTimeout, "the upstream took nothing")),
        Err(_) => Ok(Sent::Broken),
    }
}

/// Waits for the final head of an exchange whose request is out.
pub async fn receive(
    down: &mut Down<'_>,
    answer: &mut Answer<'_>,
    timeouts: UpstreamTimeouts,
) -> Result<Headed, Failure> {
    let first = Wait { ms: timeouts.first_byte, cause: Cause::FirstByte };
    final_head(down, Some(answer), Some(first), timeouts).await
}

/// As `receive`, for a request of our own: interim answers are nobody's business.
pub async fn receive_unseen(down: &mut Down<'_>, timeouts: UpstreamTimeouts) -> Result<Received, Failure> {
    let first = Wait { ms: timeouts.first_byte, cause: Cause::FirstByte };
    Ok(final_head(down, None, Some(first), timeouts).await?.received)
}

/// Waits for the whole body of an answer. A larger one than `bytes_max` is an answer that cannot be used.
pub async fn collect(mut body: Body<'_>, bytes_max: usize) -> Result<Bytes, Failure> {
    body.collect(bytes_max).await.map_err(|error| match error {
        BodyError::TooLarge => {
            Failure::new(Refusal::UpstreamBodyCut, format!("its body is larger than {bytes_max} bytes"))
        }
        error => upstream_body_failure(error),
    })
}

/// Reads a body to its end, for nobody.
pub async fn pass_over(mut body: Body<'_>) -> Result<(), Failure> {
    while body.next().await.map_err(upstream_body_failure)?.is_some() {}
    Ok(())
}

/// Passes interim answers on until the final head is there.
async fn final_head(
    down: &mut Down<'_>,
    mut answer: Option<&mut Answer<'_>>,
    first: Option<Wait>,
    timeouts: UpstreamTimeouts,
) -> Result<Headed, Failure> {
    let idle = Wait { ms: timeouts.idle, cause: Cause::Idle };
    for _ in 0..=INTERIM_MAX {
        let mut received = down.head(first, idle).await.map_err(head_failure)?;
        if received.head.status >= 200 || received.head.status == 101 {
            return Ok(Headed { received, first_byte_us: now_us() });
        }
        forward::interim(&mut received.head, &received.options);
        if let Some(answer) = &mut answer {
            answer.interim(&received.head).await.map_err(answer_failure)?;
        }
        down.pass(received);
    }
    Err(Failure::new(
        Refusal::UpstreamMalformed(Fault::StatusOutOfRange),
        format!("more than {INTERIM_MAX} interim answers"),
    ))
}

/// Uploads the rest of the body while waiting for the final head. `finish` passes the answer on once its head is there; it
/// is told whether the upload is complete, and runs beside it when it is not.
///
/// When the request is to be sent again, its body is where `replay` has seen it: nothing is on its way from the client.
pub async fn upload_and_receive(
    mut sending: Sending<'_, '_>,
    down: &mut Down<'_>,
    answer: &mut Answer<'_>,
    finish: impl AsyncFnOnce(Headed, &mut Down<'_>, &mut Answer<'_>, bool) -> Result<Done, Failure>,
) -> Result<(Done, Upload), Failure> {
    let timeouts = sending.timeouts;
    let (replay, settles, answered) = (sending.replay, sending.settles, sending.answered.take());
    let resumable = sending.body.is_resumable();
    let (deadline, stop) = (down.deadline(), sending.up.deadline());
    let mut upload = pin!(upload(&mut sending));
    let mut uploaded = None;
    let headed = {
        let mut head = pin!(final_head(down, Some(answer), None, timeouts));
        match select(upload.as_mut(), head.as_mut()).await {
            Either::Right(Ok(head)) => head,
            Either::Right(Err(failure)) => {
                match replay {
                    Some(tee) if settles && !tee.is_over() && failure.cause().is_some() => {
                        settle(upload.as_mut(), stop, resumable).await?;
                    }
                    Some(tee) => tee.lose(),
                    None => {}
                }
                return Err(failure);
            }
            Either::Left(Err(UploadError::Client(failure))) => return Err(failure),
            Either::Left(Err(UploadError::Stalled)) => {
                return Err(Failure::new(Refusal::UpstreamIdleTimeout, "the upstream took nothing of the request"));
            }
            Either::Left(result) => {
                // A broken upload may have an answer that explains it; the wait for that is the same.
                uploaded = Some(result.is_ok());
                deadline.arm(Wait { ms: timeouts.first_byte, cause: Cause::FirstByte });
                head.await?
            }
        }
    };
    if let Some(answered) = answered {
        answered.set();
    }
    let stop_at_once = headed.received.head.status >= 400;
    let finishing = finish(headed, down, answer, uploaded == Some(true));
    let done = match uploaded {
        Some(complete) => return Ok((finishing.await?, if complete { Upload::Complete } else { Upload::Stopped })),
        None if stop_at_once => {
            let done = finishing.await?;
            if matches!(done, Done::Again { .. }) {
                settle(upload, stop, resumable).await?;
            }
            done
        }
        None => {
            let mut finishing = pin!(finishing);
            match select(finishing.as_mut(), upload).await {
                Either::Left(done) => done?,
                Either::Right(Ok(())) => return Ok((finishing.await?, Upload::Complete)),
                Either::Right(Err(UploadError::Client(failure))) => return Err(failure),
                Either::Right(Err(_)) => finishing.await?,
            }
        }
    };
    Ok((done, Upload::Stopped))
}

/// Stops an upload where it can be gone on with. A read from the client that is not `resumable` is waited for: broken off, its
/// bytes would be lost. One that is may be of a client that waits for its answer first.
async fn settle(
    mut upload: Pin<&mut impl Future<Output = Result<(), UploadError>>>,
    stop: Deadline,
    resumable: bool,
) -> Result<(), Failure> {
    stop.cut(Cause::Idle);
    let stopped = poll_fn(|cx| match upload.as_mut().poll(cx) {
        // What was being sent is cut, so it is the client that is waited for.
        Poll::Pending if resumable => Poll::Ready(Ok(())),
        stopped => stopped,
    });
    match stopped.await {
        Err(UploadError::Client(failure)) => Err(failure),
        _ => Ok(()),
    }
}

enum UploadError {
    /// The client did not deliver the rest.
    Client(Failure),
    /// The upstream takes nothing for too long.
    Stalled,
    /// The upstream takes nothing more.
    Broken,
}

async fn upload(sending: &mut Sending<'_, '_>) -> Result<(), UploadError> {
    let idle = sending.idle();
    loop {
        let piece = sending.body.next().await.map_err(|error| UploadError::Client(client_failure(error)))?;
        sending.seen(piece.as_ref());
        let ended = piece.is_none() || sending.body.ended();
        let sent = match piece {
            piece if ended => sending.up.end(piece, sending.body.trailers(), idle).await,
            Some(piece) => sending.up.piece(piece, idle).await,
            None => Ok(()),
        };
        match sent {
            Ok(()) if ended => return Ok(()),
            Ok(()) => {}
            Err(Halt::Expired(Cause::Idle)) => return Err(UploadError::Stalled),
            Err(_) => return Err(UploadError::Broken),
        }
    }
}

/// Passes the answer's body on, piece by piece, to its end.
pub async fn download(
    mut body: Body<'_>,
    answer: &mut Answer<'_>,
    transforms: &mut [Box<dyn Transform>],
) -> Result<(), Failure> {
    loop {
        let mut piece = body.next_buffered().map_err(upstream_body_failure)?;
        if piece.is_none() && !body.ended() {
            // Nothing to send the head together with: it leaves now, so the client sees it as early as can be.
            answer.flush().await.map_err(answer_failure)?;
            piece = body.next().await.map_err(upstream_body_failure)?;
        }
        if !transforms.is_empty() {
            let then = match body.ended() {
                true => Then::End,
                false if body.is_buffered() => Then::More,
                false => Then::Wait,
            };
            // On the heap: most answers go as they are, and should not carry the room for it.
            piece = Some(Box::pin(transformed(piece, transforms, then)).await);
        }
        if body.ended() {
            return answer.end(piece, body.trailers()).await.map_err(answer_failure);
        }
        if let Some(piece) = piece
            && !piece.is_empty()
        {
            answer.piece(piece).await.map_err(answer_failure)?;
        }
    }
}

/// Sends a body that is here whole, which filters may change.
pub async fn send_whole(
    body: Bytes,
    answer: &mut Answer<'_>,
    transforms: &mut [Box<dyn Transform>],
) -> Result<(), Halt> {
    if transforms.is_empty() {
        return answer.end((!body.is_empty()).then_some(Chunk::Shared(body)), None).await;
    }
    let mut rest = body;
    while rest.len() > BUFFER_BYTES {
        let piece = rest.split_to(BUFFER_BYTES);
        let piece = transformed(Some(Chunk::Shared(piece)), transforms, Then::More).await;
        if !piece.is_empty() {
            answer.piece(piece).await?;
        }
    }
    let piece = transformed(Some(Chunk::Shared(rest)), transforms, Then::End).await;
    answer.end(Some(piece), None).await
}

/// What follows a piece.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Then {
    More,
    /// More, but it is not here yet.
    Wait,
    End,
}

/// What `transforms` make of `piece`, step by step, so that the worker's other tasks do not wait for all of it.
async fn transformed(piece: Option<Chunk>, transforms: &mut [Box<dyn Transform>], then: Then) -> Chunk {
    let mut rest = piece.as_ref().map_or(&b""[..], Chunk::bytes);
    let mut whole = Vec::new();
    while rest.len() > COMPRESSION_STEP_BYTES {
        let (step, behind) = rest.split_at(COMPRESSION_STEP_BYTES);
        whole.append(&mut stepped(step, transforms, Then::More));
        rest = behind;
        yield_now().await;
    }
    whole.append(&mut stepped(rest, transforms, then));
    Chunk::Shared(whole.into())
}

/// What `transforms`, one after the other, make of `bytes`.
fn stepped(bytes: &[u8], transforms: &mut [Box<dyn Transform>], then: Then) -> Vec<u8> {
    let mut last = Vec::new();
    for (at, transform) in transforms.iter_mut().enumerate() {
        let before = std::mem::take(&mut last);
        let bytes = if at == 0 { bytes } else { &before };
        if !bytes.is_empty() {
            transform.piece(bytes, &mut last);
        }
        match then {
            Then::More => {}
            Then::Wait => transform.flush(&mut last),
            Then::End => transform.end(&mut last),
        }
    }
    last
}

pub fn malformed(fault: Fault) -> Failure {
    Failure::new(Refusal::UpstreamMalformed(fault), fault.code())
}

fn head_failure(error: HeadError) -> Failure {
    let (refusal, detail, received) = match error {
        HeadError::Malformed(fault) => return malformed(fault),
        HeadError::Stream(error) => return stream_failure(&error),
        HeadError::Halted { halt: Halt::Expired(Cause::FirstByte), received } => {
            (Refusal::UpstreamFirstByteTimeout, String::new(), received)
        }
        HeadError::Halted { halt: Halt::Expired(_), received } => {
            (Refusal::UpstreamIdleTimeout, String::new(), received)
        }
        HeadError::Halted { halt: Halt::Broken(error), received } => match NoAgreement::after_handshake(&error) {
            Some(refused) if !received => (Refusal::UpstreamTlsFailed, refused.detail, received),
            _ => (Refusal::UpstreamClosed, error.to_string(), received),
        },
        HeadError::Halted { halt: Halt::Closed | Halt::Slow, received } => {
            let detail = if received { "closed inside its head" } else { "closed without an answer" };
            (Refusal::UpstreamClosed, detail.to_owned(), received)
        }
    };
    let unanswered = !received && refusal == Refusal::UpstreamClosed;
    Failure { unanswered, ..Failure::new(refusal, detail) }
}

/// Why a stream ended before its answer (RFC 9113 §8.7).
fn stream_failure(error: &h2::Error) -> Failure {
    let detail = error.to_string();
    if !error.is_remote() && !error.is_io() {
        return Failure::new(Refusal::UpstreamHttp2Broken, detail);
    }
    // Refused, or beyond the last stream that a GOAWAY speaks of.
    let unprocessed = error.is_go_away() || error.reason() == Some(h2::Reason::REFUSED_STREAM);
    Failure { unanswered: error.is_io(), unprocessed, ..Failure::new(Refusal::UpstreamClosed, detail) }
}

/// The client's body did not come to its end.
pub fn client_failure(error: BodyError) -> Failure {
    match error {
        BodyError::TooLarge | BodyError::Coded(Broken::TooLarge) => Failure::new(Refusal::BodyTooLarge, ""),
        BodyError::Coded(Broken::TooDense) => Failure::new(Refusal::BodyTooDense, ""),
        BodyError::Coded(Broken::Malformed(what)) => Failure::new(Refusal::BodyCodingMalformed, what),
        BodyError::Malformed(fault) => Failure::new(Refusal::Malformed(fault), "in the request body"),
        BodyError::Halted(Halt::Slow) => Failure::new(Refusal::BodyTooSlow, ""),
        BodyError::Halted(Halt::Expired(Cause::Body)) => Failure::new(Refusal::BodyTimeout, ""),
        BodyError::Halted(Halt::Expired(_)) => Failure::new(Refusal::UpstreamTotalTimeout, ""),
        BodyError::Halted(Halt::Closed) => Failure::new(Refusal::ClientGone, "closed inside its body"),
        BodyError::Halted(Halt::Broken(error)) => Failure::new(Refusal::ClientGone, error.to_string()),
    }
}

fn upstream_body_failure(error: BodyError) -> Failure {
    let (refusal, detail) = match error {
        BodyError::Halted(Halt::Expired(_)) => (Refusal::UpstreamIdleTimeout, "inside its body".to_owned()),
        BodyError::Malformed(fault) => (Refusal::UpstreamBodyCut, fault.code().to_owned()),
        BodyError::Halted(Halt::Broken(error)) => (Refusal::UpstreamBodyCut, error.to_string()),
        // No answer's body is decoded.
        BodyError::Halted(Halt::Closed | Halt::Slow) | BodyError::TooLarge | BodyError::Coded(_) => {
            (Refusal::UpstreamBodyCut, "closed inside its body".to_owned())
        }
    };
    Failure::new(refusal, detail)
}

/// The client did not take the answer.
pub fn answer_failure(halt: Halt) -> Failure {
    match halt {
        Halt::Expired(Cause::Write) => Failure::new(Refusal::ClientStalled, ""),
        Halt::Slow => Failure::new(Refusal::ClientTooSlow, ""),
        Halt::Broken(error) => Failure::new(Refusal::ClientGone, error.to_string()),
        Halt::Closed | Halt::Expired(_) => Failure::new(Refusal::ClientGone, ""),
    }
}
