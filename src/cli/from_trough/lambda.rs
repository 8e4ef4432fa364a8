//! The Python lambdas of Trough's settings: those of the usual shape become rules.
//!
//! `lambda ID: [… and] int(ID) < N` for the cold range, `lambda ID: A if … else B` for numbers of copies.
//! Trough evaluates them for each segment; a rule is data.

/// Ids that are numbers on one side of a limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Range {
    /// Less than this.
    Below(u64),
    /// This or more.
    From(u64),
}

/// `A if RANGE else B`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Choice {
    pub(super) then: u32,
    pub(super) when: Range,
    pub(super) otherwise: u32,
}

/// Whether `text` is one.
pub(super) fn is_lambda(text: &str) -> bool {
    text.contains("lambda")
}

/// The range of a condition that says nothing but it.
pub(super) fn range(lambda: &str) -> Option<Range> {
    let (name, body) = parts(lambda)?;
    condition(name, body)
}

/// The numbers on both sides of a condition.
pub(super) fn choice(lambda: &str) -> Option<Choice> {
    let (name, body) = parts(lambda)?;
    let (then, rest) = body.split_once(" if ")?;
    let (when, otherwise) = rest.split_once(" else ")?;
    let number = |text: &str| text.trim().parse().ok();
    Some(Choice { then: number(then)?, when: condition(name, when)?, otherwise: number(otherwise)? })
}

/// Name of the argument, and the expression.
fn parts(lambda: &str) -> Option<(&str, &str)> {
    let (name, body) = lambda.trim().strip_prefix("lambda ")?.split_once(':')?;
    let name = name.trim();
    let is_name = !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
    is_name.then_some((name, body))
}

fn condition(name: &str, text: &str) -> Option<Range> {
    let terms: Vec<&str> = text.split(" and ").map(str::trim).collect();
    let (last, others) = terms.split_last()?;
    // That it is a number at all is what a pattern of digits says.
    let is_known = |term: &&str| {
        ["isnumeric", "isdigit", "isdecimal"].iter().any(|asked| **term == format!("{name}.{asked}()"))
    };
    if !others.iter().all(is_known) {
        return None;
    }
    let rest = last.strip_prefix("int(")?.strip_prefix(name)?.strip_prefix(')')?.trim_start();
    let (operator, digits) = rest.split_at(rest.find(|char| !matches!(char, '<' | '>' | '='))?);
    let limit: u64 = digits.trim().replace('_', "").parse().ok()?;
    match operator {
        "<" => Some(Range::Below(limit)),
        "<=" => limit.checked_add(1).map(Range::Below),
        ">=" => Some(Range::From(limit)),
        ">" => limit.checked_add(1).map(Range::From),
        _ => None,
    }
}

impl Range {
    /// A pattern of the decimal numbers in the range, without zeros in front; `None` if there are none.
    pub(super) fn pattern(self) -> Option<String> {
        let (limit, below) = match self {
            Self::Below(limit) => (limit, true),
            Self::From(limit) => (limit, false),
        };
        let digits = limit.to_string();
        let len = digits.len();
        let mut cases = Vec::new();
        // As many digits: the same up to some place, and there a lower or a higher one.
        for (at, digit) in digits.bytes().enumerate() {
            let least = if at == 0 && len > 1 { b'1' } else { b'0' };
            let (from, to) = if below { (least, digit.wrapping_sub(1)) } else { (digit + 1, b'9') };
            let from = from.max(least);
            if to.is_ascii_digit() && from <= to {
                cases.push(format!("{}{}{}", &digits[..at], one(from, to), any(len - at - 1)));
            }
        }
        if below {
            // Fewer digits.
            if len > 2 {
                cases.push(format!("[1-9][0-9]{{0,{}}}", len - 2));
            } else if len == 2 {
                cases.push("[1-9]".into());
            }
            if len > 1 {
                cases.push("0".into());
            }
        } else {
            cases.push(digits.clone());
            cases.push(format!("[1-9][0-9]{{{len},}}"));
        }
        (!cases.is_empty()).then(|| cases.join("|"))
    }
}

fn one(from: u8, to: u8) -> String {
    if from == to { char::from(from).into() } else { format!("[{}-{}]", char::from(from), char::from(to)) }
}

fn any(count: usize) -> String {
    match count {
        0 => String::new(),
        1 => "[0-9]".into(),
        count => format!("[0-9]{{{count}}}"),
    }
}
