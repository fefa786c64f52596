//! What keeps a client with the endpoint that answered it before. Part of [`super::Upstream`].

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::super::units::{Secret, Time};
use super::super::words;

/// A cookie that names the endpoint that answered. While that one takes requests it gets those that carry the cookie.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Sticky {
    /// Name of the cookie. A token (RFC 6265 §4.1.1).
    #[schemars(with = "words::Token")]
    pub cookie: String,
    /// Secrets cookies are signed with: the first one signs, all of them are taken, so that they can be changed one after the other. The same on every gateway that should know the other ones' cookies. At least one. Default: one that is drawn when the process starts.
    #[serde(default)]
    #[schemars(length(min = 1))]
    pub keys: Option<Vec<StickyKey>>,
    /// `Path` of the cookie: the requests a browser sends it with. Default `/`.
    #[serde(default = "root")]
    #[schemars(with = "words::CookiePath")]
    pub path: String,
    /// `Secure`: `auto` (default: where the client came by https), true or false.
    #[serde(default)]
    pub secure: CookieSecure,
    /// `HttpOnly`: scripts of the page do not see it. Default true.
    #[serde(default = "yes")]
    pub http_only: bool,
    /// `SameSite`: `lax` (default), `strict` or `none`.
    #[serde(default)]
    pub same_site: SameSite,
    /// `Max-Age`: how long it is good for; sent anew when half of that is over. Default: as long as the browser is open. 1s to 400d.
    #[serde(default)]
    #[schemars(extend("x-min" = "1s", "x-max" = "400d"))]
    pub max_age: Option<Time>,
}

fn root() -> String {
    "/".to_owned()
}

fn yes() -> bool {
    true
}

/// A secret that cookies are signed with, of at least 32 characters. One of `signing_secret` and `signing_secret_file`.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(inline)]
pub struct StickyKey {
    /// The secret itself. Better: `signing_secret_file`.
    #[serde(default)]
    pub signing_secret: Option<Secret>,
    /// File holding the secret, relative to the file that says so; surrounding white space is dropped.
    #[serde(default)]
    #[schemars(with = "Option<words::SecretFile>")]
    pub signing_secret_file: Option<String>,
}

/// Whether a cookie is sent over https only.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(from = "CookieSecureText", into = "CookieSecureText")]
#[schemars(with = "CookieSecureText")]
pub enum CookieSecure {
    /// Where the client came by https.
    #[default]
    Auto,
    Always,
    Never,
}

#[derive(Serialize, Deserialize, JsonSchema)]
#[serde(untagged)]
enum CookieSecureText {
    Auto(SecureAuto),
    Plain(bool),
}

#[derive(Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[schemars(inline)]
enum SecureAuto {
    Auto,
}

impl From<CookieSecureText> for CookieSecure {
    fn from(text: CookieSecureText) -> CookieSecure {
        match text {
            CookieSecureText::Auto(SecureAuto::Auto) => CookieSecure::Auto,
            CookieSecureText::Plain(true) => CookieSecure::Always,
            CookieSecureText::Plain(false) => CookieSecure::Never,
        }
    }
}

impl From<CookieSecure> for CookieSecureText {
    fn from(secure: CookieSecure) -> CookieSecureText {
        match secure {
            CookieSecure::Auto => CookieSecureText::Auto(SecureAuto::Auto),
            CookieSecure::Always => CookieSecureText::Plain(true),
            CookieSecure::Never => CookieSecureText::Plain(false),
        }
    }
}

/// Whether a cookie goes with requests that pages of other sites bring about.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum SameSite {
    /// With links that are followed.
    #[default]
    Lax,
    Strict,
    /// With all; browsers then want `Secure`.
    None,
}

impl SameSite {
    pub fn name(self) -> &'static str {
        match self {
            SameSite::Lax => "Lax",
            SameSite::Strict => "Strict",
            SameSite::None => "None",
        }
    }
}
