//! Runs whole messages through the codec the way a connection does, in pieces of any size.

#![allow(dead_code, reason = "each test file is its own crate and uses a part of this")]

use http1::*;

pub(crate) const LIMITS: HeadLimits = HeadLimits { head_bytes: 4096, fields: 16, target_bytes: 512 };
pub(crate) const CHUNKS: ChunkLimits = ChunkLimits { extension_bytes: 64, trailer_bytes: 256, trailer_fields: 4 };

/// Everything the codec found out about one message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Message {
    pub(crate) start: Start,
    pub(crate) fields: Vec<(Vec<u8>, Vec<u8>)>,
    pub(crate) framing: Framing,
    pub(crate) options: ConnectionOptions,
    pub(crate) body: Vec<u8>,
    pub(crate) trailers: Vec<(Vec<u8>, Vec<u8>)>,
    /// Bytes used, head and body. What follows is the next message.
    pub(crate) used: usize,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Start {
    Request(RequestLine, Target),
    Response(StatusLine),
}

/// What a message is read as.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Side {
    Request,
    /// To this method.
    Response(Method),
}

/// The verdict on `bytes`, given in the pieces that end at `cuts` and at the end. `None`: it is not complete.
pub(crate) fn read(side: Side, bytes: &[u8], cuts: &[usize]) -> Result<Option<Message>, Fault> {
    let mut ends = cuts.iter().copied().filter(|&cut| cut < bytes.len()).chain([bytes.len()]);
    let mut scanner = match side {
        Side::Request => Scanner::default(),
        Side::Response(_) => Scanner::response(),
    };
    let mut fields = Vec::new();
    let (start, head_bytes, mut end) = loop {
        let Some(end) = ends.next() else { return Ok(None) };
        let received = &bytes[..end];
        match side {
            Side::Request => {
                if let Some(line) = read_request(&mut scanner, received, &LIMITS, &mut fields)? {
                    let target = parse_target(received, &line, line.host)?;
                    break (Start::Request(line, target), line.head_bytes, end);
                }
            }
            Side::Response(_) => {
                if let Some(line) = read_response(&mut scanner, received, &LIMITS, &mut fields)? {
                    break (Start::Response(line), line.head_bytes, end);
                }
            }
        }
    };
    let head = &bytes[..head_bytes];
    let framing = match (&start, side) {
        (Start::Request(line, _), _) => request_framing(head, line.version, &fields)?,
        (Start::Response(line), Side::Response(method)) => {
            response_framing(head, method, line.status, line.version, &fields)?
        }
        (Start::Response(_), Side::Request) => unreachable!("a request was read"),
    };
    let mut message = Message {
        start,
        fields: pairs(head, &fields),
        framing,
        options: connection_options(head, &fields),
        body: Vec::new(),
        trailers: Vec::new(),
        used: head_bytes,
    };
    match framing {
        Framing::None => return Ok(Some(message)),
        Framing::UntilClose => {
            message.body.extend_from_slice(&bytes[head_bytes..]);
            message.used = bytes.len();
            return Ok(Some(message));
        }
        Framing::Length(length) => {
            let Some(used) = usize::try_from(length).ok().and_then(|length| length.checked_add(head_bytes)) else {
                return Ok(None);
            };
            let Some(body) = bytes.get(head_bytes..used) else { return Ok(None) };
            message.body.extend_from_slice(body);
            message.used = used;
            return Ok(Some(message));
        }
        Framing::Chunked => {}
    }
    let mut decoder = Decoder::new(CHUNKS);
    loop {
        let input = &bytes[message.used..end];
        let (used, decoded) = decoder.decode(input)?;
        assert!(used <= input.len());
        message.used += used;
        match decoded {
            Decoded::Data { start, len } => {
                assert!(len > 0 && start + len <= used, "data lies in what was used");
                message.body.extend_from_slice(&input[start..start + len]);
            }
            Decoded::More => {
                assert_eq!(used, input.len(), "all input is used before more is asked for");
                match ends.next() {
                    Some(next) => end = next,
                    None => return Ok(None),
                }
            }
            Decoded::End => {
                let (arena, trailers) = decoder.trailers();
                message.trailers = pairs(arena, trailers);
                return Ok(Some(message));
            }
        }
    }
}

pub(crate) fn pairs(bytes: &[u8], fields: &[Field]) -> Vec<(Vec<u8>, Vec<u8>)> {
    fields.iter().map(|field| (field.name.of(bytes).to_vec(), field.value.of(bytes).to_vec())).collect()
}

/// The verdict on `bytes`, which must be the same whole, byte by byte, and cut in two anywhere.
pub(crate) fn read_every_way(side: Side, bytes: &[u8]) -> Result<Option<Message>, Fault> {
    let whole = read(side, bytes, &[]);
    let each: Vec<usize> = (0..bytes.len()).collect();
    assert_eq!(read(side, bytes, &each), whole, "byte by byte: {}", text(bytes));
    for cut in 0..bytes.len() {
        assert_eq!(read(side, bytes, &[cut]), whole, "cut at {cut}: {}", text(bytes));
    }
    whole
}

pub(crate) fn text(bytes: &[u8]) -> String {
    bytes.escape_ascii().to_string()
}

/// A request with these lines before its empty line.
pub(crate) fn request(lines: &str) -> Vec<u8> {
    [lines.replace('\n', "\r\n").as_bytes(), b"\r\n\r\n"].concat()
}
