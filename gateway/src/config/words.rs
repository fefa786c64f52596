//! The grammar of every string in the file. Each is known by its `format` in the schema, so that the loader, the schema an
//! editor uses and the reference agree. Pure: text in, [`Wrong`] out.

use std::net::{IpAddr, SocketAddr};

use http1::{Canonical, Fault, PathPolicy};
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};

use super::units::{Percentage, Size, Time};
use super::{dns_name, origin, template};
use crate::problem::closest;
use crate::proxy::grpc;
use crate::route::pattern::{self as route, PatternError, whole_regex};

/// Why a string is not what its key wants, and perhaps what was meant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wrong {
    /// Never holds the text itself, which may have come from the environment.
    pub why: String,
    pub instead: Option<String>,
}

impl Wrong {
    fn because(why: impl Into<String>) -> Wrong {
        Wrong { why: why.into(), instead: None }
    }

    fn write(why: impl Into<String>, instead: impl Into<String>) -> Wrong {
        Wrong { why: why.into(), instead: Some(instead.into()) }
    }
}

/// Each word: the marker a field of the model names in `#[schemars(with = ...)]`, its format, its meaning for the schema.
macro_rules! words {
    ($($marker:ident $format:literal $check:path, $meaning:literal;)*) => {
        $(
            #[doc = $meaning]
            pub struct $marker;

            impl JsonSchema for $marker {
                fn inline_schema() -> bool {
                    true
                }

                fn schema_name() -> std::borrow::Cow<'static, str> {
                    stringify!($marker).into()
                }

                fn json_schema(_: &mut SchemaGenerator) -> Schema {
                    json_schema!({ "type": "string", "format": $format, "description": $meaning })
                }
            }
        )*

        /// What is checked of a string: the function its `format` stands for. `None`: a format this module does not know.
        pub fn checker(format: &str) -> Option<fn(&str) -> Result<(), Wrong>> {
            match format {
                $($format => Some($check),)*
                "interval" => Some(|text| text.parse::<Time>().map(drop).map_err(|why| Wrong::because(why.to_string()))),
                "size" => Some(|text| text.parse::<Size>().map(drop).map_err(|why| Wrong::because(why.to_string()))),
                "percentage" => Some(percentage),
                "secret" => Some(secret),
                _ => None,
            }
        }
    };
}

/// Whether strings of this format may hold request variables.
pub fn is_template(format: &str) -> bool {
    matches!(format, "field-value" | "path-template" | "host-template" | "error-body")
}

words! {
    Name "name" name, "1 to 64 letters, digits, `_`, `-` and `.`.";
    Tag "tag" tag, "1 to 255 visible ASCII characters.";
    Token "token" token, "A token (RFC 9110 §5.6.2).";
    Cidr "cidr" cidr, "Addresses that share a prefix: `10.0.0.0/8`, `2001:db8::/32`.";
    FilePattern "file-pattern" file_pattern, "A file's path; `*` and `?` stand for part of its name.";
    SecretFile "secret-file" path_text, "Path of a file that holds a secret.";
    ListenAddress "listen-address" listen_address, "`ip:port`, IPv6 in brackets.";
    AdminAddress "admin-address" admin_address, "`ip:port`, or `unix:` and an absolute path.";
    EndpointAddress "endpoint-address" endpoint_address, "`host:port`, `ip:port`, or `unix:` and an absolute path.";
    DnsName "dns-name" dns_name::dns_name, "A name of DNS.";
    DnsServer "dns-server" dns_name::dns_server, "`ip:port`, IPv6 in brackets.";
    UpstreamHost "upstream-host" upstream_host, "`keep`, `endpoint`, or a host, perhaps with a port.";
    HostPattern "host-pattern" host_pattern, "A host name in lower case, or `*.` and a suffix of one.";
    PathPattern "path-pattern" path_pattern, "`/exact`, `/prefix/**`, `/a/{name}/b` or `/a/{rest=**}`, in canonical form.";
    PathRegex "path-regex" path_regex, "A regular expression for a whole path.";
    PathTemplate "path-template" path_template, "A path; `${path.name}` and the like are replaced.";
    PathPrefix "path-prefix" path_prefix, "A path in canonical form, in place of another.";
    HostTemplate "host-template" host_template, "A host, perhaps with a port; `${path.name}` and the like are replaced.";
    Network "network" network, "An address, or addresses that share a prefix: `192.0.2.1`, `10.0.0.0/8`, `2001:db8::/32`.";
    FilePath "file-path" path_text, "A file's path.";
    ServerName "server-name" server_name, "A host's name, or an IP address.";
    Pin "pin" pin, "`sha256/` and the SHA-256 of a public key (SubjectPublicKeyInfo) in base64.";
    Interface "interface" interface, "Name of a network interface.";
    PerSecond "per-second" per_second, "A whole number a second: `50/s`.";
    SplitBy "split-by" split_by, "`client`, `header:` and a field's name, or `cookie:` and a cookie's.";
    HashOn "hash-on" hash_on, "`client`, `path`, `header:` and a field's name, or `cookie:` and a cookie's.";
    CookiePath "cookie-path" cookie_path, "A path in canonical form, without `;`.";
    Host "host" host, "A host, perhaps with a port.";
    Regex "regex" regex, "A regular expression for a whole value.";
    Statuses "statuses" statuses, "A status, or several: `404`, `5xx`, `400-499`.";
    ExpectedStatuses "expected-statuses" expected_statuses, "A status, or several: `200`, `2xx`, `200-399`.";
    GrpcService "grpc-service" grpc_service, "Full name of a service: `library.v1.Library`.";
    RequestTarget "request-target" request_target, "A path in canonical form, perhaps with a query.";
    RetryOn "retry-on" retry_on, "`connect`, `reset`, `timeout`, or statuses: `503`, `5xx`, `502-504`.";
    ErrorBody "error-body" error_body, "A body; `${status}` and the like are replaced.";
    MediaType "media-type" media_type, "`type/subtype`, perhaps with parameters.";
    Method "method" method, "A method, case-sensitive.";
    FieldName "field-name" field_name, "Name of a field the gateway does not own.";
    FieldValue "field-value" field_value, "A field's value; `${client_ip}` and the like are replaced.";
    CorsOrigin "cors-origin" origin::origin, "An origin, `https://*.example.com`, `null`, or `*`.";
    MediaRange "media-range" media_range, "`type/subtype`, `type/*`, or `+suffix`.";
    FieldText "field-text" field_text, "A field's value as it stands: visible ASCII, spaces and tabs.";
    TransportSecurity "transport-security" transport_security, "A `Strict-Transport-Security`, or `off`.";
    ReferrerPolicy "referrer-policy" referrer_policy, "A `Referrer-Policy`, or `off`.";
    AccessLog "access-log" access_log, "`stdout`, `off`, or a file's path.";
}

fn name(text: &str) -> Result<(), Wrong> {
    let fits = (1..=64).contains(&text.len());
    if fits && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-' | b'.')) {
        return Ok(());
    }
    Err(Wrong::because("a name is 1 to 64 letters, digits, `_`, `-` and `.`: it becomes a label in metrics"))
}

/// As Consul's service tags are, but for spaces, which would not be seen in lists of them.
fn tag(text: &str) -> Result<(), Wrong> {
    match (1..=255).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_graphic()) {
        true => Ok(()),
        false => Err(Wrong::because("a tag is 1 to 255 visible ASCII characters")),
    }
}

pub(super) fn secret(text: &str) -> Result<(), Wrong> {
    // It travels in a header field, as `Authorization: Bearer`.
    match text {
        "" => Err(Wrong::because("it is empty, which would let everybody in")),
        _ if text.bytes().all(|byte| byte.is_ascii_graphic()) => Ok(()),
        _ => Err(Wrong::because("a header field could not carry it: use visible ASCII without spaces")),
    }
}

pub(super) fn is_token(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte))
}

fn token(text: &str) -> Result<(), Wrong> {
    if is_token(text) {
        return Ok(());
    }
    Err(Wrong::because("not a token (RFC 9110 §5.6.2): letters, digits and !#$%&'*+-.^_`|~"))
}

fn cidr(text: &str) -> Result<(), Wrong> {
    if let Ok(network) = text.parse::<ipnet::IpNet>() {
        let plain = network.trunc();
        return match network == plain {
            true => Ok(()),
            false => Err(Wrong::write("there are bits set behind the prefix", plain.to_string())),
        };
    }
    let why = r#"expected addresses that share a prefix, such as "10.0.0.0/8" or "2001:db8::/32""#;
    match text.parse::<IpAddr>() {
        Ok(one) => Err(Wrong::write(why, ipnet::IpNet::from(one).to_string())),
        Err(_) => Err(Wrong::because(why)),
    }
}

/// A path the system calls take.
fn path_text(text: &str) -> Result<(), Wrong> {
    match text {
        "" => Err(Wrong::because("expected a file's path")),
        _ if text.contains('\0') => Err(Wrong::because("a path cannot contain NUL")),
        _ => Ok(()),
    }
}

pub(super) fn file_pattern(text: &str) -> Result<(), Wrong> {
    path_text(text)?;
    let (folder, name) = text.rsplit_once('/').unwrap_or(("", text));
    if name.is_empty() {
        return Err(Wrong::write("this is a folder: say which of its files", format!("{text}*.toml")));
    }
    if folder.contains(['*', '?']) {
        return Err(Wrong::because("`*` and `?` may stand in a file's name only, not in a folder's"));
    }
    Ok(())
}

fn listen_address(text: &str) -> Result<(), Wrong> {
    if text.parse::<SocketAddr>().is_ok() {
        return Ok(());
    }
    let why = r#"expected an IP address and a port, such as "0.0.0.0:8080" or "[::]:8080""#;
    let (host, port) = text.rsplit_once(':').unwrap_or(("", text));
    let instead = match (host, port.parse::<u16>()) {
        (_, Err(_)) => None,
        // The two habits of other tools: `:8080` and `8080`, and an IPv6 address without brackets.
        ("" | "*", Ok(port)) => Some(format!("0.0.0.0:{port}")),
        ("localhost", Ok(port)) => Some(format!("127.0.0.1:{port}")),
        (host, Ok(port)) => host.parse().ok().map(|ip: IpAddr| SocketAddr::new(ip, port).to_string()),
    };
    Err(Wrong { why: why.to_owned(), instead })
}

fn unix_path(path: &str) -> Result<(), Wrong> {
    // sockaddr_un holds 108 bytes, NUL included.
    match path {
        _ if !path.starts_with('/') => Err(Wrong::because("the path behind `unix:` must be absolute")),
        _ if path.ends_with('/') => Err(Wrong::because("the path behind `unix:` is a folder")),
        _ if path.len() > 107 => Err(Wrong::because("a socket's path has at most 107 bytes")),
        _ => path_text(path),
    }
}

fn admin_address(text: &str) -> Result<(), Wrong> {
    match text.strip_prefix("unix:") {
        Some(path) => unix_path(path),
        None => listen_address(text).map_err(|wrong| Wrong {
            why: r#"expected an IP address and a port, such as "127.0.0.1:9180", or "unix:/path""#.to_owned(),
            ..wrong
        }),
    }
}

fn endpoint_address(text: &str) -> Result<(), Wrong> {
    if let Some(path) = text.strip_prefix("unix:") {
        return unix_path(path);
    }
    let why = r#"expected a host and a port, such as "10.0.0.11:8000" or "orders.internal:8000", or "unix:/path""#;
    if let Some((scheme, rest)) = text.split_once("://") {
        let rest = rest.trim_end_matches('/');
        let with_port = match (http1::host_parts(rest.as_bytes()), scheme) {
            (Ok((_, Some(_))), _) => Some(rest.to_owned()),
            (Ok((_, None)), "http") => Some(format!("{rest}:80")),
            _ => None,
        };
        return Err(Wrong { why: why.to_owned(), instead: with_port });
    }
    match http1::host_parts(text.as_bytes()) {
        Ok((host, Some(_))) if text.parse::<SocketAddr>().is_err() => {
            let name = std::str::from_utf8(host).unwrap_or_default();
            dns_name::malformed(name).map_or(Ok(()), |why| Err(Wrong::because(why)))
        }
        Ok((_, Some(_))) => Ok(()),
        Ok((_, None)) => Err(Wrong::because("the port is missing: write `host:port`")),
        Err(Fault::HostPort) => Err(Wrong::because("a port is a number from 1 to 65535")),
        Err(_) => Err(Wrong::because(why)),
    }
}

/// The host of an endpoint's address. `None`: a Unix socket has none.
pub fn endpoint_host(address: &str) -> Option<&str> {
    match address.starts_with("unix:") {
        true => None,
        false => Some(address.rsplit_once(':').map_or(address, |(host, _)| host)),
    }
}

/// What a certificate can be for.
fn server_name(text: &str) -> Result<(), Wrong> {
    let why = r#"expected a name such as "orders.internal", or an IP address"#;
    match (crate::tls::server_name(text), http1::host_parts(text.as_bytes())) {
        (Some(_), _) => Ok(()),
        (None, Ok((host, Some(_)))) => {
            Err(Wrong::write("no certificate is for a port", String::from_utf8_lossy(host).into_owned()))
        }
        (None, _) => Err(Wrong::because(why)),
    }
}

fn pin(text: &str) -> Result<(), Wrong> {
    match pinned_key(text) {
        Some(_) => Ok(()),
        None => Err(Wrong::because(
            "expected `sha256/` and 32 bytes in base64: `openssl x509 -in CERT -pubkey -noout | openssl pkey -pubin -outform DER \
             | openssl dgst -sha256 -binary | base64`",
        )),
    }
}

/// The SHA-256 a pin is.
pub fn pinned_key(text: &str) -> Option<[u8; 32]> {
    use base64::Engine as _;
    let digest = base64::engine::general_purpose::STANDARD.decode(text.strip_prefix("sha256/")?).ok()?;
    digest.try_into().ok()
}

fn upstream_host(text: &str) -> Result<(), Wrong> {
    match http1::host_parts(text.as_bytes()) {
        Ok(_) => Ok(()),
        Err(fault) => Err(Wrong::because(format!("neither `keep` nor `endpoint` nor a host: {}", fault.detail()))),
    }
}

fn host_pattern(text: &str) -> Result<(), Wrong> {
    let why = r#"expected a host such as "api.example.com", or "*.example.com""#;
    if text == "*" {
        return Err(Wrong::because("a route without `host` takes any host: leave the key out"));
    }
    let suffix = text.strip_prefix("*.").unwrap_or(text);
    let star = &text[..text.len() - suffix.len()];
    let (host, port) = match http1::host_parts(suffix.as_bytes()) {
        Ok((host, port)) => (std::str::from_utf8(host).unwrap_or_default(), port),
        Err(_) if !text.is_ascii() => {
            return Err(Wrong::because("names beyond ASCII are sent in their `xn--` form (RFC 5891): write that"));
        }
        Err(_) => return Err(Wrong::because(why)),
    };
    let plain = host.strip_suffix('.').unwrap_or(host).to_ascii_lowercase();
    if port.is_some() {
        return Err(Wrong::write("ports are not compared: leave it out", format!("{star}{plain}")));
    }
    if plain != host {
        let why = "hosts are compared in lower case, without a final dot";
        return Err(Wrong::write(why, format!("{star}{plain}")));
    }
    let labels_fit = plain.starts_with('[') || plain.split('.').all(|label| label.len() <= 63);
    if labels_fit { Ok(()) } else { Err(Wrong::because("a label of a host name has at most 63 bytes")) }
}

fn percentage(text: &str) -> Result<(), Wrong> {
    text.parse::<Percentage>().map(drop).map_err(|why| Wrong::because(why.to_string()))
}

fn network(text: &str) -> Result<(), Wrong> {
    abi::compile::Cidr::parse(text).map(drop).map_err(|error| Wrong::because(error.to_string()))
}

/// Linux takes 15 bytes without spaces and slashes; longer names are alternative ones, which the kernel resolves too.
fn interface(text: &str) -> Result<(), Wrong> {
    let fits = (1..=127).contains(&text.len()) && !matches!(text, "." | "..");
    match fits && text.bytes().all(|byte| byte.is_ascii_graphic() && !matches!(byte, b'/' | b':')) {
        true => Ok(()),
        false => Err(Wrong::because("expected the name of a network interface, such as \"eth0\"")),
    }
}

fn per_second(text: &str) -> Result<(), Wrong> {
    text.parse::<super::model::PerSecond>().map(drop).map_err(Wrong::because)
}

fn split_by(text: &str) -> Result<(), Wrong> {
    text.parse::<super::model::SplitBy>().map(drop).map_err(|()| {
        let why = r#"expected "client", "header:x-user" or "cookie:session""#;
        match closest(text, ["client"]) {
            Some(known) => Wrong::write(why, known),
            None => Wrong::because(why),
        }
    })
}

fn hash_on(text: &str) -> Result<(), Wrong> {
    text.parse::<super::model::HashOn>().map(drop).map_err(|()| {
        let why = r#"expected "client", "path", "header:x-user" or "cookie:session""#;
        match closest(text, ["client", "path"]) {
            Some(known) => Wrong::write(why, known),
            None => Wrong::because(why),
        }
    })
}

fn host(text: &str) -> Result<(), Wrong> {
    match http1::host_parts(text.as_bytes()) {
        Ok(_) => Ok(()),
        Err(fault) => Err(Wrong::because(format!("not a host: {}", fault.detail()))),
    }
}

/// A regular expression that is matched against a whole value.
fn regex(text: &str) -> Result<(), Wrong> {
    whole_regex(text).map(drop).map_err(Wrong::because)
}

fn path_regex(text: &str) -> Result<(), Wrong> {
    route::PathPattern::regex(text).map(drop).map_err(|error| Wrong::because(error.to_string()))
}

fn error_body(text: &str) -> Result<(), Wrong> {
    template::Page::parse(text).map(drop)
}

fn statuses(text: &str) -> Result<(), Wrong> {
    match status_range(text) {
        Some(_) => Ok(()),
        None => Err(Wrong::because(r#"expected a status from 400 to 599, or several: "404", "5xx", "400-499""#)),
    }
}

fn retry_on(text: &str) -> Result<(), Wrong> {
    const CAUSES: [&str; 3] = ["connect", "reset", "timeout"];
    // A call that went well is not made again.
    let grpc = &grpc::Status::NAMES[1..];
    if CAUSES.contains(&text) || grpc.contains(&text) || status_range(text).is_some() {
        return Ok(());
    }
    let why = r#"expected "connect", "reset", "timeout", statuses from 400 to 599 such as "503", "5xx", "502-504", or a status of gRPC such as "unavailable""#;
    Err(Wrong { why: why.to_owned(), instead: closest(text, CAUSES.iter().chain(grpc).copied()).map(str::to_owned) })
}

/// The first and the last status that a text such as `5xx` stands for, if it is an error.
pub fn status_range(text: &str) -> Option<(u16, u16)> {
    any_status_range(text).filter(|range| range.0 >= 400)
}

fn expected_statuses(text: &str) -> Result<(), Wrong> {
    match any_status_range(text) {
        Some(_) => Ok(()),
        None => Err(Wrong::because(r#"expected a status from 200 to 599, or several: "200", "2xx", "200-399""#)),
    }
}

/// The first and the last status that a text such as `2xx` stands for.
pub fn any_status_range(text: &str) -> Option<(u16, u16)> {
    let range = match (text.strip_suffix("xx"), text.split_once('-')) {
        (Some(class), _) => {
            let class: u16 = class.parse().ok()?;
            (class.checked_mul(100)?, class.checked_mul(100)?.checked_add(99)?)
        }
        (None, Some((first, last))) => (first.parse().ok()?, last.parse().ok()?),
        (None, None) => (text.parse().ok()?, text.parse().ok()?),
    };
    (200 <= range.0 && range.0 <= range.1 && range.1 <= 599).then_some(range)
}

fn grpc_service(text: &str) -> Result<(), Wrong> {
    let is_part = |part: &str| {
        let is_letter = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
        part.bytes().all(is_letter) && part.bytes().next().is_some_and(|first| !first.is_ascii_digit())
    };
    match text.len() <= 256 && text.split('.').all(is_part) {
        true => Ok(()),
        false => Err(Wrong::because(r#"expected the full name of a service such as "library.v1.Library""#)),
    }
}

/// What a request of ours asks for.
fn request_target(text: &str) -> Result<(), Wrong> {
    let (path, query) = text.split_once('?').unwrap_or((text, ""));
    path_prefix(path)?;
    match query.bytes().all(|byte| byte.is_ascii_graphic() && !b"\"#<>\\^`{|}".contains(&byte)) {
        true => Ok(()),
        false => Err(Wrong::because("a query is ASCII without spaces; other characters are percent-encoded")),
    }
}

/// RFC 9110 §8.3.1, without looking into the parameters.
fn media_type(text: &str) -> Result<(), Wrong> {
    let (essence, parameters) = text.split_once(';').unwrap_or((text, ""));
    let is_type = essence.trim().split_once('/').is_some_and(|(kind, sub)| is_token(kind) && is_token(sub));
    match is_type && parameters.bytes().all(|byte| matches!(byte, b' '..=b'~')) {
        true => Ok(()),
        false => Err(Wrong::because(r#"expected a media type such as "text/html; charset=utf-8""#)),
    }
}

/// A path with variables: canonical, whatever the variables are.
fn path_template(text: &str) -> Result<(), Wrong> {
    let template = template::Template::parse(text)?;
    // A letter stands for what a variable will hold; what it really holds is checked when it is known.
    let plain: String = template.pieces.iter().map(|piece| piece.text().unwrap_or("x")).collect();
    path_prefix(&plain).map_err(|wrong| match template.is_plain() {
        true => wrong,
        false => Wrong { instead: None, ..wrong },
    })
}

/// A path as it is sent to a service or to a client.
fn path_prefix(text: &str) -> Result<(), Wrong> {
    if !text.starts_with('/') {
        return Err(Wrong::write("a path begins with `/`", format!("/{text}")));
    }
    if text.contains(['?', '#']) {
        return Err(Wrong::because("only the path: the query goes its own way"));
    }
    let mut canonical = Vec::new();
    match http1::canonical_path(text.as_bytes(), &PathPolicy::KEEP, &mut canonical) {
        Ok(Canonical::Unchanged(_)) => Ok(()),
        Ok(Canonical::Rewritten(_)) => {
            Err(Wrong::write("not in canonical form", String::from_utf8_lossy(&canonical).into_owned()))
        }
        Err(Fault::PathNotAscii | Fault::PathCharacter) => {
            Err(Wrong::write("no path contains such a character", percent_encoded(text)))
        }
        Err(fault) => Err(Wrong::because(format!("no path is like this: {}", fault.detail()))),
    }
}

/// RFC 6265 §4.1.1: a `;` ends an attribute.
fn cookie_path(text: &str) -> Result<(), Wrong> {
    path_prefix(text)?;
    if text.contains(';') { Err(Wrong::because("a cookie's path holds no `;`")) } else { Ok(()) }
}

fn host_template(text: &str) -> Result<(), Wrong> {
    let template = template::Template::parse(text)?;
    let plain: String = template.pieces.iter().map(|piece| piece.text().unwrap_or("x")).collect();
    host(&plain)
}

/// What a path pattern is without its `/**`; `/**` alone is `/`. `true`: everything below it too.
pub fn split_pattern(pattern: &str) -> (&str, bool) {
    match pattern.strip_suffix("/**") {
        Some("") => ("/", true),
        Some(prefix) => (prefix, true),
        None => (pattern, false),
    }
}

fn path_pattern(text: &str) -> Result<(), Wrong> {
    let (path, below) = split_pattern(text);
    if !path.starts_with('/') {
        return Err(Wrong::write("a path begins with `/`", format!("/{text}")));
    }
    if path.contains(['?', '#']) {
        return Err(Wrong::because("routes compare paths, not queries or fragments"));
    }
    let pattern = route::PathPattern::parse(text).map_err(|error| match (&error, path.strip_suffix("/*")) {
        (PatternError::Star, Some(prefix)) if !prefix.contains('*') => {
            Wrong::write(error.to_string(), format!("{prefix}/**"))
        }
        _ => Wrong::because(error.to_string()),
    })?;
    if pattern.names().next().is_some() {
        return literals(text);
    }
    let mut canonical = Vec::new();
    match http1::canonical_path(path.as_bytes(), &PathPolicy::KEEP, &mut canonical) {
        Ok(Canonical::Unchanged(_)) if below && path.len() > 1 && path.ends_with('/') => {
            // `/a//**` lost its `/**`: what is left is `/a/`, canonical alone but not before another `/`.
            Err(Wrong::write("not in canonical form", format!("{}/**", path.trim_end_matches('/'))))
        }
        Ok(Canonical::Unchanged(_)) => Ok(()),
        Ok(Canonical::Rewritten(_)) => {
            let path = String::from_utf8_lossy(&canonical);
            let instead = if below { format!("{}/**", path.trim_end_matches('/')) } else { path.into_owned() };
            Err(Wrong::write("compared with canonical paths, so it would never match", instead))
        }
        Err(Fault::PathNotAscii) => Err(Wrong::write("paths are sent in ASCII", percent_encoded(text))),
        Err(Fault::PathCharacter) => Err(Wrong::write("no path contains such a character", percent_encoded(text))),
        Err(fault) => Err(Wrong::because(format!("no request gets this far: {}", fault.detail()))),
    }
}

/// The literal parts of a pattern with captures: a letter stands for each capture.
fn literals(text: &str) -> Result<(), Wrong> {
    let segments = text.split('/').map(|segment| match segment.split_once('}') {
        Some((_, suffix)) => format!("x{suffix}"),
        None => segment.to_owned(),
    });
    path_prefix(&segments.collect::<Vec<_>>().join("/")).map_err(|wrong| Wrong { instead: None, ..wrong })
}

fn percent_encoded(path: &str) -> String {
    path.bytes().fold(String::new(), |mut out, byte| {
        match byte {
            b'!'..=b'~' => out.push(char::from(byte)),
            _ => out.push_str(&format!("%{byte:02X}")),
        }
        out
    })
}

const METHODS: [&str; 8] = ["GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "PATCH", "TRACE"];

fn method(text: &str) -> Result<(), Wrong> {
    if text == "CONNECT" {
        return Err(Wrong::because("CONNECT asks for a tunnel to anywhere; it is always refused"));
    }
    if METHODS.contains(&text) {
        return Ok(());
    }
    if !is_token(text) {
        return token(text);
    }
    // Methods of one's own are allowed, but `get` and `GTE` are slips.
    let upper = text.to_ascii_uppercase();
    if upper != text && METHODS.contains(&&*upper) {
        return Err(Wrong::write("methods are case-sensitive (RFC 9110 §9.1)", upper));
    }
    match closest(text, METHODS) {
        Some(known) => Err(Wrong::write("no such method", known)),
        None => Ok(()),
    }
}

fn field_name(text: &str) -> Result<(), Wrong> {
    token(text)?;
    let lower = text.to_ascii_lowercase();
    // Services that follow CGI cannot tell `_` from `-`.
    let owner = match lower.replace('_', "-").as_str() {
        "host" => "the gateway writes it: use `host` of the upstream",
        "content-length" | "transfer-encoding" | "te" | "trailer" => "how a message ends is decided by the gateway",
        "connection" | "keep-alive" | "upgrade" | "http2-settings" => {
            "it speaks of one connection, which is the gateway's"
        }
        "via" => "the gateway writes it: use `gateway.via`",
        "forwarded" => "the gateway writes it: use `gateway.forwarded`",
        "x-forwarded-client-cert" => "the gateway writes it: use `tls.forward_client_cert` of the listener",
        dashed if dashed.starts_with("x-forwarded-") => "the gateway writes it, see `gateway.trusted_hops`",
        dashed if dashed.starts_with("proxy-") => "it speaks to the next proxy only, and is never passed on",
        _ => return Ok(()),
    };
    Err(Wrong::because(owner))
}

fn field_value(text: &str) -> Result<(), Wrong> {
    template::Template::parse(text).map(drop)
}

fn media_range(text: &str) -> Result<(), Wrong> {
    if text.strip_prefix('+').is_some_and(|suffix| is_token(suffix) && !suffix.contains('*')) {
        return Ok(());
    }
    if let Some((kind, subtype)) = text.split_once('/')
        && is_token(kind)
        && is_token(subtype)
        && (!text.contains('*') || text == "*/*" || (!kind.contains('*') && subtype == "*"))
    {
        return Ok(());
    }
    if text.contains(';') {
        let plain = text.split(';').next().unwrap_or_default().trim_end();
        return Err(Wrong::write("types are compared without their parameters", plain));
    }
    Err(Wrong::because(r#"expected a media type such as "application/json", "text/*", or "+json" for all that end so"#))
}

fn field_text(text: &str) -> Result<(), Wrong> {
    match text {
        "" => Err(Wrong::because("it is empty: leave the key out")),
        _ => template::field_value(text),
    }
}

/// RFC 6797 §6.1.
fn transport_security(text: &str) -> Result<(), Wrong> {
    if text == "off" {
        return Ok(());
    }
    let why = r#"expected `off`, or "max-age=SECONDS", perhaps with "; includeSubDomains" and "; preload""#;
    let (mut has_age, mut all_known) = (false, true);
    for directive in text.split(';').map(str::trim) {
        match directive.split_once('=') {
            Some((name, seconds)) if name.eq_ignore_ascii_case("max-age") => {
                all_known &= !has_age && !seconds.is_empty() && seconds.bytes().all(|byte| byte.is_ascii_digit());
                has_age = true;
            }
            _ => all_known &= ["includesubdomains", "preload"].contains(&&*directive.to_ascii_lowercase()),
        }
    }
    if has_age && all_known { field_text(text) } else { Err(Wrong::because(why)) }
}

const REFERRER_POLICIES: [&str; 9] = [
    "off",
    "no-referrer",
    "no-referrer-when-downgrade",
    "origin",
    "origin-when-cross-origin",
    "same-origin",
    "strict-origin",
    "strict-origin-when-cross-origin",
    "unsafe-url",
];

fn referrer_policy(text: &str) -> Result<(), Wrong> {
    // Several are fallbacks for browsers that do not know the later ones.
    let mut policies = text.split(',').map(str::trim);
    let unknown = policies.find(|policy| !REFERRER_POLICIES.contains(policy) || (*policy == "off" && text != "off"));
    match unknown {
        None => Ok(()),
        Some(policy) => Err(Wrong {
            why: format!("expected one of {}", REFERRER_POLICIES.join(", ")),
            instead: closest(policy, REFERRER_POLICIES).filter(|_| !text.contains(',')).map(str::to_owned),
        }),
    }
}

fn access_log(text: &str) -> Result<(), Wrong> {
    path_text(text)?;
    if matches!(text, "stdout" | "off") || text.contains('/') {
        return Ok(());
    }
    // A bare word is more often a slip than a file in whatever folder the gateway was started in.
    let why = "expected `stdout`, `off`, or a path with a `/`";
    match closest(text, ["stdout", "off"]) {
        Some(known) => Err(Wrong::write(why, known)),
        None => Err(Wrong::write(why, format!("./{text}"))),
    }
}
