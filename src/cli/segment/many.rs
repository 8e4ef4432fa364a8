//! The same for many segments, with progress.

use std::io::{self, BufRead, IsTerminal, Write};

use serde::Serialize;
use serde_json::{Value, json};
use springhouse_gateway::{api::client::ClientError, segment::SegmentId};

use super::{id, print, problem};
use crate::error::{Exit, Failure};

/// Does `each` for one segment after the other; prints a line for each, or JSON, one object a line.
/// Fails at the end if any failed, with the exit code of the first.
pub(super) async fn each<T: Serialize>(
    segments: &[String],
    as_json: bool,
    each: impl AsyncFn(&SegmentId) -> Result<(String, T), ClientError>,
) -> Result<(), Failure> {
    let segments = named(segments)?;
    let (mut failed, mut first) = (0, None);
    for (number, segment) in segments.iter().enumerate() {
        progress(number, segments.len(), segment.as_str());
        match each(segment).await {
            Ok((line, answer)) => {
                let line = if as_json { told(segment, &answer)? } else { format!("{segment}: {line}") };
                print(&format!("{line}\n"))?;
            }
            Err(error) if segments.len() == 1 => return Err(error.into()),
            Err(error) => {
                failed += 1;
                let failure = Failure::from(error);
                let _ = writeln!(io::stderr(), "{segment}: {failure}");
                first.get_or_insert(failure.exit());
            }
        }
    }
    match first {
        None => Ok(()),
        Some(exit) => Err(Failure::new(exit, format!("{failed} of {} failed", segments.len()))),
    }
}

fn told(segment: &SegmentId, answer: &impl Serialize) -> Result<String, Failure> {
    let value = serde_json::to_value(answer).map_err(|error| Failure::new(Exit::Internal, error))?;
    let value = match value {
        Value::Object(_) => value,
        _ => json!({ "segment": segment.as_str() }),
    };
    Ok(value.to_string())
}

/// One line that is written over, for people who wait.
fn progress(number: usize, of: usize, segment: &str) {
    let mut err = io::stderr();
    if of > 1 && err.is_terminal() {
        let _ = write!(err, "\r\x1b[K{}/{of} {segment}\r", number + 1);
        let _ = err.flush();
    }
}

/// Asks on the terminal whether to go on.
pub(super) fn confirm(segments: &[String]) -> Result<(), Failure> {
    let refused = || problem("not deleted: say --yes where nobody can be asked");
    if !io::stdin().is_terminal() || segments.iter().any(|segment| segment == "-") {
        return Err(refused());
    }
    let what = match segments {
        [one] => one.clone(),
        many => format!("{} segments", many.len()),
    };
    print(&format!("Delete {what} with all copies, also in the store? [y/N] "))?;
    let mut answer = String::new();
    io::stdin().lock().read_line(&mut answer).map_err(|error| problem(format!("standard input: {error}")))?;
    match answer.trim().to_ascii_lowercase().as_str() {
        "y" | "yes" => Ok(()),
        _ => Err(problem("not deleted")),
    }
}

/// The ids as given; a `-` stands for the lines of standard input.
fn named(segments: &[String]) -> Result<Vec<SegmentId>, Failure> {
    let mut all = Vec::new();
    for segment in segments {
        if segment == "-" {
            for line in io::stdin().lock().lines() {
                let line = line.map_err(|error| problem(format!("standard input: {error}")))?;
                if !line.trim().is_empty() {
                    all.push(id(line.trim())?);
                }
            }
        } else {
            all.push(id(segment)?);
        }
    }
    Ok(all)
}
