//! Who may use the server: keys, the `Host` header (DNS rebinding) and the `Origin` header (pages of other sites).

use std::fmt;
use std::net::IpAddr;

use axum::http::{HeaderMap, header};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

use crate::wire::code::ErrorCode;

/// The subprotocol that a native session speaks; browsers name it to be able to send their key beside it.
pub const SUBPROTOCOL: &str = "waxwing.v1";

/// A text that never shows itself.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// Wraps a text.
    pub fn new(text: String) -> Self {
        Self(text)
    }

    /// A fresh key of 128 random bits.
    ///
    /// # Errors
    /// When the system has no randomness.
    pub fn random() -> Result<Self, getrandom::Error> {
        let mut bytes = [0_u8; 16];
        getrandom::fill(&mut bytes)?;
        Ok(Self(URL_SAFE_NO_PAD.encode(bytes)))
    }

    /// The text: for the one line that tells the operator a key that was made.
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("[redacted]")
    }
}

/// The rules of access. Keys are held as SHA-256 only.
#[derive(Debug, Clone)]
pub struct Access {
    digests: Vec<[u8; 32]>,
    loopback: bool,
    hosts: Vec<String>,
    origins: Vec<String>,
}

impl Access {
    /// The rules for a server bound to `bind`: without keys everybody may use it.
    pub fn new(bind: IpAddr, keys: &[Secret], hosts: Vec<String>, origins: Vec<String>) -> Self {
        let digests = keys.iter().map(|key| digest(key.reveal().as_bytes())).collect();
        Self {
            digests,
            loopback: bind.is_loopback(),
            hosts,
            origins,
        }
    }

    /// Whether clients need a key.
    pub fn needs_key(&self) -> bool {
        !self.digests.is_empty()
    }

    /// Checks the headers that a hostile page cannot choose. A request without `Origin` comes from no page.
    ///
    /// # Errors
    /// The code to refuse with.
    pub fn check_page(&self, headers: &HeaderMap) -> Result<(), ErrorCode> {
        let host = headers
            .get(header::HOST)
            .and_then(|host| host.to_str().ok())
            .unwrap_or_default();
        if !self.host_is_ours(host) {
            return Err(ErrorCode::ForbiddenHost);
        }
        match headers.get(header::ORIGIN) {
            None => Ok(()),
            Some(origin) if origin.to_str().is_ok_and(|origin| self.origin_may(origin, host)) => Ok(()),
            Some(_) => Err(ErrorCode::ForbiddenOrigin),
        }
    }

    /// Checks the key: `Authorization: Bearer`, or in the subprotocols of a WebSocket, never in the query.
    ///
    /// # Errors
    /// [`ErrorCode::Unauthorized`].
    pub fn check_key(&self, headers: &HeaderMap) -> Result<(), ErrorCode> {
        if self.digests.is_empty() {
            return Ok(());
        }
        let bearer = headers
            .get(header::AUTHORIZATION)
            .and_then(|value| value.to_str().ok())
            .and_then(|value| value.split_once(' '))
            .filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer"))
            .map(|(_, key)| key.trim().as_bytes().to_vec());
        match bearer.or_else(|| subprotocol_key(headers)) {
            Some(key) if self.knows(&key) => Ok(()),
            _ => Err(ErrorCode::Unauthorized),
        }
    }

    /// Whether the origin is listed, so that answers may be read by its pages.
    pub fn is_listed(&self, origin: &str) -> bool {
        self.origins
            .iter()
            .any(|listed| listed.eq_ignore_ascii_case(origin))
    }

    fn knows(&self, key: &[u8]) -> bool {
        let presented = digest(key);
        // No early exit: the time tells nothing about which key came close.
        self.digests
            .iter()
            .fold(subtle::Choice::from(0), |found, known| {
                found | known.ct_eq(&presented)
            })
            .into()
    }

    fn host_is_ours(&self, host: &str) -> bool {
        // Off loopback the operator may reach the server by any name; a key protects it there.
        if !self.loopback && self.hosts.is_empty() {
            return true;
        }
        let name = host_name(host);
        ["localhost", "127.0.0.1", "[::1]"].contains(&name.as_str()) || self.hosts.contains(&name)
    }

    fn origin_may(&self, origin: &str, host: &str) -> bool {
        let same = origin.split_once("://").is_some_and(|(scheme, authority)| {
            matches!(scheme, "http" | "https")
                && !authority.is_empty()
                && authority.eq_ignore_ascii_case(host)
        });
        same || self.is_listed(origin)
    }
}

/// The host without its port, lower case.
fn host_name(host: &str) -> String {
    let name = match host.rsplit_once(':') {
        Some((name, port)) if !port.contains(']') => name,
        _ => host,
    };
    name.to_ascii_lowercase()
}

fn subprotocol_key(headers: &HeaderMap) -> Option<Vec<u8>> {
    headers
        .get_all(header::SEC_WEBSOCKET_PROTOCOL)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .find_map(|protocol| protocol.trim().strip_prefix("key."))
        .and_then(|key| URL_SAFE_NO_PAD.decode(key.trim_end_matches('=')).ok())
}

fn digest(key: &[u8]) -> [u8; 32] {
    Sha256::digest(key).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(&'static str, &str)]) -> HeaderMap {
        pairs
            .iter()
            .map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap()))
            .collect()
    }

    fn access(bind: &str, keys: &[&str]) -> Access {
        let keys: Vec<Secret> = keys.iter().map(|key| Secret::new((*key).into())).collect();
        Access::new(
            bind.parse().unwrap(),
            &keys,
            vec!["box.lan".into()],
            vec!["https://friend.example".into()],
        )
    }

    #[test]
    fn origin_by_host_by_bind() {
        use ErrorCode::{ForbiddenHost, ForbiddenOrigin};
        // host, origin, on loopback, elsewhere without a host list
        let matrix = [
            ("localhost:8080", None, Ok(()), Ok(())),
            ("127.0.0.1:8080", None, Ok(()), Ok(())),
            ("[::1]:8080", None, Ok(()), Ok(())),
            ("[::1]", None, Ok(()), Ok(())),
            ("LOCALHOST", None, Ok(()), Ok(())),
            ("box.lan:9", None, Ok(()), Ok(())),
            ("evil.example:8080", None, Err(ForbiddenHost), Ok(())),
            ("", None, Err(ForbiddenHost), Ok(())),
            ("localhost.evil.example", None, Err(ForbiddenHost), Ok(())),
            ("localhost:8080", Some("http://localhost:8080"), Ok(()), Ok(())),
            (
                "localhost:8080",
                Some("http://localhost:9090"),
                Err(ForbiddenOrigin),
                Err(ForbiddenOrigin),
            ),
            (
                "localhost:8080",
                Some("null"),
                Err(ForbiddenOrigin),
                Err(ForbiddenOrigin),
            ),
            (
                "localhost:8080",
                Some(""),
                Err(ForbiddenOrigin),
                Err(ForbiddenOrigin),
            ),
            (
                "localhost:8080",
                Some("http://evil.example"),
                Err(ForbiddenOrigin),
                Err(ForbiddenOrigin),
            ),
            ("localhost:8080", Some("https://friend.example"), Ok(()), Ok(())),
            (
                "localhost:8080",
                Some("http://friend.example"),
                Err(ForbiddenOrigin),
                Err(ForbiddenOrigin),
            ),
            (
                "localhost:8080",
                Some("file://localhost:8080"),
                Err(ForbiddenOrigin),
                Err(ForbiddenOrigin),
            ),
            (
                "evil.example",
                Some("http://evil.example"),
                Err(ForbiddenHost),
                Ok(()),
            ),
        ];
        let open = Access::new(
            "0.0.0.0".parse().unwrap(),
            &[],
            vec![],
            vec!["https://friend.example".into()],
        );
        for (host, origin, on_loopback, elsewhere) in matrix {
            let mut pairs = vec![("host", host)];
            pairs.extend(origin.map(|origin| ("origin", origin)));
            assert_eq!(
                access("127.0.0.1", &[]).check_page(&headers(&pairs)),
                on_loopback,
                "{pairs:?}"
            );
            assert_eq!(open.check_page(&headers(&pairs)), elsewhere, "{pairs:?}");
        }
    }

    #[test]
    fn keys_by_every_way_they_may_come() {
        let with_keys = access("0.0.0.0", &["first", "second-ü"]);
        let encoded = format!("waxwing.v1, key.{}", URL_SAFE_NO_PAD.encode("second-ü"));
        let wrong = format!("waxwing.v1, key.{}", URL_SAFE_NO_PAD.encode("third"));
        let matrix = [
            (vec![], false),
            (vec![("authorization", "Bearer first")], true),
            (vec![("authorization", "bearer first")], true),
            (vec![("authorization", "Bearer firs")], false),
            (vec![("authorization", "Bearer firstt")], false),
            (vec![("authorization", "Bearer ")], false),
            (vec![("authorization", "first")], false),
            (vec![("authorization", "Basic first")], false),
            (vec![("sec-websocket-protocol", encoded.as_str())], true),
            (vec![("sec-websocket-protocol", wrong.as_str())], false),
            (vec![("sec-websocket-protocol", "waxwing.v1, key.!!")], false),
        ];
        for (pairs, allowed) in matrix {
            assert_eq!(
                with_keys.check_key(&headers(&pairs)).is_ok(),
                allowed,
                "{pairs:?}"
            );
            assert_eq!(
                access("127.0.0.1", &[]).check_key(&headers(&pairs)),
                Ok(()),
                "no keys, all may"
            );
        }
    }

    #[test]
    fn made_keys_differ_and_survive_a_url() {
        let (one, other) = (Secret::random().unwrap(), Secret::random().unwrap());
        assert_ne!(one, other);
        assert!(
            one.reveal().len() == 22
                && one
                    .reveal()
                    .bytes()
                    .all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte))
        );
        assert_eq!(format!("{one:?}"), "[redacted]");
    }
}
