//! Who a client is by its certificate: what was verified, as text that is safe to log, to compare and to pass on.
//!
//! Read once a handshake. A certificate is written by an authority the operator trusts, and yet its names are bytes of
//! somebody else: what comes out here is visible ASCII, and of bounded length.

use std::fmt::Write as _;
use std::net::IpAddr;

use sha2::{Digest as _, Sha256};
use x509_parser::asn1_rs::{Oid, ToDer as _};
use x509_parser::extensions::GeneralName;
use x509_parser::oid_registry as oid;
use x509_parser::prelude::{FromDer as _, X509Certificate};
use x509_parser::x509::{AttributeTypeAndValue, X509Name};

use crate::limits::CLIENT_CERTIFICATE_TEXT_BYTES_MAX;

/// A certificate that its client has the key of, and that goes back to a root of the listener.
#[derive(Debug)]
pub struct ClientCertificate {
    /// The subject (RFC 4514), its last part first: `CN=ada,O=Example`. What needs an escape is a backslash and two hex digits,
    /// also what could have a shorter one: so there is neither a quote nor a comma in it that is not what it seems.
    pub subject: Box<str>,
    /// Alternative names by kind, in their order. One that its kind does not allow, such as a host with a space, is left out.
    pub dns: Box<[Box<str>]>,
    pub uris: Box<[Box<str>]>,
    pub emails: Box<[Box<str>]>,
    pub addresses: Box<[IpAddr]>,
    /// Hex digits, lower case.
    pub serial: Box<str>,
    /// SHA-256 of the certificate: 64 hex digits, lower case.
    pub fingerprint: Box<str>,
    /// The value of `X-Forwarded-Client-Cert`.
    pub forwarded: Box<str>,
}

impl ClientCertificate {
    /// Reads `der`, which was verified. `by`: the URI of the certificate the client was shown, if that has one.
    pub(super) fn of(der: &[u8], by: Option<&str>) -> Result<ClientCertificate, String> {
        let (_, certificate) =
            X509Certificate::from_der(der).map_err(|error| format!("no X.509 certificate: {error}"))?;
        let mut names = Names::default();
        let extension = certificate.subject_alternative_name().map_err(|error| error.to_string())?;
        for name in extension.iter().flat_map(|extension| &extension.value.general_names) {
            names.see(name);
        }
        let subject = distinguished(certificate.subject());
        let fingerprint = hex(&Sha256::digest(der));
        let forwarded = forwarded(&subject, &fingerprint, &names, by);
        if forwarded.len() > CLIENT_CERTIFICATE_TEXT_BYTES_MAX {
            return Err(format!("its names take more than {CLIENT_CERTIFICATE_TEXT_BYTES_MAX} bytes"));
        }
        Ok(ClientCertificate {
            subject: subject.into(),
            dns: names.dns.into(),
            uris: names.uris.into(),
            emails: names.emails.into(),
            addresses: names.addresses.into(),
            serial: hex(certificate.raw_serial()).into(),
            fingerprint: fingerprint.into(),
            forwarded: forwarded.into(),
        })
    }
}

/// The URI a certificate is known by, if it has one.
pub(super) fn uri(certificate: &X509Certificate<'_>) -> Option<String> {
    let extension = certificate.subject_alternative_name().ok()??;
    let mut names = Names::default();
    extension.value.general_names.iter().for_each(|name| names.see(name));
    names.uris.into_iter().next().map(String::from)
}

#[derive(Default)]
struct Names {
    dns: Vec<Box<str>>,
    uris: Vec<Box<str>>,
    emails: Vec<Box<str>>,
    addresses: Vec<IpAddr>,
}

impl Names {
    fn see(&mut self, name: &GeneralName<'_>) {
        let is_host = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.*".contains(&byte);
        let is_visible = |byte: u8| byte.is_ascii_graphic();
        match *name {
            GeneralName::DNSName(name) if !name.is_empty() && name.bytes().all(is_host) => self.dns.push(name.into()),
            GeneralName::URI(name) if !name.is_empty() && name.bytes().all(is_visible) => self.uris.push(name.into()),
            GeneralName::RFC822Name(name) if !name.is_empty() && name.bytes().all(is_visible) => {
                self.emails.push(name.into());
            }
            GeneralName::IPAddress(bytes) => {
                let v4 = || <[u8; 4]>::try_from(bytes).ok().map(IpAddr::from);
                let v6 = || <[u8; 16]>::try_from(bytes).ok().map(IpAddr::from);
                self.addresses.extend(v4().or_else(v6));
            }
            _ => {}
        }
    }
}

/// As Envoy writes it, one element: `By` and `Hash`, then `Subject`, `URI` and `DNS`.
fn forwarded(subject: &str, fingerprint: &str, names: &Names, by: Option<&str>) -> String {
    let mut text = String::new();
    if let Some(by) = by {
        text.push_str("By=");
        push_value(&mut text, by);
        text.push(';');
    }
    let _ = write!(text, "Hash={fingerprint};Subject=\"{subject}\"");
    for (key, values) in [(";URI=", &names.uris), (";DNS=", &names.dns)] {
        for value in values {
            text.push_str(key);
            push_value(&mut text, value);
        }
    }
    text
}

/// In quotes where it could be taken for more than one value. A quote or a backslash in it goes behind a backslash.
fn push_value(text: &mut String, value: &str) {
    if !value.contains([',', ';', '=', '"', '\\']) {
        return text.push_str(value);
    }
    text.push('"');
    for char in value.chars() {
        if matches!(char, '"' | '\\') {
            text.push('\\');
        }
        text.push(char);
    }
    text.push('"');
}

/// RFC 4514 §2.1: the parts from the last to the first.
fn distinguished(name: &X509Name<'_>) -> String {
    let mut text = String::new();
    let parts: Vec<_> = name.iter_rdn().collect();
    for (at, part) in parts.iter().rev().enumerate() {
        if at > 0 {
            text.push(',');
        }
        for (at, attribute) in part.iter().enumerate() {
            if at > 0 {
                text.push('+');
            }
            push_attribute(&mut text, attribute);
        }
    }
    text
}

/// Names of attributes: those of RFC 4514 §3, and some that RFC 4519 and PKCS #9 have registered and certificates use.
fn short_name(kind: &Oid<'_>) -> Option<&'static str> {
    let known = [
        (oid::OID_X509_COMMON_NAME, "CN"),
        (oid::OID_X509_LOCALITY_NAME, "L"),
        (oid::OID_X509_STATE_OR_PROVINCE_NAME, "ST"),
        (oid::OID_X509_ORGANIZATION_NAME, "O"),
        (oid::OID_X509_ORGANIZATIONAL_UNIT, "OU"),
        (oid::OID_X509_COUNTRY_NAME, "C"),
        (oid::OID_X509_STREET_ADDRESS, "STREET"),
        (oid::OID_DOMAIN_COMPONENT, "DC"),
        (oid::OID_USERID, "UID"),
        (oid::OID_X509_SERIALNUMBER, "serialNumber"),
        (oid::OID_X509_SURNAME, "SN"),
        (oid::OID_X509_GIVEN_NAME, "GN"),
        (oid::OID_X509_TITLE, "title"),
        (oid::OID_PKCS9_EMAIL_ADDRESS, "emailAddress"),
    ];
    known.iter().find(|(known, _)| known == kind).map(|(_, name)| *name)
}

fn push_attribute(text: &mut String, attribute: &AttributeTypeAndValue<'_>) {
    let value = attribute.as_str();
    match (short_name(attribute.attr_type()), value) {
        (Some(name), Ok(value)) => {
            text.push_str(name);
            text.push('=');
            push_escaped(text, value);
        }
        // RFC 4514 §2.4: what has no name, or is no text, is shown as it is encoded.
        (name, _) => {
            match name {
                Some(name) => text.push_str(name),
                None => text.push_str(&attribute.attr_type().to_id_string()),
            }
            text.push_str("=#");
            text.push_str(&hex(&attribute.attr_value().to_der_vec_raw().unwrap_or_default()));
        }
    }
}

/// RFC 4514 §2.4, with hex digits for whatever needs an escape.
fn push_escaped(text: &mut String, value: &str) {
    let last = value.len().saturating_sub(1);
    for (at, byte) in value.bytes().enumerate() {
        let is_plain = match byte {
            b'"' | b'+' | b',' | b';' | b'<' | b'=' | b'>' | b'\\' => false,
            b'#' => at > 0,
            b' ' => at > 0 && at < last,
            byte => byte.is_ascii_graphic(),
        };
        match is_plain {
            true => text.push(char::from(byte)),
            false => _ = write!(text, "\\{byte:02X}"),
        }
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::with_capacity(2 * bytes.len()), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

#[cfg(test)]
mod tests {
    use rcgen::string::BmpString;
    use rcgen::{CertificateParams, CustomExtension, DistinguishedName, DnType, DnValue, KeyPair, SanType};

    use super::*;

    fn made(change: impl FnOnce(&mut CertificateParams)) -> Vec<u8> {
        let mut params = CertificateParams::new(Vec::<String>::new()).unwrap();
        params.distinguished_name = DistinguishedName::new();
        change(&mut params);
        params.self_signed(&KeyPair::generate().unwrap()).unwrap().der().to_vec()
    }

    fn subject(parts: &[(DnType, &str)]) -> String {
        let der = made(|params| {
            for (kind, value) in parts {
                params.distinguished_name.push(kind.clone(), *value);
            }
        });
        ClientCertificate::of(&der, None).unwrap().subject.into()
    }

    #[test]
    fn subjects_are_written_backwards_and_what_could_mislead_is_hex() {
        let custom = DnType::CustomDnType(vec![1, 2, 3, 4]);
        for (parts, text) in [
            (
                &[(DnType::CountryName, "DE"), (DnType::OrganizationName, "Example"), (DnType::CommonName, "ada")][..],
                "CN=ada,O=Example,C=DE",
            ),
            (&[], ""),
            (&[(DnType::CommonName, "ada,O=Root")], "CN=ada\\2CO\\3DRoot"),
            (&[(DnType::CommonName, "a\";b\\c")], "CN=a\\22\\3Bb\\5Cc"),
            (&[(DnType::CommonName, " #a b ")], "CN=\\20#a b\\20"),
            (&[(DnType::CommonName, "#a")], "CN=\\23a"),
            (&[(DnType::CommonName, "a\nb\0c")], "CN=a\\0Ab\\00c"),
            (&[(DnType::CommonName, "ž")], "CN=\\C5\\BE"),
            (&[(custom, "ab")], "1.2.3.4=#0c026162"),
        ] {
            assert_eq!(subject(parts), text);
        }
        let der = made(|params| {
            let value = DnValue::BmpString(BmpString::try_from("ab").unwrap());
            params.distinguished_name.push(DnType::CommonName, value);
        });
        assert_eq!(&*ClientCertificate::of(&der, None).unwrap().subject, "CN=#1e0400610062");
    }

    #[test]
    fn names_are_taken_by_kind_and_those_that_are_none_left_out() {
        let der = made(|params| {
            params.subject_alt_names = vec![
                SanType::DnsName("a.example.com".try_into().unwrap()),
                SanType::DnsName("evil\0.example.com".try_into().unwrap()),
                SanType::DnsName("b c".try_into().unwrap()),
                SanType::URI("spiffe://example.com/a".try_into().unwrap()),
                SanType::URI("spiffe://x;By=evil,Hash=\"1".try_into().unwrap()),
                SanType::URI("a\r\nb".try_into().unwrap()),
                SanType::Rfc822Name("ada@example.com".try_into().unwrap()),
                SanType::IpAddress([192, 0, 2, 1].into()),
            ];
        });
        let read = ClientCertificate::of(&der, Some("spiffe://example.com/gateway")).unwrap();
        assert_eq!(read.dns, ["a.example.com".into()].into());
        assert_eq!(read.uris.len(), 2);
        assert_eq!(read.emails, ["ada@example.com".into()].into());
        assert_eq!(read.addresses, [IpAddr::from([192, 0, 2, 1])].into());
        let hash = &read.fingerprint;
        let expected = format!(
            "By=spiffe://example.com/gateway;Hash={hash};Subject=\"\";URI=spiffe://example.com/a;\
             URI=\"spiffe://x;By=evil,Hash=\\\"1\";DNS=a.example.com"
        );
        assert_eq!(*read.forwarded, *expected);
        assert_eq!(hash.len(), 64);
    }

    #[test]
    fn a_certificate_with_more_names_than_a_head_could_carry_is_refused() {
        let with = |count: usize| {
            made(|params| {
                let name = |at: usize| SanType::DnsName(format!("{at:056}.com").as_str().try_into().unwrap());
                params.subject_alt_names = (0..count).map(name).collect();
            })
        };
        // `;DNS=` and 60 bytes each.
        let rest = "Hash=;Subject=\"\"".len() + 64;
        let most = (CLIENT_CERTIFICATE_TEXT_BYTES_MAX - rest) / 65;
        assert_eq!(ClientCertificate::of(&with(most), None).unwrap().dns.len(), most);
        assert!(ClientCertificate::of(&with(most + 1), None).err().unwrap().contains("names take more"));
    }

    #[test]
    fn what_is_no_certificate_is_an_error_and_no_panic() {
        let der = made(|params| {
            params.custom_extensions = vec![CustomExtension::from_oid_content(&[2, 5, 29, 17], vec![0x30, 0x05, 0x82])];
        });
        assert!(ClientCertificate::of(&der, None).is_err());
        for end in 0..der.len() {
            assert!(ClientCertificate::of(&der[..end], None).is_err(), "{end}");
        }
    }
}
