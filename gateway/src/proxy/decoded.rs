//! A request body that is taken out of its content coding on its way: for whoever asks it for pieces, filters and the
//! upstream alike, the decoded bytes are the body.

use super::body::Body;
use super::h1::body::BodyError;
use super::wire::Chunk;
use crate::filter::coding::decode::{Broken, Decoder};
use crate::limits::DECODE_STEPS_PER_TURN;
use crate::rt::{Buf, yield_now};

/// A body and its decoder.
pub struct Decoded<'a> {
    source: Body<'a>,
    decoder: Decoder,
    /// A coded piece, and how much of it the decoder has taken.
    input: Option<(Chunk, usize)>,
    state: State,
    /// Since the worker's other tasks had a turn.
    steps: u32,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    Running,
    /// The source and its coding have both ended: *complete*.
    Ended,
    Broken(Broken),
}

impl<'a> Decoded<'a> {
    pub fn new(source: Body<'a>, decoder: Decoder) -> Decoded<'a> {
        Decoded { source, decoder, input: None, state: State::Running, steps: 0 }
    }

    /// The body as it comes.
    pub fn source(&self) -> &Body<'a> {
        &self.source
    }

    pub fn source_mut(&mut self) -> &mut Body<'a> {
        &mut self.source
    }

    /// Nothing more comes: the body is complete.
    pub fn ended(&self) -> bool {
        self.state == State::Ended
    }

    /// The next piece; `None`: the body has ended.
    pub async fn next(&mut self) -> Result<Option<Chunk>, BodyError> {
        loop {
            if let Some(piece) = self.decode()? {
                self.steps += 1;
                if self.steps == DECODE_STEPS_PER_TURN {
                    self.steps = 0;
                    yield_now().await;
                }
                return Ok(Some(piece));
            }
            if self.ended() {
                return Ok(None);
            }
            self.input = self.source.next().await?.map(|piece| (piece, 0));
        }
    }

    /// The next piece, if it is here already.
    pub fn next_buffered(&mut self) -> Result<Option<Chunk>, BodyError> {
        loop {
            if let Some(piece) = self.decode()? {
                return Ok(Some(piece));
            }
            if self.ended() {
                return Ok(None);
            }
            match self.source.next_buffered()? {
                Some(piece) => self.input = Some((piece, 0)),
                None if self.source.ended() => {}
                None => return Ok(None),
            }
        }
    }

    /// A piece out of what is here. `None`: more is needed, or the body has ended.
    fn decode(&mut self) -> Result<Option<Chunk>, BodyError> {
        if let State::Broken(broken) = self.state {
            return Err(BodyError::Coded(broken));
        }
        let piece = self.made()?;
        if self.input.is_none() && !self.decoder.has_more() && self.source.ended() {
            if !self.decoder.is_whole() {
                return Err(self.broken(Broken::Malformed("it ends inside its coding")));
            }
            self.state = State::Ended;
        }
        Ok(piece)
    }

    fn made(&mut self) -> Result<Option<Chunk>, BodyError> {
        loop {
            let (bytes, taken_before) = match &self.input {
                Some((chunk, taken)) => (&chunk.bytes()[*taken..], *taken),
                None if self.decoder.has_more() => (&b""[..], 0),
                None => return Ok(None),
            };
            let len = bytes.len();
            let (taken, made) = match self.decoder.step(bytes) {
                Ok((taken, made)) => (taken, Buf::copy_of(made).expect("a step is smaller than a buffer")),
                Err(broken) => return Err(self.broken(broken)),
            };
            match &mut self.input {
                Some((_, at)) if taken < len => *at = taken_before + taken,
                input => *input = None,
            }
            if !made.is_empty() {
                return Ok(Some(Chunk::Pooled(made)));
            }
        }
    }

    /// Nothing more is made of it, whoever asks.
    fn broken(&mut self, broken: Broken) -> BodyError {
        self.state = State::Broken(broken);
        self.input = None;
        BodyError::Coded(broken)
    }
}
