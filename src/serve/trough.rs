//! Trough's ports beside our own.

use std::{net::SocketAddr, time::Duration};

use futures::future::try_join_all;
use springhouse_gateway::{Gateway, trough::PortSettings};
use tokio::net::TcpListener;

use super::http;
use crate::{config::trough::TroughKeys, error::Failure, shutdown::Shutdown};

/// What is spoken at an address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Speaks {
    Read,
    Write,
    Manager,
}

/// Those that are asked for, listening: clients that come before [`Ports::serve`] wait.
pub(super) struct Ports {
    open: Vec<(Speaks, TcpListener, SocketAddr)>,
    host: Option<String>,
}

impl Ports {
    /// Listens on them.
    pub(super) async fn bind(keys: &TroughKeys) -> Result<Self, Failure> {
        let mut open = Vec::new();
        for (speaks, address, flag) in [
            (Speaks::Read, keys.trough_read, "--trough-read"),
            (Speaks::Write, keys.trough_write, "--trough-write"),
            (Speaks::Manager, keys.trough_manager, "--trough-manager"),
            (Speaks::Manager, keys.trough_local, "--trough-local"),
        ] {
            if let Some(address) = address {
                let listener = http::bind(address, flag).await?;
                let address = http::local_address(&listener)?;
                open.push((speaks, listener, address));
            }
        }
        Ok(Self { open, host: keys.trough_host.as_ref().map(|host| host.as_str().to_owned()) })
    }

    /// Where what is answered, for people; nothing without ports.
    pub(super) fn shown(&self) -> Option<String> {
        let shown = self.open.iter().map(|(speaks, _, address)| {
            let what = match speaks {
                Speaks::Read => "reads",
                Speaks::Write => "writes",
                Speaks::Manager => "manager",
            };
            format!("{what} at {}", http::url(*address))
        });
        let shown: Vec<String> = shown.collect();
        (!shown.is_empty()).then(|| shown.join(", "))
    }

    /// Answers on all of them until the process is told to stop, and then lets running answers end for at
    /// most `drain_max`.
    pub(super) async fn serve(
        self,
        gateway: &Gateway,
        shutdown: &Shutdown,
        drain_max: Duration,
    ) -> Result<(), Failure> {
        let write = self.open.iter().find(|(speaks, ..)| *speaks == Speaks::Write);
        // Without it nobody is told of it: the configuration sees to that.
        let write_port = write.map_or(0, |(_, _, address)| address.port());
        let routers = gateway.trough(PortSettings { host: self.host, write_port });
        let served = self.open.into_iter().map(|(speaks, listener, _)| {
            let router = match speaks {
                Speaks::Read => &routers.read,
                Speaks::Write => &routers.write,
                Speaks::Manager => &routers.manager,
            };
            http::serve(listener, router.clone(), shutdown, drain_max)
        });
        try_join_all(served).await.map(drop)
    }
}
