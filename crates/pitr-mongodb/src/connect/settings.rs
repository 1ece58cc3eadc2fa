//! How to reach a replica set: what a `mongodb://` URL says.

use std::fmt;

use mongodb::Client;
use mongodb::options::{ClientOptions, Credential, ServerAddress};
use pitr_net::Password;

use crate::error::{Doing, Error, Result};
use crate::limits::{APPLICATION_NAME, CONNECT_TIMEOUT, MAX_CONNECTIONS, SELECTION_TIMEOUT};

/// Where a deployment is, and how to log in.
#[derive(Debug, Clone)]
pub struct Settings {
    url: String,
    password: Option<Password>,
}

impl Settings {
    /// Reads a connection string. One with a password in it is refused, and not repeated in the error.
    pub fn parse(url: &str) -> Result<Self> {
        let rest = url.strip_prefix("mongodb://").ok_or_else(|| {
            let srv = url.starts_with("mongodb+srv://");
            let why =
                if srv { "mongodb+srv:// is not supported; name the members" } else { "it must begin with mongodb://" };
            Error::Url(why.to_owned())
        })?;
        let authority = rest.split(['/', '?']).next().unwrap_or_default();
        if authority.rsplit_once('@').is_some_and(|(user, _)| user.contains(':')) {
            return Err(Error::Url(
                "it holds a password; put the password into a file of mode 0600 instead".to_owned(),
            ));
        }
        Ok(Self { url: url.to_owned(), password: None })
    }

    /// The same with a password.
    #[must_use]
    pub fn with_password(mut self, password: Password) -> Self {
        self.password = Some(password);
        self
    }

    /// The options of the driver.
    pub(crate) async fn options(&self) -> Result<ClientOptions> {
        // A user without a password is refused by the driver's parser: it is put in with a placeholder.
        let with_user = self.url.replacen('@', ":placeholder@", usize::from(self.url.contains('@')));
        let mut options = ClientOptions::parse(with_user).await.map_err(|error| Error::Url(error.to_string()))?;
        if let Some(credential) = options.credential.as_mut() {
            self.fill(credential);
        }
        options.app_name.get_or_insert_with(|| APPLICATION_NAME.to_owned());
        options.connect_timeout.get_or_insert(CONNECT_TIMEOUT);
        options.server_selection_timeout.get_or_insert(SELECTION_TIMEOUT);
        options.max_pool_size.get_or_insert(MAX_CONNECTIONS);
        Ok(options)
    }

    fn fill(&self, credential: &mut Credential) {
        credential.password = self.password.as_ref().map(|password| password.expose().to_owned());
    }

    /// A client of one member alone.
    pub(crate) async fn direct(&self, member: &ServerAddress) -> Result<Client> {
        let mut options = self.options().await?;
        options.hosts = vec![member.clone()];
        options.direct_connection = Some(true);
        options.repl_set_name = None;
        options.load_balanced = None;
        Client::with_options(options).doing(format!("making a client of {member}"))
    }
}

impl fmt::Display for Settings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.url)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_user_without_password_is_accepted_and_the_password_comes_from_elsewhere() {
        let settings = Settings::parse("mongodb://pitr@db1:27017,db2:27018/?replicaSet=rs0&authSource=admin").unwrap();
        let options = settings.with_password(Password::new("hunter2")).options().await.unwrap();
        let credential = options.credential.unwrap();
        assert_eq!(credential.username.as_deref(), Some("pitr"));
        assert_eq!(credential.password.as_deref(), Some("hunter2"));
        assert_eq!(options.hosts.len(), 2);
    }

    #[test]
    fn a_password_in_the_url_is_refused_and_never_repeated() {
        let message = Settings::parse("mongodb://u:hunter2@h").unwrap_err().to_string();
        assert!(message.contains("holds a password") && !message.contains("hunter2"), "{message}");
        let settings = Settings::parse("mongodb://u@h").unwrap().with_password(Password::new("hunter2"));
        assert!(!format!("{settings:?}{settings}").contains("hunter2"));
        assert!(Settings::parse("postgresql://h").is_err());
    }
}
