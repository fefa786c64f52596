//! What must fit together in an upstream's `sticky`.

use crate::config::tree::{Node, Value};
use crate::config::walk::join;
use crate::problem::Problem;

/// Characters of a secret below which it could be found by trying: 32 hexadecimal digits are 128 bits.
const SECRET_CHARS_MIN: usize = 32;

pub(super) fn check(upstream: &str, node: &Node, problems: &mut Vec<Problem>) {
    let Some(sticky) = node.get("sticky") else { return };
    let path = join(upstream, "sticky");
    for (index, key) in sticky.get("keys").map(Node::items).unwrap_or_default().iter().enumerate() {
        let at = format!("{path}.keys[{index}]");
        // What was read from a file is the secret by now.
        let key_of = if key.get("signing_secret_file").is_some() { "signing_secret_file" } else { "signing_secret" };
        match key.get("signing_secret").map(|secret| (secret, secret.text())) {
            None if key.table().is_some() && key.get("signing_secret_file").is_none() => {
                let what = "there is no secret: write `signing_secret_file`";
                problems.push(Problem::new(at, what).at(key.place));
            }
            Some((secret, Some(text))) if text.len() < SECRET_CHARS_MIN => {
                let what = format!("too short to sign with: at least {SECRET_CHARS_MIN} characters, random ones");
                let problem = Problem::new(join(&at, key_of), what).at(secret.place);
                problems.push(problem.hint("`openssl rand -hex 32` makes one"));
            }
            _ => {}
        }
    }
    let never = sticky.get("secure").filter(|secure| matches!(secure.value, Value::Boolean(false)));
    if let (Some(site), Some(never)) = (sticky.get("same_site").filter(|site| site.text() == Some("none")), never) {
        let what = "browsers take it with `Secure` only";
        let problem = Problem::new(join(&path, "same_site"), what).at(site.place);
        problems.push(problem.also(never.place, "and this leaves it out"));
    }
    let Some(cookie) = sticky.get("cookie") else { return };
    let name = cookie.text().unwrap_or_default();
    // RFC 6265bis §4.1.3: browsers throw away what its name does not promise.
    if let (true, Some(never)) = (name.starts_with("__Secure-") || name.starts_with("__Host-"), never) {
        let what = "browsers take a cookie of such a name with `Secure` only";
        let problem = Problem::new(join(&path, "cookie"), what).at(cookie.place);
        problems.push(problem.also(never.place, "and this leaves it out"));
    }
    if let (true, Some(below)) =
        (name.starts_with("__Host-"), sticky.get("path").filter(|path| path.text() != Some("/")))
    {
        let what = "browsers take a cookie of such a name for the whole host only";
        let problem = Problem::new(join(&path, "cookie"), what).at(cookie.place);
        problems.push(problem.also(below.place, "and this says which part"));
    }
}
