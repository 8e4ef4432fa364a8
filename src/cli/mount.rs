//! `springhouse mount`.

use super::{configure, print};
use crate::{
    config::{Flags, roles},
    error::Failure,
    mount::{self, MountSettings, Report},
};

/// `springhouse mount`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  \
    springhouse mount hdfs://namenode:9000/segments /mnt/segments\n  \
    springhouse mount --daemon file:///srv/segments /mnt/segments\n  \
    springhouse unmount /mnt/segments")]
pub struct Args {
    /// URL of the store: hdfs://HOST:PORT/path, hdfs://NAMESERVICE/path or file:///path
    #[arg(value_name = "URL")]
    url: Option<String>,
    /// Directory where the store appears: it must exist and be empty
    #[arg(value_name = "DIR")]
    dir: Option<String>,
    /// Return as soon as the mount answers, and serve it in the background
    #[arg(long)]
    daemon: bool,
    /// We are what --daemon starts.
    #[arg(long, hide = true)]
    background: bool,
    /// We are what a worker starts: its process.
    #[arg(long, hide = true, value_name = "PID")]
    parent: Option<i32>,
    /// Descriptor that gets a line when the mount answers.
    #[arg(long, hide = true, value_name = "FD")]
    ready_fd: Option<i32>,
    #[command(flatten)]
    flags: Flags<roles::Mount>,
}

/// Mounts and serves until SIGTERM, SIGINT, SIGHUP or an unmount; with `--daemon` until the mount answers.
pub fn run(args: Args) -> Result<(), Failure> {
    if !args.background && args.parent.is_none() {
        let daemon = args.daemon;
        let settings = settings(args)?;
        return if daemon {
            mount::start_in_background(&settings).and_then(|line| print(&format!("{line}\n")))
        } else {
            mount::run(&settings, Report::Person)
        };
    }
    let outcome = as_child(args);
    if let Err(failure) = &outcome {
        // The parent says it; this process only ends with the same code.
        Report::Parent.failed(failure);
        std::process::exit(failure.exit().code().into());
    }
    outcome
}

fn as_child(args: Args) -> Result<(), Failure> {
    if args.background {
        mount::detach_from_terminal()?;
    }
    if let Some(parent) = args.parent {
        mount::die_with(parent)?;
    }
    mount::run(&settings(args)?, Report::Parent)
}

fn settings(args: Args) -> Result<MountSettings, Failure> {
    let (flags, ready_fd) = flags(args);
    Ok(made(&configure(flags, |config| &config.log)?, ready_fd))
}

fn flags(args: Args) -> (Flags<roles::Mount>, Option<i32>) {
    let Args { mut flags, url, dir, ready_fd, .. } = args;
    flags.give("store", url, "<URL>");
    flags.give("mount_point", dir, "<DIR>");
    (flags, ready_fd)
}

pub(super) fn made(config: &roles::Mount, ready_fd: Option<i32>) -> MountSettings {
    MountSettings { ready_fd, ..config.point.mount(&config.store, &config.writes, &config.cache) }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use clap::{Args as _, FromArgMatches};
    use springhouse_fuse::{
        fs::{DiskSettings, FsSettings, Identity, WriteMode, WriteSettings},
        store::HdfsOptions,
    };

    use super::*;

    /// A worker hands its child the settings as flags: none may be lost on the way.
    #[test]
    fn settings_survive_the_command_line() {
        let store = "hdfs://nn:9000/a b/ü".parse().expect("a store");
        let plain = MountSettings::new(store, "/mnt/with space");
        let full = MountSettings {
            hdfs: HdfsOptions {
                config_dir: Some("/etc/hadoop conf".into()),
                user: Some("etl".into()),
                kerberos_principal: Some("etl@EXAMPLE.ORG".into()),
                kerberos_keytab: Some("/etc/etl keytab".into()),
                kerberos_cache: Some("FILE:/run/cc".into()),
                ..HdfsOptions::default()
            },
            noexec: true,
            added_latency: Duration::from_millis(10),
            fs: FsSettings {
                deadline: Duration::from_millis(2500),
                freshness: Duration::ZERO,
                memory_bytes: 100 << 20,
                cache_bytes: 0,
                pinned_bytes: 4097,
                prefetch_bytes: 67890,
                disk: Some(DiskSettings { dir: "/var/cache/a b".into(), bytes_max: 17 << 20 }),
                sqlite: false,
                writes: WriteSettings {
                    read_only: true,
                    mode: WriteMode::Staged,
                    staging_dir: Some("/var/stage".into()),
                    staging_bytes_max: 3 << 20,
                    umask: 0o27,
                    replication: Some(2),
                    block_size: Some(1 << 20),
                },
                identity: Identity::Caller,
                entry_lifetime: Some(Duration::from_secs(5)),
                attribute_lifetime: Some(Duration::from_secs(6)),
                negative_lifetime: Some(Duration::ZERO),
                block_bytes: 4096,
                readahead_bytes_max: 12345,
                ..plain.fs.clone()
            },
            threads: 3,
            allow_other: Some(false),
            allow_nonempty: true,
            control_socket: Some("/run/x.sock".into()),
            metrics_listen: Some("127.0.0.1:0".parse().expect("an address")),
            ready_fd: Some(7),
            log_file: Some("/var/log/x".into()),
            ..plain.clone()
        };
        for wanted in [plain, full] {
            let command = Args::augment_args(clap::Command::new("mount"));
            let matches = command.try_get_matches_from(wanted.arguments()).expect("flags that exist");
            let (flags, ready_fd) = flags(Args::from_arg_matches(&matches).expect("arguments"));
            let (config, _) = flags.resolve().expect("good values");
            assert_eq!(made(&config, ready_fd), wanted);
        }
    }

    /// The unit that people copy starts what there is.
    #[test]
    fn the_sample_unit_is_a_command_line() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/config/springhouse-mount@.service");
        let unit = std::fs::read_to_string(path).expect("the sample");
        let command = |key: &str| {
            let line = unit.lines().find_map(|line| line.strip_prefix(key)).expect(key);
            let line = line.trim_start_matches('-').replace("%f", "/mnt/a").replace("%i", "mnt-a");
            line.split(' ').skip(1).map(str::to_owned).collect::<Vec<_>>()
        };
        let start = command("ExecStart=");
        let matches = Args::augment_args(clap::Command::new("mount"))
            .try_get_matches_from(start.clone())
            .expect("flags that exist");
        let args = Args::from_arg_matches(&matches).expect("arguments");
        assert!(!args.daemon, "a service of type notify stays in the foreground");
        assert_eq!(
            start,
            ["mount", "--config", "/etc/springhouse/mount-mnt-a.toml", "--mount-point", "/mnt/a"]
        );
        assert_eq!(command("ExecStopPost="), ["unmount", "/mnt/a"]);
    }
}
