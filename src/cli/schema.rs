//! `springhouse schema …`: what new segments look like.

use std::{
    fs,
    io::{self, Read},
    path::PathBuf,
};

use clap::Subcommand;

use springhouse_gateway::api::hot::SchemaRequest;

use super::{block_on, columns::Columns, print, print_json, problem, segment::Common};
use crate::error::Failure;

/// `springhouse schema`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  \
    springhouse schema put pages pages.sql\n  \
    springhouse schema list\n  \
    springhouse schema show pages")]
pub struct Args {
    #[command(subcommand)]
    what: What,
    #[command(flatten)]
    common: Common,
}

#[derive(Debug, Subcommand)]
enum What {
    /// List the newest version of each
    List,
    /// Print the statements of one
    Show {
        /// Its name
        name: String,
        /// All its versions
        #[arg(long)]
        versions: bool,
    },
    /// Register one, or its next version
    Put {
        /// Its name
        name: String,
        /// File with its statements; `-`: standard input
        file: PathBuf,
    },
}

/// Runs it.
pub fn run(args: Args) -> Result<(), Failure> {
    let Args { what, common } = args;
    block_on(async move {
        let client = common.client()?;
        match what {
            What::List => {
                let all = client.schemas().await?;
                if common.json {
                    return print_json(&all);
                }
                let mut table = Columns::new(["SCHEMA", "#VERSION", "#STATEMENT BYTES"]);
                for schema in all.schemas {
                    table.row([schema.name, schema.version.to_string(), schema.sql.len().to_string()]);
                }
                print(&table.text())
            }
            What::Show { name, versions: true } => {
                let all = client.schema_versions(&name).await?;
                if common.json {
                    return print_json(&all);
                }
                for schema in all.schemas {
                    print(&format!("-- {} version {}\n{}\n", schema.name, schema.version, schema.sql))?;
                }
                Ok(())
            }
            What::Show { name, versions: false } => {
                let schema = client.schema(&name).await?;
                if common.json { print_json(&schema) } else { print(&format!("{}\n", schema.sql)) }
            }
            What::Put { name, file } => {
                let schema = client.put_schema(&name, &SchemaRequest { sql: read(&file)? }).await?;
                if common.json {
                    return print_json(&schema);
                }
                print(&format!("{name}: version {}\n", schema.version))
            }
        }
    })
}

fn read(file: &PathBuf) -> Result<String, Failure> {
    if file.as_os_str() == "-" {
        let mut sql = String::new();
        return match io::stdin().read_to_string(&mut sql) {
            Ok(_) => Ok(sql),
            Err(error) => Err(problem(format!("standard input: {error}"))),
        };
    }
    fs::read_to_string(file).map_err(|error| problem(format!("{}: {error}", file.display())))
}
