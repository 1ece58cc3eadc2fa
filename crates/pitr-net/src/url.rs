//! Connection URLs taken apart: `scheme://user@host:port/path?key=value`. What the parts mean, each protocol says.

use std::collections::BTreeMap;
use std::net::IpAddr;

use crate::Error;

/// The parts of a URL behind its scheme, still percent-encoded.
#[derive(Debug)]
pub struct Parts<'a> {
    /// Before the `@`; empty where there is none.
    pub user: &'a str,
    /// A name or an address, without the brackets of IPv6.
    pub host: &'a str,
    /// After the colon.
    pub port: Option<&'a str>,
    /// After the first slash.
    pub path: &'a str,
    /// After the question mark.
    pub parameters: Parameters,
}

/// Takes apart what follows the scheme. A password is refused, since URLs end up in process lists and logs.
pub fn split(rest: &str) -> Result<Parts<'_>, Error> {
    let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
    let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
    let (user, address) = authority.rsplit_once('@').unwrap_or(("", authority));
    if user.contains(':') {
        return Err(holds_a_password());
    }
    let (host, port) = split_port(address)?;
    Ok(Parts { user, host, port, path, parameters: Parameters::parse(query)? })
}

/// Undoes percent-encoding. A NUL would end a string of a protocol early, so it is refused.
pub fn decode(text: &str) -> Result<String, Error> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        if byte != b'%' {
            bytes.push(byte);
            continue;
        }
        let digit = |byte: Option<u8>| byte.and_then(|byte| char::from(byte).to_digit(16));
        match (digit(rest.next()), digit(rest.next())) {
            // Two hexadecimal digits always fit.
            (Some(high), Some(low)) if high + low > 0 => bytes.push((high * 16 + low) as u8),
            _ => return Err(bad(format!("{text:?} has a percent sign that encodes nothing"))),
        }
    }
    String::from_utf8(bytes).map_err(|_| bad(format!("{text:?} is not UTF-8")))
}

/// Whether a host is this machine itself.
pub fn is_loopback(host: &str) -> bool {
    host == "localhost" || host.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}

/// What to say of a URL that cannot be used.
pub fn bad(what: impl Into<String>) -> Error {
    Error::Url(what.into())
}

fn holds_a_password() -> Error {
    bad("it holds a password; put the password into a file of mode 0600 instead")
}

/// Splits `host:port` and `[::1]:port`; an encoded socket path has no colon of its own.
fn split_port(address: &str) -> Result<(&str, Option<&str>), Error> {
    if let Some(rest) = address.strip_prefix('[') {
        let (host, after) = rest.split_once(']').ok_or_else(|| bad("the bracket of an IPv6 address is not closed"))?;
        return match after.strip_prefix(':') {
            Some(port) => Ok((host, Some(port))),
            None if after.is_empty() => Ok((host, None)),
            None => Err(bad("after an IPv6 address comes a colon and a port")),
        };
    }
    match address.split_once(':') {
        Some((_, port)) if port.contains(':') => Err(bad("an IPv6 address stands in brackets: [::1]:PORT")),
        Some((host, port)) => Ok((host, Some(port))),
        None => Ok((address, None)),
    }
}

/// The parameters after the question mark; each may be taken once.
#[derive(Debug, Default)]
pub struct Parameters(BTreeMap<String, String>);

impl Parameters {
    fn parse(query: &str) -> Result<Self, Error> {
        let mut map = BTreeMap::new();
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            let (key, value) = pair.split_once('=').ok_or_else(|| bad(format!("{pair:?} has no value")))?;
            if key == "password" {
                return Err(holds_a_password());
            }
            if map.insert(decode(key)?, decode(value)?).is_some() {
                return Err(bad(format!("{key} is given twice")));
            }
        }
        Ok(Self(map))
    }

    /// Takes one out, decoded.
    pub fn take(&mut self, key: &str) -> Option<String> {
        self.0.remove(key)
    }

    /// An error if one is left that nobody took; `known` are all that may be given.
    pub fn refuse_the_rest(self, known: &[&str]) -> Result<(), Error> {
        match self.0.into_keys().next() {
            None => Ok(()),
            Some(key) => Err(bad(format!("parameter {key:?} is not known; known are {}", known.join(", ")))),
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn the_parts_of_a_url_are_found() {
        let parts = split("a%40b@[::1]:5433/app?x=1&y=%2Frun").unwrap();
        assert_eq!((parts.user, parts.host, parts.port, parts.path), ("a%40b", "::1", Some("5433"), "app"));
        let mut parameters = parts.parameters;
        assert_eq!((parameters.take("y").as_deref(), parameters.take("y")), (Some("/run"), None));
        let left = parameters.refuse_the_rest(&["y", "z"]).unwrap_err().to_string();
        assert!(left.ends_with("parameter \"x\" is not known; known are y, z"), "{left}");
        assert_eq!(decode("a%40b").unwrap(), "a@b");
    }

    #[test]
    fn what_cannot_be_meant_is_refused_and_passwords_are_never_repeated() {
        for url in ["u@[::1", "u@[::1]x", "u@::1:5432", "u@h?x", "u@h?x=1&x=2", "u@h?x=%zz", "u@h?x=%00", "u@h?x=%ff"] {
            assert!(split(url).is_err(), "{url}");
        }
        for url in ["u:hunter2@h", "u@h?password=hunter2"] {
            let message = split(url).unwrap_err().to_string();
            assert!(message.contains("holds a password") && !message.contains("hunter2"), "{message}");
        }
    }

    #[test]
    fn this_machine_has_several_names() {
        assert!(["localhost", "127.0.0.2", "::1"].iter().all(|host| is_loopback(host)));
        assert!(["db1", "10.0.0.1", "localhost.example"].iter().all(|host| !is_loopback(host)));
    }
}
