//! Who may talk to the server: the Host check, the bearer token, and which web pages.

use super::problem::Problem;
use crate::{Error, Result};
use axum::http::uri::Authority;
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, Uri, header};
use sha2::{Digest, Sha256};
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::time::Duration;
use subtle::ConstantTimeEq;
use tower_http::cors::{AllowOrigin, CorsLayer};

/// The environment variable that may hold the token.
pub const TOKEN_VARIABLE: &str = "B4R_TOKEN";
/// A longer file is not a token, and not read.
const LONGEST_TOKEN: usize = 4096;

/// The SHA-256 of a secret. Equal lengths make the comparison take the same time for every guess.
#[derive(Clone)]
pub struct Token([u8; 32]);

impl fmt::Debug for Token {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("Token(..)")
    }
}

impl Token {
    /// A token as found in `source`, white space around it removed.
    ///
    /// # Errors
    /// [`Error::Config`] when it is empty or could not be sent in a header.
    pub fn new(source: &str, secret: &str) -> Result<Self> {
        let secret = secret.trim();
        let sendable = secret.bytes().all(|byte| byte.is_ascii_graphic());
        if secret.is_empty() || !sendable || secret.len() > LONGEST_TOKEN {
            return Err(Error::config(
                source,
                "holds no token: that is one word of ASCII letters, digits and signs",
                "make one with: openssl rand -hex 32",
            ));
        }
        Ok(Token(Sha256::digest(secret.as_bytes()).into()))
    }

    /// The token in a file.
    ///
    /// # Errors
    /// [`Error::Config`] when there is none.
    pub fn read(path: &Path) -> Result<Self> {
        let text = std::fs::read_to_string(path).map_err(|error| {
            let problem = format!("cannot read {}: {error}", path.display());
            Error::config("token-file", problem, "name a file that holds the token")
        })?;
        Token::new("token-file", &text)
    }

    /// Whether the request carries the token as `Authorization: Bearer ...`.
    pub fn admits(&self, headers: &HeaderMap) -> bool {
        let mut given = headers.get_all(header::AUTHORIZATION).iter();
        let (Some(value), None) = (given.next(), given.next()) else { return false };
        let Some((scheme, secret)) = value.as_bytes().split_at_checked(7) else { return false };
        let digest: [u8; 32] = Sha256::digest(secret.trim_ascii()).into();
        scheme.eq_ignore_ascii_case(b"bearer ") && bool::from(self.0.ct_eq(&digest))
    }
}

/// Names under which the server may be addressed. A page of another site that has its own name point here
/// (DNS rebinding) is stopped by this.
#[derive(Clone, Debug)]
pub struct Hosts {
    /// Lower case, without port.
    names: Vec<String>,
}

impl Hosts {
    /// The bound address, `localhost`, and what the user allows besides.
    ///
    /// # Errors
    /// [`Error::Config`] for an allowed host that is none.
    pub fn new(bound: SocketAddr, allowed: &[String]) -> Result<Self> {
        let mut names = vec!["localhost".to_string(), bound.ip().to_string()];
        if bound.ip().is_loopback() {
            names.extend(["127.0.0.1".to_string(), "::1".to_string()]);
        }
        for host in allowed {
            let name = host.parse().ok().and_then(|authority| name_of(&authority));
            names.push(name.ok_or_else(|| {
                let problem = format!("`{host}` is no host name");
                Error::config("allow-host", problem, "give a name like recommender.example.org")
            })?);
        }
        Ok(Hosts { names })
    }

    /// Checks the Host header, and the host of the request line where it has one. `local` is the connection's own end:
    /// a server bound to all addresses answers to each.
    ///
    /// # Errors
    /// 400 without a usable Host, 421 for a foreign one.
    pub fn check(
        &self,
        uri: &Uri,
        headers: &HeaderMap,
        local: IpAddr,
    ) -> std::result::Result<(), Problem> {
        let mut given = headers.get_all(header::HOST).iter();
        let (Some(value), None) = (given.next(), given.next()) else {
            let message = "send one Host header";
            return Err(Problem::new(StatusCode::BAD_REQUEST, "bad_host", message));
        };
        let header = value.to_str().ok().and_then(|value| value.parse().ok());
        let allowed = |authority: &Authority| {
            name_of(authority)
                .is_some_and(|name| self.names.contains(&name) || name == local.to_string())
        };
        if header.as_ref().is_some_and(allowed) && uri.authority().is_none_or(allowed) {
            return Ok(());
        }
        let message = "this server does not go by that name; --allow-host adds one";
        Err(Problem::new(StatusCode::MISDIRECTED_REQUEST, "unknown_host", message))
    }
}

/// The host in lower case, without brackets and final dot; `None` where user information precedes it.
fn name_of(authority: &Authority) -> Option<String> {
    let host = authority.host().trim_start_matches('[').trim_end_matches(']');
    let host = host.strip_suffix('.').unwrap_or(host).to_ascii_lowercase();
    (!host.is_empty() && !authority.as_str().contains('@')).then_some(host)
}

/// The headers that let pages of `origins` use the server; `None` where there are none.
///
/// # Errors
/// [`Error::Config`] for an origin that is none.
pub fn cors(origins: &[String]) -> Result<Option<CorsLayer>> {
    if origins.is_empty() {
        return Ok(None);
    }
    let parsed = origins.iter().map(|origin| {
        let uri: Option<Uri> = origin.parse().ok();
        let whole = uri.is_some_and(|uri| {
            uri.scheme().is_some() && uri.authority().is_some() && uri.path() == "/"
        });
        let value = HeaderValue::from_str(origin).ok().filter(|_| whole && !origin.ends_with('/'));
        value.ok_or_else(|| {
            let problem = format!("`{origin}` is no origin");
            Error::config("allow-origin", problem, "give one like https://shop.example.org")
        })
    });
    let cors = CorsLayer::new()
        .allow_origin(AllowOrigin::list(parsed.collect::<Result<Vec<_>>>()?))
        .allow_methods([Method::GET, Method::POST])
        .allow_headers([header::CONTENT_TYPE, header::AUTHORIZATION])
        .max_age(Duration::from_secs(600));
    Ok(Some(cors))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(values: &[(&'static str, &'static str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for &(name, value) in values {
            headers.append(name, HeaderValue::from_bytes(value.as_bytes()).unwrap());
        }
        headers
    }

    #[test]
    fn only_the_whole_token_once_is_the_token() {
        let token = Token::new("test", " s3cret\n").unwrap();
        for good in ["Bearer s3cret", "bearer s3cret", "Bearer  s3cret "] {
            assert!(token.admits(&headers(&[("authorization", good)])), "{good}");
        }
        for bad in ["Bearer s3cre", "Bearer s3crets", "Bearer ", "Basic s3cret", "s3cret", "é"] {
            assert!(!token.admits(&headers(&[("authorization", bad)])), "{bad}");
        }
        assert!(!token.admits(&headers(&[])));
        let twice = [("authorization", "Bearer s3cret"); 2];
        assert!(!token.admits(&headers(&twice)));
        assert_eq!(format!("{token:?}"), "Token(..)");
        for bad in ["", " \n", "two words", "\u{e9}"] {
            assert_eq!(Token::new("test", bad).unwrap_err().exit_code(), 2, "{bad:?}");
        }
    }

    #[test]
    fn hosts_are_compared_without_case_port_and_dot() {
        let bound = "127.0.0.1:8080".parse().unwrap();
        let hosts = Hosts::new(bound, &["Shop.example.org".to_string()]).unwrap();
        let check = |uri: &'static str, host| {
            let local = "127.0.0.2".parse().unwrap();
            let checked = hosts.check(&Uri::from_static(uri), &headers(&[("host", host)]), local);
            checked.map_or_else(|problem| problem.status.as_u16(), |()| 200)
        };
        for good in [
            "127.0.0.1:8080",
            "127.0.0.1",
            "localhost:9",
            "LOCALHOST.",
            "[::1]:8080",
            "127.0.0.2",
            "shop.example.org",
        ] {
            assert_eq!(check("/", good), 200, "{good}");
        }
        for bad in [
            "evil.example.org",
            "localhost.evil.org",
            "127.0.0.1@evil.org",
            "evil.org@127.0.0.1",
            "127.0.0.3",
            "",
            "[::1",
            "a b",
        ] {
            assert_eq!(check("/", bad), 421, "{bad}");
        }
        assert_eq!(check("http://localhost/", "localhost"), 200);
        assert_eq!(check("http://evil.org/", "localhost"), 421);
        let local = "127.0.0.1".parse().unwrap();
        for wrong in [&[][..], &[("host", "localhost"), ("host", "evil.org")]] {
            let problem = hosts.check(&Uri::from_static("/"), &headers(wrong), local).unwrap_err();
            assert_eq!(problem.status, 400);
        }
        assert!(Hosts::new(bound, &["a/b".to_string()]).is_err());
    }

    #[test]
    fn origins_are_whole_origins() {
        let cors = |origin: &str| cors(&[origin.to_string()]);
        assert!(cors("https://shop.example.org").is_ok() && cors("http://localhost:3000").is_ok());
        for bad in ["*", "shop.example.org", "https://a/b", "https://a/", "null", ""] {
            assert_eq!(cors(bad).unwrap_err().exit_code(), 2, "{bad}");
        }
    }
}
