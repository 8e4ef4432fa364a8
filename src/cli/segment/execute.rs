//! `springhouse segment execute`.

use std::io::{self, Read};

use springhouse_gateway::api::{
    client::GatewayClient,
    hot::{ExecuteRequest, Script, Statement, Statements},
};

use super::{id, print, print_json, problem};
use crate::{cli::query, error::Failure};

/// One transaction.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Id of the segment
    segment: String,
    /// One or more statements; `-` takes them from standard input
    sql: String,
    /// Value of the next `?`, or of a named parameter as :NAME=VALUE, of a single statement; may be
    /// repeated. Numbers, null and "quoted text" are read as JSON, everything else is text as it stands
    #[arg(short, long = "param", value_name = "VALUE", allow_hyphen_values = true)]
    params: Vec<String>,
    /// Text that names this change: sent again with it, the change is made once
    #[arg(long, value_name = "TEXT")]
    key: Option<String>,
    /// Longest time to wait, such as 500ms or 2m
    #[arg(long, value_name = "TIME", value_parser = humantime::parse_duration)]
    timeout: Option<std::time::Duration>,
}

pub(super) async fn run(client: &GatewayClient, args: Args, json: bool) -> Result<(), Failure> {
    let segment = id(&args.segment)?;
    let sql = if args.sql == "-" { standard_input()? } else { args.sql };
    let timeout_ms = args.timeout.map(|time| u64::try_from(time.as_millis()).unwrap_or(u64::MAX));
    let request = if args.params.is_empty() {
        ExecuteRequest::Script(Script { sql, timeout_ms })
    } else {
        let params = Some(query::params(&args.params)?);
        let statements = vec![Statement { sql, params, rows: None }];
        ExecuteRequest::Statements(Statements { statements, timeout_ms })
    };
    let answer = client.execute(&segment, &request, args.key.as_deref()).await?;
    if json {
        return print_json(&answer);
    }
    let rows: u64 = answer.results.iter().map(|result| result.rows_affected).sum();
    let again = if answer.repeated { " (had been made before)" } else { "" };
    let plural = |n: u64| if n == 1 { "" } else { "s" };
    let statements = answer.results.len() as u64;
    print(&format!(
        "{segment}: {statements} statement{}, {rows} row{} changed, change {}{again}\n",
        plural(statements),
        plural(rows),
        answer.change
    ))
}

fn standard_input() -> Result<String, Failure> {
    let mut sql = String::new();
    io::stdin().read_to_string(&mut sql).map_err(|error| problem(format!("standard input: {error}")))?;
    Ok(sql)
}
