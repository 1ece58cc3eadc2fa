//! A session of an administrator over `mysql_async`: loads are written, and results are looked at, through a client that
//! shares no code with the product.

use std::str::FromStr;

use mysql_async::prelude::Queryable;
use mysql_async::{Conn, OptsBuilder, Value};

use crate::mysql::Mysql;

/// Why a statement failed.
pub type SessionError = mysql_async::Error;

/// A session over the server's socket, as `root`.
#[derive(Debug)]
pub struct Session(Conn);

impl Session {
    /// Connects.
    pub async fn open(server: &Mysql) -> Result<Self, SessionError> {
        let socket = Some(server.socket().display().to_string());
        Ok(Self(Conn::new(OptsBuilder::default().user(Some("root")).socket(socket)).await?))
    }

    /// Runs a statement whose rows, if it has any, are not wanted.
    pub async fn execute(&mut self, statement: &str) -> Result<(), SessionError> {
        self.0.query_drop(statement).await
    }

    /// All rows of a statement.
    pub async fn rows(&mut self, statement: &str) -> Result<Vec<Row>, SessionError> {
        Ok(self.0.query::<mysql_async::Row, _>(statement).await?.into_iter().map(Row).collect())
    }

    /// Its first row.
    pub async fn row(&mut self, statement: &str) -> Result<Option<Row>, SessionError> {
        Ok(self.0.query_first(statement).await?.map(Row))
    }

    /// The first value of that.
    pub async fn value(&mut self, statement: &str) -> Result<Option<String>, SessionError> {
        Ok(self.row(statement).await?.and_then(|row| row.text(0)))
    }
}

/// A row as text, which is how an ordinary statement's values come.
#[derive(Debug)]
pub struct Row(mysql_async::Row);

impl Row {
    /// One value; NULL is `None`.
    pub fn text(&self, place: usize) -> Option<String> {
        match self.0.as_ref(place)? {
            Value::Bytes(bytes) => Some(String::from_utf8_lossy(bytes).into_owned()),
            _ => None,
        }
    }

    /// One value as a number.
    pub fn number<N: FromStr>(&self, place: usize) -> Option<N> {
        self.text(place)?.parse().ok()
    }
}

/// True if the server undid a transaction that stood in another's way: a lock waited for in vain, a deadlock.
pub fn was_in_the_way(error: &SessionError) -> bool {
    matches!(error, SessionError::Server(error) if matches!(error.code, 1205 | 1213))
}
