//! SQLite's own functions that take time beyond any bound, done so that a query in them can be stopped.
//!
//! `instr` and `replace` compare the whole pattern at each place of the text, `trim` each character with
//! the whole set: on texts of some megabytes that is hours in a single instruction, where no progress
//! handler and no interrupt gets in. Results are the same, whatever the input; a test compares.

#![allow(unsafe_code)] // Functions of SQLite's C interface; every block says why it is sound.

use std::{
    ffi::{CStr, c_int, c_void},
    slice,
};

use memchr::memmem::Finder;
use rusqlite::ffi::{self, sqlite3_context, sqlite3_value};

use super::{errors::SqliteError, memory, raw::Handle};

/// So many comparisons between two looks at the deadline, in `trim`.
const COMPARISONS_PER_CHECK: u64 = 1 << 16;

type Function = unsafe extern "C" fn(*mut sqlite3_context, c_int, *mut *mut sqlite3_value);

/// Puts the functions of this file in the place of SQLite's.
pub(super) fn install(connection: Handle<'_>) -> Result<(), SqliteError> {
    let functions: [(&CStr, c_int, usize, Function); 8] = [
        (c"instr", 2, 0, instr),
        (c"replace", 3, 0, replace),
        (c"trim", 1, LEFT | RIGHT, trim),
        (c"trim", 2, LEFT | RIGHT, trim),
        (c"ltrim", 1, LEFT, trim),
        (c"ltrim", 2, LEFT, trim),
        (c"rtrim", 1, RIGHT, trim),
        (c"rtrim", 2, RIGHT, trim),
    ];
    for (name, arguments, sides, function) in functions {
        // As SQLite's own are: they may stand in a schema.
        let flags = ffi::SQLITE_UTF8 | ffi::SQLITE_DETERMINISTIC | ffi::SQLITE_INNOCUOUS;
        // SAFETY: an open connection, a static name, functions with the signature that SQLite calls;
        // the user data is a number, never followed.
        let code = unsafe {
            ffi::sqlite3_create_function_v2(
                connection.as_ptr(),
                name.as_ptr(),
                arguments,
                flags,
                sides as *mut c_void,
                Some(function),
                None,
                None,
                None,
            )
        };
        if code != ffi::SQLITE_OK {
            return Err(connection.error(code, 0));
        }
    }
    Ok(())
}

/// Arguments and result of one call.
struct Call<'a> {
    context: *mut sqlite3_context,
    arguments: &'a [*mut sqlite3_value],
}

impl<'a> Call<'a> {
    /// # Safety
    /// With what SQLite calls a function with.
    unsafe fn new(
        context: *mut sqlite3_context,
        count: c_int,
        arguments: *mut *mut sqlite3_value,
    ) -> Call<'a> {
        // SAFETY: SQLite gives `count` arguments, which live as long as the call.
        let arguments = unsafe { slice::from_raw_parts(arguments, usize::try_from(count).unwrap_or(0)) };
        Self { context, arguments }
    }

    fn kind(&self, at: usize) -> c_int {
        // SAFETY: a value of this call.
        unsafe { ffi::sqlite3_value_type(self.arguments[at]) }
    }

    /// The argument as a text; `None` for NULL, and if there is no memory to make one.
    fn text(&self, at: usize) -> Option<&'a [u8]> {
        // SAFETY: a value of this call. The text stays until the value is converted to another type or
        // encoding, which no function here does.
        unsafe { text_of(self.arguments[at]) }
    }

    /// The argument as a blob.
    fn blob(&self, at: usize) -> &'a [u8] {
        let value = self.arguments[at];
        // SAFETY: as for `text`; an empty blob has no address.
        unsafe {
            let start = ffi::sqlite3_value_blob(value).cast::<u8>();
            let len = usize::try_from(ffi::sqlite3_value_bytes(value)).unwrap_or(0);
            if start.is_null() { &[] } else { slice::from_raw_parts(start, len) }
        }
    }

    fn give_text(&self, text: &[u8]) {
        // SAFETY: SQLITE_TRANSIENT makes SQLite copy the text; it checks its length.
        unsafe {
            ffi::sqlite3_result_text64(
                self.context,
                text.as_ptr().cast(),
                text.len() as u64,
                ffi::SQLITE_TRANSIENT(),
                ffi::SQLITE_UTF8 as _,
            );
        }
    }

    /// Ends the statement; for a stopped query the engine says what for.
    fn give_no_memory(&self) {
        // SAFETY: the context of this call.
        unsafe { ffi::sqlite3_result_error_nomem(self.context) }
    }

    fn value_bytes_max(&self) -> usize {
        // SAFETY: the context of this call, whose connection is open.
        let limit = unsafe {
            ffi::sqlite3_limit(
                ffi::sqlite3_context_db_handle(self.context),
                ffi::SQLITE_LIMIT_LENGTH,
                -1, // asks
            )
        };
        usize::try_from(limit).unwrap_or(0)
    }
}

/// # Safety
/// A live value; the text must not be used after the value is changed.
unsafe fn text_of<'a>(value: *mut sqlite3_value) -> Option<&'a [u8]> {
    // SAFETY: the caller's; the length is asked after the conversion, as SQLite wants it.
    unsafe {
        let start = ffi::sqlite3_value_text(value);
        let len = usize::try_from(ffi::sqlite3_value_bytes(value)).unwrap_or(0);
        (!start.is_null()).then(|| slice::from_raw_parts(start, len))
    }
}

/// A copy of a value, so that reading a blob as text does not change what others see.
struct Copied(*mut sqlite3_value);

impl Copied {
    fn text(&self) -> Option<&[u8]> {
        if self.0.is_null() {
            return None;
        }
        // SAFETY: our own value; the borrow ends before it is freed.
        unsafe { text_of(self.0) }
    }
}

impl Drop for Copied {
    fn drop(&mut self) {
        // SAFETY: our own value, or NULL, which is ignored.
        unsafe { ffi::sqlite3_value_free(self.0) }
    }
}

unsafe extern "C" fn instr(context: *mut sqlite3_context, count: c_int, arguments: *mut *mut sqlite3_value) {
    // SAFETY: called by SQLite.
    let call = unsafe { Call::new(context, count, arguments) };
    let kinds = [call.kind(0), call.kind(1)];
    if kinds.contains(&ffi::SQLITE_NULL) {
        return;
    }
    let at = match kinds.map(|kind| kind == ffi::SQLITE_BLOB) {
        [true, true] => Some(find(call.blob(0), call.blob(1), false)),
        [false, false] => call.text(0).zip(call.text(1)).map(|(text, part)| find(text, part, true)),
        _ => {
            // SAFETY: values of this call.
            let copies = [0, 1].map(|at| Copied(unsafe { ffi::sqlite3_value_dup(call.arguments[at]) }));
            copies[0].text().zip(copies[1].text()).map(|(text, part)| find(text, part, true))
        }
    };
    match at {
        // SAFETY: the context of this call.
        Some(at) => unsafe { ffi::sqlite3_result_int64(context, at) },
        None => call.give_no_memory(),
    }
}

/// Where `part` begins, from 1; 0 if nowhere. Counts characters of a text, bytes of a blob.
fn find(whole: &[u8], part: &[u8], is_text: bool) -> i64 {
    let continues = |byte: &u8| is_text && byte & 0xc0 == 0x80;
    let at = match part.first() {
        None => Some(0),
        // SQLite looks only where characters begin, and at the very start.
        Some(first) if continues(first) => whole.starts_with(part).then_some(0),
        Some(_) => Finder::new(part).find(whole),
    };
    match at {
        Some(0) => 1,
        Some(at) => {
            1 + i64::try_from(whole[1..=at].iter().filter(|byte| !continues(byte)).count()).unwrap_or(0)
        }
        None => 0,
    }
}

unsafe extern "C" fn replace(
    context: *mut sqlite3_context,
    count: c_int,
    arguments: *mut *mut sqlite3_value,
) {
    // SAFETY: called by SQLite.
    let call = unsafe { Call::new(context, count, arguments) };
    let is_null = |at| call.kind(at) == ffi::SQLITE_NULL;
    if is_null(0) || is_null(1) {
        return;
    }
    let (Some(whole), Some(part)) = (call.text(0), call.text(1)) else { return call.give_no_memory() };
    // SQLite does not look at the third argument before this, not even for NULL.
    if part.first().is_none_or(|first| *first == 0) {
        return call.give_text(whole);
    }
    if is_null(2) {
        return;
    }
    let Some(by) = call.text(2) else { return call.give_no_memory() };
    let finder = Finder::new(part);
    let matches = finder.find_iter(whole).count();
    let len = whole.len() - matches * part.len() + matches * by.len();
    if len > call.value_bytes_max() {
        // SAFETY: the context of this call.
        return unsafe { ffi::sqlite3_result_error_toobig(context) };
    }
    // SQLite's memory, so that it counts. SAFETY: any size may be asked for.
    let out = unsafe { ffi::sqlite3_malloc64(len as u64 + 1) }.cast::<u8>();
    if out.is_null() {
        return call.give_no_memory();
    }
    let mut written = 0;
    let mut write = |piece: &[u8]| {
        // SAFETY: the pieces are `len` bytes together, and `out` has one more.
        unsafe { out.add(written).copy_from_nonoverlapping(piece.as_ptr(), piece.len()) };
        written += piece.len();
    };
    let mut from = 0;
    for at in finder.find_iter(whole) {
        write(&whole[from..at]);
        write(by);
        from = at + part.len();
    }
    write(&whole[from..]);
    debug_assert_eq!(written, len);
    // SAFETY: `out` holds `len` written bytes and room for NUL; SQLite frees it.
    unsafe {
        *out.add(written) = 0;
        ffi::sqlite3_result_text64(
            context,
            out.cast(),
            written as u64,
            Some(ffi::sqlite3_free),
            ffi::SQLITE_UTF8 as _,
        );
    }
}

const LEFT: usize = 1;
const RIGHT: usize = 2;

unsafe extern "C" fn trim(context: *mut sqlite3_context, count: c_int, arguments: *mut *mut sqlite3_value) {
    // SAFETY: called by SQLite; the user data is the number given in `install`.
    let (call, sides) =
        unsafe { (Call::new(context, count, arguments), ffi::sqlite3_user_data(context) as usize) };
    if (0..call.arguments.len()).any(|at| call.kind(at) == ffi::SQLITE_NULL) {
        return;
    }
    let set = if call.arguments.len() > 1 { call.text(1) } else { Some(&b" "[..]) };
    let (Some(text), Some(set)) = (call.text(0), set) else { return call.give_no_memory() };
    match trimmed(text, set, sides, memory::stopped) {
        Some(text) => call.give_text(text),
        None => call.give_no_memory(),
    }
}

/// `text` without the characters of `set` at its `sides`; `None` if it was stopped.
fn trimmed<'t>(text: &'t [u8], set: &[u8], sides: usize, stopped: impl Fn() -> bool) -> Option<&'t [u8]> {
    let mut rest = text;
    let mut comparisons = 0_u64;
    for (side, cut) in [
        (LEFT, (|text, one| text.strip_prefix(one)) as fn(&'t [u8], &[u8]) -> Option<&'t [u8]>),
        (RIGHT, |text, one| text.strip_suffix(one)),
    ] {
        if sides & side == 0 {
            continue;
        }
        'characters: while !rest.is_empty() {
            for one in characters(set) {
                comparisons += 1;
                if comparisons.is_multiple_of(COMPARISONS_PER_CHECK) && stopped() {
                    return None;
                }
                if let Some(less) = cut(rest, one) {
                    rest = less;
                    continue 'characters;
                }
            }
            break;
        }
    }
    Some(rest)
}

/// The characters of a set, as SQLite splits it: up to the first NUL; a byte of 0xc0 or more takes the
/// continuation bytes after it along.
fn characters(set: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut rest = set.split(|byte| *byte == 0).next().unwrap_or_default();
    std::iter::from_fn(move || {
        let first = rest.first()?;
        let more = if *first >= 0xc0 {
            rest[1..].iter().take_while(|byte| **byte & 0xc0 == 0x80).count()
        } else {
            0
        };
        let (one, after) = rest.split_at(1 + more);
        rest = after;
        Some(one)
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rusqlite::{Connection, types::Value};

    use super::*;

    /// Few characters, so that there is much to find; bytes that are no UTF-8; NULs.
    fn any_value() -> impl Strategy<Value = Value> {
        prop_oneof![
            1 => Just(Value::Null),
            1 => (-20_i64..2000).prop_map(Value::Integer),
            1 => (-2.0..2.0_f64).prop_map(Value::Real),
            4 => "[ab\u{e4}\u{20ac}]{0,9}".prop_map(Value::Text),
            1 => "[a\0b ]{0,9}".prop_map(Value::Text),
            2 => "[ab ]{0,3}".prop_map(Value::Text),
            4 => proptest::collection::vec(prop_oneof![Just(b'a'), Just(0x80), Just(0xc3), Just(0xa4), Just(0)], 0..9)
                .prop_map(Value::Blob),
        ]
    }

    fn ask(
        connection: &Connection,
        expression: &str,
        values: &[Value; 3],
    ) -> Result<(String, Vec<u8>), String> {
        connection
            .query_row(
                &format!("SELECT typeof(r), CAST(r AS BLOB) FROM (SELECT {expression} AS r, ?1, ?2, ?3)"),
                rusqlite::params_from_iter(values),
                |row| Ok((row.get(0)?, row.get::<_, Option<Vec<u8>>>(1)?.unwrap_or_default())),
            )
            .map_err(|e| e.to_string())
    }

    proptest! {
        #[test]
        fn results_are_those_of_sqlite(values in [any_value(), any_value(), any_value()]) {
            crate::query::init().expect("SQLite fits");
            let theirs = Connection::open_in_memory().expect("a database");
            let ours = Connection::open_in_memory().expect("a database");
            install(Handle::of(&ours)).expect("functions");
            for expression in [
                "instr(?1, ?2)", "instr(CAST(?1 AS TEXT), CAST(?2 AS TEXT))", "replace(?1, ?2, ?3)",
                "trim(?1)", "ltrim(?1)", "rtrim(?1)", "trim(?1, ?2)", "ltrim(?1, ?2)", "rtrim(?1, ?2)",
            ] {
                prop_assert_eq!(
                    ask(&ours, expression, &values), ask(&theirs, expression, &values), "{} {:?}", expression, values
                );
            }
        }
    }
}
