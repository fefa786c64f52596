//! Values with a unit, as an operator writes them: `"30s"`, `"64KiB"`, and secrets, which are never written back.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};
use subtle::ConstantTimeEq as _;
use zeroize::Zeroizing;

/// A span of time, to the millisecond: `"250ms"`, `"30s"`, `"5m"`, `"1h30m"`. Units fall from left to right, each once.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Time(pub Duration);

/// Milliseconds in a unit, largest first.
const TIME_UNITS: [(&str, u64); 5] = [("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1_000), ("ms", 1)];

impl Time {
    pub const fn from_secs(secs: u64) -> Time {
        Time(Duration::from_secs(secs))
    }

    pub const fn from_millis(millis: u64) -> Time {
        Time(Duration::from_millis(millis))
    }
}

impl From<Time> for Duration {
    fn from(time: Time) -> Duration {
        time.0
    }
}

/// Why a text is not a [`Time`] or a [`Size`], and what would be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum UnitError {
    /// Not a list of numbers with time units.
    NotATime,
    /// A unit is repeated or larger than the one before it.
    TimeOrder,
    /// Not one number with a size unit.
    NotASize,
    /// Not a number from 0 to 100 with a percent sign.
    NotAPercentage,
    /// More than 64 bits hold.
    TooLarge,
}

impl fmt::Display for UnitError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            UnitError::NotATime => {
                r#"expected whole numbers with the units d, h, m, s or ms, such as "30s", "250ms" or "1h30m""#
            }
            UnitError::TimeOrder => r#"expected each unit once, the largest first, such as "1h30m""#,
            UnitError::NotASize => {
                r#"expected a whole number with a unit: B, KiB, MiB, GiB, TiB (1024) or kB, MB, GB, TB (1000), such as "64KiB""#
            }
            UnitError::NotAPercentage => {
                r#"expected a number from 0 to 100 with at most four decimals and a percent sign, such as "12.5%""#
            }
            UnitError::TooLarge => "more than 64 bits can hold",
        })
    }
}

impl std::error::Error for UnitError {}

impl FromStr for Time {
    type Err = UnitError;

    fn from_str(text: &str) -> Result<Time, UnitError> {
        let mut rest = text;
        let mut millis: u64 = 0;
        let mut smaller_than = u64::MAX;
        loop {
            let (number, after) = split_number(rest).ok_or(UnitError::NotATime)?;
            let unit_len = after.find(|c: char| !c.is_ascii_alphabetic()).unwrap_or(after.len());
            let (unit, after) = after.split_at(unit_len);
            let (_, factor) = *TIME_UNITS.iter().find(|(name, _)| *name == unit).ok_or(UnitError::NotATime)?;
            if factor >= smaller_than {
                return Err(UnitError::TimeOrder);
            }
            smaller_than = factor;
            let part = number?.checked_mul(factor).ok_or(UnitError::TooLarge)?;
            millis = millis.checked_add(part).ok_or(UnitError::TooLarge)?;
            rest = after;
            if rest.is_empty() {
                return Ok(Time::from_millis(millis));
            }
        }
    }
}

/// The digits `text` begins with as a number, and what follows. `None`: it does not begin with a digit.
fn split_number(text: &str) -> Option<(Result<u64, UnitError>, &str)> {
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, rest) = text.split_at(digits);
    (digits > 0).then(|| (number.parse().map_err(|_| UnitError::TooLarge), rest))
}

impl fmt::Display for Time {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let millis = self.0.as_millis();
        if millis == 0 {
            return f.write_str("0s");
        }
        // Days are read but not written: `24h` is what people say.
        let exact = TIME_UNITS[1..].iter().find(|(_, factor)| millis.is_multiple_of(u128::from(*factor)));
        let (unit, factor) = exact.copied().unwrap_or(("ms", 1));
        write!(f, "{}{unit}", millis / u128::from(factor))
    }
}

/// A number of bytes: `"240B"`, `"64KiB"`, `"100MB"`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Size(pub u64);

const SIZE_UNITS: [(&str, u64); 9] = [
    ("TiB", 1 << 40),
    ("GiB", 1 << 30),
    ("MiB", 1 << 20),
    ("KiB", 1 << 10),
    ("TB", 1_000_000_000_000),
    ("GB", 1_000_000_000),
    ("MB", 1_000_000),
    ("kB", 1_000),
    ("B", 1),
];

impl Size {
    pub const fn from_kib(kib: u64) -> Size {
        Size(kib * 1024)
    }

    pub const fn from_mib(mib: u64) -> Size {
        Size(mib * 1024 * 1024)
    }

    pub const fn bytes(self) -> u64 {
        self.0
    }
}

impl FromStr for Size {
    type Err = UnitError;

    fn from_str(text: &str) -> Result<Size, UnitError> {
        let (number, unit) = split_number(text).ok_or(UnitError::NotASize)?;
        let (_, factor) = *SIZE_UNITS.iter().find(|(name, _)| *name == unit).ok_or(UnitError::NotASize)?;
        number?.checked_mul(factor).map(Size).ok_or(UnitError::TooLarge)
    }
}

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let exact = SIZE_UNITS.iter().filter(|(_, factor)| self.0 >= *factor && self.0.is_multiple_of(*factor));
        let (unit, factor) = exact.max_by_key(|(_, factor)| *factor).copied().unwrap_or(("B", 1));
        write!(f, "{}{unit}", self.0 / factor)
    }
}

/// A share: `"10%"`, `"0.5%"`, to the ten-thousandth of a percent.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Percentage {
    millionths: u32,
}

impl Percentage {
    pub const WHOLE: Percentage = Percentage { millionths: 1_000_000 };
    pub const HALF: Percentage = Percentage { millionths: 500_000 };

    /// So many of a hundred, at most all.
    pub const fn of_whole(percent: u32) -> Percentage {
        Percentage { millionths: if percent > 100 { 1_000_000 } else { percent * 10_000 } }
    }

    /// 0 to 100
    pub const fn from_whole(percent: u32) -> Percentage {
        Percentage { millionths: percent * 10_000 }
    }

    /// 0 to 1,000,000
    pub fn millionths(self) -> u32 {
        self.millionths
    }
}

impl FromStr for Percentage {
    type Err = UnitError;

    fn from_str(text: &str) -> Result<Percentage, UnitError> {
        let number = text.strip_suffix('%').ok_or(UnitError::NotAPercentage)?;
        let (whole, fraction) = number.split_once('.').unwrap_or((number, "0"));
        let digits = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
        if !digits(whole) || !digits(fraction) || fraction.len() > 4 {
            return Err(UnitError::NotAPercentage);
        }
        let whole: u32 = whole.parse().map_err(|_| UnitError::NotAPercentage)?;
        let fraction: u32 = format!("{fraction:0<4}").parse().map_err(|_| UnitError::NotAPercentage)?;
        let millionths = whole.checked_mul(10_000).and_then(|whole| whole.checked_add(fraction));
        millionths
            .filter(|&all| all <= 1_000_000)
            .map(|millionths| Percentage { millionths })
            .ok_or(UnitError::NotAPercentage)
    }
}

impl fmt::Display for Percentage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let fraction = format!("{:04}", self.millionths % 10_000);
        match fraction.trim_end_matches('0') {
            "" => write!(f, "{}%", self.millionths / 10_000),
            fraction => write!(f, "{}.{fraction}%", self.millionths / 10_000),
        }
    }
}

/// Text that must not be seen: it does not print, is not serialized, and its memory is overwritten when it is dropped.
#[derive(Clone, Deserialize)]
#[serde(from = "String")]
pub struct Secret(Zeroizing<String>);

impl Secret {
    /// The secret itself. The caller sees to it that it reaches no log, message or metric.
    pub fn expose(&self) -> &str {
        &self.0
    }

    /// Whether `guess` is the secret. Takes the same time for every guess of one length.
    pub fn matches(&self, guess: &[u8]) -> bool {
        self.0.as_bytes().ct_eq(guess).into()
    }
}

impl From<String> for Secret {
    fn from(text: String) -> Secret {
        Secret(Zeroizing::new(text))
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(..)")
    }
}

impl fmt::Display for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("(secret)")
    }
}

/// Serde and schema for a type written as text: `FromStr` in, `Display` out.
macro_rules! as_text {
    ($type:ident, $format:literal, $pattern:literal, $meaning:literal) => {
        impl<'de> Deserialize<'de> for $type {
            fn deserialize<D: Deserializer<'de>>(from: D) -> Result<$type, D::Error> {
                String::deserialize(from)?.parse().map_err(D::Error::custom)
            }
        }

        impl Serialize for $type {
            fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
                to.collect_str(self)
            }
        }

        impl JsonSchema for $type {
            fn inline_schema() -> bool {
                true
            }

            fn schema_name() -> std::borrow::Cow<'static, str> {
                stringify!($type).into()
            }

            fn json_schema(_: &mut SchemaGenerator) -> Schema {
                json_schema!({ "type": "string", "format": $format, "pattern": $pattern, "description": $meaning })
            }
        }
    };
}

as_text!(
    Time,
    "interval",
    "^([0-9]+d)?([0-9]+h)?([0-9]+m)?([0-9]+s)?([0-9]+ms)?$",
    "A span of time: whole numbers with the units d, h, m, s or ms, the largest first."
);
as_text!(
    Size,
    "size",
    "^[0-9]+([KMGT]i|[kMGT])?B$",
    "A number of bytes: B, KiB, MiB, GiB, TiB (powers of 1024) or kB, MB, GB, TB (powers of 1000)."
);
as_text!(Percentage, "percentage", "^[0-9]{1,3}([.][0-9]{1,4})?%$", "A share: 0 to 100 with a percent sign.");

impl JsonSchema for Secret {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Secret".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "string", "format": "secret", "minLength": 1, "writeOnly": true })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use UnitError::{NotASize, NotATime, TimeOrder, TooLarge};

    #[test]
    fn times_are_whole_numbers_with_falling_units() {
        for (text, expected) in [
            ("0s", Ok(0)),
            ("250ms", Ok(250)),
            ("30s", Ok(30_000)),
            ("5m", Ok(300_000)),
            ("1h30m", Ok(5_400_000)),
            ("1d2h3m4s5ms", Ok(93_784_005)),
            ("90m", Ok(5_400_000)),
            ("", Err(NotATime)),
            ("30", Err(NotATime)),
            ("s", Err(NotATime)),
            ("-1s", Err(NotATime)),
            ("1.5s", Err(NotATime)),
            ("1 s", Err(NotATime)),
            ("30sec", Err(NotATime)),
            ("30S", Err(NotATime)),
            ("1m1h", Err(TimeOrder)),
            ("1s1s", Err(TimeOrder)),
            ("99999999999999999999s", Err(TooLarge)),
            ("18446744073709551615s", Err(TooLarge)),
        ] {
            assert_eq!(text.parse(), expected.map(Time::from_millis), "{text}");
        }
    }

    #[test]
    fn sizes_are_one_whole_number_with_a_unit() {
        for (text, expected) in [
            ("0B", Ok(0)),
            ("240B", Ok(240)),
            ("64KiB", Ok(65_536)),
            ("64kB", Ok(64_000)),
            ("100MiB", Ok(104_857_600)),
            ("1TB", Ok(1_000_000_000_000)),
            ("", Err(NotASize)),
            ("64", Err(NotASize)),
            ("64K", Err(NotASize)),
            ("64KB", Err(NotASize)),
            ("64 KiB", Err(NotASize)),
            ("1KiB1B", Err(NotASize)),
            ("18446744073709551616B", Err(TooLarge)),
            ("16777216TiB", Err(TooLarge)),
        ] {
            assert_eq!(text.parse(), expected.map(Size), "{text}");
        }
    }

    #[test]
    fn percentages_are_numbers_to_a_hundred() {
        for (text, expected) in [
            ("0%", Some(0)),
            ("100%", Some(1_000_000)),
            ("12.5%", Some(125_000)),
            ("0.0001%", Some(1)),
            ("007%", Some(70_000)),
            ("100.0001%", None),
            ("101%", None),
            ("12", None),
            ("%", None),
            (".5%", None),
            ("5.%", None),
            ("0.00001%", None),
            ("-1%", None),
            ("99999999999%", None),
        ] {
            assert_eq!(text.parse::<Percentage>().ok().map(Percentage::millionths), expected, "{text}");
        }
        for text in ["0%", "100%", "12.5%", "0.0001%"] {
            assert_eq!(text.parse::<Percentage>().expect(text).to_string(), text);
        }
    }

    #[test]
    fn what_is_written_back_is_what_people_write() {
        for text in ["0s", "250ms", "1500ms", "30s", "75s", "5m", "90m", "24h"] {
            assert_eq!(text.parse::<Time>().unwrap().to_string(), text);
        }
        for text in ["0B", "240B", "64KiB", "100MiB", "1MB", "1TB", "1500B"] {
            assert_eq!(text.parse::<Size>().unwrap().to_string(), text);
        }
    }

    #[test]
    fn a_secret_does_not_print() {
        let secret = Secret::from("hunter2".to_owned());
        assert_eq!(format!("{secret} {secret:?} {:?}", Some(&secret)), "(secret) Secret(..) Some(Secret(..))");
        assert!(secret.matches(b"hunter2"));
        assert!(!secret.matches(b"hunter3") && !secret.matches(b"hunter") && !secret.matches(b""));
    }

    proptest::proptest! {
        #[test]
        fn reading_what_was_written_gives_the_same(value: u64) {
            let size = Size(value);
            proptest::prop_assert_eq!(size.to_string().parse(), Ok(size));
            let time = Time::from_millis(value);
            proptest::prop_assert_eq!(time.to_string().parse(), Ok(time));
        }
    }
}
