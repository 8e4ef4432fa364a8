//! What is done, by chance.

use proptest::prelude::*;

/// Few, so that operations meet. Each may be a file or a directory.
pub(super) const PATHS: [&str; 9] = ["/a", "/b", "/d", "/e", "/d/a", "/d/b", "/e/a", "/d/s", "/d/s/a"];

#[derive(Debug, Clone)]
pub(super) enum Op {
    Create { path: usize, truncate: bool, exclusive: bool, append: bool },
    OpenToWrite { path: usize, truncate: bool, append: bool },
    OpenToRead { path: usize },
    Write { handle: usize, len: usize, away: bool },
    Read { handle: usize, offset: usize, len: usize },
    Fsync { handle: usize },
    Close { handle: usize },
    SetLen { path: usize },
    Rename { from: usize, to: usize, keep: bool },
    Unlink { path: usize },
    Mkdir { path: usize },
    Rmdir { path: usize },
    Chmod { path: usize, mode: u32 },
    SetTime { path: usize, seconds: u64 },
    List { path: usize, attrs: bool },
    Stat { path: usize },
    StatHandle { handle: usize },
    Forget,
    Upkeep,
}

pub(super) fn ops() -> impl Strategy<Value = Vec<Op>> {
    let (path, handle) = (0..PATHS.len(), 0..6_usize);
    let op = prop_oneof![
        3 => (path.clone(), any::<bool>(), any::<bool>(), any::<bool>())
            .prop_map(|(path, truncate, exclusive, append)| Op::Create { path, truncate, exclusive, append }),
        3 => (path.clone(), any::<bool>(), any::<bool>())
            .prop_map(|(path, truncate, append)| Op::OpenToWrite { path, truncate, append }),
        3 => path.clone().prop_map(|path| Op::OpenToRead { path }),
        6 => (handle.clone(), prop_oneof![0..40_usize, Just(300 << 10)], prop::bool::weighted(0.1))
            .prop_map(|(handle, len, away)| Op::Write { handle, len, away }),
        4 => (handle.clone(), 0..60_usize, 0..400_000_usize)
            .prop_map(|(handle, offset, len)| Op::Read { handle, offset, len }),
        1 => handle.clone().prop_map(|handle| Op::Fsync { handle }),
        4 => handle.clone().prop_map(|handle| Op::Close { handle }),
        1 => path.clone().prop_map(|path| Op::SetLen { path }),
        4 => (path.clone(), path.clone(), prop::bool::weighted(0.2))
            .prop_map(|(from, to, keep)| Op::Rename { from, to, keep }),
        2 => path.clone().prop_map(|path| Op::Unlink { path }),
        3 => path.clone().prop_map(|path| Op::Mkdir { path }),
        1 => path.clone().prop_map(|path| Op::Rmdir { path }),
        1 => (path.clone(), 0..0o1000_u32).prop_map(|(path, mode)| Op::Chmod { path, mode }),
        1 => (path.clone(), 1..2_000_000_000_u64).prop_map(|(path, seconds)| Op::SetTime { path, seconds }),
        2 => (path.clone(), any::<bool>()).prop_map(|(path, attrs)| Op::List { path, attrs }),
        3 => path.prop_map(|path| Op::Stat { path }),
        2 => handle.prop_map(|handle| Op::StatHandle { handle }),
        1 => Just(Op::Forget),
        1 => Just(Op::Upkeep),
    ];
    prop::collection::vec(op, 1..80)
}
