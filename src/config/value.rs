//! What a configuration value can be: parsed from text the same way wherever the text came from, and
//! each with its range in its type, so that messages, help and documents cannot disagree with the check.

use std::{fmt::Debug, time::Duration};

pub use super::places::{HttpUrl, Secret, Word, WorkerName};

/// A kibibyte in bytes.
pub const KIB: u64 = 1 << 10;
/// A mebibyte in bytes.
pub const MIB: u64 = 1 << 20;
/// A gibibyte in bytes.
pub const GIB: u64 = 1 << 30;
/// A tebibyte in bytes.
pub const TIB: u64 = 1 << 40;

/// A second in milliseconds.
pub const SECOND: u64 = 1_000;
/// A minute in milliseconds.
pub const MINUTE: u64 = 60 * SECOND;
/// An hour in milliseconds.
pub const HOUR: u64 = 60 * MINUTE;

/// One configuration value.
pub trait Value: Sized + Clone + PartialEq + Debug {
    /// Stands for the value in help texts.
    const PLACEHOLDER: &'static str;
    /// Whether TOML writes it without quotes.
    const BARE: bool = false;
    /// Whether a flag without a value means `true`.
    const SWITCH: bool = false;
    /// Whether it must never be printed.
    const SECRET: bool = false;
    /// Whether only those who build Springhouse need it: in no help text, sample or document.
    const HIDDEN: bool = false;

    /// The value that `text` says, or in what way it does not.
    fn parse(text: &str) -> Result<Self, String>;

    /// One way to write it: `parse(&v.text())` is `v` again.
    fn text(&self) -> String;

    /// What may be given, with units, for messages and documents.
    fn allowed() -> String;

    /// The value of a key that nobody gave and that has no default; `None`: it must be given.
    fn absent() -> Option<Self> {
        None
    }
}

impl<T: Value> Value for Option<T> {
    const PLACEHOLDER: &'static str = T::PLACEHOLDER;
    const BARE: bool = T::BARE;
    const SWITCH: bool = T::SWITCH;
    const SECRET: bool = T::SECRET;
    const HIDDEN: bool = T::HIDDEN;

    fn parse(text: &str) -> Result<Self, String> {
        T::parse(text).map(Some)
    }
    fn text(&self) -> String {
        self.as_ref().map(T::text).unwrap_or_default()
    }
    fn allowed() -> String {
        T::allowed()
    }
    fn absent() -> Option<Self> {
        Some(None)
    }
}

/// A number of bytes, from `MIN` to `MAX`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Size<const MIN: u64, const MAX: u64>(u64);

impl<const MIN: u64, const MAX: u64> Size<MIN, MAX> {
    /// In bytes.
    pub fn bytes(self) -> u64 {
        self.0
    }

    /// In bytes, where the range fits 32 bits.
    pub fn as_u32(self) -> u32 {
        u32::try_from(self.0).unwrap_or(u32::MAX)
    }
}

impl<const MIN: u64, const MAX: u64> Value for Size<MIN, MAX> {
    const PLACEHOLDER: &'static str = "SIZE";

    fn parse(text: &str) -> Result<Self, String> {
        let size: bytesize::ByteSize = text.trim().parse().map_err(|_| "is not a size".to_owned())?;
        in_range(size.0, MIN, MAX).map(Self)
    }
    fn text(&self) -> String {
        size_text(self.0)
    }
    fn allowed() -> String {
        format!(
            "a size from {} to {}, such as \"512MiB\" or a number of bytes",
            size_text(MIN),
            size_text(MAX)
        )
    }
}

fn size_text(bytes: u64) -> String {
    for (unit, name) in [(TIB, "TiB"), (GIB, "GiB"), (MIB, "MiB"), (KIB, "KiB")] {
        if bytes >= unit && bytes.is_multiple_of(unit) {
            return format!("{}{name}", bytes / unit);
        }
    }
    format!("{bytes}B")
}

/// A number of bytes that is a power of two, from `MIN` to `MAX`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Block<const MIN: u64, const MAX: u64>(Size<MIN, MAX>);

impl<const MIN: u64, const MAX: u64> Block<MIN, MAX> {
    /// In bytes.
    pub fn bytes(self) -> u64 {
        self.0.bytes()
    }
}

impl<const MIN: u64, const MAX: u64> Value for Block<MIN, MAX> {
    const PLACEHOLDER: &'static str = "SIZE";

    fn parse(text: &str) -> Result<Self, String> {
        let size = Size::parse(text)?;
        if size.bytes().is_power_of_two() { Ok(Self(size)) } else { Err("is not a power of two".into()) }
    }
    fn text(&self) -> String {
        self.0.text()
    }
    fn allowed() -> String {
        format!("a power of two from {} to {}, such as \"64KiB\"", size_text(MIN), size_text(MAX))
    }
}

/// A time, from `MIN` to `MAX` ms, in whole milliseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Span<const MIN: u64, const MAX: u64>(u64);

impl<const MIN: u64, const MAX: u64> Span<MIN, MAX> {
    /// As a duration.
    pub fn duration(self) -> Duration {
        Duration::from_millis(self.0)
    }
}

impl<const MIN: u64, const MAX: u64> Value for Span<MIN, MAX> {
    const PLACEHOLDER: &'static str = "TIME";

    fn parse(text: &str) -> Result<Self, String> {
        let text = text.trim();
        if !text.is_empty() && text != "0" && text.bytes().all(|b| b.is_ascii_digit()) {
            return Err(format!("has no unit (\"{text}s\" is {text} seconds)"));
        }
        let time = if text == "0" {
            Duration::ZERO
        } else {
            humantime::parse_duration(text).map_err(|_| "is not a time".to_owned())?
        };
        if time.subsec_nanos() % 1_000_000 != 0 {
            return Err("is finer than a millisecond".into());
        }
        in_range(u64::try_from(time.as_millis()).unwrap_or(u64::MAX), MIN, MAX).map(Self)
    }
    fn text(&self) -> String {
        time_text(self.0)
    }
    fn allowed() -> String {
        format!("a time from {} to {}, such as \"250ms\", \"10s\" or \"5m\"", time_text(MIN), time_text(MAX))
    }
}

fn time_text(ms: u64) -> String {
    humantime::format_duration(Duration::from_millis(ms)).to_string()
}

/// Permission bits as everybody writes them, in octal; at most `MAX`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Octal<const MAX: u32>(u32);

impl<const MAX: u32> Octal<MAX> {
    /// The bits.
    pub fn bits(self) -> u32 {
        self.0
    }
}

impl<const MAX: u32> Value for Octal<MAX> {
    const PLACEHOLDER: &'static str = "OCTAL";

    fn parse(text: &str) -> Result<Self, String> {
        let text = text.trim();
        if text.is_empty() || !text.bytes().all(|b| matches!(b, b'0'..=b'7')) {
            return Err("is not an octal number".into());
        }
        let bits = u32::from_str_radix(text, 8).map_err(|_| "is too large".to_owned())?;
        in_range(bits.into(), 0, MAX.into()).map(|_| Self(bits))
    }
    fn text(&self) -> String {
        format!("{:03o}", self.0)
    }
    fn allowed() -> String {
        format!("an octal number from 000 to {MAX:03o}, such as \"022\"")
    }
}

/// A value that is for tests and benchmarks only.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Hidden<T>(pub T);

impl<T: Value> Value for Hidden<T> {
    const PLACEHOLDER: &'static str = T::PLACEHOLDER;
    const BARE: bool = T::BARE;
    const SWITCH: bool = T::SWITCH;
    const SECRET: bool = T::SECRET;
    const HIDDEN: bool = true;

    fn parse(text: &str) -> Result<Self, String> {
        T::parse(text).map(Self)
    }
    fn text(&self) -> String {
        self.0.text()
    }
    fn allowed() -> String {
        T::allowed()
    }
}

/// A whole number from `MIN` to `MAX`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Count<const MIN: u64, const MAX: u64>(u64);

impl<const MIN: u64, const MAX: u64> Count<MIN, MAX> {
    /// The number.
    pub fn get(self) -> u64 {
        self.0
    }

    /// The number where memory is counted. Ranges end below 2^32, which is what a `usize` holds at least.
    pub fn as_usize(self) -> usize {
        usize::try_from(self.0).unwrap_or(usize::MAX)
    }

    /// The number as 32 bits, which the ranges of those keys fit.
    pub fn as_u32(self) -> u32 {
        u32::try_from(self.0).unwrap_or(u32::MAX)
    }
}

impl<const MIN: u64, const MAX: u64> Value for Count<MIN, MAX> {
    const PLACEHOLDER: &'static str = "N";
    const BARE: bool = true;

    fn parse(text: &str) -> Result<Self, String> {
        let number = text.trim().parse().map_err(|_| "is not a whole number".to_owned())?;
        in_range(number, MIN, MAX).map(Self)
    }
    fn text(&self) -> String {
        self.0.to_string()
    }
    fn allowed() -> String {
        format!("a whole number from {MIN} to {MAX}")
    }
}

fn in_range(value: u64, min: u64, max: u64) -> Result<u64, String> {
    match value {
        _ if value < min => Err("is too small".into()),
        _ if value > max => Err("is too large".into()),
        _ => Ok(value),
    }
}

impl Value for bool {
    const PLACEHOLDER: &'static str = "true|false";
    const BARE: bool = true;
    const SWITCH: bool = true;

    fn parse(text: &str) -> Result<Self, String> {
        text.parse().map_err(|_| "is neither true nor false".into())
    }
    fn text(&self) -> String {
        self.to_string()
    }
    fn allowed() -> String {
        "true or false".into()
    }
}

/// Makes a value of an enum whose variants are a few words; the enum is defined here, or elsewhere.
macro_rules! words {
    ($(#[$meta:meta])* $vis:vis enum $name:ident { $($(#[$vmeta:meta])* $variant:ident = $word:literal,)+ }) => {
        $(#[$meta])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        $vis enum $name { $($(#[$vmeta])* $variant,)+ }

        $crate::config::value::words! { impl $name { $($variant = $word,)+ } }
    };
    (impl $name:ident { $($variant:ident = $word:literal,)+ }) => {
        impl $crate::config::value::Value for $name {
            const PLACEHOLDER: &'static str = concat!($($word, "|",)+);

            fn parse(text: &str) -> Result<Self, String> {
                match text {
                    $($word => Ok(Self::$variant),)+
                    _ => Err("is none of the words it may be".into()),
                }
            }
            fn text(&self) -> String {
                match self { $(Self::$variant => $word,)+ }.to_owned()
            }
            fn allowed() -> String {
                [$(concat!("\"", $word, "\"")),+].join(" or ")
            }
        }
    };
}
pub(crate) use words;
