//! Certificates, lists and staples made for tests, and how what is wrong with one is said.

use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, DnType, IsCa, Issuer, KeyIdMethod, KeyPair,
    KeyUsagePurpose, RevokedCertParams, SerialNumber, date_time_ymd,
};

use super::ocsp;

/// An authority that signs for clients.
pub struct Root {
    certificate: rcgen::Certificate,
    issuer: Issuer<'static, KeyPair>,
}

impl Root {
    pub fn new(name: &str) -> Root {
        let mut params = CertificateParams::new(Vec::<String>::new()).unwrap();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let key = KeyPair::generate().unwrap();
        let certificate = params.self_signed(&key).unwrap();
        Root { certificate, issuer: Issuer::new(params, key) }
    }

    pub fn pem(&self) -> String {
        self.certificate.pem()
    }

    /// A revocation list in DER, until the beginning of a year.
    pub fn list(&self, serials: &[u64], until: i32) -> Vec<u8> {
        let revoked = serials.iter().map(|&serial| RevokedCertParams {
            serial_number: SerialNumber::from(serial),
            revocation_time: date_time_ymd(2020, 1, 1),
            reason_code: None,
            invalidity_date: None,
        });
        let params = CertificateRevocationListParams {
            this_update: date_time_ymd(2020, 1, 1),
            next_update: date_time_ymd(until, 1, 1),
            crl_number: SerialNumber::from(1),
            issuing_distribution_point: None,
            revoked_certs: revoked.collect(),
            key_identifier_method: KeyIdMethod::Sha256,
        };
        params.signed_by(&self.issuer).unwrap().der().to_vec()
    }
}

fn tlv(tag: u8, content: &[u8]) -> Vec<u8> {
    let length = content.len();
    match length {
        0..128 => [&[tag, length as u8], content].concat(),
        _ => [&[tag, 0x82, (length >> 8) as u8, length as u8], content].concat(),
    }
}

/// An OCSP response about a serial number; `status`: 0x80 good, 0x82 unknown.
pub fn staple(serial: &[u8], status: u8, until: &str) -> Vec<u8> {
    let time = |text: &str| tlv(0x18, text.as_bytes());
    let hash = tlv(0x04, &[1; 20]);
    let id =
        tlv(0x30, &[tlv(0x30, &tlv(0x06, &[43, 14, 3, 2, 26])), hash.clone(), hash.clone(), tlv(2, serial)].concat());
    let single = [id, tlv(status, &[]), time("20200101000000Z"), tlv(0xa0, &time(until))].concat();
    let data = [tlv(0xa2, &hash), time("20200101000000Z"), tlv(0x30, &tlv(0x30, &single))].concat();
    let basic = tlv(0x30, &[tlv(0x30, &data), tlv(0x30, &tlv(0x06, &[42, 3])), tlv(3, &[0, 1])].concat());
    let kind = tlv(0x06, &[43, 6, 1, 5, 5, 7, 48, 1, 1]);
    tlv(0x30, &[tlv(0x0a, &[0]), tlv(0xa0, &tlv(0x30, &[kind, tlv(4, &basic)].concat()))].concat())
}

#[test]
fn a_staple_says_how_long_it_is_good_and_for_whom() {
    let der = staple(&[1, 2, 3], 0x80, "20300101000000Z");
    let status = ocsp::status(&der, &[1, 2, 3]).unwrap();
    assert!(status.is_good);
    assert_eq!(status.next_update_s, Some(1_893_456_000));
    assert!(!ocsp::status(&staple(&[1], 0x82, "20300101000000Z"), &[1]).unwrap().is_good);
    assert_eq!(ocsp::status(&der, &[1, 2]).err().unwrap(), "it is about another certificate");
    assert_eq!(
        ocsp::status(&[0x30, 3, 0x0a, 1, 3], &[1]).err().unwrap(),
        "the responder did not answer but failed with status 3"
    );
}

#[test]
fn a_staple_that_was_cut_or_is_none_is_an_error_and_no_panic() {
    let der = staple(&[1, 2, 3], 0x80, "20300101000000Z");
    for end in 0..der.len() {
        assert!(ocsp::status(&der[..end], &[1, 2, 3]).is_err(), "{end}");
    }
    for at in 0..der.len() {
        for bit in 0..8 {
            let mut other = der.clone();
            other[at] ^= 1 << bit;
            // Whatever it says: it is said.
            let _ = ocsp::status(&other, &[1, 2, 3]);
        }
    }
    assert_eq!(ocsp::status(b"-----BEGIN", &[1]).err().unwrap(), "it is no OCSP response in DER");
}
