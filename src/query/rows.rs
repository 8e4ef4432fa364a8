//! Rows as Trough writes them: an array of objects, one a line.
//!
//! Numbers and strings are those of ujson, Trough's library. Where that fails in the middle of an answer,
//! here is a value: an infinity is a number too great for a float, which readers take for an infinity; a
//! blob that is not UTF-8 is `{"$base64": …}`, a text that is not is `{"$base64text": …}`.

use std::collections::HashMap;

use springhouse_gateway::{api::types::Column, trough::json::put_string};

/// The columns of an answer as members of an object.
#[derive(Debug, Default)]
pub(super) struct Members {
    /// `"name":`
    names: Vec<Vec<u8>>,
}

impl Members {
    /// Of several columns of one name there is one member: at the place of the first, with the value of the
    /// last, as in a dictionary of Python. Also gives which columns are needed, in the order of members.
    pub(super) fn new(columns: &[Column]) -> (Self, Vec<usize>) {
        let mut place_of: HashMap<&str, usize> = HashMap::new();
        let (mut names, mut needed) = (Vec::new(), Vec::new());
        for (at, column) in columns.iter().enumerate() {
            if let Some(&place) = place_of.get(column.name.as_str()) {
                needed[place] = at;
                continue;
            }
            place_of.insert(&column.name, needed.len());
            needed.push(at);
            let mut name = Vec::new();
            put_string(&mut name, &column.name, false);
            name.push(b':');
            names.push(name);
        }
        (Self { names }, needed)
    }

    /// What stands before a value; nothing in a format without names.
    pub(super) fn name(&self, at: usize) -> &[u8] {
        self.names.get(at).map_or(&[], Vec::as_slice)
    }
}

/// Appends a number as JavaScript prints it, but for `.0` on whole ones and no `+` in exponents: `0.00001`,
/// `1e-7`, `10000000000000000.0`, `1e21`, `-0.0`.
pub(super) fn put_real(to: &mut Vec<u8>, real: f64) {
    if real.is_infinite() {
        to.extend_from_slice(if real > 0.0 { b"1e999" } else { b"-1e999" });
        return;
    }
    if real.is_nan() {
        to.extend_from_slice(b"null");
        return;
    }
    let mut buffer = ryu::Buffer::new();
    let text = buffer.format_finite(real);
    let (sign, text) = text.strip_prefix('-').map_or(("", text), |text| ("-", text));
    to.extend_from_slice(sign.as_bytes());
    let (mantissa, exponent) = text.split_once('e').unwrap_or((text, "0"));
    let exponent: i32 = exponent.parse().unwrap_or(0);
    let (whole, part) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    // The value is 0.DIGITS times ten to the power of `point`.
    let all = format!("{whole}{part}");
    let digits = all.trim_start_matches('0');
    let point = whole.len() as i32 + exponent - (all.len() - digits.len()) as i32;
    let digits = digits.trim_end_matches('0').as_bytes();
    if digits.is_empty() {
        return to.extend_from_slice(b"0.0");
    }
    let count = digits.len() as i32;
    let zeros = |count: i32| std::iter::repeat_n(b'0', usize::try_from(count).unwrap_or(0));
    match point {
        ..=-6 | 22.. => {
            to.push(digits[0]);
            if count > 1 {
                to.push(b'.');
                to.extend_from_slice(&digits[1..]);
            }
            to.push(b'e');
            to.extend_from_slice(itoa::Buffer::new().format(point - 1).as_bytes());
        }
        -5..=0 => {
            to.extend_from_slice(b"0.");
            to.extend(zeros(-point));
            to.extend_from_slice(digits);
        }
        _ if point >= count => {
            to.extend_from_slice(digits);
            to.extend(zeros(point - count));
            to.extend_from_slice(b".0");
        }
        _ => {
            let (before, after) = digits.split_at(point as usize);
            to.extend_from_slice(before);
            to.push(b'.');
            to.extend_from_slice(after);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn text(real: f64) -> String {
        let mut json = Vec::new();
        put_real(&mut json, real);
        String::from_utf8(json).expect("ASCII")
    }

    proptest! {
        #[test]
        fn numbers_come_back(bits: u64) {
            let real = f64::from_bits(bits);
            prop_assume!(!real.is_nan());
            prop_assert_eq!(text(real).parse::<f64>().expect("a number").to_bits(), bits);
            prop_assert!(serde_json::from_str::<serde_json::Value>(&text(real)).is_ok() || real.is_infinite());
        }

        #[test]
        fn decimals_come_back(mantissa in -1_000_000_000_i64..1_000_000_000, exponent in -30_i32..30) {
            let real: f64 = format!("{mantissa}e{exponent}").parse().expect("a number");
            prop_assert_eq!(text(real).parse::<f64>().expect("a number"), real);
        }
    }

    #[test]
    fn numbers_are_javascripts() {
        for (real, expected) in [
            (0.0, "0.0"),
            (-0.0, "-0.0"),
            (1.0, "1.0"),
            (-1.5, "-1.5"),
            (100.0, "100.0"),
            (0.1, "0.1"),
            (123.456, "123.456"),
            (0.00001, "0.00001"),
            (0.000001, "0.000001"),
            (0.0000015, "0.0000015"),
            (1e-7, "1e-7"),
            (1.5e-7, "1.5e-7"),
            (1e15, "1000000000000000.0"),
            (1e16, "10000000000000000.0"),
            (1.5e20, "150000000000000000000.0"),
            (1e20, "100000000000000000000.0"),
            (1e21, "1e21"),
            (-1.25e300, "-1.25e300"),
            (5e-324, "5e-324"),
            (f64::MAX, "1.7976931348623157e308"),
            (f64::INFINITY, "1e999"),
            (f64::NEG_INFINITY, "-1e999"),
            (1.0 / 3.0, "0.3333333333333333"),
        ] {
            assert_eq!(text(real), expected);
        }
    }

    #[test]
    fn one_member_for_each_name() {
        let columns =
            ["a", "b", "a", "\"ä/\"", "b"].map(|name| Column { name: name.into(), decl_type: None });
        let (members, needed) = Members::new(&columns);
        assert_eq!(needed, [2, 4, 3]);
        let names = [0, 1, 2, 3].map(|at| std::str::from_utf8(members.name(at)).expect("ASCII"));
        assert_eq!(names, ["\"a\":", "\"b\":", "\"\\\"\\u00e4/\\\"\":", ""]);
    }
}
