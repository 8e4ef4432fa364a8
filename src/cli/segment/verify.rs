//! `springhouse segment verify`.

use std::cell::Cell;

use springhouse_gateway::{
    api::{
        client::GatewayClient,
        verify::{Depth, Verified, VerifyAnswer, VerifyRequest},
    },
    registry::verify::Severity,
};

use super::many;
use crate::{
    cli::mounts::size,
    error::{Exit, Failure},
};

/// Which, and how closely.
#[derive(Debug, clap::Args)]
#[command(
    long_about = "Compare segments where their bytes are: what the registry names, what the store has, and every \
                  hot copy.\n\nWorkers read each file once and compare its checksum with the one that was kept, \
                  look at the SQLite header, and run PRAGMA integrity_check. Each thing that does not fit is named \
                  with what to do, and the command ends with exit code 7 if there is any but notes: a copy that \
                  is just following a new generation. Nothing is changed but a \
                  hot copy that is not what was copied: it is not used any more, and fetched anew. `segment work` \
                  shows how far it is, `segment cancel` or Ctrl-C end it."
)]
pub(super) struct Args {
    /// Ids of the segments; `-` takes them from standard input, a line each
    #[arg(required = true, value_name = "SEGMENT")]
    segments: Vec<String>,
    /// Run quick_check instead of integrity_check: indexes are not compared with their tables
    #[arg(long)]
    quick: bool,
    /// Look at header, length and generation only: no file is read
    #[arg(long, conflicts_with = "quick")]
    header: bool,
}

/// As wide as their widest usual value.
const STATE: usize = 5;
const SIZE: usize = 9;
const CHECKSUM: usize = 12;
const SQLITE: usize = 15;

pub(super) async fn run(client: &GatewayClient, args: Args, json: bool) -> Result<(), Failure> {
    let depth = match (args.header, args.quick) {
        (true, _) => Depth::Header,
        (_, true) => Depth::Quick,
        _ => Depth::Full,
    };
    let segments = many::named(&args.segments)?;
    let unsound = Cell::new(0_u64);
    let head = format!(
        "{:<STATE$}  {:>SIZE$}  {:<CHECKSUM$}  {:<SQLITE$}  COPIES",
        "STATE", "SIZE", "CHECKSUM", "SQLITE"
    );
    let request = VerifyRequest { depth };
    many::listed(client, &segments, json, &head, async |id| {
        let answer = client.verify(id, &request).await?;
        unsound.set(unsound.get() + u64::from(!answer.sound));
        Ok((row(&answer), answer))
    })
    .await?;
    match (unsound.get(), segments.len()) {
        (0, _) => Ok(()),
        (_, 1) => Err(Failure::new(Exit::Findings, format!("{}: not as it should be", segments[0]))),
        (n, all) => {
            Err(Failure::new(Exit::Findings, format!("{n} of {all} segments are not as they should be")))
        }
    }
}

/// One segment, with what was found below it.
fn row(answer: &VerifyAnswer) -> String {
    let state = if answer.sound { "sound" } else { "WRONG" };
    let bytes =
        answer.store.as_ref().or(answer.copies.first()).map_or("-".to_owned(), |file| size(file.size));
    let sum = checksum(answer);
    let sqlite = match (answer.depth, answer.store.as_ref().or(answer.copies.first())) {
        (Depth::Header, Some(_)) => "header",
        (Depth::Full, Some(file)) if file.checked => "integrity_check",
        (Depth::Quick, Some(file)) if file.checked => "quick_check",
        _ => "-",
    };
    let copies: Vec<&str> = answer.copies.iter().map(|copy| copy.worker.as_str()).collect();
    let copies = if copies.is_empty() { "-".to_owned() } else { copies.join(", ") };
    let mut text = format!("{state:<STATE$}  {bytes:>SIZE$}  {sum:<CHECKSUM$}  {sqlite:<SQLITE$}  {copies}");
    for finding in &answer.findings {
        let how = match finding.severity {
            Severity::Error => "error",
            Severity::Warning => "warning",
            Severity::Note => "note",
        };
        text += &format!("\n  {how} {}: {}\n      {}", finding.kind, finding.text, finding.remedy);
    }
    text
}

/// What became of the comparison of the store's bytes.
fn checksum(answer: &VerifyAnswer) -> &'static str {
    match &answer.store {
        _ if answer.depth == Depth::Header => "not read",
        None => "-",
        Some(Verified { checksum: None, .. }) => "not read",
        Some(Verified { kept: None, .. }) => "none kept",
        Some(Verified { checksum, kept, .. }) if checksum == kept => "as kept",
        Some(_) => "differs",
    }
}

#[cfg(test)]
mod tests {
    use springhouse_gateway::registry::verify::Finding;

    use super::*;

    fn answer() -> VerifyAnswer {
        let store = Verified {
            worker: "w".into(),
            state: None,
            generation: Some("0".repeat(32)),
            size: 2048,
            checksum: Some("a".into()),
            kept: Some("a".into()),
            checked: true,
        };
        VerifyAnswer {
            segment: "seg001".into(),
            sound: true,
            path: "/seg/seg001.sqlite".into(),
            depth: Depth::Full,
            store: Some(store),
            copies: Vec::new(),
            findings: Vec::new(),
        }
    }

    #[test]
    fn rows_say_what_was_compared() {
        assert_eq!(row(&answer()), "sound    2.0 KiB  as kept       integrity_check  -");
        let mut none_kept = answer();
        none_kept.store.as_mut().expect("a store").kept = None;
        assert!(row(&none_kept).contains("none kept"));
        let mut differs = answer();
        (differs.sound, differs.store.as_mut().expect("a store").checked) = (false, false);
        differs.store.as_mut().expect("a store").checksum = Some("b".into());
        differs.findings = vec![Finding {
            severity: Severity::Error,
            kind: "store_checksum".into(),
            subject: "seg001".into(),
            text: "the bytes differ".into(),
            remedy: "put a good file there".into(),
        }];
        assert_eq!(
            row(&differs),
            "WRONG    2.0 KiB  differs       -                -\n  error store_checksum: the bytes differ\n      \
             put a good file there"
        );
        let mut following = answer();
        following.findings = vec![Finding { severity: Severity::Note, ..differs.findings[0].clone() }];
        assert!(row(&following).starts_with("sound ") && row(&following).contains("\n  note "));
        assert!(row(&VerifyAnswer { depth: Depth::Header, ..answer() }).contains("not read      header"));
        assert!(row(&VerifyAnswer { store: None, ..answer() }).contains("-  -"));
    }
}
