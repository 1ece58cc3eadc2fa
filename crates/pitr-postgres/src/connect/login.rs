//! Startup and login, without I/O: messages of the server in, messages of ours out.

use bytes::BytesMut;
use fallible_iterator::FallibleIterator;
use postgres_protocol::authentication::md5_hash;
use postgres_protocol::authentication::sasl::{ChannelBinding, SCRAM_SHA_256, SCRAM_SHA_256_PLUS, ScramSha256};
use postgres_protocol::message::backend::{AuthenticationSaslBody, Message};
use postgres_protocol::message::frontend;

use super::{ConnectError, Settings};

/// One login. SCRAM is bound to the TLS connection where the server offers that.
pub(super) struct Login<'a> {
    settings: &'a Settings,
    /// True where a password may travel as it is.
    private: bool,
    endpoint: Option<Vec<u8>>,
    scram: Scram,
    accepted: bool,
}

/// How far the exchange got. The server must prove that it knows the password too, before it says "ok".
enum Scram {
    NotUsed,
    Running(Box<ScramSha256>),
    Proved,
}

impl<'a> Login<'a> {
    pub(super) fn new(settings: &'a Settings, private: bool, endpoint: Option<Vec<u8>>) -> Self {
        Self { settings, private, endpoint, scram: Scram::NotUsed, accepted: false }
    }

    /// The first message: who we are, and that we want a walsender.
    pub(super) fn start(&self, out: &mut BytesMut) -> Result<(), ConnectError> {
        let parameters = [
            ("user", self.settings.user.as_str()),
            ("replication", "true"),
            ("application_name", self.settings.application_name.as_str()),
            ("client_encoding", "UTF8"),
        ];
        frontend::startup_message(parameters, out).map_err(|error| self.refused(error.to_string()))
    }

    /// Answers one message of the server.
    pub(super) fn answer(&mut self, message: &Message, out: &mut BytesMut) -> Result<(), ConnectError> {
        match message {
            Message::AuthenticationOk => self.accept(),
            Message::AuthenticationCleartextPassword if self.private => {
                let password = self.password()?;
                frontend::password_message(password, out).map_err(|error| self.refused(error.to_string()))
            }
            Message::AuthenticationCleartextPassword => {
                Err(self.refused("the server asks for the plain password over an unencrypted connection"))
            }
            Message::AuthenticationMd5Password(body) => {
                let hash = md5_hash(self.settings.user.as_bytes(), self.password()?, body.salt());
                frontend::password_message(hash.as_bytes(), out).map_err(|error| self.refused(error.to_string()))
            }
            Message::AuthenticationSasl(body) => self.begin_scram(body, out),
            Message::AuthenticationSaslContinue(body) => self.continue_scram(body.data(), out),
            Message::AuthenticationSaslFinal(body) => self.finish_scram(body.data()),
            _ => Err(self.refused("the server wants a way to log in that is not supported (GSSAPI, SSPI or other)")),
        }
    }

    /// To be called when the server is ready: a server that never said "ok" did not log us in.
    pub(super) fn finished(&self) -> Result<(), ConnectError> {
        if self.accepted { Ok(()) } else { Err(self.refused("the server skipped the login")) }
    }

    fn accept(&mut self) -> Result<(), ConnectError> {
        if matches!(self.scram, Scram::Running(_)) {
            return Err(self.refused("the server did not prove that it knows the password"));
        }
        self.accepted = true;
        Ok(())
    }

    fn begin_scram(&mut self, body: &AuthenticationSaslBody, out: &mut BytesMut) -> Result<(), ConnectError> {
        let (mut plain, mut plus) = (false, false);
        let mut mechanisms = body.mechanisms();
        while let Some(mechanism) = mechanisms.next().map_err(|error| self.refused(error.to_string()))? {
            plain |= mechanism == SCRAM_SHA_256;
            plus |= mechanism == SCRAM_SHA_256_PLUS;
        }
        let (mechanism, binding) = match self.endpoint.take() {
            Some(endpoint) if plus => (SCRAM_SHA_256_PLUS, ChannelBinding::tls_server_end_point(endpoint)),
            // Says "I could have": a man in the middle who hid the better offer is found out.
            Some(_) if plain => (SCRAM_SHA_256, ChannelBinding::unrequested()),
            None if plain => (SCRAM_SHA_256, ChannelBinding::unsupported()),
            _ => return Err(self.refused("the server offers no SCRAM-SHA-256")),
        };
        let scram = ScramSha256::new(self.password()?, binding);
        frontend::sasl_initial_response(mechanism, scram.message(), out)
            .map_err(|error| self.refused(error.to_string()))?;
        self.scram = Scram::Running(Box::new(scram));
        Ok(())
    }

    fn continue_scram(&mut self, data: &[u8], out: &mut BytesMut) -> Result<(), ConnectError> {
        let Scram::Running(scram) = &mut self.scram else { return Err(self.refused("SCRAM out of turn")) };
        let answered = scram.update(data).and_then(|()| frontend::sasl_response(scram.message(), out));
        answered.map_err(|error| self.refused(error.to_string()))
    }

    fn finish_scram(&mut self, data: &[u8]) -> Result<(), ConnectError> {
        let Scram::Running(scram) = &mut self.scram else { return Err(self.refused("SCRAM out of turn")) };
        let proved = scram.finish(data);
        proved.map_err(|error| self.refused(error.to_string()))?;
        self.scram = Scram::Proved;
        Ok(())
    }

    fn password(&self) -> Result<&'a [u8], ConnectError> {
        match &self.settings.password {
            Some(password) => Ok(password.expose().as_bytes()),
            None => {
                Err(ConnectError::NoPassword { target: self.settings.to_string(), user: self.settings.user.clone() })
            }
        }
    }

    fn refused(&self, what: impl Into<String>) -> ConnectError {
        ConnectError::Login { target: self.settings.to_string(), what: what.into() }
    }
}
