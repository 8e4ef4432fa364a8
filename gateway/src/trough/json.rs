//! JSON as ujson, Trough's library, writes it; and how Python shows a value in a message.

/// Appends `text` as a JSON string: ASCII only, `\/` for slashes if `escape_slashes` (Trough's manager has
/// them so, its readers not).
pub fn put_string(to: &mut Vec<u8>, text: &str, escape_slashes: bool) {
    to.push(b'"');
    put_escaped(to, text, escape_slashes);
    to.push(b'"');
}

/// The inside of [`put_string`], for a text that comes in pieces.
pub fn put_escaped(to: &mut Vec<u8>, text: &str, escape_slashes: bool) {
    let is_plain = |byte: u8| {
        (b' '..0x80).contains(&byte) && byte != b'"' && byte != b'\\' && !(escape_slashes && byte == b'/')
    };
    let mut rest = text;
    loop {
        let plain = rest.bytes().position(|byte| !is_plain(byte)).unwrap_or(rest.len());
        to.extend_from_slice(&rest.as_bytes()[..plain]);
        // A byte that is not plain begins a character: all before it are ASCII.
        let mut chars = rest[plain..].chars();
        let Some(char) = chars.next() else { return };
        match char {
            '"' | '\\' | '/' => to.extend_from_slice(&[b'\\', char as u8]),
            '\u{8}' => to.extend_from_slice(b"\\b"),
            '\u{c}' => to.extend_from_slice(b"\\f"),
            '\n' => to.extend_from_slice(b"\\n"),
            '\r' => to.extend_from_slice(b"\\r"),
            '\t' => to.extend_from_slice(b"\\t"),
            other => {
                for unit in other.encode_utf16(&mut [0; 2]) {
                    const HEX: &[u8; 16] = b"0123456789abcdef";
                    to.extend_from_slice(b"\\u");
                    to.extend([12, 8, 4, 0].map(|shift| HEX[usize::from(*unit >> shift & 15)]));
                }
            }
        }
        rest = chars.as_str();
    }
}

/// An object of the manager: its members, whose values are JSON already, in this order.
pub(super) fn object(members: &[(&str, Vec<u8>)]) -> Vec<u8> {
    let mut json = vec![b'{'];
    for (i, (name, value)) in members.iter().enumerate() {
        if i > 0 {
            json.push(b',');
        }
        put_string(&mut json, name, true);
        json.push(b':');
        json.extend_from_slice(value);
    }
    json.push(b'}');
    json
}

/// A string of the manager.
pub(super) fn string(text: &str) -> Vec<u8> {
    let mut json = Vec::with_capacity(text.len() + 2);
    put_string(&mut json, text, true);
    json
}

/// What Python's `repr` shows of a value that came as JSON.
pub(super) fn python_repr(value: &serde_json::Value) -> String {
    use serde_json::Value as V;
    let joined = |values: Vec<String>| values.join(", ");
    match value {
        V::Null => "None".into(),
        V::Bool(true) => "True".into(),
        V::Bool(false) => "False".into(),
        V::Number(number) => number.to_string(),
        V::String(text) => python_string(text),
        V::Array(values) => format!("[{}]", joined(values.iter().map(python_repr).collect())),
        V::Object(members) => {
            let one = |(key, value): (&String, &V)| format!("{}: {}", python_string(key), python_repr(value));
            format!("{{{}}}", joined(members.iter().map(one).collect()))
        }
    }
}

/// What Python's `repr` shows of a set of strings. Its order is nobody's promise there; here it is given.
pub(super) fn python_set<'a>(names: impl Iterator<Item = &'a str>) -> String {
    let names: Vec<String> = names.map(python_string).collect();
    if names.is_empty() { "set()".into() } else { format!("{{{}}}", names.join(", ")) }
}

/// Python's `repr` of a string: in `'`, or in `"` where that saves escaping.
fn python_string(text: &str) -> String {
    let quote = if text.contains('\'') && !text.contains('"') { '"' } else { '\'' };
    let mut repr = String::from(quote);
    for char in text.chars() {
        match char {
            '\\' => repr.push_str("\\\\"),
            '\n' => repr.push_str("\\n"),
            '\r' => repr.push_str("\\r"),
            '\t' => repr.push_str("\\t"),
            char if char == quote => repr.extend(['\\', char]),
            char if char < ' ' || char == '\u{7f}' => repr.push_str(&format!("\\x{:02x}", char as u32)),
            char => repr.push(char),
        }
    }
    repr.push(quote);
    repr
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn text(text: &str, escape_slashes: bool) -> String {
        let mut json = Vec::new();
        put_string(&mut json, text, escape_slashes);
        String::from_utf8(json).expect("ASCII")
    }

    proptest! {
        #[test]
        fn strings_are_ascii_and_come_back(original in any::<String>(), slashes: bool) {
            let json = text(&original, slashes);
            prop_assert!(json.is_ascii());
            prop_assert_eq!(serde_json::from_str::<String>(&json).expect("JSON"), original);
        }
    }

    #[test]
    fn strings_are_ujsons() {
        assert_eq!(text("a/b", false), r#""a/b""#);
        assert_eq!(text("http://h:6222/?segment=a", true), r#""http:\/\/h:6222\/?segment=a""#);
        assert_eq!(
            text("\"\\\u{8}\u{c}\n\r\t\u{1}\u{7f}", false),
            "\"\\\"\\\\\\b\\f\\n\\r\\t\\u0001\u{7f}\""
        );
        assert_eq!(text("ä€😀", false), r#""\u00e4\u20ac\ud83d\ude00""#);
    }

    #[test]
    fn values_look_as_in_python() {
        for (value, expected) in [
            (json!(null), "None"),
            (json!(true), "True"),
            (json!(7), "7"),
            (json!("it's"), "\"it's\""),
            (json!("'\""), "'\\'\"'"),
            (json!("a\\b\n"), "'a\\\\b\\n'"),
            (json!(["a", 1]), "['a', 1]"),
            (json!({"a": false}), "{'a': False}"),
        ] {
            assert_eq!(python_repr(&value), expected);
        }
        assert_eq!(python_set(["id", "x"].into_iter()), "{'id', 'x'}");
        assert_eq!(python_set(std::iter::empty()), "set()");
    }
}
