//! Keys of the tickets clients come back by (RFC 5077, RFC 8446 §4.6.1).
//!
//! A ticket holds what was agreed on, the client's certificate included, so it must never be good where something else is
//! asked of clients. Every policy has keys of its own: those of the process are drawn for each, those from files are
//! derived for each.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, OnceLock, PoisonError, Weak};
use std::time::UNIX_EPOCH;

use aws_lc_rs::aead::{AES_256_GCM_SIV, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use aws_lc_rs::hkdf::{HKDF_SHA256, KeyType, Prk, Salt};
use rustls::server::ProducesTickets;
use zeroize::Zeroizing;

use crate::limits::{TICKET_AGE_S_MAX, TICKET_SKEW_S_MAX};

/// What the keys of a policy are known by.
pub(super) type Identity = [u8; 32];

/// Keys of this process, changed every six hours: the same for a policy over reloads, so that those make nobody shake hands
/// anew. They go with the last snapshot that has the policy.
pub(super) fn of_process(identity: Identity) -> Result<Arc<dyn ProducesTickets>, rustls::Error> {
    static KNOWN: OnceLock<Mutex<HashMap<Identity, Weak<dyn ProducesTickets>>>> = OnceLock::new();
    let mut known = KNOWN.get_or_init(Mutex::default).lock().unwrap_or_else(PoisonError::into_inner);
    known.retain(|_, tickets| tickets.strong_count() > 0);
    if let Some(tickets) = known.get(&identity).and_then(Weak::upgrade) {
        return Ok(tickets);
    }
    let fresh = rustls::crypto::aws_lc_rs::Ticketer::new()?;
    known.insert(identity, Arc::downgrade(&fresh));
    Ok(fresh)
}

/// What a file of ticket keys holds.
pub(super) struct FileKey(Zeroizing<Vec<u8>>);

impl FileKey {
    /// `bytes`: 80 as nginx's `ssl_session_ticket_key` has them, or 48; random in any case. Which of them were a name, which a
    /// key does not matter here: all are one secret.
    pub(super) fn new(bytes: Vec<u8>) -> Result<FileKey, String> {
        let bytes = Zeroizing::new(bytes);
        match bytes.len() {
            80 | 48 => Ok(FileKey(bytes)),
            count => {
                Err(format!("it has {count} bytes and must have 80 (or 48), random ones: `openssl rand -out FILE 80`"))
            }
        }
    }

    pub(super) fn bytes(&self) -> &[u8] {
        &self.0
    }
}

/// Tickets by keys from files, which other processes have, too.
pub(super) struct FleetTickets {
    /// The first makes tickets.
    keys: Vec<TicketKey>,
    /// Unix time in seconds.
    clock: fn() -> u64,
}

struct TicketKey {
    /// A ticket begins with it. It tells nothing about the key.
    name: [u8; NAME_BYTES],
    key: LessSafeKey,
}

const NAME_BYTES: usize = 16;

impl FleetTickets {
    /// `keys`: at least one.
    pub(super) fn new(keys: &[FileKey], identity: &Identity) -> Result<FleetTickets, rustls::Error> {
        FleetTickets::with_clock(keys, identity, || UNIX_EPOCH.elapsed().map_or(0, |since| since.as_secs()))
    }

    fn with_clock(keys: &[FileKey], identity: &Identity, clock: fn() -> u64) -> Result<FleetTickets, rustls::Error> {
        let keys: Option<Vec<TicketKey>> = keys.iter().map(|key| TicketKey::derive(key, identity)).collect();
        let keys = keys.ok_or_else(|| rustls::Error::General("ticket keys could not be derived".to_owned()))?;
        Ok(FleetTickets { keys, clock })
    }
}

impl TicketKey {
    fn derive(key: &FileKey, identity: &Identity) -> Option<TicketKey> {
        let secret = Salt::new(HKDF_SHA256, b"bawab tls ticket 1").extract(key.bytes());
        let mut name = [0; NAME_BYTES];
        expand(&secret, &[b"name", identity], Length(NAME_BYTES), &mut name)?;
        // Its nonces may be drawn by many processes over years: with the SIV mode two that are alike tell only whether two
        // tickets say the same.
        let key: UnboundKey = secret.expand(&[b"key", identity], &AES_256_GCM_SIV).ok()?.into();
        Some(TicketKey { name, key: LessSafeKey::new(key) })
    }
}

struct Length(usize);

impl KeyType for Length {
    fn len(&self) -> usize {
        self.0
    }
}

fn expand(secret: &Prk, info: &[&[u8]], length: Length, into: &mut [u8]) -> Option<()> {
    secret.expand(info, length).ok()?.fill(into).ok()
}

/// A ticket: name of the key, nonce, and sealed: when it was made (Unix time in seconds, eight bytes) and what it says.
impl ProducesTickets for FleetTickets {
    fn enabled(&self) -> bool {
        true
    }

    fn lifetime(&self) -> u32 {
        TICKET_AGE_S_MAX as u32
    }

    fn encrypt(&self, plain: &[u8]) -> Option<Vec<u8>> {
        let TicketKey { name, key } = self.keys.first()?;
        let mut nonce = [0; NONCE_LEN];
        getrandom::fill(&mut nonce).ok()?;
        let mut sealed = Vec::with_capacity(8 + plain.len() + AES_256_GCM_SIV.tag_len());
        sealed.extend_from_slice(&(self.clock)().to_be_bytes());
        sealed.extend_from_slice(plain);
        let unique = Nonce::assume_unique_for_key(nonce);
        key.seal_in_place_append_tag(unique, Aad::from(name), &mut sealed).ok()?;
        Some([&name[..], &nonce, &sealed].concat())
    }

    fn decrypt(&self, ticket: &[u8]) -> Option<Vec<u8>> {
        let (name, rest) = ticket.split_first_chunk::<NAME_BYTES>()?;
        let (nonce, sealed) = rest.split_first_chunk::<NONCE_LEN>()?;
        let key = &self.keys.iter().find(|key| key.name == *name)?.key;
        let mut sealed = sealed.to_vec();
        let plain = key.open_in_place(Nonce::assume_unique_for_key(*nonce), Aad::from(name), &mut sealed).ok()?;
        let (made, plain) = plain.split_first_chunk()?;
        let (made_s, now_s) = (u64::from_be_bytes(*made), (self.clock)());
        // The keys stay as long as their files do; a ticket does not.
        let is_fresh =
            made_s <= now_s.saturating_add(TICKET_SKEW_S_MAX) && now_s.saturating_sub(made_s) <= TICKET_AGE_S_MAX;
        is_fresh.then(|| plain.to_vec())
    }
}

impl std::fmt::Debug for FleetTickets {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("FleetTickets").field("keys", &self.keys.len()).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(seed: u8) -> FileKey {
        FileKey::new((0..80).map(|at| seed.wrapping_mul(31).wrapping_add(at)).collect()).unwrap()
    }

    const ONE: Identity = [1; 32];

    fn at<const NOW_S: u64>(keys: &[FileKey], identity: &Identity) -> FleetTickets {
        FleetTickets::with_clock(keys, identity, || NOW_S).unwrap()
    }

    #[test]
    fn every_key_is_known_and_the_first_makes_tickets() {
        let ticket = at::<100>(&[key(1), key(2)], &ONE).encrypt(b"state").unwrap();
        assert_eq!(at::<100>(&[key(3), key(1)], &ONE).decrypt(&ticket).as_deref(), Some(&b"state"[..]));
        assert_eq!(at::<100>(&[key(2), key(3)], &ONE).decrypt(&ticket), None);
    }

    #[test]
    fn a_ticket_of_one_policy_means_nothing_under_another() {
        let ticket = at::<100>(&[key(1)], &ONE).encrypt(b"state").unwrap();
        assert_eq!(at::<100>(&[key(1)], &[2; 32]).decrypt(&ticket), None);
    }

    #[test]
    fn a_ticket_is_good_for_twelve_hours_and_not_longer() {
        const MADE: u64 = 1_000_000;
        let ticket = at::<MADE>(&[key(1)], &ONE).encrypt(b"state").unwrap();
        assert!(at::<{ MADE + TICKET_AGE_S_MAX }>(&[key(1)], &ONE).decrypt(&ticket).is_some());
        assert!(at::<{ MADE + TICKET_AGE_S_MAX + 1 }>(&[key(1)], &ONE).decrypt(&ticket).is_none());
        assert!(at::<{ MADE - TICKET_SKEW_S_MAX }>(&[key(1)], &ONE).decrypt(&ticket).is_some());
        assert!(at::<{ MADE - TICKET_SKEW_S_MAX - 1 }>(&[key(1)], &ONE).decrypt(&ticket).is_none());
    }

    #[test]
    fn a_ticket_that_was_cut_or_changed_is_none() {
        let tickets = at::<100>(&[key(1)], &ONE);
        let ticket = tickets.encrypt(b"state").unwrap();
        for end in 0..ticket.len() {
            assert_eq!(tickets.decrypt(&ticket[..end]), None, "{end}");
        }
        for at in 0..ticket.len() {
            let mut other = ticket.clone();
            other[at] ^= 1;
            assert_eq!(tickets.decrypt(&other), None, "{at}");
        }
    }

    #[test]
    fn tickets_of_the_process_are_the_same_for_a_policy_as_long_as_somebody_has_it() {
        let (one, same, other) =
            (of_process([7; 32]).unwrap(), of_process([7; 32]).unwrap(), of_process([8; 32]).unwrap());
        let ticket = one.encrypt(b"state").unwrap();
        assert_eq!(same.decrypt(&ticket).as_deref(), Some(&b"state"[..]));
        // The other one would not look at a ticket longer than its own.
        other.encrypt(&[0; 1000]).unwrap();
        assert_eq!(other.decrypt(&ticket), None);
    }

    #[test]
    fn a_file_of_another_length_is_refused_with_its_length() {
        for count in [0, 16, 47, 49, 79, 81] {
            let error = FileKey::new(vec![1; count]).err().unwrap();
            assert!(error.starts_with(&format!("it has {count} bytes")), "{error}");
        }
        assert!(FileKey::new(vec![1; 48]).is_ok());
    }
}
