//! Object stores on loopback. They run as ourselves: unlike PostgreSQL they do not mind, and their interpreters may lie
//! where the servers' user cannot look.

use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::postgres::{free_port, succeed};
use crate::{Scratch, limits, programs};

/// A process with a port, killed when dropped.
#[derive(Debug)]
struct Server {
    process: Child,
    port: u16,
    log: PathBuf,
}

impl Server {
    fn start(scratch: &Scratch, name: &str, port: u16, mut command: Command) -> Result<Self> {
        let log = scratch.write(&format!("{name}.log"), "")?;
        let out = fs::OpenOptions::new().append(true).open(&log)?;
        command.stdin(Stdio::null()).stdout(out.try_clone()?).stderr(out);
        let process = command.spawn().with_context(|| format!("cannot start {name}"))?;
        let mut server = Self { process, port, log };
        let begun = Instant::now();
        while server.http("GET", "/", &[]).is_err() {
            if server.process.try_wait()?.is_some() || begun.elapsed() > limits::START {
                bail!("{name} did not start:\n{}", fs::read_to_string(&server.log)?);
            }
            std::thread::sleep(limits::POLL);
        }
        Ok(server)
    }

    /// One request without body; the status code.
    fn http(&self, method: &str, path: &str, headers: &[String]) -> Result<u16> {
        let mut stream = TcpStream::connect(("127.0.0.1", self.port))?;
        stream.set_read_timeout(Some(Duration::from_secs(20)))?;
        let headers: String = headers.iter().map(|header| format!("{header}\r\n")).collect();
        write!(
            stream,
            "{method} {path} HTTP/1.1\r\nHost: 127.0.0.1:{}\r\nContent-Length: 0\r\nConnection: close\r\n{headers}\r\n",
            self.port
        )?;
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer)?;
        let head = String::from_utf8_lossy(&answer[..answer.len().min(64)]).into_owned();
        head.split(' ').nth(1).and_then(|code| code.parse().ok()).with_context(|| format!("not HTTP: {head}"))
    }
}

impl Server {
    /// Asks it to end and waits, so that what it has acknowledged is on its disk.
    fn stop(&mut self) -> Result<()> {
        succeed(Command::new("kill").args(["-s", "TERM", &self.process.id().to_string()]))?;
        self.process.wait()?;
        Ok(())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // Both fail only if it has ended by itself.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// A real S3 server in memory with one bucket, `pitr`.
#[derive(Debug)]
pub struct S3(Server);

impl S3 {
    /// Starts it.
    pub fn start(scratch: &Scratch) -> Result<Self> {
        let port = free_port()?;
        let mut command = Command::new(programs::moto()?);
        command.args(["-H", "127.0.0.1", "-p", &port.to_string()]);
        let server = Server::start(scratch, "s3", port, command)?;
        let scope = "AWS4-HMAC-SHA256 Credential=test/20260101/us-east-1/s3/aws4_request";
        let login = format!("Authorization: {scope}, SignedHeaders=host, Signature=0");
        match server.http("PUT", "/pitr", &[login])? {
            200 => Ok(Self(server)),
            code => bail!("the bucket was not created: {code}"),
        }
    }

    /// Value of `archive.url`.
    pub fn url(&self) -> String {
        "s3://pitr/some/prefix".to_owned()
    }

    /// `archive.options`.
    pub fn options(&self) -> Vec<(String, String)> {
        let endpoint = format!("http://127.0.0.1:{}", self.0.port);
        let options = [("endpoint", endpoint.as_str()), ("region", "us-east-1"), ("allow_http", "true")];
        options.map(|(key, value)| (key.to_owned(), value.to_owned())).to_vec()
    }

    /// Environment of the program: the login.
    pub fn environment(&self) -> Vec<(String, String)> {
        let login = [("AWS_ACCESS_KEY_ID", "test"), ("AWS_SECRET_ACCESS_KEY", "test")];
        login.map(|(key, value)| (key.to_owned(), value.to_owned())).to_vec()
    }
}

/// A real Azure Blob server with the well-known account of development and one container, `pitr`. It keeps its blobs
/// on disk, and so can go away and come back.
#[derive(Debug)]
pub struct Azurite(Server);

impl Azurite {
    /// Name of the account that every Azurite has.
    const ACCOUNT: &'static str = "devstoreaccount1";
    /// Its key, published in Azurite's own documentation.
    const KEY: &'static str =
        "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw==";

    /// Starts it.
    pub fn start(scratch: &Scratch) -> Result<Self> {
        scratch.make("azurite")?;
        let server = Self::launch(scratch, free_port()?)?;
        Self::create_container(server.port)?;
        Ok(Self(server))
    }

    fn launch(scratch: &Scratch, port: u16) -> Result<Server> {
        let (node, script) = programs::azurite()?;
        let mut command = Command::new(node);
        command.arg(script).args(["--blobHost", "127.0.0.1", "--blobPort", &port.to_string(), "--silent"]);
        command.args(["--skipApiVersionCheck", "--disableTelemetry", "--location"]);
        command.arg(scratch.path().join("azurite"));
        Server::start(scratch, "azurite", port, command)
    }

    /// Takes it away: connections to its port are refused from now on.
    pub fn stop(&mut self) -> Result<()> {
        self.0.stop()
    }

    /// Makes it hang, with connections open and no answers, or go on.
    pub fn hang(&self, hangs: bool) -> Result<()> {
        let signal = if hangs { "STOP" } else { "CONT" };
        succeed(Command::new("kill").args(["-s", signal, &self.0.process.id().to_string()]))
    }

    /// Brings it back on the same port with the same blobs.
    pub fn restart(&mut self, scratch: &Scratch) -> Result<()> {
        self.0 = Self::launch(scratch, self.0.port)?;
        Ok(())
    }

    /// A container cannot be made through an object store's interface: one signed request, sent by the same Node.js.
    fn create_container(port: u16) -> Result<()> {
        let (node, _) = programs::azurite()?;
        let port = port.to_string();
        succeed(Command::new(node).args(["-e", CREATE_CONTAINER, &port, Self::ACCOUNT, Self::KEY]))
    }

    /// Value of `archive.url`.
    pub fn url(&self) -> String {
        "az://pitr/some/prefix".to_owned()
    }

    /// Its port.
    pub fn port(&self) -> u16 {
        self.0.port
    }

    /// `archive.options`.
    pub fn options(&self) -> Vec<(String, String)> {
        Self::options_through(self.0.port)
    }

    /// The same, through something else that listens on another port.
    pub fn options_through(port: u16) -> Vec<(String, String)> {
        let endpoint = format!("http://127.0.0.1:{port}/{}", Self::ACCOUNT);
        let options = [("endpoint", endpoint.as_str()), ("account_name", Self::ACCOUNT), ("allow_http", "true")];
        options.map(|(key, value)| (key.to_owned(), value.to_owned())).to_vec()
    }

    /// Environment of the program: the login.
    pub fn environment(&self) -> Vec<(String, String)> {
        vec![("AZURE_STORAGE_ACCOUNT_KEY".to_owned(), Self::KEY.to_owned())]
    }
}

/// Arguments: port, account, key. The "shared key" signature of the Azure documentation.
const CREATE_CONTAINER: &str = r#"
const [port, account, key] = process.argv.slice(1);
const path = `/${account}/pitr`;
const headers = { 'x-ms-date': new Date().toUTCString(), 'x-ms-version': '2021-08-06', 'content-length': 0 };
const text = 'PUT' + '\n'.repeat(12) + `x-ms-date:${headers['x-ms-date']}\nx-ms-version:${headers['x-ms-version']}\n`
  + `/${account}${path}\nrestype:container`;
const signature = require('crypto').createHmac('sha256', Buffer.from(key, 'base64')).update(text).digest('base64');
headers.authorization = `SharedKey ${account}:${signature}`;
const request = { host: '127.0.0.1', port, path: path + '?restype=container', method: 'PUT', headers };
require('http').request(request, answer => {
  answer.pipe(process.stderr);
  process.exitCode = answer.statusCode === 201 ? 0 : 1;
}).end();
"#;
