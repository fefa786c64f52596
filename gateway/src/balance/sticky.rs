//! Which endpoint a client's cookie names, and the cookie that names one.
//!
//! A cookie holds no address. An endpoint is known by a MAC over its address, of which nobody without the secret can tell what
//! it stands for; who holds the cookie can neither make one for another endpoint nor prolong its own. 28 bytes in base64url:
//!
//! ```text
//! endpoint 8 | good until 4, seconds of Unix time, 0: for ever | HMAC-SHA256 over both, cut to 16
//! ```
//!
//! The same secrets give the same cookies on every gateway, and no state is kept.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::sync::{Arc, LazyLock};
use std::time::UNIX_EPOCH;

use aws_lc_rs::hmac;
use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD as BASE64;
use subtle::ConstantTimeEq as _;
use zeroize::Zeroizing;

use super::Endpoint;
use crate::config::model::{self, CookieSecure};

const ID_BYTES: usize = 8;
const UNTIL_BYTES: usize = 4;
const TAG_BYTES: usize = 16;
const PAYLOAD_BYTES: usize = ID_BYTES + UNTIL_BYTES;
const BYTES: usize = PAYLOAD_BYTES + TAG_BYTES;

/// Where none is written: reloads keep it, and nobody else has it.
static SECRET_OF_PROCESS: LazyLock<Zeroizing<[u8; 32]>> = LazyLock::new(|| {
    let mut secret = Zeroizing::new([0; 32]);
    getrandom::fill(&mut *secret).expect("the kernel has random bytes for a running process");
    secret
});

/// What a cookie calls an endpoint.
type Id = [u8; ID_BYTES];

/// How clients are kept with endpoints, as it is written.
#[derive(Debug, Clone)]
pub struct Sticky {
    cookie: Box<str>,
    /// The first one signs.
    keys: Vec<hmac::Key>,
    max_age_s: Option<u32>,
    secure: CookieSecure,
    /// Attributes that are always the same.
    attributes: Box<str>,
}

/// What a cookie says that is good.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Session {
    /// index into the list of the endpoints that were asked
    pub at: u16,
    /// It should be sent anew: half of its time is over, or its secret is about to go.
    pub is_old: bool,
}

impl Sticky {
    pub fn of(written: &model::Sticky) -> Sticky {
        let of_secret = |secret: &[u8]| hmac::Key::new(hmac::HMAC_SHA256, secret);
        let keys = match &written.keys {
            Some(keys) => {
                let secrets = keys.iter().filter_map(|key| key.signing_secret.as_ref());
                secrets.map(|secret| of_secret(secret.expose().as_bytes())).collect()
            }
            None => vec![of_secret(&**SECRET_OF_PROCESS)],
        };
        let mut attributes = format!("; Path={}", written.path);
        let max_age_s = written.max_age.map(|age| u32::try_from(age.0.as_secs()).unwrap_or(u32::MAX));
        if let Some(seconds) = max_age_s {
            // Writing to memory does not fail.
            let _ = write!(attributes, "; Max-Age={seconds}");
        }
        if written.http_only {
            attributes.push_str("; HttpOnly");
        }
        let _ = write!(attributes, "; SameSite={}", written.same_site.name());
        Sticky {
            cookie: written.cookie.as_str().into(),
            keys,
            max_age_s,
            secure: written.secure,
            attributes: attributes.into(),
        }
    }

    /// Name of the cookie.
    pub fn cookie(&self) -> &str {
        &self.cookie
    }

    /// Seconds of Unix time, where a cookie has an end.
    pub fn now_s(&self) -> u32 {
        match self.max_age_s {
            Some(_) => UNIX_EPOCH.elapsed().map_or(0, |since| u32::try_from(since.as_secs()).unwrap_or(u32::MAX)),
            None => 0,
        }
    }

    /// The `Set-Cookie` that names `endpoint`. `scheme`: how the client came.
    pub fn set(&self, endpoint: &Endpoint, now_s: u32, scheme: &str) -> String {
        let mut text = format!("{}={}{}", self.cookie, self.value(&endpoint.label, now_s), self.attributes);
        let is_secure = match self.secure {
            CookieSecure::Auto => scheme == "https",
            CookieSecure::Always => true,
            CookieSecure::Never => false,
        };
        if is_secure {
            text.push_str("; Secure");
        }
        text
    }

    fn value(&self, label: &str, now_s: u32) -> String {
        let key = self.keys.first().expect("config::load wants one");
        let until_s = self.max_age_s.map_or(0, |age| now_s.saturating_add(age));
        let mut bytes = [0; BYTES];
        bytes[..ID_BYTES].copy_from_slice(&self.id(key, label));
        bytes[ID_BYTES..PAYLOAD_BYTES].copy_from_slice(&until_s.to_be_bytes());
        let tag = tag(key, &bytes[..PAYLOAD_BYTES]);
        bytes[PAYLOAD_BYTES..].copy_from_slice(&tag);
        BASE64.encode(bytes)
    }

    /// A cookie of one upstream is not another's: theirs have other names, or the same endpoint is meant.
    fn id(&self, key: &hmac::Key, label: &str) -> Id {
        let mut signing = hmac::Context::with_key(key);
        for part in ["endpoint", &self.cookie, label] {
            signing.update(part.as_bytes());
            // Neither a token nor an address holds one.
            signing.update(&[0]);
        }
        signing.sign().as_ref()[..ID_BYTES].try_into().expect("a SHA-256 has more bytes")
    }
}

fn tag(key: &hmac::Key, payload: &[u8]) -> [u8; TAG_BYTES] {
    // No id is made of such a text: those begin with another word.
    let mut signing = hmac::Context::with_key(key);
    signing.update(b"session\0");
    signing.update(payload);
    signing.sign().as_ref()[..TAG_BYTES].try_into().expect("a SHA-256 has more bytes")
}

/// What cookies call the endpoints of a list.
#[derive(Debug)]
pub(super) struct Names {
    sticky: Arc<Sticky>,
    /// For each key, indices into the list.
    by_id: Vec<HashMap<Id, u16>>,
}

impl Names {
    /// Costs a MAC for each endpoint and key. Of one address that is there twice the first is meant.
    pub(super) fn new(sticky: &Arc<Sticky>, list: &[Arc<Endpoint>]) -> Names {
        let of_key = |key: &hmac::Key| {
            let ids = list.iter().enumerate().rev().map(|(at, endpoint)| (sticky.id(key, &endpoint.label), at as u16));
            ids.collect()
        };
        Names { sticky: sticky.clone(), by_id: sticky.keys.iter().map(of_key).collect() }
    }

    pub(super) fn sticky(&self) -> &Sticky {
        &self.sticky
    }

    /// What the value of a cookie says. `None`: nothing that we said, or not for now, or of an endpoint that is not there.
    pub(super) fn read(&self, value: &[u8], now_s: u32) -> Option<Session> {
        let mut bytes = [0; BYTES];
        // The slice is as long as what is decoded must be; a longer text does not fit.
        let length = BASE64.decode_slice(value, &mut bytes).ok()?;
        let (payload, said) = bytes.split_at(PAYLOAD_BYTES);
        let signed = |key: &&hmac::Key| bool::from(tag(key, payload).ct_eq(said));
        let nth = self.sticky.keys.iter().position(|key| length == BYTES && signed(&key))?;
        let (id, until) = payload.split_at(ID_BYTES);
        let until_s = u32::from_be_bytes(until.try_into().ok()?);
        let left_s = match (until_s, self.sticky.max_age_s) {
            // Made when there was no end to it, or now that there is none.
            (0, None) => u32::MAX,
            (0, Some(_)) => 0,
            (until_s, _) => until_s.checked_sub(now_s).filter(|&left| left > 0)?,
        };
        let at = *self.by_id[nth].get(id)?;
        let is_old = nth > 0 || self.sticky.max_age_s.map_or(until_s != 0, |age| left_s < age / 2);
        Some(Session { at, is_old })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::balance::Identity;
    use crate::rt::Peer;
    use crate::tables::health::Health;

    const A: &str = "0123456789abcdef0123456789abcdef";
    const B: &str = "fedcba9876543210fedcba9876543210";

    fn sticky(keys: &[&str], rest: &str) -> Arc<Sticky> {
        let keys: Vec<String> = keys.iter().map(|key| format!("{{ signing_secret = '{key}' }}")).collect();
        let text = format!("cookie = 'at'\nkeys = [{}]\n{rest}", keys.join(","));
        Arc::new(Sticky::of(&toml::from_str(&text).expect(&text)))
    }

    fn list(count: u16) -> Vec<Arc<Endpoint>> {
        let health = Health::default();
        let endpoint = |port: u16| {
            let peer = Peer::Tcp(([10, 0, 0, 1], port).into());
            let label = peer.to_string();
            Arc::new(Endpoint {
                state: health.of("orders", &label),
                identity: Identity::new(peer, Arc::default()),
                written: label.clone(),
                label,
                weight: 1,
                priority: 0,
                about: Arc::default(),
            })
        };
        (1..=count).map(endpoint).collect()
    }

    fn at(session: Option<Session>) -> Option<(u16, bool)> {
        session.map(|session| (session.at, session.is_old))
    }

    #[test]
    fn a_cookie_names_its_endpoint_whatever_the_order_of_the_list() {
        let (one, mut list) = (sticky(&[A], ""), list(5));
        let values: Vec<String> = list.iter().map(|endpoint| one.value(&endpoint.label, 0)).collect();
        for (nth, value) in (0..).zip(&values) {
            assert_eq!(at(Names::new(&one, &list).read(value.as_bytes(), 0)), Some((nth, false)));
            assert!(
                value.len() == 38 && value.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte))
            );
        }
        list.reverse();
        assert_eq!(at(Names::new(&one, &list).read(values[0].as_bytes(), 0)), Some((4, false)));
        list.pop();
        assert_eq!(at(Names::new(&one, &list).read(values[0].as_bytes(), 0)), None, "it is gone");
    }

    #[test]
    fn nothing_else_is_a_cookie() {
        let (one, list) = (sticky(&[A], ""), list(2));
        let names = Names::new(&one, &list);
        let good = one.value(&list[0].label, 0);
        for at in 0..good.len() {
            let mut forged = good.clone().into_bytes();
            forged[at] = if forged[at] == b'A' { b'B' } else { b'A' };
            // The last character has two bits that mean nothing, and must be zero.
            assert_eq!(names.read(&forged, 0), None, "{at}");
            assert_eq!(names.read(&good.as_bytes()[..at], 0), None, "{at}");
        }
        for text in
            [format!("{good}A"), format!("{good}="), format!("{good}{good}"), list[0].label.clone(), String::new()]
        {
            assert_eq!(names.read(text.as_bytes(), 0), None, "{text}");
        }
        let other = sticky(&[B], "").value(&list[0].label, 0);
        assert_eq!(names.read(other.as_bytes(), 0), None);
    }

    #[test]
    fn secrets_change_one_after_the_other() {
        let list = list(2);
        let by_a = sticky(&[A], "").value(&list[1].label, 0);
        let read = |keys: &[&str]| at(Names::new(&sticky(keys, ""), &list).read(by_a.as_bytes(), 0));
        assert_eq!(read(&[A, B]), Some((1, false)));
        assert_eq!(read(&[B, A]), Some((1, true)), "to be signed anew before its secret goes");
        assert_eq!(read(&[B]), None);
    }

    #[test]
    fn a_cookie_ends_and_is_renewed_before() {
        let list = list(2);
        let hour = sticky(&[A], "max_age = '1h'");
        let value = hour.value(&list[0].label, 1_000_000);
        let read = |sticky: &Arc<Sticky>, now_s| at(Names::new(sticky, &list).read(value.as_bytes(), now_s));
        assert_eq!(read(&hour, 1_000_000), Some((0, false)));
        assert_eq!(read(&hour, 1_001_800), Some((0, false)));
        assert_eq!(read(&hour, 1_001_801), Some((0, true)));
        assert_eq!(read(&hour, 1_003_599), Some((0, true)));
        assert_eq!(read(&hour, 1_003_600), None);
        // What it was made for is what counts; what it is to be now is told with the next answer.
        assert_eq!(read(&sticky(&[A], "max_age = '1s'"), 1_003_599), Some((0, false)));
        assert_eq!(read(&sticky(&[A], ""), 0), Some((0, true)));
        let endless = sticky(&[A], "").value(&list[0].label, 0);
        assert_eq!(at(Names::new(&hour, &list).read(endless.as_bytes(), 5)), Some((0, true)));
    }

    #[test]
    fn what_is_set_has_its_attributes() {
        let list = list(1);
        let check = |rest: &str, scheme: &str, expected: &str| {
            let text = sticky(&[A], rest).set(&list[0], 0, scheme);
            let (pair, attributes) = text.split_once(';').expect("attributes");
            assert!(pair.starts_with("at=") && !text.contains("10.0"), "{text}");
            assert_eq!(attributes, expected, "{rest}");
        };
        check("", "http", " Path=/; HttpOnly; SameSite=Lax");
        check("", "https", " Path=/; HttpOnly; SameSite=Lax; Secure");
        check("secure = true", "http", " Path=/; HttpOnly; SameSite=Lax; Secure");
        check("secure = false\nhttp_only = false", "https", " Path=/; SameSite=Lax");
        check(
            "path = '/shop'\nmax_age = '1h'\nsame_site = 'strict'",
            "http",
            " Path=/shop; Max-Age=3600; HttpOnly; SameSite=Strict",
        );
    }
}
