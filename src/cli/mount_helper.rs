//! `mount.springhouse`: what mount(8) runs for lines of /etc/fstab whose type is `springhouse`.
//!
//! `mount.springhouse SOURCE DIR [-sfnv] [-o OPTIONS]`, see mount(8), "External helpers". The program is
//! the same; a link in /sbin gives it that name.

use std::{
    ffi::OsString,
    fs,
    io::{self, Write},
    os::unix::ffi::OsStrExt,
    path::{Path, PathBuf},
    process::ExitCode,
};

use springhouse_fuse::mount::is_root;

use super::mount;
use crate::{
    config::{Flags, Role, keys::KeySpec, resolve, roles},
    error::{Exit, Failure},
    mount::start_in_background,
};

const NAME: &str = "mount.springhouse";

/// Where logs go when an option does not say: the daemon outlives mount(8) and must hold none of its
/// descriptors, or whoever reads mount's output waits for ever.
const LOG_DIR: &str = "/var/log/springhouse";

/// Options that are for mount(8) and its like, or that change nothing here: the store keeps no time of
/// access, has no device files, and nothing is written before it is sent.
const IGNORED: [&str; 31] = [
    "rw",
    "defaults",
    "auto",
    "noauto",
    "fail",
    "nofail",
    "_netdev",
    "user",
    "nouser",
    "users",
    "owner",
    "group",
    "noowner",
    "nogroup",
    "atime",
    "noatime",
    "relatime",
    "norelatime",
    "strictatime",
    "nostrictatime",
    "diratime",
    "nodiratime",
    "lazytime",
    "nolazytime",
    "nodev",
    "nosuid",
    "exec",
    "async",
    "nomand",
    "noiversion",
    "silent",
];

/// Options that cannot be honoured, and why.
const REFUSED: [(&str, &str); 12] = [
    ("dev", "device files are never honoured; leave it out"),
    ("suid", "set-user-id bits are never honoured; leave it out"),
    ("uid", "owners are those of the store; see identity=caller|fixed"),
    ("gid", "groups are those of the store; see identity=caller|fixed"),
    ("default_permissions", "the store decides who may do what; see identity=caller|fixed"),
    ("allow_root", "give allow_other, or leave it out"),
    ("sync", "fsync(2) is durable when it returns, and close(2) sends everything; leave it out"),
    ("dirsync", "changes of directories are in the store when they return; leave it out"),
    ("remount", "a running mount is changed with `springhouse cache set`, or mounted anew"),
    ("bind", "mount the store first, then bind its directory"),
    ("mand", "the store knows no mandatory locks; leave it out"),
    ("loop", "a store is no disk image; leave it out"),
];

/// Whether this process was started under the helper's name.
pub fn is_asked() -> bool {
    std::env::args_os().next().is_some_and(|name| {
        let name = Path::new(&name).file_name().unwrap_or_default().as_bytes();
        name == NAME.as_bytes() || name == b"mount.fuse.springhouse"
    })
}

/// Mounts and returns when the mount answers, with one of mount(8)'s exit codes.
pub fn run(arguments: impl Iterator<Item = OsString>) -> ExitCode {
    let outcome = Asked::parse(arguments)
        .map_err(|problem| Failure::new(Exit::Usage, format!("{problem}; see docs/MOUNT.md")))
        .and_then(mounted);
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            let _ = writeln!(io::stderr(), "{NAME}: {failure}");
            ExitCode::from(code(failure.exit()))
        }
    }
}

/// As mount(8) says: 1 incorrect invocation or permissions, 2 system error, 32 mount failure.
fn code(exit: Exit) -> u8 {
    match exit {
        Exit::Done => 0,
        Exit::Usage | Exit::Denied => 1,
        Exit::Internal => 2,
        Exit::Failed | Exit::Unreachable | Exit::MountPoint | Exit::InUse | Exit::Findings => 32,
    }
}

fn mounted(asked: Asked) -> Result<(), Failure> {
    let mut flags = Flags::<roles::Mount>::none(asked.config);
    for (key, value) in asked.keys {
        flags.give(key, Some(value), &format!("-o {key}"));
    }
    let (config, _) =
        flags.resolve().map_err(|problems| Failure::configuration(&problems, roles::Mount::NAME))?;
    // The daemon logs as this process would.
    crate::logging::init(&config.log)?;
    let mut settings = mount::made(&config, None);
    if asked.fake {
        return Ok(());
    }
    if settings.log_file.is_none() {
        settings.log_file = Some(log_file(&settings.dir).unwrap_or_else(|| "/dev/null".into()));
    }
    let line = start_in_background(&settings)?;
    if asked.verbose {
        super::print(&format!("{NAME}: {line}\n"))?;
    }
    Ok(())
}

/// `/var/log/springhouse/mnt-cold.log` for `/mnt/cold`; `None` where that cannot be written.
fn log_file(dir: &Path) -> Option<PathBuf> {
    if !is_root() {
        return None;
    }
    fs::create_dir_all(LOG_DIR).ok()?;
    let name = dir.to_string_lossy().trim_matches('/').replace('/', "-");
    Some(Path::new(LOG_DIR).join(format!("{name}.log")))
}

/// What the command line asks for.
#[derive(Debug, Default, PartialEq, Eq)]
struct Asked {
    keys: Vec<(&'static str, String)>,
    config: Option<PathBuf>,
    fake: bool,
    verbose: bool,
    sloppy: bool,
}

impl Asked {
    fn parse(arguments: impl Iterator<Item = OsString>) -> Result<Self, String> {
        let mut asked = Self::default();
        let mut places = Vec::new();
        let mut options = Vec::new();
        let mut arguments = arguments.map(text);
        while let Some(argument) = arguments.next() {
            let argument = argument?;
            let Some(letters) = argument.strip_prefix('-').filter(|letters| !letters.is_empty()) else {
                places.push(argument);
                continue;
            };
            for (at, letter) in letters.char_indices() {
                match letter {
                    'f' => asked.fake = true,
                    'v' => asked.verbose = true,
                    's' => asked.sloppy = true,
                    // There is no /etc/mtab to write.
                    'n' => {}
                    // The rest of the word, or the next one.
                    'o' | 't' => {
                        let rest = &letters[at + 1..];
                        let value = match rest.is_empty() {
                            false => rest.to_owned(),
                            true => arguments.next().ok_or(format!("-{letter} needs a value"))??,
                        };
                        if letter == 'o' {
                            options.push(value);
                        }
                        break;
                    }
                    _ => return Err(format!("-{letter} is not known; usage: {USAGE}")),
                }
            }
        }
        let [source, dir] = <[String; 2]>::try_from(places).map_err(|_| format!("usage: {USAGE}"))?;
        asked.keys.extend([("store", source), ("mount_point", dir)]);
        for option in options.iter().flat_map(|options| split(options)) {
            asked.option(&option)?;
        }
        Ok(asked)
    }

    fn option(&mut self, option: &str) -> Result<(), String> {
        let (name, value) = match option.split_once('=') {
            Some((name, value)) => (name, Some(value.trim_matches('"'))),
            None => (option, None),
        };
        if name.starts_with("x-") || name.starts_with("X-") || name == "comment" || IGNORED.contains(&option)
        {
            return Ok(());
        }
        if let Some((_, why)) = REFUSED.iter().find(|(refused, _)| *refused == name) {
            return Err(format!("option {name}: {why}"));
        }
        match (name, value) {
            ("ro", None) => self.keys.push(("read_only", "true".into())),
            ("config", Some(file)) => self.config = Some(file.into()),
            _ => match (key(name), value) {
                (Some(key), Some(value)) => self.keys.push((key.name, value.to_owned())),
                (Some(key), None) if key.switch => self.keys.push((key.name, "true".into())),
                (Some(key), None) => {
                    return Err(format!("option {name} needs a value: {name}=…, {}", key.allowed));
                }
                (None, _) if self.sloppy => {}
                (None, _) => {
                    let names = roles::Mount::specs().into_iter().map(|spec| spec.name.to_owned());
                    let advice = resolve::advice(resolve::nearest(name, names), "leave it out");
                    return Err(format!("option {name} is not known; {advice}"));
                }
            },
        }
        Ok(())
    }
}

const USAGE: &str = "mount.springhouse URL DIR [-sfnv] [-o OPTIONS]";

fn text(argument: OsString) -> Result<String, String> {
    argument.into_string().map_err(|argument| format!("{} is not UTF-8", argument.display()))
}

/// A key of the mount role, written as in a file or as a flag; the places are arguments of their own.
fn key(name: &str) -> Option<KeySpec> {
    let name = name.replace('-', "_");
    roles::Mount::specs()
        .into_iter()
        .find(|spec| spec.name == name && !matches!(spec.name, "store" | "mount_point"))
}

/// At commas outside of double quotes, as mount(8) does.
fn split(options: &str) -> Vec<String> {
    let mut quoted = false;
    let parts = options.split(|c: char| {
        quoted ^= c == '"';
        c == ',' && !quoted
    });
    parts.filter(|part| !part.is_empty()).map(str::to_owned).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn asked(line: &str) -> Result<Asked, String> {
        Asked::parse(line.split(' ').map(OsString::from))
    }

    #[test]
    fn what_mount_8_gives_is_taken() {
        let line = "hdfs://nn:9000/x /mnt/cold -vn -o rw,_netdev,noauto,x-systemd.automount,nofail,noatime,nosuid,\
            memory=1GiB,cache-dir=\"/var/cache/a,b\",ro,allow_other,config=/etc/s.toml,umask=022";
        let asked = asked(line).expect("good");
        let keys: Vec<_> = asked.keys.iter().map(|(key, value)| (*key, value.as_str())).collect();
        assert_eq!(
            keys,
            [
                ("store", "hdfs://nn:9000/x"),
                ("mount_point", "/mnt/cold"),
                ("memory", "1GiB"),
                ("cache_dir", "/var/cache/a,b"),
                ("read_only", "true"),
                ("allow_other", "true"),
                ("umask", "022"),
            ]
        );
        assert_eq!(asked.config.as_deref(), Some(Path::new("/etc/s.toml")));
        assert!(asked.verbose && !asked.fake && !asked.sloppy);
    }

    #[test]
    fn what_cannot_be_honoured_is_refused_with_its_reason() {
        for (line, reason) in [
            ("a b -o uid=1000", "owners are those of the store"),
            ("a b -o suid", "never honoured"),
            ("a b -o memry=1GiB", "did you mean memory?"),
            ("a b -o memory", "needs a value"),
            ("a b -o store=x", "not known"),
            ("a b -o", "needs a value"),
            ("a b -x", "usage: mount.springhouse URL DIR"),
            ("a", "usage: mount.springhouse URL DIR"),
            ("a b c", "usage: mount.springhouse URL DIR"),
        ] {
            let problem = asked(line).expect_err(line);
            assert!(problem.contains(reason), "{line}: {problem}");
        }
        assert!(asked("a b -o memry=1GiB -s").is_ok(), "sloppy, wherever that is said");
    }

    #[test]
    fn exit_codes_are_those_of_mount_8() {
        let codes: Vec<_> = Exit::ALL.into_iter().map(code).collect();
        assert_eq!(codes, [0, 32, 1, 32, 32, 32, 1, 32, 2]);
    }

    proptest! {
        #[test]
        fn any_command_line_is_survived(words in prop::collection::vec("[-a-z=,\"]{0,20}", 0..6)) {
            let _ = Asked::parse(words.into_iter().map(OsString::from));
        }
    }
}
