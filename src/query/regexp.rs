//! `REGEXP`, as Trough's clients know it: Python's `re.search`.
//!
//! `value REGEXP pattern` calls `regexp(pattern, value)`. NULL as value gives 0; anything else that is no
//! text, or a pattern that is none, fails with the words that Python's SQLite has for it. Look-around and
//! back-references need backtracking, which can take for ever and runs where SQLite cannot interrupt it: a
//! limit of steps ends it.

use fancy_regex::{Regex, RegexBuilder};
use rusqlite::{
    Connection, Error, Result,
    functions::{Context, FunctionFlags},
    types::ValueRef,
};

/// Steps of one search: some tens of milliseconds.
const BACKTRACKS_MAX: usize = 1_000_000;
/// Longest pattern in bytes, and most memory of a compiled one: it is not SQLite's memory.
const PATTERN_BYTES_MAX: usize = 10_000;
const COMPILED_BYTES_MAX: usize = 4 << 20;

/// Adds the function to a connection.
pub(super) fn install(connection: &Connection) -> Result<()> {
    // Innocuous: it may stand in a schema.
    let flags =
        FunctionFlags::SQLITE_UTF8 | FunctionFlags::SQLITE_DETERMINISTIC | FunctionFlags::SQLITE_INNOCUOUS;
    connection.create_scalar_function(c"regexp", 2, flags, regexp)
}

fn regexp(call: &Context<'_>) -> Result<bool> {
    let failed = || Error::UserFunctionError("user-defined function raised exception".into());
    let value = match call.get_raw(1) {
        ValueRef::Null => return Ok(false),
        ValueRef::Text(text) => std::str::from_utf8(text).map_err(|_| failed())?,
        _ => return Err(failed()),
    };
    // Kept by SQLite as long as the pattern is the same constant.
    let pattern = call.get_or_create_aux(0, |pattern| {
        let pattern = pattern.as_str().map_err(|_| "no text".to_owned())?;
        compile(pattern).ok_or_else(|| "no pattern".to_owned())
    });
    let pattern = pattern.map_err(|_| failed())?;
    pattern.is_match(value).map_err(|_| {
        Error::UserFunctionError(
            format!("REGEXP gave up after {BACKTRACKS_MAX} steps of one search: simplify the pattern").into(),
        )
    })
}

fn compile(pattern: &str) -> Option<Regex> {
    if pattern.len() > PATTERN_BYTES_MAX {
        return None;
    }
    let mut builder = RegexBuilder::new(&of_python(pattern)?);
    builder.backtrack_limit(BACKTRACKS_MAX).delegate_size_limit(COMPILED_BYTES_MAX);
    builder.build().ok()
}

/// Python's pattern in the other syntax; `None` if Python has no such pattern.
///
/// What differs: `$` also matches before a newline at the end; `\Z` is the very end; `{` and `}` that count
/// nothing, and `[`, `&`, `~` in a class, are themselves; `\<` and `\>` are plain characters; numbers of
/// characters in octal.
fn of_python(pattern: &str) -> Option<String> {
    let mut out = String::with_capacity(pattern.len() + 16);
    let mut chars = pattern.char_indices().peekable();
    let is_multiline = flags_of(pattern).contains('m');
    while let Some((at, char)) = chars.next() {
        match char {
            '\\' => escape(&mut out, &mut chars, false)?,
            '[' => class(&mut out, &mut chars)?,
            '$' if !is_multiline => out.push_str(r"(?=\n?\z)"),
            '{' => match counted(&pattern[at..]) {
                Some((count, len)) => {
                    out.push_str(&count);
                    // Without its first brace, which was taken.
                    chars.nth(len - 2);
                }
                None => out.push_str(r"\{"),
            },
            '}' => out.push_str(r"\}"),
            char => out.push(char),
        }
    }
    Some(out)
}

type Chars<'p> = std::iter::Peekable<std::str::CharIndices<'p>>;

/// Flags that a pattern begins with: Python has them there only, for the whole.
fn flags_of(pattern: &str) -> &str {
    let flags = pattern.strip_prefix("(?").and_then(|rest| rest.split_once(')'));
    flags.map_or("", |(flags, _)| if flags.bytes().all(|b| b.is_ascii_lowercase()) { flags } else { "" })
}

/// `{m}`, `{m,}`, `{,n}` or `{m,n}` at the start of `text`, and its length.
fn counted(text: &str) -> Option<(String, usize)> {
    let inside = &text[1..text.find('}')?];
    let (low, high) = inside.split_once(',').unwrap_or((inside, inside));
    let digits = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
    if !digits(low) || !digits(high) || low.is_empty() && high.is_empty() {
        return None;
    }
    let low = if low.is_empty() { "0" } else { low };
    let comma = if inside.contains(',') { "," } else { "" };
    let high = if comma.is_empty() { "" } else { high };
    Some((format!("{{{low}{comma}{high}}}"), inside.len() + 2))
}

/// What follows a backslash.
fn escape(out: &mut String, chars: &mut Chars<'_>, in_class: bool) -> Option<()> {
    let (_, char) = chars.next()?;
    match char {
        'Z' if !in_class => out.push_str(r"\z"),
        'A' | 'B' if !in_class => out.extend(['\\', char]),
        // In a class it is a backspace.
        'b' => out.push_str(if in_class { r"\x08" } else { r"\b" }),
        'd' | 'D' | 'w' | 'W' | 's' | 'S' | 'a' | 'f' | 'n' | 'r' | 't' | 'v' => out.extend(['\\', char]),
        'x' => number(out, chars, 2, 16)?,
        'u' => number(out, chars, 4, 16)?,
        'U' => number(out, chars, 8, 16)?,
        '0' => octal(out, chars, 0),
        '1'..='9' if in_class => octal(out, chars, char.to_digit(8)?),
        '1'..='9' => {
            let mut digits = String::from(char);
            while let Some((_, digit)) = chars.next_if(|(_, next)| next.is_ascii_digit() && digits.len() < 3)
            {
                digits.push(digit);
            }
            match u32::from_str_radix(&digits, 8) {
                Ok(code) if digits.len() == 3 => out.push_str(&format!("\\x{{{code:x}}}")),
                // Python has at most 99 groups; braces keep a digit behind it from becoming part of it.
                _ if digits.len() < 3 => out.push_str(&format!("(?:\\{digits})")),
                _ => return None,
            }
        }
        // Python has no other letters.
        char if char.is_ascii_alphanumeric() => return None,
        '<' | '>' => out.push(char),
        char if char.is_ascii_punctuation() => out.extend(['\\', char]),
        char => out.push(char),
    }
    Some(())
}

/// A character by exactly `len` digits.
fn number(out: &mut String, chars: &mut Chars<'_>, len: usize, radix: u32) -> Option<()> {
    let mut code = 0;
    for _ in 0..len {
        code = code * radix + chars.next()?.1.to_digit(radix)?;
    }
    char::from_u32(code)?;
    out.push_str(&format!("\\x{{{code:x}}}"));
    Some(())
}

/// A character by up to two more octal digits.
fn octal(out: &mut String, chars: &mut Chars<'_>, first: u32) {
    let mut code = first;
    for _ in 0..2 {
        let Some((_, digit)) = chars.next_if(|(_, next)| next.is_digit(8)) else { break };
        code = code * 8 + digit.to_digit(8).unwrap_or(0);
    }
    out.push_str(&format!("\\x{{{code:x}}}"));
}

/// A class, of which `[` was read.
fn class(out: &mut String, chars: &mut Chars<'_>) -> Option<()> {
    out.push('[');
    if chars.next_if(|(_, next)| *next == '^').is_some() {
        out.push('^');
    }
    if chars.next_if(|(_, next)| *next == ']').is_some() {
        out.push_str(r"\]");
    }
    loop {
        match chars.next()?.1 {
            ']' => {
                out.push(']');
                return Some(());
            }
            '\\' => escape(out, chars, true)?,
            char @ ('[' | '&' | '~' | '#') => out.extend(['\\', char]),
            // With `(?x)` it would be nothing there.
            char if char.is_whitespace() => out.push_str(&format!("\\x{{{:x}}}", char as u32)),
            char => out.push(char),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn ask(value: impl rusqlite::ToSql, pattern: impl rusqlite::ToSql) -> std::result::Result<bool, String> {
        crate::query::init().expect("SQLite fits");
        let connection = Connection::open_in_memory().expect("a database");
        install(&connection).expect("a function");
        let answer = connection.query_row("SELECT ?1 REGEXP ?2", (value, pattern), |row| row.get(0));
        answer.map_err(|e| e.to_string())
    }

    /// What Python 3's `re.search` answers.
    #[test]
    fn patterns_are_pythons() {
        for (pattern, value, expected) in [
            ("b", "abc", true),
            ("^b", "abc", false),
            ("^b", "a\nb", false),
            ("(?m)^b$", "a\nb\nc", true),
            ("(?i)ABC", "xabcx", true),
            ("(?s)a.b", "a\nb", true),
            ("a.b", "a\nb", false),
            ("c$", "abc\n", true),
            ("c$", "abc\n\n", false),
            (r"c\Z", "abc\n", false),
            (r"\Aa", "abc", true),
            (r"foo(?=bar)", "foobar", true),
            (r"foo(?!bar)", "foobar", false),
            (r"(?<=foo)bar", "foobar", true),
            (r"(?<!foo)bar", "foobar", false),
            (r"(.)\1", "hello", true),
            (r"(.)\1", "helo", false),
            (r"(?P<x>ab)c(?P=x)", "abcab", true),
            (r"(a)?(?(1)b|c)$", "ab", true),
            (r"\w+", "äöü", true),
            (r"^\w+$", "a b", false),
            (r"\d", "\u{0663}", true), // an Arabic digit
            (r"\bcat\b", "a cat.", true),
            ("a{2}", "aa", true),
            ("a{,2}b", "aab", true),
            ("a{", "a{", true),
            ("a{x}", "a{x}", true),
            ("a{2,1", "a{2,1", true),
            ("[[]", "[", true),
            ("[]]", "]", true),
            ("[^]]", "]", false),
            ("[a&&b]", "&", true),
            ("[a~~b]", "~", true),
            (r"[\b]", "\u{8}", true),
            (r"[\w.]+@", "me.too@x", true),
            (r"\<a\>", "<a>", true),
            (r"\/", "/", true),
            (r"\x41\u00e4", "Aä", true),
            (r"\101", "A", true),
            (r"[\101]", "A", true),
            ("a#b", "a#b", true),
            ("(?x) a b # c", "ab", true),
            (r"(?#comment)a", "a", true),
            ("(?x)[a b]", " ", true),
            ("a*?b", "aab", true),
            ("", "", true),
            ("http://[^/]+/", "see http://example.org/x", true),
        ] {
            assert_eq!(ask(value, pattern), Ok(expected), "{pattern:?} {value:?}");
        }
    }

    #[test]
    fn what_is_none_fails_in_pythons_words() {
        let raised = Err("user-defined function raised exception".to_owned());
        for bad in ["(", "[", r"\q", "*a", "(?P<x", r"\", "(?<=a+)b"] {
            assert_eq!(ask("abc", bad), raised, "{bad:?}");
        }
        assert_eq!(ask(rusqlite::types::Null, "a"), Ok(false));
        assert_eq!(ask("a", rusqlite::types::Null), raised);
        assert_eq!(ask(5, "5"), raised);
        assert_eq!(ask(b"a".to_vec(), "a"), raised);
        assert_eq!(ask("a", "a".repeat(PATTERN_BYTES_MAX + 1)), raised);
    }

    #[test]
    fn a_search_without_end_ends() {
        // All that the pattern needs is there, so no shortcut helps.
        let text = format!("{}bc", "a".repeat(60));
        let error = ask(text, r"(a|aa)+\1c").expect_err("given up");
        assert!(error.starts_with("REGEXP gave up"), "{error}");
    }

    proptest! {
        #[test]
        fn any_pattern_is_answered(pattern in r"[a-c\[\](){}|^$.*+?\\0-9,#&~<>=!:PZbdwx]{0,20}", value in "[a-c\n0-9]{0,12}") {
            if let Some(regex) = compile(&pattern) {
                let _ = regex.is_match(&value);
            }
        }
    }
}
