//! `springhouse query`: one question to one segment, through the gateway.

use std::io::{self, BufWriter, IsTerminal, Read, StdoutLock, Write};

use clap::ValueEnum;
use serde::Deserialize;
use serde_json::{Map, Value, value::RawValue};
use springhouse_gateway::{
    api::{
        client::GatewayClient,
        error::ApiError,
        types::{Column, EndMark, Params, QueryRequest},
    },
    segment::SegmentId,
};

use super::{block_on, problem, table::Table};
use crate::error::{Exit, Failure};

/// `springhouse query`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  \
    springhouse query 1234567 'SELECT host, count(*) FROM page GROUP BY host ORDER BY 2 DESC LIMIT 5'\n  \
    springhouse query 1234567 'SELECT * FROM page WHERE id = ?' --param 42\n  \
    springhouse query 1234567 'SELECT * FROM page WHERE url = :url' --param :url=http://example.org/\n  \
    springhouse query 1234567 - --format ndjson < report.sql")]
pub struct Args {
    /// Id of the segment: the name of its file without `.sqlite`
    segment: String,
    /// One SQL statement that reads; `-` takes it from standard input
    sql: String,
    /// URL of the gateway
    #[arg(long, value_name = "URL", env = "SPRINGHOUSE_GATEWAY", default_value = "http://127.0.0.1:6110")]
    gateway: String,
    /// How to print the rows; a table on a terminal and JSON elsewhere unless given
    #[arg(long, value_enum)]
    format: Option<Format>,
    /// Value of the next `?`, or of a named parameter as :NAME=VALUE; may be repeated. Numbers, null and
    /// "quoted text" are read as JSON, everything else is text as it stands
    #[arg(short, long = "param", value_name = "VALUE", allow_hyphen_values = true)]
    params: Vec<String>,
    /// Stop after so many rows
    #[arg(long, value_name = "N")]
    max_rows: Option<u64>,
    /// Longest time to wait, such as 500ms or 2m; the gateway's own default unless given
    #[arg(long, value_name = "TIME", value_parser = humantime::parse_duration)]
    timeout: Option<std::time::Duration>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Format {
    /// One JSON object
    Json,
    /// A line with the columns, one for each row, one that says the end
    Ndjson,
    /// Columns side by side, for people
    Table,
}

/// Runs it.
pub fn run(args: Args) -> Result<(), Failure> {
    let segment = SegmentId::parse(&args.segment).map_err(|error| problem(error.to_string()))?;
    let request = QueryRequest {
        sql: if args.sql == "-" { standard_input()? } else { args.sql },
        params: params(&args.params)?,
        max_rows: args.max_rows,
        timeout_ms: args.timeout.map(|time| u64::try_from(time.as_millis()).unwrap_or(u64::MAX)),
    };
    let terminal = io::stdout().is_terminal();
    let format = args.format.unwrap_or(if terminal { Format::Table } else { Format::Json });
    block_on(async move {
        let client = GatewayClient::new(&args.gateway, None)?;
        let mut answer = client.query(&segment, &request, Some("application/x-ndjson")).await?;
        let mut printer = Printer::new(format);
        // Lines are cut here: a chunk of the answer ends anywhere.
        let mut rest = Vec::new();
        while let Some(chunk) = answer.chunk().await.map_err(|error| cut_short(&error.to_string()))? {
            rest.extend_from_slice(&chunk);
            let Some(end) = rest.iter().rposition(|byte| *byte == b'\n') else { continue };
            for line in rest[..end].split(|byte| *byte == b'\n') {
                if !printer.line(line)? {
                    return Ok(());
                }
            }
            rest.drain(..=end);
        }
        printer.finish()
    })
}

fn cut_short(why: &str) -> Failure {
    Failure::new(
        Exit::Failed,
        format!("the answer was cut short ({why}): the rows above are not all; try again"),
    )
}

fn standard_input() -> Result<String, Failure> {
    let mut sql = String::new();
    io::stdin().read_to_string(&mut sql).map_err(|error| problem(format!("standard input: {error}")))?;
    Ok(sql)
}

pub(super) fn params(given: &[String]) -> Result<Params, Failure> {
    let (mut positional, mut named) = (Vec::new(), Map::new());
    for text in given {
        match text.split_once('=') {
            Some((name, value)) if is_parameter_name(name) => {
                named.insert(name.into(), scalar(value));
            }
            _ => positional.push(scalar(text)),
        }
    }
    match (positional.is_empty(), named.is_empty()) {
        (_, true) => Ok(Params::Positional(positional)),
        (true, false) => Ok(Params::Named(named)),
        (false, false) => Err(problem("--param: some have a name and some have none; name all or none")),
    }
}

fn is_parameter_name(text: &str) -> bool {
    text.strip_prefix([':', '@', '$'])
        .is_some_and(|name| !name.is_empty() && name.chars().all(|c| c.is_alphanumeric() || c == '_'))
}

/// Numbers, null, true, false and quoted text as JSON has them; anything else is text.
fn scalar(text: &str) -> Value {
    match serde_json::from_str(text) {
        Ok(value @ (Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_))) => value,
        Ok(Value::Array(_) | Value::Object(_)) | Err(_) => Value::String(text.into()),
    }
}

/// First line of an answer.
#[derive(Debug, Deserialize)]
struct Head {
    generation: String,
    columns: Vec<Column>,
}

/// Last line of an answer.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Tail {
    End(EndMark),
    Error(ApiError),
}

/// Prints an NDJSON answer, line by line as it comes, in the wanted format.
struct Printer {
    format: Format,
    out: BufWriter<StdoutLock<'static>>,
    table: Option<Table>,
    generation: String,
    rows: u64,
    tail: Option<Tail>,
}

impl Printer {
    fn new(format: Format) -> Self {
        let out = BufWriter::new(io::stdout().lock());
        Self { format, out, table: None, generation: String::new(), rows: 0, tail: None }
    }

    /// Takes one line; `false`: nobody reads the output any more.
    fn line(&mut self, line: &[u8]) -> Result<bool, Failure> {
        let written = match line.first() {
            None => Ok(()),
            Some(b'[') => self.row(line)?,
            Some(_) if self.generation.is_empty() => self.head(line)?,
            Some(_) => self.end(line)?,
        };
        match written {
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(false),
            Err(error) => Err(Failure::new(Exit::Failed, format!("standard output: {error}"))),
            Ok(()) => Ok(true),
        }
    }

    fn head(&mut self, line: &[u8]) -> Result<io::Result<()>, Failure> {
        let head: Head = parse(line)?;
        self.generation = head.generation;
        Ok(match self.format {
            Format::Table => {
                self.table = Some(Table::new(head.columns.into_iter().map(|column| column.name)));
                Ok(())
            }
            Format::Ndjson => self.raw(&[line, b"\n"]),
            Format::Json => self.raw(&[line.strip_suffix(b"}").unwrap_or(line), b",\"rows\":[\n"]),
        })
    }

    fn row(&mut self, line: &[u8]) -> Result<io::Result<()>, Failure> {
        self.rows += 1;
        Ok(match (&mut self.table, self.format) {
            (Some(table), _) => table.row(&parse::<Vec<&RawValue>>(line)?, &mut self.out),
            (None, Format::Json) => {
                let comma: &[u8] = if self.rows > 1 { b",\n" } else { b"" };
                self.raw(&[comma, line])
            }
            (None, _) => self.raw(&[line, b"\n"]),
        })
    }

    fn end(&mut self, line: &[u8]) -> Result<io::Result<()>, Failure> {
        self.tail = Some(parse(line)?);
        Ok(match (&mut self.table, self.format) {
            (Some(table), _) => table.finish(&mut self.out),
            (None, Format::Json) => self.raw(&[b"\n],", line.strip_prefix(b"{").unwrap_or(line), b"\n"]),
            (None, _) => self.raw(&[line, b"\n"]),
        })
    }

    fn raw(&mut self, pieces: &[&[u8]]) -> io::Result<()> {
        pieces.iter().try_for_each(|piece| self.out.write_all(piece))
    }

    /// After the last line: whether the answer was whole.
    fn finish(mut self) -> Result<(), Failure> {
        let flushed = self.out.flush();
        match (self.tail, flushed) {
            (Some(Tail::Error(error)), _) => Err(Failure::from(&error)),
            (None, _) => Err(cut_short("it has no end mark")),
            (Some(_), Err(error)) if error.kind() != io::ErrorKind::BrokenPipe => {
                Err(Failure::new(Exit::Failed, format!("standard output: {error}")))
            }
            (Some(Tail::End(end)), _) => {
                if self.format == Format::Table {
                    let s = if end.rows == 1 { "" } else { "s" };
                    let cut = if end.truncated { ", cut by --max-rows" } else { "" };
                    eprintln!("({} row{s}{cut}; generation {})", end.rows, self.generation);
                }
                Ok(())
            }
        }
    }
}

fn parse<'a, T: Deserialize<'a>>(line: &'a [u8]) -> Result<T, Failure> {
    serde_json::from_slice(line)
        .map_err(|error| Failure::new(Exit::Failed, format!("the gateway's answer makes no sense: {error}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters() {
        let of = |texts: &[&str]| params(&texts.iter().map(|t| (*t).to_owned()).collect::<Vec<_>>());
        assert_eq!(of(&[]), Ok(Params::default()));
        assert_eq!(
            of(&["5", "-1.5", "x=y", "\"5\"", "null", "[1]", "007"]),
            Ok(Params::Positional(vec![
                5.into(),
                (-1.5).into(),
                "x=y".into(),
                "5".into(),
                Value::Null,
                "[1]".into(),
                "007".into(),
            ]))
        );
        let named = of(&[":url=a=b", "$n=3"]).expect("all named");
        assert_eq!(
            named,
            Params::Named(Map::from_iter([(":url".into(), "a=b".into()), ("$n".into(), 3.into())]))
        );
        assert_eq!(of(&[":a=1", "2"]).expect_err("mixed").exit(), Exit::Usage);
    }

    #[test]
    fn both_tails() {
        let end: Tail = parse(br#"{"end":{"rows":3,"truncated":false}}"#).expect("an end mark");
        assert!(matches!(end, Tail::End(EndMark { rows: 3, truncated: false })));
        let line = br#"{"error":{"code":"row_limit","message":"too many","retry":false}}"#;
        assert!(matches!(parse(line).expect("an error"), Tail::Error(error) if error.message == "too many"));
    }
}
