//! The canonical path: a table of what becomes what, and what must hold for any path under any policy.
#![expect(clippy::unwrap_used, reason = "in helpers of tests too, a panic is a failed test")]

use http1::*;
use proptest::prelude::*;

const RULES: [Rule; 3] = [Rule::Refuse, Rule::Keep, Rule::Decode];

fn policies() -> impl Iterator<Item = PathPolicy> {
    (0..54).map(|at| PathPolicy {
        encoded_slash: RULES[at % 3],
        backslash: RULES[at / 3 % 3],
        semicolon: RULES[at / 9 % 3],
        refuse_double_slash: at / 27 == 1,
    })
}

/// The canonical form of `raw`, wherever it is.
fn canonical(raw: &[u8], policy: &PathPolicy) -> Result<(Vec<u8>, PathTraits), Fault> {
    let mut out = b"not touched".to_vec();
    match canonical_path(raw, policy, &mut out)? {
        Canonical::Unchanged(traits) => Ok((raw.to_vec(), traits)),
        Canonical::Rewritten(traits) => {
            assert_ne!(out, raw, "what is equal is not called rewritten");
            Ok((out, traits))
        }
    }
}

fn check(policy: PathPolicy, rows: &[(&str, &str)]) {
    for (raw, expected) in rows {
        let result = canonical(raw.as_bytes(), &policy).map(|(path, _)| String::from_utf8(path).unwrap());
        assert_eq!(result.as_deref(), Ok(*expected), "{raw}");
    }
}

#[test]
fn each_path_has_one_spelling() {
    check(
        PathPolicy::KEEP,
        &[
            ("/", "/"),
            ("", "/"),
            ("/a", "/a"),
            ("/a/", "/a/"),
            ("/A", "/A"),
            ("/%41%7a%30", "/Az0"),
            ("/%2d%2E%5f%7E", "/-._~"),
            ("/%c3%a4", "/%C3%A4"),
            ("/%20%2b%3d", "/%20%2B%3D"),
            ("/!$&'()*+,=:@", "/!$&'()*+,=:@"),
            ("/%21%24%26%27%28%29%2A%2B%2C%3D%3A%40", "/%21%24%26%27%28%29%2A%2B%2C%3D%3A%40"),
            ("/%25", "/%25"),
            ("/%252F%252e%252e", "/%252F%252e%252e"),
            ("/%2525", "/%2525"),
            ("/%3f%23", "/%3F%23"),
            ("/\"<>[]^`{|}", "/%22%3C%3E%5B%5D%5E%60%7B%7C%7D"),
            ("/%5b%7b", "/%5B%7B"),
            ("/%ff", "/%FF"),
            ("/%c0", "/%C0"),
            ("/%e0%a0%80", "/%E0%A0%80"),
        ],
    );
}

#[test]
fn dot_segments_are_removed() {
    check(
        PathPolicy::KEEP,
        &[
            ("/.", "/"),
            ("/./", "/"),
            ("/./a", "/a"),
            ("/a/.", "/a/"),
            ("/a/./b", "/a/b"),
            ("/a/..", "/"),
            ("/a/../", "/"),
            ("/a/../b", "/b"),
            ("/a/b/..", "/a/"),
            ("/a/b/../..", "/"),
            ("/a/b/c/./../../g", "/a/g"),
            ("/mid/content=5/../6", "/mid/6"),
            ("/a/%2e/b", "/a/b"),
            ("/a/%2E%2e/b", "/b"),
            ("/a/.%2e/b", "/b"),
            ("/a/%2e./b", "/b"),
            ("/...", "/..."),
            ("/.a", "/.a"),
            ("/..a", "/..a"),
            ("/a.", "/a."),
            ("/a..", "/a.."),
            ("/a/.../b", "/a/.../b"),
            ("/.well-known/x", "/.well-known/x"),
        ],
    );
}

#[test]
fn empty_segments_are_merged() {
    check(
        PathPolicy::KEEP,
        &[
            ("//", "/"),
            ("///", "/"),
            ("//a", "/a"),
            ("/a//b", "/a/b"),
            ("/a//", "/a/"),
            ("/a/.//b", "/a/b"),
            ("/a//./b", "/a/b"),
            ("/.//", "/"),
        ],
    );
}

#[test]
fn ambiguous_text_is_kept_or_decoded_by_rule() {
    let keep = PathPolicy::KEEP;
    check(
        keep,
        &[
            ("/a%2fb", "/a%2Fb"),
            ("/a%5cb", "/a%5Cb"),
            ("/a;b", "/a;b"),
            ("/a%3bb", "/a%3Bb"),
            ("/a;b=c/d;", "/a;b=c/d;"),
            ("/a...;b", "/a...;b"),
            ("/%2F", "/%2F"),
            ("/a%2f%2fb", "/a%2F%2Fb"),
            ("/a%2f.b", "/a%2F.b"),
        ],
    );
    check(
        PathPolicy { encoded_slash: Rule::Decode, backslash: Rule::Decode, semicolon: Rule::Decode, ..keep },
        &[
            ("/a%2fb", "/a/b"),
            ("/a%5cb", "/a/b"),
            ("/a%3bb", "/a;b"),
            ("/a;b", "/a;b"),
            ("/%2F", "/"),
            ("/a%2f%5C/b", "/a/b"),
            ("/a%2f..%2fb", "/b"),
            ("/a%2f.", "/a/"),
            ("/a%5c%2e%2e", "/"),
            ("/%252f", "/%252f"),
        ],
    );
    let decode_slash = PathPolicy { encoded_slash: Rule::Decode, ..keep };
    check(decode_slash, &[("/a%2fb%5cc;d%3be", "/a/b%5Cc;d%3Be")]);
    let strict = PathPolicy { refuse_double_slash: true, ..decode_slash };
    assert_eq!(canonical(b"/a%2f/b", &strict), Err(Fault::PathDoubleSlash));
    assert_eq!(canonical(b"/a%2f..%2f..", &decode_slash), Err(Fault::PathAboveRoot));
    assert_eq!(canonical(b"/a%2f..;x", &decode_slash), Err(Fault::PathDotParameter));
}

#[test]
fn a_canonical_path_is_only_looked_at() {
    for path in ["/", "/a/b.c/d-e_f~g", "/a;b", "/a:b@c!$&'()*+,="] {
        let mut out = b"mine".to_vec();
        let traits = PathTraits { semicolon: path.contains(';'), ..PathTraits::default() };
        assert_eq!(canonical_path(path.as_bytes(), &PathPolicy::KEEP, &mut out), Ok(Canonical::Unchanged(traits)));
        assert_eq!(out, b"mine");
    }
}

#[test]
fn traits_tell_what_the_raw_path_had() {
    let none = PathTraits::default();
    for (path, traits) in [
        ("/a", none),
        ("/a/../b%41", none),
        ("/a%2fb", PathTraits { encoded_slash: true, ..none }),
        ("/a%5Cb", PathTraits { backslash: true, ..none }),
        ("/a;b", PathTraits { semicolon: true, ..none }),
        ("/a%3Bb", PathTraits { semicolon: true, ..none }),
        ("/a//b", PathTraits { double_slash: true, ..none }),
        ("/;%2f%5c//", PathTraits { encoded_slash: true, backslash: true, semicolon: true, double_slash: true }),
        ("/%252f%255c%253b", none),
    ] {
        let (_, found) = canonical(path.as_bytes(), &PathPolicy::KEEP).unwrap();
        assert_eq!((found, found.any()), (traits, traits != none), "{path}");
    }
}

/// Pieces that meet each other in unpleasant ways.
fn path() -> impl Strategy<Value = Vec<u8>> {
    const PIECES: &[&str] = &[
        "/",
        "/",
        "/",
        "//",
        ".",
        "..",
        ";",
        "\\",
        "a",
        "b.c",
        "%2e",
        "%2E",
        "%2f",
        "%2F",
        "%5c",
        "%5C",
        "%3b",
        "%3B",
        "%25",
        "%252e",
        "%252f",
        "%41",
        "%00",
        "%0a",
        "%7f",
        "%c0%ae",
        "%c3%a4",
        "%e0%80%ae",
        "%",
        "%4",
        "%g1",
        "{",
        "^",
        "?",
        "#",
        " ",
        "\u{e4}",
        "=",
        "~",
        "...",
    ];
    let pieces = prop::collection::vec(prop::sample::select(PIECES), 0..12);
    (prop::bool::weighted(0.9), pieces).prop_map(|(rooted, pieces)| {
        let root = if rooted { "/" } else { "" };
        [root, &pieces.concat()].concat().into_bytes()
    })
}

/// What `raw` means, by another road: decode all that may be decoded, cut at slashes, resolve.
fn reference(raw: &[u8], policy: &PathPolicy) -> Vec<u8> {
    let mut text = String::new();
    let mut rest = std::str::from_utf8(raw).unwrap();
    while let Some(first) = rest.chars().next() {
        let escape = rest.get(..3).filter(|_| first == '%');
        let decoded = escape.map(|escape| u8::from_str_radix(&escape[1..], 16).unwrap() as char);
        let decoded_by_rule = |char| match char {
            '/' => policy.encoded_slash == Rule::Decode,
            '\\' => policy.backslash == Rule::Decode,
            ';' => policy.semicolon == Rule::Decode,
            _ => char.is_ascii_alphanumeric() || "-._~".contains(char),
        };
        match (escape, decoded) {
            (Some(_), Some('\\')) if decoded_by_rule('\\') => text.push('/'),
            (Some(_), Some(char)) if decoded_by_rule(char) => text.push(char),
            (Some(escape), _) => text.push_str(&escape.to_ascii_uppercase()),
            _ if "\"<>[]^`{|}".contains(first) => text.push_str(&format!("%{:02X}", first as u32)),
            _ => text.push(first),
        }
        rest = &rest[escape.map_or(1, str::len)..];
    }
    let mut resolved: Vec<&str> = Vec::new();
    let mut directory = true;
    for segment in text.split('/') {
        directory = matches!(segment, "" | "." | "..");
        match segment {
            "" | "." => {}
            ".." => drop(resolved.pop()),
            _ => resolved.push(segment),
        }
    }
    let slash = if directory && !resolved.is_empty() { "/" } else { "" };
    format!("/{}{slash}", resolved.join("/")).into_bytes()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, ..ProptestConfig::default() })]

    #[test]
    fn canonical_paths_are_clean_and_stay_as_they_are(raw in path()) {
        for policy in policies() {
            let Ok((once, traits)) = canonical(&raw, &policy) else { continue };
            let text = std::str::from_utf8(&once).unwrap();
            prop_assert!(text.is_ascii() && text.starts_with('/'), "{text}");
            prop_assert!(!text.contains("//") && !text.contains('\\'), "{text}");
            prop_assert!(!text.split('/').any(|segment| {
                let name = segment.split(';').next().unwrap();
                name == "." || name == ".."
            }), "{text}");
            for (rule, escape) in [(policy.encoded_slash, "%2F"), (policy.backslash, "%5C"), (policy.semicolon, "%3B")] {
                prop_assert!(rule == Rule::Keep || !text.contains(escape), "{text}");
            }
            prop_assert!(policy.semicolon != Rule::Refuse || !text.contains(';'), "{text}");
            prop_assert!(!(policy.refuse_double_slash && traits.double_slash), "{text}");
            prop_assert_eq!(canonical(&once, &policy).map(|(twice, _)| twice), Ok(once.clone()));
            prop_assert_eq!(String::from_utf8(reference(&raw, &policy)).unwrap(), text);
        }
    }

    #[test]
    fn a_policy_changes_nothing_of_paths_without_traits(raw in path()) {
        match canonical(&raw, &PathPolicy::KEEP) {
            Ok((kept, traits)) => for policy in policies() {
                let result = canonical(&raw, &policy);
                if !traits.any() {
                    prop_assert_eq!(result, Ok((kept.clone(), traits)));
                } else if let Ok((_, found)) = result {
                    prop_assert_eq!(found.encoded_slash, traits.encoded_slash);
                }
            },
            // Only decoding can save a path that is refused when everything is kept: dots behind an encoded slash.
            Err(fault) => for policy in policies() {
                let decodes = policy.encoded_slash == Rule::Decode || policy.backslash == Rule::Decode;
                prop_assert!(canonical(&raw, &policy).is_err() || (fault == Fault::PathHiddenDots && decodes));
            },
        }
    }

    #[test]
    fn any_bytes_are_refused_or_made_canonical(raw in prop::collection::vec(any::<u8>(), 0..40)) {
        for policy in policies() {
            if let Ok((path, _)) = canonical(&raw, &policy) {
                prop_assert_eq!(canonical(&path, &policy).map(|(twice, _)| twice), Ok(path));
            }
        }
    }
}
