//! A way to an HTTP server that fails some of its calls.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use anyhow::{Context, Result};
use rand::RngExt;
use rand::rngs::StdRng;

/// Listens on a port of its own and passes calls on. Of those that it fails, a third is refused with 503, a third loses
/// its connection before the server has seen the call, and a third after the server has done what was asked.
#[derive(Debug)]
pub struct FlakyProxy {
    port: u16,
    counts: Arc<Counts>,
}

#[derive(Debug, Default)]
struct Counts {
    calls: AtomicU64,
    failed: AtomicU64,
}

#[derive(Debug, Clone, Copy)]
enum Fault {
    Refused,
    NeverArrived,
    AnswerLost,
}

impl FlakyProxy {
    /// Starts it; one of every so many calls to the server on this port fails, any of them: a short test has its share, too.
    /// It ends with the process.
    pub fn start(to: u16, one_of: u64, rng: StdRng) -> Result<Self> {
        let listener = TcpListener::bind(("127.0.0.1", 0)).context("no port")?;
        let port = listener.local_addr()?.port();
        let counts = Arc::new(Counts::default());
        let (shared, dice) = (counts.clone(), Arc::new(Mutex::new((rng, 0))));
        thread::spawn(move || {
            for connection in listener.incoming().flatten() {
                let (counts, dice) = (shared.clone(), dice.clone());
                thread::spawn(move || {
                    let mut guard = dice.lock().unwrap_or_else(PoisonError::into_inner);
                    let (dice, chosen) = &mut *guard;
                    let turn = counts.calls.fetch_add(1, Ordering::Relaxed) % one_of;
                    if turn == 0 {
                        *chosen = dice.random_range(0..one_of);
                    }
                    let fault = (turn == *chosen).then(|| match dice.random_range(0..3) {
                        0 => Fault::Refused,
                        1 => Fault::NeverArrived,
                        _ => Fault::AnswerLost,
                    });
                    drop(guard);
                    counts.failed.fetch_add(u64::from(fault.is_some()), Ordering::Relaxed);
                    // Either side may go away at any moment: both notice.
                    let _ = call(&connection, to, fault);
                    let _ = connection.shutdown(Shutdown::Both);
                });
            }
        });
        Ok(Self { port, counts })
    }

    /// Its port.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Calls so far, and how many of them were made to fail.
    pub fn calls(&self) -> (u64, u64) {
        (self.counts.calls.load(Ordering::Relaxed), self.counts.failed.load(Ordering::Relaxed))
    }
}

/// One call: every connection carries one, since the server is asked to close it.
fn call(client: &TcpStream, to: u16, fault: Option<Fault>) -> io::Result<()> {
    let mut reader = BufReader::new(client);
    let (mut head, mut length) = (Vec::new(), 0);
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line)? == 0 {
            return Ok(());
        }
        if line == "\r\n" {
            break;
        }
        if let Some((name, value)) = line.split_once(':')
            && name.eq_ignore_ascii_case("content-length")
        {
            length = value.trim().parse().map_err(io::Error::other)?;
        }
        head.extend_from_slice(line.as_bytes());
    }
    head.extend_from_slice(b"Connection: close\r\n\r\n");
    let mut body = vec![0; length];
    reader.read_exact(&mut body)?;
    let mut client = client;
    match fault {
        Some(Fault::Refused) => {
            client.write_all(b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
        }
        Some(Fault::NeverArrived) => Ok(()),
        Some(Fault::AnswerLost) | None => {
            let mut server = TcpStream::connect(("127.0.0.1", to))?;
            server.write_all(&head)?;
            server.write_all(&body)?;
            let mut answer = Vec::new();
            server.read_to_end(&mut answer)?;
            if fault.is_none() {
                client.write_all(&answer)?;
            }
            Ok(())
        }
    }
}
