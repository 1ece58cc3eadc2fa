//! Tells the service manager how the service is: readiness, a line of status, and signs of life.

use std::env;
use std::io;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::Duration;

/// The service manager that started this process, if it wants to be told.
#[derive(Debug)]
pub struct Manager {
    socket: Option<UnixDatagram>,
    watchdog: Option<Duration>,
}

impl Manager {
    /// From the environment, as `systemd` sets it for `Type=notify` and `WatchdogSec=`.
    pub fn from_env() -> Self {
        let socket = env::var_os("NOTIFY_SOCKET").map(|path| connect(path.as_bytes()));
        let socket = socket.and_then(|socket| {
            socket.map_err(|error| tracing::warn!(%error, "cannot reach the service manager at NOTIFY_SOCKET")).ok()
        });
        let ours = env::var("WATCHDOG_PID").map_or(true, |pid| pid == std::process::id().to_string());
        let period = env::var("WATCHDOG_USEC").ok().filter(|_| ours).and_then(|text| text.parse().ok());
        Self { socket, watchdog: period.map(Duration::from_micros) }
    }

    /// Time without a sign of life after which the manager ends the service; `None` if it does not watch.
    pub fn watchdog(&self) -> Option<Duration> {
        self.watchdog
    }

    /// The service does what it is for.
    pub fn ready(&self) {
        self.tell("READY=1");
    }

    /// The service is about to end.
    pub fn stopping(&self) {
        self.tell("STOPPING=1");
    }

    /// A sign of life.
    pub fn alive(&self) {
        self.tell("WATCHDOG=1");
    }

    /// One line for `systemctl status`.
    pub fn status(&self, line: &str) {
        self.tell(&format!("STATUS={}", line.replace(['\n', '\r'], " ")));
    }

    fn tell(&self, state: &str) {
        let Some(socket) = &self.socket else { return };
        if let Err(error) = socket.send(state.as_bytes()) {
            tracing::debug!(%error, state, "the service manager did not take it");
        }
    }
}

/// A path, or with `@` in front a name in the abstract namespace.
fn connect(path: &[u8]) -> io::Result<UnixDatagram> {
    let socket = UnixDatagram::unbound()?;
    let address = match path.split_first() {
        Some((b'@', name)) => SocketAddr::from_abstract_name(name)?,
        _ => SocketAddr::from_pathname(std::ffi::OsStr::from_bytes(path))?,
    };
    socket.connect_addr(&address)?;
    // A manager that does not read must not stop the service.
    socket.set_nonblocking(true)?;
    Ok(socket)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn states_arrive_one_by_one_as_the_manager_expects_them() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("notify");
        let receiver = UnixDatagram::bind(&path).unwrap();
        let socket = connect(path.as_os_str().as_bytes()).unwrap();
        let manager = Manager { socket: Some(socket), watchdog: None };
        manager.ready();
        manager.status("orders: 1 segment\nbehind");
        let mut buffer = [0; 64];
        let mut next = || {
            let len = receiver.recv(&mut buffer).unwrap();
            String::from_utf8(buffer[..len].to_vec()).unwrap()
        };
        assert_eq!(next(), "READY=1");
        assert_eq!(next(), "STATUS=orders: 1 segment behind");
    }

    #[test]
    fn without_a_manager_nothing_happens() {
        Manager { socket: None, watchdog: None }.ready();
    }
}
