//! The server's side of a login: greeting, and the proof that the client knows the password.
//!
//! The password is made for one restore and known to both sides, so no public key is needed: MySQL's
//! `caching_sha2_password` is answered by its short form, MariaDB gets `mysql_native_password`.

use sha1::Sha1;
use sha2::{Digest, Sha256};
use tokio::io::{AsyncRead, AsyncWrite};

use super::ReplayError;
use crate::wire::{Fields, Wire};

const LONG_PASSWORD: u32 = 1;
const LONG_FLAG: u32 = 1 << 2;
const CONNECT_WITH_DB: u32 = 1 << 3;
const PROTOCOL_41: u32 = 1 << 9;
const TRANSACTIONS: u32 = 1 << 13;
const SECURE_CONNECTION: u32 = 1 << 15;
const PLUGIN_AUTH: u32 = 1 << 19;
const CONNECT_ATTRS: u32 = 1 << 20;
const PLUGIN_AUTH_LENENC: u32 = 1 << 21;
const CAPABILITIES: u32 = LONG_PASSWORD
    | LONG_FLAG
    | CONNECT_WITH_DB
    | PROTOCOL_41
    | TRANSACTIONS
    | SECURE_CONNECTION
    | PLUGIN_AUTH
    | CONNECT_ATTRS
    | PLUGIN_AUTH_LENENC;

/// Bytes of the random text that a proof is made for.
const SCRAMBLE: usize = 20;

/// How a client proves that it knows the password.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Method {
    /// `caching_sha2_password`.
    CachingSha2,
    /// `mysql_native_password`.
    Native,
}

impl Method {
    fn name(self) -> &'static str {
        match self {
            Self::CachingSha2 => "caching_sha2_password",
            Self::Native => "mysql_native_password",
        }
    }

    /// The proof that whoever knows the password gives.
    fn proof(self, password: &[u8], scramble: &[u8]) -> Vec<u8> {
        match self {
            Self::CachingSha2 => {
                let once = Sha256::digest(password);
                let twice = Sha256::digest(once);
                xor(&once, &Sha256::new().chain_update(twice).chain_update(scramble).finalize())
            }
            Self::Native => {
                let once = Sha1::digest(password);
                let twice = Sha1::digest(once);
                xor(&once, &Sha1::new().chain_update(scramble).chain_update(twice).finalize())
            }
        }
    }
}

fn xor(a: &[u8], b: &[u8]) -> Vec<u8> {
    a.iter().zip(b).map(|(a, b)| a ^ b).collect()
}

/// Who may log in, and as what we show ourselves.
#[derive(Clone)]
pub struct Gate {
    /// The version of the server whose log is served: replicas decide by it what they understand.
    pub version: String,
    /// The only user.
    pub user: String,
    /// Its password.
    pub password: String,
    /// How it is proved.
    pub method: Method,
}

impl std::fmt::Debug for Gate {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Gate").field("version", &self.version).field("user", &self.user).finish_non_exhaustive()
    }
}

impl Gate {
    /// Greets a client and lets it in, or refuses it.
    pub async fn admit<S: AsyncRead + AsyncWrite + Unpin>(
        &self,
        wire: &mut Wire<S>,
        thread: u32,
    ) -> Result<(), ReplayError> {
        let scramble = scramble();
        wire.send(&self.greeting(thread, &scramble)).await?;
        let answer = wire.read().await?;
        let client = Client::parse(&answer).ok_or(ReplayError::Protocol("an odd answer to the greeting"))?;
        let proof = if client.plugin == self.method.name().as_bytes() {
            client.proof.to_vec()
        } else {
            let mut switch = vec![0xfe];
            switch.extend_from_slice(self.method.name().as_bytes());
            switch.push(0);
            switch.extend_from_slice(&scramble);
            switch.push(0);
            wire.send(&switch).await?;
            wire.read().await?.to_vec()
        };
        let expected = self.method.proof(self.password.as_bytes(), &scramble);
        if client.user != self.user.as_bytes() || !equal(&proof, &expected) {
            let mut refusal = vec![0xff, 0x15, 0x04];
            refusal.extend_from_slice(b"#28000access denied: this is no database server");
            wire.send(&refusal).await?;
            return Err(ReplayError::Stranger);
        }
        if self.method == Method::CachingSha2 {
            // "Fast authentication succeeded", before the OK.
            wire.write(&[&[1, 3]]).await?;
        }
        wire.send(&OK).await?;
        Ok(())
    }

    fn greeting(&self, thread: u32, scramble: &[u8; SCRAMBLE]) -> Vec<u8> {
        let (head, tail) = scramble.split_at(8);
        let [low_a, low_b, high_a, high_b] = CAPABILITIES.to_le_bytes();
        let mut greeting = vec![10];
        greeting.extend_from_slice(self.version.as_bytes());
        greeting.push(0);
        greeting.extend_from_slice(&thread.to_le_bytes());
        greeting.extend_from_slice(head);
        // Character set 255 (utf8mb4), status 2 (autocommit).
        greeting.extend_from_slice(&[0, low_a, low_b, 255, 2, 0, high_a, high_b, SCRAMBLE as u8 + 1]);
        greeting.extend_from_slice(&[0; 10]);
        greeting.extend_from_slice(tail);
        greeting.push(0);
        greeting.extend_from_slice(self.method.name().as_bytes());
        greeting.push(0);
        greeting
    }
}

/// The packet that says yes: no rows, autocommit.
pub const OK: [u8; 7] = [0, 0, 0, 2, 0, 0, 0];

/// Random, without zero bytes, which would end it early.
fn scramble() -> [u8; SCRAMBLE] {
    std::array::from_fn(|_| rand::random_range(1..=127))
}

/// In constant time, as long as the lengths are equal.
fn equal(a: &[u8], b: &[u8]) -> bool {
    a.len() == b.len() && a.iter().zip(b).fold(0, |difference, (a, b)| difference | (a ^ b)) == 0
}

/// What a client says of itself.
struct Client<'a> {
    user: &'a [u8],
    proof: &'a [u8],
    plugin: &'a [u8],
}

impl<'a> Client<'a> {
    fn parse(payload: &'a [u8]) -> Option<Self> {
        let mut fields = Fields(payload);
        let capabilities = fields.u32()?;
        fields.bytes(4 + 1 + 23)?;
        let user = fields.zero_ended()?;
        let proof = if capabilities & PLUGIN_AUTH_LENENC != 0 {
            fields.packed_bytes()??
        } else {
            let length = fields.u8()?;
            fields.bytes(usize::from(length))?
        };
        if capabilities & CONNECT_WITH_DB != 0 {
            fields.zero_ended()?;
        }
        let plugin = if capabilities & PLUGIN_AUTH != 0 { fields.zero_ended()? } else { &[] };
        Some(Self { user, proof, plugin })
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    async fn attempt(password: &str) -> Result<(), ReplayError> {
        let gate = Gate {
            version: "9.7.0".to_owned(),
            user: "pitr".to_owned(),
            password: "right".to_owned(),
            method: Method::CachingSha2,
        };
        let (ours, theirs) = tokio::io::duplex(4096);
        let password = password.to_owned();
        let client = tokio::spawn(async move {
            let mut wire = Wire::new(theirs, 4096);
            let greeting = wire.read().await.unwrap();
            let mut fields = Fields(&greeting);
            assert_eq!((fields.u8(), fields.zero_ended()), (Some(10), Some(&b"9.7.0"[..])));
            fields.u32();
            let mut scramble = fields.bytes(8).unwrap().to_vec();
            fields.bytes(1 + 2 + 1 + 2 + 2 + 1 + 10).unwrap();
            scramble.extend_from_slice(fields.bytes(12).unwrap());
            let mut answer = (PROTOCOL_41 | PLUGIN_AUTH).to_le_bytes().to_vec();
            answer.extend_from_slice(&[0; 28]);
            answer.extend_from_slice(b"pitr\0");
            let proof = Method::CachingSha2.proof(password.as_bytes(), &scramble);
            answer.push(proof.len() as u8);
            answer.extend_from_slice(&proof);
            answer.extend_from_slice(b"caching_sha2_password\0");
            wire.send(&answer).await.unwrap();
            wire.read().await.unwrap().to_vec()
        });
        let result = gate.admit(&mut Wire::new(ours, 4096), 1).await;
        let first = client.await.unwrap();
        assert_eq!(first.first() == Some(&0xff), result.is_err());
        result
    }

    #[tokio::test]
    async fn only_who_knows_the_password_gets_in() {
        attempt("right").await.unwrap();
        assert!(matches!(attempt("wrong").await, Err(ReplayError::Stranger)));
    }

    #[test]
    fn an_odd_answer_is_no_panic() {
        let whole = [(PROTOCOL_41 | PLUGIN_AUTH | PLUGIN_AUTH_LENENC).to_le_bytes().to_vec(), vec![0; 40]].concat();
        for length in 0..whole.len() {
            // Whatever it gives, it must not panic.
            drop(Client::parse(whole.get(..length).unwrap()));
        }
    }
}
