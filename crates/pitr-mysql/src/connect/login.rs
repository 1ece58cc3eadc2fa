//! Greeting and login.

use std::io;

use sha1::{Digest, Sha1};
use sha2::Sha256;

use super::{ConnectError, Settings};
use crate::event::Flavour;
use crate::limits::PROGRAM_NAME;
use crate::wire::{Fields, Wire, put_packed_bytes};
use pitr_net::Socket;

/// Bits of what client and server can.
pub(super) mod capability {
    /// Passwords of the current form.
    pub const LONG_PASSWORD: u32 = 1;
    /// Flags of columns in two bytes.
    pub const LONG_FLAG: u32 = 1 << 2;
    /// The protocol since 4.1.
    pub const PROTOCOL_41: u32 = 1 << 9;
    /// TLS after the greeting.
    pub const SSL: u32 = 1 << 11;
    /// The state of the transaction in every answer.
    pub const TRANSACTIONS: u32 = 1 << 13;
    /// Logins of the current form.
    pub const SECURE_CONNECTION: u32 = 1 << 15;
    /// Ways of logging in have names.
    pub const PLUGIN_AUTH: u32 = 1 << 19;
    /// A client says its name.
    pub const CONNECT_ATTRIBUTES: u32 = 1 << 20;
    /// The proof of a login may be longer than 255 bytes.
    pub const LONG_PROOF: u32 = 1 << 21;
}

const OURS: u32 = capability::LONG_PASSWORD
    | capability::LONG_FLAG
    | capability::PROTOCOL_41
    | capability::TRANSACTIONS
    | capability::SECURE_CONNECTION
    | capability::PLUGIN_AUTH
    | capability::CONNECT_ATTRIBUTES
    | capability::LONG_PROOF;

/// utf8mb4_general_ci: known to every version.
const CHARSET: u8 = 45;
/// Largest packet that we take, as we tell it.
const MAX_PACKET: u32 = 1 << 30;
/// What MariaDB writes before its version, for replicas that think a major version above 5 cannot be.
const VERSION_PREFIX: &str = "5.5.5-";

/// What a server says of itself before the login.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hello {
    /// Its version: `9.7.0`, `10.11.18-MariaDB-0+deb12u1-log`.
    pub version: String,
    /// Its family.
    pub flavour: Flavour,
    /// Identifier of the connection.
    pub thread_id: u32,
    capabilities: u32,
    scramble: Vec<u8>,
    plugin: String,
}

impl Hello {
    pub(super) fn has(&self, capability: u32) -> bool {
        self.capabilities & capability == capability
    }

    fn parse(payload: &[u8]) -> Option<Self> {
        let mut fields = Fields(payload);
        (fields.u8()? == 10).then_some(())?;
        let version: String =
            String::from_utf8_lossy(fields.zero_ended()?).chars().filter(|c| !c.is_control()).collect();
        let thread_id = fields.u32()?;
        let mut scramble = fields.bytes(8)?.to_vec();
        fields.u8()?;
        let low = fields.u16()?;
        let _charset = fields.u8()?;
        let _status = fields.u16()?;
        let capabilities = u32::from(low) | u32::from(fields.u16()?) << 16;
        let length = usize::from(fields.u8()?);
        fields.bytes(10)?;
        let rest = fields.bytes(length.saturating_sub(8).max(13))?;
        scramble.extend(rest.iter().copied().take(12));
        let plugin = fields.zero_ended().unwrap_or(fields.0);
        let flavour = Flavour::of_version(&version);
        let version = version.strip_prefix(VERSION_PREFIX).map_or(version.clone(), str::to_owned);
        let plugin = String::from_utf8_lossy(plugin).into_owned();
        Some(Self { version, flavour, thread_id, capabilities, scramble, plugin })
    }
}

/// Reads the greeting.
pub(super) async fn greet(settings: &Settings, wire: &mut Wire<Socket>) -> Result<Hello, ConnectError> {
    let payload = wire.read().await.map_err(|source| lost(settings, source))?;
    if payload.first() == Some(&ERROR) {
        return Err(refusal(settings, &payload));
    }
    let hello = Hello::parse(&payload).filter(|hello| hello.has(capability::PROTOCOL_41 | capability::PLUGIN_AUTH));
    hello.ok_or_else(|| protocol(settings, "it does not greet as a MySQL server does"))
}

/// The packet that asks for TLS, which is a login without a name.
pub(super) fn tls_request() -> Vec<u8> {
    head(OURS | capability::SSL)
}

fn head(capabilities: u32) -> Vec<u8> {
    let mut packet = capabilities.to_le_bytes().to_vec();
    packet.extend_from_slice(&MAX_PACKET.to_le_bytes());
    packet.push(CHARSET);
    packet.resize(packet.len() + 23, 0);
    packet
}

const OK: u8 = 0;
const MORE: u8 = 1;
const SWITCH: u8 = 0xfe;
const ERROR: u8 = 0xff;

/// Logs in.
pub(super) async fn log_in(
    settings: &Settings,
    hello: &Hello,
    mut wire: Wire<Socket>,
) -> Result<Wire<Socket>, ConnectError> {
    let private = wire.stream().is_private();
    let mut plugin = hello.plugin.clone();
    let mut proof = prove(settings, &plugin, &hello.scramble, private).unwrap_or_default();
    wire.send(&answer(settings, hello, private, &plugin, &proof)).await.map_err(|source| lost(settings, source))?;
    loop {
        let payload = wire.read().await.map_err(|source| lost(settings, source))?;
        match payload.split_first() {
            Some((&OK, _)) => return Ok(wire),
            Some((&ERROR, _)) => return Err(refusal(settings, &payload)),
            Some((&SWITCH, rest)) => {
                let mut fields = Fields(rest);
                let name = fields.zero_ended().unwrap_or_default();
                plugin = String::from_utf8_lossy(name).into_owned();
                let scramble = fields.0.strip_suffix(&[0]).unwrap_or(fields.0);
                proof = prove(settings, &plugin, scramble, private)?;
            }
            Some((&MORE, rest)) => match (plugin.as_str(), rest) {
                // It remembered the password: its OK follows.
                (CACHING_SHA2, [3]) => continue,
                (CACHING_SHA2, [4]) => proof = plain(settings, private)?,
                _ => return Err(refused(settings, format!("{plugin} asks for something unknown"))),
            },
            _ => return Err(protocol(settings, "an answer to the login that is none")),
        }
        wire.send(&proof).await.map_err(|source| lost(settings, source))?;
    }
}

fn answer(settings: &Settings, hello: &Hello, private: bool, plugin: &str, proof: &[u8]) -> Vec<u8> {
    let tls = if private && matches!(settings.host, super::Host::Tcp(_)) { capability::SSL } else { 0 };
    let capabilities = (OURS & (hello.capabilities | capability::LONG_PASSWORD)) | tls;
    let mut packet = head(capabilities);
    packet.extend_from_slice(settings.user.as_bytes());
    packet.push(0);
    if capabilities & capability::LONG_PROOF != 0 {
        put_packed_bytes(&mut packet, proof);
    } else {
        // At most 32 bytes.
        packet.push(proof.len() as u8);
        packet.extend_from_slice(proof);
    }
    packet.extend_from_slice(plugin.as_bytes());
    packet.push(0);
    if capabilities & capability::CONNECT_ATTRIBUTES != 0 {
        let mut attributes = Vec::new();
        put_packed_bytes(&mut attributes, b"program_name");
        put_packed_bytes(&mut attributes, PROGRAM_NAME.as_bytes());
        put_packed_bytes(&mut packet, &attributes);
    }
    packet
}

const NATIVE: &str = "mysql_native_password";
const CACHING_SHA2: &str = "caching_sha2_password";

/// What proves to the server that we know the password.
fn prove(settings: &Settings, plugin: &str, scramble: &[u8], private: bool) -> Result<Vec<u8>, ConnectError> {
    let password = settings.password.as_ref().map(|password| password.expose().as_bytes()).unwrap_or_default();
    match plugin {
        NATIVE | CACHING_SHA2 if password.is_empty() => Ok(Vec::new()),
        NATIVE => Ok(native(password, scramble)),
        CACHING_SHA2 => Ok(caching_sha2(password, scramble)),
        // The kernel, or the certificate, has said who we are.
        "auth_socket" | "unix_socket" => Ok(Vec::new()),
        "mysql_clear_password" | "sha256_password" => plain(settings, private),
        _ => Err(refused(settings, format!("the account logs in with {plugin:?}, which is not supported"))),
    }
}

/// The password itself, where nobody can listen.
fn plain(settings: &Settings, private: bool) -> Result<Vec<u8>, ConnectError> {
    if !private {
        return Err(refused(
            settings,
            "the server asks for the plain password over an unencrypted connection".to_owned(),
        ));
    }
    let mut proof = settings.password.as_ref().map(|p| p.expose().as_bytes().to_vec()).unwrap_or_default();
    proof.push(0);
    Ok(proof)
}

/// SHA1(password) XOR SHA1(scramble + SHA1(SHA1(password))).
fn native(password: &[u8], scramble: &[u8]) -> Vec<u8> {
    let once = Sha1::digest(password);
    let twice = Sha1::digest(once);
    let mask = Sha1::new().chain_update(scramble).chain_update(twice).finalize();
    once.iter().zip(mask).map(|(a, b)| a ^ b).collect()
}

/// SHA256(password) XOR SHA256(SHA256(SHA256(password)) + scramble).
fn caching_sha2(password: &[u8], scramble: &[u8]) -> Vec<u8> {
    let once = Sha256::digest(password);
    let twice = Sha256::digest(once);
    let mask = Sha256::new().chain_update(twice).chain_update(scramble).finalize();
    once.iter().zip(mask).map(|(a, b)| a ^ b).collect()
}

fn lost(settings: &Settings, source: io::Error) -> ConnectError {
    ConnectError::Lost { target: settings.to_string(), source }
}

fn protocol(settings: &Settings, what: &str) -> ConnectError {
    ConnectError::Protocol { target: settings.to_string(), what: what.to_owned() }
}

fn refused(settings: &Settings, what: String) -> ConnectError {
    ConnectError::Login { target: settings.to_string(), user: settings.user.clone(), what }
}

/// The server's own words.
fn refusal(settings: &Settings, payload: &[u8]) -> ConnectError {
    let (code, message) = crate::sql::error_text(payload);
    ConnectError::Server { target: settings.to_string(), code, message }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_greeting_of_mariadb_tells_its_real_version() {
        let mut packet = vec![10];
        packet.extend_from_slice(b"5.5.5-10.11.18-MariaDB-log\0");
        packet.extend_from_slice(&[7, 0, 0, 0]);
        packet.extend_from_slice(b"abcdefgh\0\xfe\xff\x2d\x02\x00\xff\xc1\x15");
        packet.extend_from_slice(&[0; 10]);
        packet.extend_from_slice(b"ijklmnopqrst\0mysql_native_password\0");
        let hello = Hello::parse(&packet).unwrap();
        assert_eq!((hello.version.as_str(), hello.flavour), ("10.11.18-MariaDB-log", Flavour::Mariadb));
        assert_eq!((hello.plugin.as_str(), hello.scramble.as_slice()), (NATIVE, b"abcdefghijklmnopqrst".as_slice()));
        for end in 0..60 {
            assert!(Hello::parse(&packet[..end.min(packet.len())]).is_none(), "{end}");
        }
    }

    #[test]
    fn a_plain_password_never_goes_over_an_open_connection() {
        let settings = Settings::parse("mysql://u@db1?ssl-mode=disabled").unwrap();
        let settings = settings.with_password(super::super::Password::new("hunter2"));
        let error = prove(&settings, "mysql_clear_password", b"", false).unwrap_err();
        assert!(error.to_string().contains("unencrypted") && !error.to_string().contains("hunter2"));
        assert_eq!(plain(&settings, true).unwrap(), b"hunter2\0");
    }
}
