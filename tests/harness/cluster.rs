//! The product's servers as processes on free ports.

use std::{path::Path, time::Duration};

use super::{
    http::{Api, Reply},
    ports,
    process::{Process, Signal},
    springhouse, within,
};

const READY_LIMIT: Duration = Duration::from_secs(120);

/// `springhouse serve`: gateway and cold worker in one process.
pub struct Serve {
    server: Server,
}

/// `springhouse gateway`.
pub struct Gateway {
    server: Server,
}

/// `springhouse worker --tier cold`.
pub struct Worker {
    process: Process,
    name: String,
    args: Vec<String>,
    environment: Vec<(String, String)>,
    /// Of a hot one: where its copies are.
    data: Option<tempfile::TempDir>,
}

/// A process with an API, a data directory, and the arguments to start it again.
struct Server {
    process: Process,
    api: Api,
    role: &'static str,
    args: Vec<String>,
    environment: Vec<(String, String)>,
    data: tempfile::TempDir,
}

impl Serve {
    /// Serves `store`; returns when it is ready for queries.
    pub fn of(store: &str) -> Self {
        Self::with(store, &[])
    }

    pub fn with(store: &str, args: &[&str]) -> Self {
        Self::at(&free_address(), store, args)
    }

    /// At an address of the caller's.
    pub fn at(address: &str, store: &str, args: &[&str]) -> Self {
        let mut serve = Self { server: Server::start("serve", store, address, args, &[]) };
        serve.server.wait_ready();
        serve
    }

    pub fn api(&self) -> &Api {
        &self.server.api
    }

    /// The data directory's parent.
    pub fn data(&self) -> &Path {
        self.server.data.path()
    }

    pub fn process(&mut self) -> &mut Process {
        &mut self.server.process
    }
}

impl Gateway {
    /// Starts a gateway of `store`; returns when it answers (it may be warming for a while).
    pub fn of(store: &str) -> Self {
        Self::with(store, &[])
    }

    /// With further arguments. Leases are short, so that a test need not wait long for a lost worker; not so
    /// short that a busy machine loses one.
    pub fn with(store: &str, args: &[&str]) -> Self {
        Self::with_environment(store, args, &[])
    }

    /// With these in its environment, now and when it is started again.
    pub fn with_environment(store: &str, args: &[&str], environment: &[(&str, &str)]) -> Self {
        let lease = if args.contains(&"--lease-ttl") { &[][..] } else { &["--lease-ttl", "12s"] };
        let args: Vec<&str> =
            ["--discovery-interval", "300ms"].iter().chain(lease).chain(args).copied().collect();
        let server = Server::start("gateway", store, &free_address(), &args, environment);
        let mut gateway = Self { server };
        gateway.server.wait_live();
        gateway
    }

    pub fn api(&self) -> &Api {
        &self.server.api
    }

    pub fn process(&mut self) -> &mut Process {
        &mut self.server.process
    }

    /// The data directory's parent.
    pub fn data(&self) -> &Path {
        self.server.data.path()
    }

    /// SIGKILL, as a crash would.
    pub fn kill(&mut self) {
        self.server.process.kill();
    }

    /// Starts the killed gateway again on the same port and data; returns when it answers.
    pub fn start_again(&mut self) {
        self.server.start_again();
        self.server.wait_live();
    }

    /// Waits until exactly these workers are live.
    pub fn wait_workers(&self, names: &[&str]) {
        let live = || -> Vec<String> {
            let workers = self.api().get("/v1/workers").json();
            let live = workers["workers"]
                .as_array()
                .expect("a list of workers")
                .iter()
                .filter(|w| w["live"] == true);
            live.map(|w| w["name"].as_str().expect("a name").to_owned()).collect()
        };
        let mut wanted: Vec<&str> = names.to_vec();
        wanted.sort_unstable();
        let seen = within(READY_LIMIT, || (live() == wanted).then_some(()));
        assert!(
            seen.is_some(),
            "live workers are {:?}, not {wanted:?}\n{}",
            live(),
            self.server.process.transcript()
        );
    }
}

impl Worker {
    /// Starts a cold worker called `name` of `store`. See [`Gateway::wait_workers`].
    pub fn of(store: &str, gateway: &Gateway, name: &str) -> Self {
        Self::with(store, gateway, name, &[])
    }

    pub fn with(store: &str, gateway: &Gateway, name: &str, args: &[&str]) -> Self {
        Self::start("cold", None, store, gateway, name, args, &[])
    }

    /// A cold one with these in its environment, now and when it is started again.
    pub fn with_environment(
        store: &str,
        gateway: &Gateway,
        name: &str,
        args: &[&str],
        environment: &[(&str, &str)],
    ) -> Self {
        Self::start("cold", None, store, gateway, name, args, environment)
    }

    /// Starts a hot worker with a directory of its own for copies.
    pub fn hot(store: &str, gateway: &Gateway, name: &str) -> Self {
        Self::hot_with(store, gateway, name, &[], &[])
    }

    /// Of any tier, with a directory of the caller's for copies.
    pub fn with_tier(tier: &str, store: &str, gateway: &Gateway, name: &str, args: &[&str]) -> Self {
        Self::start(tier, None, store, gateway, name, args, &[])
    }

    /// With further arguments, and with these in its environment, now and when it is started again.
    pub fn hot_with(
        store: &str,
        gateway: &Gateway,
        name: &str,
        args: &[&str],
        environment: &[(&str, &str)],
    ) -> Self {
        let data = super::scratch();
        let path = data.path().join("data").display().to_string();
        let args = [&["--data", &path], args].concat();
        Self::start("hot", Some(data), store, gateway, name, &args, environment)
    }

    fn start(
        tier: &str,
        data: Option<tempfile::TempDir>,
        store: &str,
        gateway: &Gateway,
        name: &str,
        args: &[&str],
        environment: &[(&str, &str)],
    ) -> Self {
        let own = ["worker", "--tier", tier, "--store", store, "--worker-name", name];
        let gateway = ["--gateway", gateway.api().base()];
        let args: Vec<String> = own.iter().chain(&gateway).chain(args).map(ToString::to_string).collect();
        let process = run(name, &args, environment);
        Self { process, name: name.into(), args, environment: owned(environment), data }
    }

    /// Starts it again, with its copies, after [`Worker::kill`] or when it ended by itself.
    pub fn start_again(&mut self) {
        self.start_again_with(&[]);
    }

    /// With these in its environment.
    pub fn start_again_with(&mut self, environment: &[(&str, &str)]) {
        let own = self.environment.iter().map(|(name, value)| (name.as_str(), value.as_str()));
        let environment: Vec<_> = own.chain(environment.iter().copied()).collect();
        self.process = run(&self.name, &self.args, &environment);
    }

    /// Of a hot one: where its copies are.
    pub fn copies(&self) -> std::path::PathBuf {
        self.data.as_ref().expect("a hot worker").path().join("data/hot")
    }

    pub fn process(&mut self) -> &mut Process {
        &mut self.process
    }

    /// SIGKILL, as a crash would.
    pub fn kill(&mut self) {
        self.process.kill();
    }

    /// Freezes it: connections stay open, nothing answers.
    pub fn stop(&mut self) {
        self.process.signal(Signal::Stop);
    }
}

impl Server {
    fn start(
        role: &'static str,
        store: &str,
        address: &str,
        args: &[&str],
        environment: &[(&str, &str)],
    ) -> Self {
        let data = super::scratch();
        let data_path = data.path().join("data").display().to_string();
        let own = ["--store", store, "--listen", address, "--data", &data_path];
        let args: Vec<String> = own.iter().chain(args).map(ToString::to_string).collect();
        let api = Api::new(&format!("http://{address}"));
        let environment = owned(environment);
        Self { process: start(role, &args, &environment), api, role, args, environment, data }
    }

    fn start_again(&mut self) {
        self.process = start(self.role, &self.args, &self.environment);
    }

    fn wait_live(&mut self) {
        self.wait("/livez");
    }

    fn wait_ready(&mut self) {
        self.wait("/readyz");
    }

    fn wait(&mut self, path: &str) {
        let up = within(READY_LIMIT, || {
            if self.process.exited().is_some() {
                return Some(false);
            }
            let reply = self.api.send(reqwest::Method::GET, path, &[], None);
            matches!(reply, Ok(Reply { status: 200, .. })).then_some(true)
        });
        assert_eq!(up, Some(true), "{} does not answer {path}\n{}", self.role, self.process.transcript());
    }
}

fn owned(environment: &[(&str, &str)]) -> Vec<(String, String)> {
    environment.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

fn start(role: &str, args: &[String], environment: &[(String, String)]) -> Process {
    let mut command = springhouse();
    command.arg(role).args(args).envs(environment.iter().map(|(name, value)| (name, value)));
    Process::start(role, command)
}

fn run(name: &str, args: &[String], environment: &[(&str, &str)]) -> Process {
    let mut command = springhouse();
    command.args(args).envs(environment.iter().copied());
    Process::start(&format!("worker {name}"), command)
}

/// `host:port` that nobody listens on.
pub fn free_address() -> String {
    format!("127.0.0.1:{}", ports::free())
}
