//! The same for many segments, with progress.

use std::{
    convert::Infallible,
    io::{self, BufRead, IsTerminal, Write},
    pin::pin,
    time::Duration,
};

use futures::{StreamExt, stream};
use serde::Serialize;
use serde_json::{Value, json};
use springhouse_gateway::{
    api::{
        client::{ClientError, GatewayClient},
        work::Work,
    },
    segment::SegmentId,
};

use super::{id, print, problem};
use crate::error::{Exit, Failure};

/// Segments that are worked at once.
const AT_ONCE: usize = 4;
/// Name of the column of segments.
const HEAD: &str = "SEGMENT";
/// How often the gateway is asked how far it is.
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// Does `each` for every segment, some at once; prints a line for each in their order, or JSON, one object a
/// line. Fails at the end if any failed, with the exit code of the first.
pub(super) async fn each<T: Serialize>(
    segments: &[String],
    as_json: bool,
    each: impl AsyncFn(&SegmentId) -> Result<(String, T), ClientError>,
) -> Result<(), Failure> {
    run(None, &named(segments)?, as_json, None, each).await
}

/// [`each`] for work that takes long: on a terminal a line tells how far it is.
pub(super) async fn watched<T: Serialize>(
    client: &GatewayClient,
    segments: &[String],
    as_json: bool,
    each: impl AsyncFn(&SegmentId) -> Result<(String, T), ClientError>,
) -> Result<(), Failure> {
    run(Some(client), &named(segments)?, as_json, None, each).await
}

/// [`watched`] as a table below `head`, of which each line begins with the segment in a column of its own.
pub(super) async fn listed<T: Serialize>(
    client: &GatewayClient,
    segments: &[SegmentId],
    as_json: bool,
    head: &str,
    each: impl AsyncFn(&SegmentId) -> Result<(String, T), ClientError>,
) -> Result<(), Failure> {
    let ids = segments.iter().map(|segment| segment.as_str().len());
    let width = ids.chain([HEAD.len()]).max().unwrap_or(0);
    if !as_json {
        print(&format!("{HEAD:<width$}  {head}\n"))?;
    }
    run(Some(client), segments, as_json, Some(width), each).await
}

async fn run<T: Serialize>(
    watch: Option<&GatewayClient>,
    segments: &[SegmentId],
    as_json: bool,
    column: Option<usize>,
    each: impl AsyncFn(&SegmentId) -> Result<(String, T), ClientError>,
) -> Result<(), Failure> {
    let (mut failed, mut first) = (0, None);
    let each = &each;
    let all = stream::iter(segments).map(|segment| async move { (segment, each(segment).await) });
    let mut all = pin!(all.buffered(AT_ONCE));
    let mut done = 0;
    loop {
        let next = {
            let mut shown = pin!(show(watch, done, segments));
            tokio::select! {
                next = all.next() => next,
                never = &mut shown => match never {},
            }
        };
        let Some((segment, outcome)) = next else { break };
        done += 1;
        clear(segments, watch.is_some());
        match outcome {
            Ok((line, answer)) => {
                let line = match column {
                    _ if as_json => told(segment, &answer)?,
                    Some(width) => format!("{:<width$}  {line}", segment.as_str()),
                    None => format!("{segment}: {line}"),
                };
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

/// One line that is written over, for people who wait: how many are done, and how far the others are.
async fn show(watch: Option<&GatewayClient>, done: usize, segments: &[SegmentId]) -> Infallible {
    let mut err = io::stderr();
    if !err.is_terminal() || (segments.len() == 1 && watch.is_none()) {
        return std::future::pending().await;
    }
    loop {
        let waits = segments.get(done).map_or("", SegmentId::as_str);
        let mut line = format!("{}/{} {waits}", done.min(segments.len()), segments.len());
        if let Some(client) = watch
            && let Ok(list) = client.work().await
        {
            let ours = |work: &&Work| segments[done..].iter().any(|segment| segment.as_str() == work.segment);
            for work in list.work.iter().filter(ours).take(AT_ONCE) {
                line.push_str(&format!("  {} {} {}", work.segment, work.what, percent(work)));
            }
        }
        let _ = write!(err, "\r\x1b[K{line}\r"); // nobody needs it to go on
        let _ = err.flush();
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

fn percent(work: &Work) -> String {
    match work.total {
        0 => String::new(),
        total => format!("{} %", u128::from(work.done) * 100 / u128::from(total)),
    }
}

/// Takes the line away before another is printed.
fn clear(segments: &[SegmentId], watched: bool) {
    let mut err = io::stderr();
    if err.is_terminal() && (segments.len() > 1 || watched) {
        let _ = write!(err, "\r\x1b[K");
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
pub(super) fn named(segments: &[String]) -> Result<Vec<SegmentId>, Failure> {
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
