//! Reads OCSP responses (RFC 6960 §4.2.1) as far as an operator wants to hear what is wrong with one. Whether it is signed by
//! whom it should be is for clients to see.

use x509_parser::asn1_rs::{Any, Class, FromDer as _, Tag};
use x509_parser::time::ASN1Time;

/// What a response says about one certificate.
pub(super) struct Status {
    pub is_good: bool,
    /// Unix time in seconds. `None`: there is always newer information, so nobody need keep this one.
    pub next_update_s: Option<i64>,
}

/// Finds in `der` what is said about the certificate of this serial number (the content of its INTEGER).
pub(super) fn status(der: &[u8], serial: &[u8]) -> Result<Status, String> {
    const BROKEN: &str = "it is no OCSP response in DER";
    let mut response = Inside::of(der).ok_or(BROKEN)?;
    match response.next(Tag::Enumerated).ok_or(BROKEN)? {
        [0] => {}
        [code] => return Err(format!("the responder did not answer but failed with status {code}")),
        _ => return Err(BROKEN.to_owned()),
    }
    let basic = response.basic().ok_or(BROKEN)?;
    let mut single = about(basic, serial).ok_or(BROKEN)?.ok_or("it is about another certificate")?;
    single.read().ok_or_else(|| BROKEN.to_owned())
}

/// What is inside a SEQUENCE, read from left to right.
struct Inside<'a>(&'a [u8]);

impl<'a> Inside<'a> {
    /// `der` is a SEQUENCE and nothing behind it.
    fn of(der: &'a [u8]) -> Option<Inside<'a>> {
        let mut whole = Inside(der);
        let inside = whole.next(Tag::Sequence)?;
        whole.0.is_empty().then_some(Inside(inside))
    }

    fn any(&mut self) -> Option<Any<'a>> {
        let (rest, any) = Any::from_der(self.0).ok()?;
        self.0 = rest;
        Some(any)
    }

    /// The content of the next value, which is of this kind.
    fn next(&mut self, tag: Tag) -> Option<&'a [u8]> {
        let any = self.any()?;
        (any.class() == Class::Universal && any.tag() == tag).then_some(any.data)
    }

    /// The content of the next value if it has this number of its context.
    fn tagged(&mut self, number: u32) -> Option<&'a [u8]> {
        let (rest, any) = Any::from_der(self.0).ok()?;
        let is_it = any.class() == Class::ContextSpecific && any.tag().0 == number;
        is_it.then(|| {
            self.0 = rest;
            any.data
        })
    }

    /// Of an OCSPResponse behind its status: the BasicOCSPResponse.
    fn basic(&mut self) -> Option<Inside<'a>> {
        let mut bytes = Inside::of(self.tagged(0)?)?;
        bytes.next(Tag::Oid)?;
        Inside::of(bytes.next(Tag::OctetString)?)
    }

    /// Of a SingleResponse behind its CertID.
    fn read(&mut self) -> Option<Status> {
        let is_good = self.any()?.tag().0 == 0;
        self.next(Tag::GeneralizedTime)?;
        let next_update_s = match self.tagged(0) {
            Some(time) => Some(ASN1Time::from_der(time).ok()?.1.timestamp()),
            None => None,
        };
        Some(Status { is_good, next_update_s })
    }
}

/// The SingleResponse about a certificate, behind its CertID. `Some(None)`: there is none.
fn about<'a>(mut basic: Inside<'a>, serial: &[u8]) -> Option<Option<Inside<'a>>> {
    let mut data = Inside(basic.next(Tag::Sequence)?);
    data.tagged(0);
    data.tagged(1).or_else(|| data.tagged(2))?;
    data.next(Tag::GeneralizedTime)?;
    let mut responses = Inside(data.next(Tag::Sequence)?);
    while !responses.0.is_empty() {
        let mut single = Inside(responses.next(Tag::Sequence)?);
        let mut id = Inside(single.next(Tag::Sequence)?);
        id.next(Tag::Sequence)?;
        id.next(Tag::OctetString)?;
        id.next(Tag::OctetString)?;
        if id.next(Tag::Integer)? == serial {
            return Some(Some(single));
        }
    }
    Some(None)
}
