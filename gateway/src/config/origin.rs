//! Origins of browsers' pages (RFC 6454 §6.2) as a `cors` table writes them. Checked at load; compiled by the filter.

use super::words::Wrong;

/// Ports that a browser leaves out of an origin.
const DEFAULT_PORTS: [(&str, u16); 2] = [("http", 80), ("https", 443)];

/// Checks an origin in the one form browsers send it: they are compared byte by byte.
pub(super) fn origin(text: &str) -> Result<(), Wrong> {
    let wrong = |why: &str, instead: Option<String>| Err(Wrong { why: why.to_owned(), instead });
    if matches!(text, "*" | "null") {
        return Ok(());
    }
    let Some((scheme, rest)) = text.split_once("://") else {
        let why = r#"expected an origin such as "https://app.example.com", "https://*.example.com", "null" or "*""#;
        let host = http1::host_parts(text.trim_start_matches("*.").as_bytes()).is_ok_and(|(host, _)| !host.is_empty());
        return wrong(why, host.then(|| format!("https://{text}")));
    };
    let lowered = text.to_ascii_lowercase();
    if text != lowered {
        return wrong("browsers send scheme and host in lower case", Some(lowered));
    }
    let scheme_is_good = scheme.starts_with(|first: char| first.is_ascii_lowercase())
        && scheme.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"+-.".contains(&byte));
    if !scheme_is_good {
        return wrong("not a scheme in front of `://` (RFC 3986 §3.1)", None);
    }
    if let Some((host, _)) = rest.split_once('/') {
        return wrong("an origin has no path, not even a final `/`", Some(format!("{scheme}://{host}")));
    }
    let host = rest.strip_prefix("*.").unwrap_or(rest);
    if host.contains('*') {
        return wrong("`*` stands for labels in front of a host only, as in `https://*.example.com`", None);
    }
    if !text.is_ascii() {
        return wrong("names beyond ASCII are sent in their `xn--` form (RFC 5891): write that", None);
    }
    match http1::host_parts(host.as_bytes()) {
        Ok((name, Some(port))) if DEFAULT_PORTS.contains(&(scheme, port)) => {
            let star = &rest[..rest.len() - host.len()];
            let plain = format!("{scheme}://{star}{}", String::from_utf8_lossy(name));
            wrong("browsers leave the scheme's own port out", Some(plain))
        }
        Ok((name, _)) if !name.is_empty() => Ok(()),
        _ => wrong("not a host behind `://`", None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_origin_has_one_form() {
        let good = [
            "*",
            "null",
            "https://a.example",
            "http://a.example:8080",
            "https://*.a.example",
            "https://*.a.example:8443",
            "http://localhost:3000",
            "http://127.0.0.1",
            "http://[::1]:3000",
            "capacitor://localhost",
            "moz-extension://2c127fa4-62c7-7e4f-90e5-472b45eecfdc",
        ];
        for text in good {
            assert_eq!(origin(text), Ok(()), "{text}");
        }
        let bad = [
            ("", None),
            ("a.example", Some("https://a.example")),
            ("*.a.example", Some("https://*.a.example")),
            ("https://A.example", Some("https://a.example")),
            ("https://a.example/", Some("https://a.example")),
            ("https://a.example/b/c", Some("https://a.example")),
            ("https://a.example:443", Some("https://a.example")),
            ("http://*.a.example:80", Some("http://*.a.example")),
            ("https://a.*.example", None),
            ("https://*", None),
            ("https://", None),
            ("://a.example", None),
            ("https://a b", None),
            ("https://grün.example", None),
        ];
        for (text, instead) in bad {
            let wrong = origin(text).expect_err(text);
            assert_eq!(wrong.instead.as_deref(), instead, "{text}");
        }
    }
}
