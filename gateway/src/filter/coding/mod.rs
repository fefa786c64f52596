//! Content codings (RFC 9110 §8.4.1): their names, and which one a client would have an answer in (§12.5.3).

pub mod encode;

use http1::Known;

use crate::proxy::fields::Fields;

/// A coding we speak.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Coding {
    /// RFC 1952
    Gzip,
    /// RFC 7932
    Br,
    /// RFC 8878
    Zstd,
}

impl Coding {
    const ALL: [Coding; 3] = [Coding::Gzip, Coding::Br, Coding::Zstd];

    /// As `Content-Encoding` names it.
    pub fn name(self) -> &'static str {
        match self {
            Coding::Gzip => "gzip",
            Coding::Br => "br",
            Coding::Zstd => "zstd",
        }
    }

    /// `x-gzip` is `gzip` (RFC 9110 §8.4.1.3).
    pub fn of(name: &[u8]) -> Option<Coding> {
        if name.eq_ignore_ascii_case(b"x-gzip") {
            return Some(Coding::Gzip);
        }
        Coding::ALL.into_iter().find(|coding| name.eq_ignore_ascii_case(coding.name().as_bytes()))
    }
}

/// Weight of a coding in thousandths; 0 is "not acceptable".
type Weight = u16;

/// What a client says about codings.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Accepted {
    /// by `Coding as usize`
    codings: [Weight; Coding::ALL.len()],
    /// Of no coding at all, if the client names it.
    identity: Option<Weight>,
}

impl Accepted {
    /// Reads `Accept-Encoding`. Without the field a client takes anything by the letter, but those that do not send it do
    /// not decode either: nothing is accepted then, as with an empty one.
    pub fn of(fields: &Fields) -> Accepted {
        let mut named: [Option<Weight>; Coding::ALL.len()] = [None; Coding::ALL.len()];
        let (mut others, mut identity) = (0, None);
        let values = fields.iter().filter(|&(_, _, known)| known == Known::AcceptEncoding).map(|(_, value, _)| value);
        for element in values.flat_map(|value| value.split(|&byte| byte == b',')) {
            let mut parts = element.split(|&byte| byte == b';').map(<[u8]>::trim_ascii);
            let name = parts.next().unwrap_or_default();
            let weight = parts.next().map_or(1000, weight);
            match Coding::of(name) {
                Some(coding) => named[coding as usize] = Some(weight),
                None if name == b"*" => others = weight,
                None if name.eq_ignore_ascii_case(b"identity") => identity = Some(weight),
                None => {}
            }
        }
        Accepted { codings: named.map(|weight| weight.unwrap_or(others)), identity }
    }

    /// The coding to use, of those offered the first among the client's dearest. `None`: none at all is dearer, or the
    /// client takes none of them. A client that takes nothing gets the answer uncoded (RFC 9110 §12.5.3).
    pub fn choose(&self, offered: &[Coding]) -> Option<Coding> {
        let weight = |coding: &Coding| self.codings[*coding as usize];
        // `max_by_key` takes the last of equals.
        let dearest = *offered.iter().rev().max_by_key(|coding| weight(coding))?;
        (weight(&dearest) > 0 && weight(&dearest) >= self.identity.unwrap_or(0)).then_some(dearest)
    }
}

/// `q=0.5` in thousandths (RFC 9110 §12.4.2). What is malformed is not wanted.
fn weight(parameter: &[u8]) -> Weight {
    let [b'q' | b'Q', rest @ ..] = parameter else { return 0 };
    let Some((b'=', value)) = rest.trim_ascii_start().split_first().map(|(first, value)| (*first, value.trim_ascii()))
    else {
        return 0;
    };
    let (whole, digits) = match value {
        [whole] => (*whole, &b""[..]),
        [whole, b'.', digits @ ..] if digits.len() <= 3 => (*whole, digits),
        _ => return 0,
    };
    let mut thousandths = 0;
    for place in 0..3 {
        let digit = match digits.get(place) {
            None => 0,
            Some(digit @ b'0'..=b'9') => Weight::from(digit - b'0'),
            Some(_) => return 0,
        };
        thousandths = thousandths * 10 + digit;
    }
    match whole {
        b'0' => thousandths,
        b'1' if thousandths == 0 => 1000,
        _ => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_dearest_coding_is_chosen() {
        let check = |accept: &[&str], expected: &str| {
            let mut fields = Fields::new();
            accept.iter().for_each(|value| fields.add(b"accept-encoding", value.as_bytes()));
            let chosen = Accepted::of(&fields).choose(&[Coding::Zstd, Coding::Br, Coding::Gzip]);
            assert_eq!(chosen.map_or("", Coding::name), expected, "{accept:?}");
        };
        check(&[], "");
        check(&[""], "");
        check(&["gzip"], "gzip");
        check(&["GZIP"], "gzip");
        check(&["x-gzip"], "gzip");
        check(&["compress"], "");
        check(&["gzip, deflate, br, zstd"], "zstd");
        check(&["gzip, br"], "br");
        check(&["gzip", "br"], "br");
        check(&["gzip;q=1, br;q=0.9"], "gzip");
        check(&["gzip ; q = 1.000 ,br;q=0.999"], "gzip");
        check(&["zstd;q=0, br;Q=0.001"], "br");
        check(&["*"], "zstd");
        check(&["*;q=0"], "");
        check(&["*;q=0, gzip"], "gzip");
        check(&["*;q=0.5, gzip;q=0.4, zstd;q=0"], "br");
        check(&["identity;q=0"], "");
        check(&["identity;q=0, gzip;q=0.1"], "gzip");
        check(&["identity, gzip;q=0.5"], "");
        check(&["identity;q=0.5, gzip;q=0.5"], "gzip");
        check(&["gzip;q=1.001"], "");
        check(&["gzip;q=2"], "");
        check(&["gzip;q=0.1234"], "");
        check(&["gzip;q=-1"], "");
        check(&["gzip;q="], "");
        check(&["gzip;q"], "");
        check(&["gzip;level=9"], "");
        check(&["gzip;q=0.x"], "");
        check(&[",, ;, gzip"], "gzip");
    }
}
