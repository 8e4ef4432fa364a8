//! Rows as JSON and NDJSON, and, with `rows`, as Trough writes them.
//!
//! Integers are exact; reals are the shortest text that gives the same bits back and always have a `.`
//! or an exponent; what JSON has no word for is an object with one tag: `{"$base64": …}` a blob,
//! `{"$base64text": …}` a text that is not UTF-8, `{"$float": "Infinity"}`. Whole rows only: whoever
//! cuts the stream between two chunks can close it with [`failure_tail`].

use base64::{Engine as _, engine::general_purpose::STANDARD};
use bytes::Bytes;
use serde::Serialize;
use springhouse_fuse::store::Generation;
use springhouse_gateway::api::{
    error::{ApiError, ErrorBody, ErrorCode},
    types::{Column, EndMark},
};
use springhouse_gateway::trough::{ROWS_CONTENT_TYPE, json};

use super::{
    raw::ValueRef,
    rows::{Members, put_real},
};

/// How an answer is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Format {
    /// One object: `generation`, `columns`, `rows`, and `end` or `error`.
    Json,
    /// A line with `generation` and `columns`, an array a row, a line with `end` or `error`.
    Ndjson,
    /// Trough's: an array of objects, a line each; nothing else. SQL is understood as by Trough, and SQLite's
    /// words about it are left as they are. An answer that fails after some rows is cut and says why.
    Trough,
}

impl Format {
    /// For `content-type`.
    pub fn content_type(self) -> &'static str {
        match self {
            Self::Json => "application/json",
            Self::Ndjson => "application/x-ndjson",
            Self::Trough => ROWS_CONTENT_TYPE,
        }
    }
}

/// Blobs are encoded in pieces of so many bytes (a multiple of 3), to notice a limit in time.
const PIECE_BYTES: usize = 48 << 10;

/// Writes one answer; the caller takes what is ready.
#[derive(Debug)]
pub(super) struct Encoder {
    format: Format,
    /// Of `Trough`.
    members: Members,
    buffer: Vec<u8>,
    rows: u64,
    taken: u64,
    answer_bytes_max: u64,
    row_bytes_max: u64,
}

impl Encoder {
    /// Nothing of an answer is kept beyond a row and a chunk, so `row_bytes_max` bounds the memory.
    pub(super) fn new(format: Format, answer_bytes_max: u64, row_bytes_max: u64) -> Self {
        Self {
            format,
            members: Members::default(),
            buffer: Vec::with_capacity(4096),
            rows: 0,
            taken: 0,
            answer_bytes_max,
            row_bytes_max,
        }
    }

    /// Rows written.
    pub(super) fn rows(&self) -> u64 {
        self.rows
    }

    /// Bytes written, with those taken already.
    pub(super) fn bytes(&self) -> u64 {
        self.taken + self.buffer.len() as u64
    }

    /// Bytes taken.
    pub(super) fn taken(&self) -> u64 {
        self.taken
    }

    /// Forgets what is ready. An answer of which nothing was taken is then none.
    pub(super) fn discard(&mut self) {
        self.buffer.clear();
    }

    /// Bytes that are ready.
    pub(super) fn ready(&self) -> usize {
        self.buffer.len()
    }

    /// What is ready; whole rows.
    pub(super) fn take(&mut self) -> Bytes {
        self.taken += self.buffer.len() as u64;
        Bytes::from(std::mem::take(&mut self.buffer))
    }

    /// What comes before the rows. Gives the columns that [`Encoder::row`] wants, in its order.
    pub(super) fn head(&mut self, generation: Generation, columns: &[Column]) -> Vec<usize> {
        if self.format == Format::Trough {
            let (members, needed) = Members::new(columns);
            self.members = members;
            self.buffer.push(b'[');
            return needed;
        }
        self.buffer.extend_from_slice(b"{\"generation\":\"");
        self.buffer.extend_from_slice(generation.to_string().as_bytes());
        self.buffer.extend_from_slice(b"\",\"columns\":");
        write_json(&mut self.buffer, columns);
        self.buffer.extend_from_slice(match self.format {
            Format::Json => b",\"rows\":[",
            Format::Ndjson | Format::Trough => b"}\n",
        });
        (0..columns.len()).collect()
    }

    /// One row; all of it or, on an error, nothing.
    pub(super) fn row<'v, E>(
        &mut self,
        values: impl Iterator<Item = Result<ValueRef<'v>, E>>,
    ) -> Result<(), RowError<E>> {
        let start = self.buffer.len();
        let result = self.try_row(values, start);
        match result {
            Ok(()) => self.rows += 1,
            Err(_) => self.buffer.truncate(start),
        }
        result
    }

    fn try_row<'v, E>(
        &mut self,
        values: impl Iterator<Item = Result<ValueRef<'v>, E>>,
        start: usize,
    ) -> Result<(), RowError<E>> {
        match self.format {
            Format::Json if self.rows > 0 => self.buffer.push(b','),
            Format::Trough if self.rows > 0 => self.buffer.extend_from_slice(b",\n"),
            _ => {}
        }
        let [open, close] = if self.format == Format::Trough { *b"{}" } else { *b"[]" };
        self.buffer.push(open);
        for (at, value) in values.enumerate() {
            if at > 0 {
                self.buffer.push(b',');
            }
            self.buffer.extend_from_slice(self.members.name(at));
            self.value(value.map_err(RowError::Value)?, start).map_err(RowError::Limit)?;
        }
        self.buffer.push(close);
        if self.format == Format::Ndjson {
            self.buffer.push(b'\n');
        }
        self.check(start).map_err(RowError::Limit)
    }

    fn value(&mut self, value: ValueRef<'_>, start: usize) -> Result<(), ApiError> {
        match value {
            ValueRef::Null => self.buffer.extend_from_slice(b"null"),
            ValueRef::Integer(integer) => {
                self.buffer.extend_from_slice(itoa::Buffer::new().format(integer).as_bytes());
            }
            ValueRef::Real(real) if self.format == Format::Trough => put_real(&mut self.buffer, real),
            ValueRef::Real(real) if real.is_finite() => {
                self.buffer.extend_from_slice(ryu::Buffer::new().format_finite(real).as_bytes());
            }
            // SQLite never gives a NaN.
            ValueRef::Real(real) => self.buffer.extend_from_slice(if real > 0.0 {
                b"{\"$float\":\"Infinity\"}"
            } else {
                b"{\"$float\":\"-Infinity\"}"
            }),
            ValueRef::Text(text) => match std::str::from_utf8(text) {
                Ok(text) => return self.text(text, start),
                Err(_) => return self.base64(b"{\"$base64text\":\"", text, start),
            },
            // Trough knows no blobs: what can be read as a text is one.
            ValueRef::Blob(blob) if self.format == Format::Trough && std::str::from_utf8(blob).is_ok() => {
                return self.value(ValueRef::Text(blob), start);
            }
            ValueRef::Blob(blob) => return self.base64(b"{\"$base64\":\"", blob, start),
        }
        self.check(start)
    }

    fn text(&mut self, text: &str, start: usize) -> Result<(), ApiError> {
        self.buffer.push(b'"');
        let mut rest = text;
        while !rest.is_empty() {
            let (piece, after) = rest.split_at(rest.floor_char_boundary(PIECE_BYTES));
            match self.format {
                Format::Trough => json::put_escaped(&mut self.buffer, piece, false),
                Format::Json | Format::Ndjson => escape(&mut self.buffer, piece),
            }
            self.check(start)?;
            rest = after;
        }
        self.buffer.push(b'"');
        Ok(())
    }

    fn base64(&mut self, tag: &[u8], bytes: &[u8], start: usize) -> Result<(), ApiError> {
        self.buffer.extend_from_slice(tag);
        for piece in bytes.chunks(PIECE_BYTES) {
            self.buffer.extend_from_slice(STANDARD.encode(piece).as_bytes());
            self.check(start)?;
        }
        self.buffer.extend_from_slice(b"\"}");
        Ok(())
    }

    fn check(&self, start: usize) -> Result<(), ApiError> {
        if self.bytes() > self.answer_bytes_max {
            return Err(ApiError::new(
                ErrorCode::ByteLimit,
                format!(
                    "the answer is longer than {} bytes; the rows before are here",
                    self.answer_bytes_max
                ),
            ));
        }
        if (self.buffer.len() - start) as u64 > self.row_bytes_max {
            return Err(ApiError::new(
                ErrorCode::ByteLimit,
                format!("row {} is longer than {} bytes", self.rows + 1, self.row_bytes_max),
            ));
        }
        Ok(())
    }

    /// The end mark.
    pub(super) fn end(&mut self, truncated: bool) {
        let mark = EndMark { rows: self.rows, truncated };
        match self.format {
            Format::Json => {
                self.buffer.extend_from_slice(b"],\"end\":");
                write_json(&mut self.buffer, &mark);
                self.buffer.push(b'}');
            }
            Format::Ndjson => {
                self.buffer.extend_from_slice(b"{\"end\":");
                write_json(&mut self.buffer, &mark);
                self.buffer.extend_from_slice(b"}\n");
            }
            Format::Trough => self.buffer.extend_from_slice(b"]\n"),
        }
    }

    /// The error in place of the end mark.
    pub(super) fn fail(&mut self, error: &ApiError) {
        self.buffer.extend_from_slice(&failure_tail(self.format, error));
    }
}

/// Why a row was not written.
#[derive(Debug)]
pub(super) enum RowError<E> {
    /// It is over a limit.
    Limit(ApiError),
    /// Its values could not be had.
    Value(E),
}

/// What closes an answer that fails after whole rows.
pub(super) fn failure_tail(format: Format, error: &ApiError) -> Vec<u8> {
    let mut tail = Vec::new();
    match format {
        Format::Json => {
            tail.extend_from_slice(b"],\"error\":");
            write_json(&mut tail, error);
            tail.push(b'}');
        }
        Format::Ndjson => {
            write_json(&mut tail, &ErrorBody { error: error.clone() });
            tail.push(b'\n');
        }
        // Without its bracket it is no JSON: nobody takes it for whole.
        Format::Trough => tail.extend_from_slice(format!("\n500 Server Error: {error}\n").as_bytes()),
    }
    tail
}

fn write_json<T: Serialize + ?Sized>(to: &mut Vec<u8>, value: &T) {
    serde_json::to_writer(to, value).expect("structures of texts and numbers, written to memory");
}

/// The inside of a JSON text: `"`, `\` and control characters escaped, the rest as it is.
fn escape(to: &mut Vec<u8>, text: &str) {
    const HEX: &[u8; 16] = b"0123456789abcdef";
    let bytes = text.as_bytes();
    let mut from = 0;
    for (at, &byte) in bytes.iter().enumerate() {
        if byte >= b' ' && byte != b'"' && byte != b'\\' {
            continue;
        }
        to.extend_from_slice(&bytes[from..at]);
        from = at + 1;
        match byte {
            b'"' | b'\\' => to.extend_from_slice(&[b'\\', byte]),
            b'\n' => to.extend_from_slice(b"\\n"),
            b'\r' => to.extend_from_slice(b"\\r"),
            b'\t' => to.extend_from_slice(b"\\t"),
            _ => {
                to.extend_from_slice(b"\\u00");
                to.extend_from_slice(&[HEX[usize::from(byte >> 4)], HEX[usize::from(byte & 15)]]);
            }
        }
    }
    to.extend_from_slice(&bytes[from..]);
}
