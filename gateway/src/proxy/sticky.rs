//! What keeps a client with its endpoint, in one exchange: the cookie is taken out of the request, and put into an answer when
//! somebody else has answered than it says.

use http1::Known;

use super::fields::Fields;
use super::head::ResponseHead;
use crate::balance::{Endpoint, Endpoints, Session, Sticky};
use crate::observe::metrics::{Counter, UpstreamCore};

/// What a request's cookie said, and what may have to be said of the answer.
pub struct Affinity<'a> {
    endpoints: &'a Endpoints,
    sticky: &'a Sticky,
    came_with: CameWith,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum CameWith {
    Nothing,
    /// A cookie that is not ours, or not any more.
    Unknown,
    Session(Session),
}

impl<'a> Affinity<'a> {
    /// Takes the cookie out of `fields`: it is no business of the service's. `None`: these endpoints have none. The first one
    /// that is good counts.
    pub fn take(endpoints: &'a Endpoints, fields: &mut Fields) -> Option<Affinity<'a>> {
        let sticky = endpoints.sticky()?;
        let mut came_with = CameWith::Nothing;
        if let Some(values) = take_cookies(fields, sticky.cookie().as_bytes()) {
            let now_s = sticky.now_s();
            let session = values.iter().find_map(|value| endpoints.session(value, now_s));
            came_with = session.map_or(CameWith::Unknown, CameWith::Session);
        }
        Some(Affinity { endpoints, sticky, came_with })
    }

    /// Whom it names, as an index into the endpoints.
    pub fn held(&self) -> Option<u16> {
        match self.came_with {
            CameWith::Session(session) => Some(session.at),
            CameWith::Nothing | CameWith::Unknown => None,
        }
    }

    /// `endpoint` has answered: names it in `head`, unless the client knows. An answer that any cache may keep is not the place:
    /// everybody would get the cookie. What is set for one client must not be kept for others (RFC 9111 §7.3 has no rule for
    /// it, so `private` is added).
    pub fn tell(&self, endpoint: &Endpoint, scheme: &str, head: &mut ResponseHead, series: &UpstreamCore) {
        let of_session = |session: Session| std::ptr::eq(&*self.endpoints.list()[usize::from(session.at)], endpoint);
        let (counter, is_known): (&Counter, bool) = match self.came_with {
            CameWith::Nothing => (&series.sessions_none, false),
            CameWith::Unknown => (&series.sessions_unknown, false),
            CameWith::Session(session) if of_session(session) => (&series.sessions_kept, !session.is_old),
            CameWith::Session(_) => (&series.sessions_moved, false),
        };
        counter.inc();
        if is_known {
            return;
        }
        let Caching { is_shared, is_private } = Caching::of(&head.fields);
        if is_shared {
            return;
        }
        head.fields.add(b"set-cookie", self.sticky.set(endpoint, self.sticky.now_s(), scheme).as_bytes());
        if !is_private {
            head.fields.add(b"cache-control", b"private");
        }
    }
}

/// What an answer says about caches.
struct Caching {
    /// Shared ones may keep it, by its own word.
    is_shared: bool,
    /// They must not.
    is_private: bool,
}

impl Caching {
    fn of(fields: &Fields) -> Caching {
        let lines = fields.iter().filter(|(_, _, known)| *known == Known::CacheControl).map(|(_, value, _)| value);
        let mut caching = Caching { is_shared: false, is_private: false };
        for directive in lines.flat_map(|line| line.split(|&byte| byte == b',')) {
            let (name, argument) = match memchr::memchr(b'=', directive) {
                Some(at) => (directive[..at].trim_ascii(), true),
                None => (directive.trim_ascii(), false),
            };
            let is = |word: &[u8]| name.eq_ignore_ascii_case(word);
            caching.is_shared |= is(b"public") || is(b"s-maxage");
            // `private="name"` is about one field.
            caching.is_private |= (is(b"private") && !argument) || is(b"no-store");
        }
        caching
    }
}

/// Takes the cookies of that name out, and returns what they hold. `None`: there is none, and nothing was changed. What is left
/// becomes one field (RFC 6265 §5.4 wants no more).
fn take_cookies(fields: &mut Fields, name: &[u8]) -> Option<Vec<Box<[u8]>>> {
    let mut values: Vec<Box<[u8]>> = Vec::new();
    let mut left = Vec::new();
    let lines = fields.iter().filter(|(_, _, known)| *known == Known::Cookie).map(|(_, value, _)| value);
    let pairs = lines.flat_map(|line| line.split(|&byte| byte == b';')).map(<[u8]>::trim_ascii);
    for pair in pairs.filter(|pair| !pair.is_empty()) {
        match memchr::memchr(b'=', pair) {
            Some(at) if pair[..at] == *name => {
                let value = &pair[at + 1..];
                let plain = value.strip_prefix(b"\"").and_then(|inner| inner.strip_suffix(b"\"")).unwrap_or(value);
                values.push(plain.into());
            }
            _ => {
                if !left.is_empty() {
                    left.extend_from_slice(b"; ");
                }
                left.extend_from_slice(pair);
            }
        }
    }
    if values.is_empty() {
        return None;
    }
    fields.remove_known(Known::Cookie);
    if !left.is_empty() {
        fields.add(b"cookie", &left);
    }
    Some(values)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_cookie_is_taken_out_and_the_others_stay() {
        let check = |lines: &[&str], taken: Option<&[&str]>, left: &[&str]| {
            let mut fields = Fields::new();
            lines.iter().for_each(|line| fields.add(b"cookie", line.as_bytes()));
            let values = take_cookies(&mut fields, b"at");
            let values = values.map(|values| {
                values.iter().map(|value| String::from_utf8_lossy(value).into_owned()).collect::<Vec<_>>()
            });
            assert_eq!(values, taken.map(|taken| taken.iter().map(|&one| one.to_owned()).collect()), "{lines:?}");
            let now: Vec<String> =
                fields.iter().map(|(_, value, _)| String::from_utf8_lossy(value).into_owned()).collect();
            assert_eq!(now, left, "{lines:?}");
        };
        check(&[], None, &[]);
        check(&["a=b; AT=c;attn=d; at"], None, &["a=b; AT=c;attn=d; at"]);
        check(&["at=1"], Some(&["1"]), &[]);
        check(&["a=b; at=\"1\";c"], Some(&["1"]), &["a=b; c"]);
        check(&["at=1; a=at=9", "b=c; at=", ";;at=2"], Some(&["1", "", "2"]), &["a=at=9; b=c"]);
    }

    #[test]
    fn who_may_keep_an_answer_is_what_it_says() {
        let check = |lines: &[&str], expected: (bool, bool)| {
            let mut fields = Fields::new();
            lines.iter().for_each(|line| fields.add(b"cache-control", line.as_bytes()));
            let Caching { is_shared, is_private } = Caching::of(&fields);
            assert_eq!((is_shared, is_private), expected, "{lines:?}");
        };
        check(&[], (false, false));
        check(&["max-age=60, must-revalidate"], (false, false));
        check(&["max-age=60", "Public"], (true, false));
        check(&["s-maxage = 5"], (true, false));
        check(&["private"], (false, true));
        check(&["private=\"x-user\""], (false, false));
        check(&["no-cache, no-store"], (false, true));
    }
}
