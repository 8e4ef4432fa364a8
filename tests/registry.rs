//! The list of tests and how each is run.

use std::{
    any::Any,
    panic::{AssertUnwindSafe, catch_unwind},
    process::ExitCode,
    sync::{Mutex, mpsc},
    time::{Duration, Instant},
};

use libtest_mimic::{Arguments, Completion, Failed, Trial};

use crate::harness::{hdfs::Hdfs, need, need::Need, remove_state_home};

/// A test that takes longer has hung: it fails, and the others go on.
const TEST_LIMIT: Duration = Duration::from_secs(600);

/// How many of the slowest tests are named at the end.
const SLOWEST: usize = 12;

/// One test: a function that panics if a promise is broken.
pub struct Test {
    pub module: &'static str,
    pub name: &'static str,
    pub needs: &'static [Need],
    pub run: fn(),
}

/// The tests of a file, by what they need: `tests! { [Fuse, Hdfs] one, two; [] three; }`.
macro_rules! tests {
    ($( $needs:tt $($name:ident),+ ; )+) => {
        pub const TESTS: &[$crate::registry::Test] = &[$($(
            $crate::registry::Test {
                module: module_path!(),
                name: stringify!($name),
                needs: tests!(@needs $needs),
                run: $name,
            },
        )+)+];
    };
    (@needs [$($need:ident),*]) => { &[$($crate::harness::need::Need::$need),*] };
}
pub(crate) use tests;

impl Test {
    /// `file::name`, as documents cite it.
    pub fn full_name(&self) -> String {
        let file = self.module.rsplit("::").next().unwrap_or(self.module);
        format!("{file}::{}", self.name)
    }
}

static SKIPPED: Mutex<Vec<String>> = Mutex::new(Vec::new());
static TIMES: Mutex<Vec<(Duration, String)>> = Mutex::new(Vec::new());

/// All tests there are.
pub fn all() -> impl Iterator<Item = &'static Test> {
    crate::TESTS.into_iter().flatten()
}

/// Runs the tests that the command line asks for.
pub fn run() -> ExitCode {
    let arguments = Arguments::from_args();
    let trials = all().map(|test| Trial::ignorable_test(test.full_name(), move || run_one(test)));
    let conclusion = libtest_mimic::run(&arguments, trials.collect());
    Hdfs::stop_shared();
    let left = remove_state_home();
    let skipped = SKIPPED.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    for line in skipped.iter() {
        println!("skipped: {line}");
    }
    let mut times = std::mem::take(&mut *TIMES.lock().unwrap_or_else(std::sync::PoisonError::into_inner));
    times.sort_by(|a, b| b.cmp(a));
    if times.len() > SLOWEST {
        println!("slowest:");
        for (time, name) in &times[..SLOWEST] {
            println!("{:6.1} s  {name}", time.as_secs_f64());
        }
    }
    if !left.is_empty() {
        println!("left behind: {left:?} (a worker or its mount daemon ended without unmounting)");
        return ExitCode::FAILURE;
    }
    conclusion.exit_code()
}

fn run_one(test: &'static Test) -> Result<Completion, Failed> {
    if let Some(missing) = test.needs.iter().find_map(|need| need.check().err()) {
        if need::is_ci() {
            return Err(format!("cannot run, and CI is true: {missing}").into());
        }
        SKIPPED
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
            .push(format!("{}: {missing}", test.full_name()));
        return Ok(Completion::ignored_with(missing));
    }
    let since = Instant::now();
    let outcome = run_on_a_thread(test);
    let mut times = TIMES.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    times.push((since.elapsed(), test.full_name()));
    outcome
}

fn run_on_a_thread(test: &'static Test) -> Result<Completion, Failed> {
    // A thread of its own, given up when it hangs; what it started dies with this process.
    let (sender, result) = mpsc::channel();
    let body = move || {
        let outcome = catch_unwind(AssertUnwindSafe(test.run)).map_err(|panic| message(&*panic));
        let _ = sender.send(outcome);
    };
    std::thread::Builder::new().name(test.full_name()).spawn(body).expect("a thread for the test");
    match result.recv_timeout(TEST_LIMIT) {
        Ok(Ok(())) => Ok(Completion::Completed),
        Ok(Err(message)) => Err(message.into()),
        Err(_) => Err(format!("hangs: no end within {TEST_LIMIT:?}").into()),
    }
}

fn message(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("panicked").to_owned()
}
