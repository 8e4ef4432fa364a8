//! What Trough lets through as a query: one statement that is a SELECT.
//!
//! Trough asks Python's sqlparse, which splits and classifies without knowing SQLite. So does this: the
//! part of sqlparse's lexer that the two questions need. It is no wall, it is what clients are used to; what
//! a query may do is decided by the worker's sandbox.

/// Whether sqlparse finds exactly one statement in `sql`, and that one a SELECT.
pub fn is_one_select(sql: &str) -> bool {
    let mut statements = 0;
    let mut first = None;
    let mut statement = Statement::default();
    // After a semicolon: blanks and line comments still belong to the statement before.
    let mut ended = false;
    for token in tokens(sql) {
        if ended && !matches!(token, Token::Blank | Token::LineComment) {
            statements += 1;
            first.get_or_insert(statement.is_select());
            statement = Statement::default();
            ended = false;
        }
        statement.add(token);
        ended |= token == Token::Semicolon && statement.depth <= 0;
    }
    if !statement.is_blank {
        statements += 1;
        first.get_or_insert(statement.is_select());
    }
    statements == 1 && first == Some(true)
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Token<'s> {
    /// Spaces and tabs.
    Blank,
    /// The end of a line: unlike a blank it ends what a semicolon left open.
    Newline,
    /// `-- …` or `# …` up to and with the end of the line.
    LineComment,
    Comment,
    Semicolon,
    Open,
    Close,
    /// A word that may be a keyword.
    Word(&'s str),
    /// Names, quoted things, numbers, operators.
    Other,
}

/// What is known of a statement so far.
#[derive(Debug)]
struct Statement {
    depth: i32,
    /// Nothing but blanks.
    is_blank: bool,
    kind: Kind,
}

impl Default for Statement {
    fn default() -> Self {
        Self { depth: 0, is_blank: true, kind: Kind::Unknown }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// Nothing was seen that says it.
    Unknown,
    /// It began with WITH: what follows the tables says it.
    With,
    Select,
    Other,
}

impl Statement {
    fn add(&mut self, token: Token<'_>) {
        match token {
            Token::Blank | Token::Newline => return,
            Token::LineComment | Token::Comment => {
                self.is_blank = false;
                return;
            }
            _ => self.is_blank = false,
        }
        let is = |word: &str| matches!(token, Token::Word(found) if found.eq_ignore_ascii_case(word));
        let writes = || ["INSERT", "UPDATE", "DELETE", "REPLACE", "MERGE", "UPSERT"].into_iter().any(is);
        match self.kind {
            Kind::Unknown if is("SELECT") => self.kind = Kind::Select,
            Kind::Unknown if is("WITH") => self.kind = Kind::With,
            Kind::Unknown => self.kind = Kind::Other,
            Kind::With if self.depth == 0 && is("SELECT") => self.kind = Kind::Select,
            Kind::With if self.depth == 0 && writes() => self.kind = Kind::Other,
            Kind::With | Kind::Select | Kind::Other => {}
        }
        match token {
            Token::Open => self.depth += 1,
            Token::Close => self.depth -= 1,
            _ => {}
        }
    }

    fn is_select(&self) -> bool {
        self.kind == Kind::Select
    }
}

fn tokens(sql: &str) -> impl Iterator<Item = Token<'_>> {
    let mut rest = sql;
    let mut before = None;
    std::iter::from_fn(move || {
        let first = rest.chars().next()?;
        let (token, len) = token(rest, first, before);
        before = rest[..len].chars().next_back();
        rest = &rest[len..];
        Some(token)
    })
}

/// The token at the start of `text`, and its length in bytes, at least that of `first`, its first character.
fn token(text: &str, first: char, before: Option<char>) -> (Token<'_>, usize) {
    let one = first.len_utf8();
    let line = || text.find(['\r', '\n']).map_or(text.len(), |at| at + line_end(&text[at..]));
    match first {
        '\r' | '\n' => (Token::Newline, line_end(text)),
        _ if first.is_whitespace() => (Token::Blank, one),
        '-' if text.starts_with("--") => (Token::LineComment, line()),
        '#' if text.starts_with("# ") => (Token::LineComment, line()),
        '/' if text.starts_with("/*") => match text[2..].find("*/") {
            Some(at) => (Token::Comment, at + 4),
            None => (Token::Other, one),
        },
        ';' => (Token::Semicolon, one),
        '(' => (Token::Open, one),
        ')' => (Token::Close, one),
        '\'' | '"' => (Token::Other, quoted(text, first, true).unwrap_or(one)),
        '`' | '´' => (Token::Other, quoted(text, first, false).unwrap_or(one)),
        // A name, unless it can be an index: behind a word or a bracket.
        '[' if !before.is_some_and(|char| is_word(char) || matches!(char, ']' | ')')) => {
            let end = text[1..].find(['[', ']']).filter(|at| *at > 0);
            let closed = end.filter(|at| text[1 + at..].starts_with(']'));
            (Token::Other, closed.map_or(one, |at| at + 2))
        }
        _ if is_word(first) => {
            let len = text.find(|char| !is_word(char) && !matches!(char, '$' | '#')).unwrap_or(text.len());
            let (word, after) = text.split_at(len);
            // `select(1)` calls a function, `select .5` names a schema; behind a dot is a column.
            let is_name =
                after.starts_with('(') || after.trim_start().starts_with('.') || before == Some('.');
            let is_name = is_name || matches!(before, Some('@' | ':' | '#' | '$'));
            (if is_name { Token::Other } else { Token::Word(word) }, len)
        }
        _ => (Token::Other, one),
    }
}

fn is_word(char: char) -> bool {
    char.is_alphanumeric() || char == '_'
}

/// Length of the end of line that `text` begins with.
fn line_end(text: &str) -> usize {
    if text.starts_with("\r\n") { 2 } else { 1 }
}

/// Length of what stands between two `quote`s, with them; doubled ones are inside, and so, if `backslash`,
/// is one behind a backslash, which SQLite does not know but sqlparse does. `None`: it has no end.
fn quoted(text: &str, quote: char, backslash: bool) -> Option<usize> {
    let mut chars = text.char_indices().skip(1).peekable();
    while let Some((at, char)) = chars.next() {
        if char == quote {
            if chars.next_if(|(_, next)| *next == quote).is_none() {
                return Some(at + char.len_utf8());
            }
        } else if char == '\\' && backslash {
            // A quote behind it may also be the last one: then it is the end after all.
            let escaped = chars.next_if(|(_, next)| *next == quote);
            if let Some((at, _)) = escaped
                && !text[at + quote.len_utf8()..].contains(quote)
            {
                return Some(at + quote.len_utf8());
            }
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::is_one_select;

    #[test]
    fn what_passes() {
        for sql in [
            "select 1",
            "SELECT * FROM t;",
            "  \n select 1 ;  \t",
            "select 1;\n",
            "select 1; -- c",
            "-- c\nselect 1",
            "/* c */ select 1 /* d; */",
            "# c\nselect 1",
            "select ';' as a",
            "select 'it''s; fine'",
            r#"select "a;b", `c;d`, [e;f] from t"#,
            "select (select 1; )",
            "with a as (select 1) select * from a",
            "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT * FROM n LIMIT 3",
            "with a as (delete from b) select 1",
            "select name from pragma_table_info('t')",
            "select 1 union select 2",
            "select*from t",
            "select'x'",
            "select 1 -- ; select 2",
        ] {
            assert!(is_one_select(sql), "{sql:?}");
        }
    }

    #[test]
    fn what_does_not() {
        for sql in [
            "",
            " \n ",
            ";",
            "; select 1",
            "select 1;;",
            "select 1; select 2",
            "select 1; /* c */",
            "select 1;\n-- c",
            "select 1; ;",
            "(select 1)",
            "\u{feff}select 1",
            "explain select 1",
            "values (1)",
            "pragma table_info(t)",
            "insert into t select 1",
            "with a as (select 1) insert into t select * from a",
            "with a as (select 1)",
            "delete from t",
            "selec 1",
            "selectx 1",
            "select(1)",
            "-- select 1",
            "/* select 1",
            "begin; select 1",
        ] {
            assert!(!is_one_select(sql), "{sql:?}");
        }
    }

    proptest! {
        #[test]
        fn any_text_is_answered(sql in "[a-zA-Z;'\"`´\\[\\]()/*\\-# \\\\\r\nä]{0,60}") {
            is_one_select(&sql);
            // A second statement is never overlooked, unless something is left open.
            let all = format!("select 1; {sql}");
            if is_one_select(&all) {
                let rest = sql.trim_start();
                prop_assert!(rest.is_empty() || rest.starts_with("--") || rest.starts_with("# "), "{:?}", all);
            }
        }
    }
}
