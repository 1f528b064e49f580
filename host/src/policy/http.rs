//! Grants of outbound HTTP: which requests a consumer may make, by scheme, host, port, method and path.
//!
//! A request is compared in one form only, and whatever has two readings is refused rather than put into that
//! form: user names, trailing dots, numbers that resolvers take for addresses, and, where a grant names a
//! path, everything that a server might take for a way out of it.

use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::fmt;

use http::Method;

use super::address;

/// One entry of `http` under `[grants]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HttpGrant {
    pub origin: Origin,
    /// Begins with `/`. What is granted is this path and what lies below it: `/v1` grants `/v1` and `/v1/mails`,
    /// not `/v10`; `/v1/` grants only what lies below.
    pub path: String,
    /// Any where it is empty.
    pub methods: Vec<Method>,
    /// Whether the host may be at an address that is not of the public internet.
    pub private: bool,
    /// Names of the secrets that may be sent there.
    pub secrets: Vec<String>,
}

/// Where requests go.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Origin {
    pub scheme: Scheme,
    pub host: Host,
    pub port: u16,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Scheme {
    Http,
    Https,
}

/// A host in the one form in which hosts are compared.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Host {
    /// Lower case, without a trailing dot.
    Name(String),
    V4(Ipv4Addr),
    V6(Ipv6Addr),
}

/// Why a text is no place that requests could be granted to, or sent to.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum UrlError {
    #[error("it does not begin with `https://` or `http://`")]
    Scheme,
    #[error("it has a user name or password; put those into a header, as a secret")]
    UserInfo,
    #[error("it has no host")]
    NoHost,
    #[error("the host has characters beyond ASCII; write it in its ASCII form, which begins with `xn--`")]
    NotAscii,
    #[error("the host `{host}` is no name of letters, digits, `-`, `_` and dots")]
    HostName { host: String },
    #[error("the host `{host}` ends with a dot; leave it out")]
    TrailingDot { host: String },
    #[error("the host `{host}` ends in a number and is no address such as `192.0.2.1`")]
    Number { host: String },
    #[error("`{text}` is no IPv6 address")]
    Ipv6 { text: String },
    #[error("the port `{port}` is none from 1 to 65535")]
    Port { port: String },
    #[error("it has a query or a fragment; a grant is by path")]
    Query,
    #[error("the path `{path}` is to be made of plain segments, without `.`, `..`, `//`, `%`, `;` and `\\`")]
    Path { path: String },
}

impl HttpGrant {
    /// A grant of every method, at public addresses, without secrets.
    pub fn parse(url: &str) -> Result<Self, UrlError> {
        let (scheme, rest) = url.split_once("://").ok_or(UrlError::Scheme)?;
        let scheme = Scheme::parse(scheme).ok_or(UrlError::Scheme)?;
        let (authority, rest) = rest.split_at(rest.find(['/', '?', '#']).unwrap_or(rest.len()));
        let origin = Origin::parse(scheme, authority)?;
        if rest.contains(['?', '#']) {
            return Err(UrlError::Query);
        }
        let path = if rest.is_empty() { "/" } else { rest };
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"/-_.~!$&'()*+,=:@".contains(&byte);
        if !path.bytes().all(plain) || path.contains("//") || has_way_out(path) {
            return Err(UrlError::Path { path: path.to_owned() });
        }
        Ok(Self { origin, path: path.to_owned(), methods: Vec::new(), private: false, secrets: Vec::new() })
    }

    /// Whether it grants this request.
    pub fn covers(&self, origin: &Origin, method: &Method, path: &str) -> bool {
        self.origin == *origin
            && (self.methods.is_empty() || self.methods.contains(method))
            && (self.path == "/" || (is_below(path, &self.path) && !has_way_out(path)))
    }
}

/// Whether `path` is `prefix`, or lies below it.
fn is_below(path: &str, prefix: &str) -> bool {
    path.strip_prefix(prefix).is_some_and(|rest| prefix.ends_with('/') || rest.is_empty() || rest.starts_with('/'))
}

/// Whether a server could read a step up in a path: `.` and `..` in any encoding, between any separators, with
/// or without the parameters that some servers take off a segment.
fn has_way_out(path: &str) -> bool {
    let mut decoded = path.as_bytes().to_vec();
    loop {
        let once: Vec<u8> = percent_encoding::percent_decode(&decoded).collect();
        if once == decoded {
            break;
        }
        decoded = once;
    }
    let mut segments = decoded.split(|byte| matches!(byte, b'/' | b'\\'));
    let is_step = |segment: &[u8]| {
        let name = segment.split(|byte| *byte == b';').next().unwrap_or_default();
        name == b"." || name == b".."
    };
    decoded.contains(&0) || segments.any(is_step)
}

impl Scheme {
    fn parse(text: &str) -> Option<Self> {
        [Self::Http, Self::Https].into_iter().find(|scheme| text.eq_ignore_ascii_case(scheme.as_str()))
    }

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::Https => "https",
        }
    }

    fn port(self) -> u16 {
        match self {
            Self::Http => 80,
            Self::Https => 443,
        }
    }
}

impl Origin {
    /// The origin of a request.
    pub fn of(uri: &http::Uri) -> Result<Self, UrlError> {
        let scheme = uri.scheme_str().and_then(Scheme::parse).ok_or(UrlError::Scheme)?;
        Self::parse(scheme, uri.authority().ok_or(UrlError::NoHost)?.as_str())
    }

    fn parse(scheme: Scheme, authority: &str) -> Result<Self, UrlError> {
        if authority.contains('@') {
            return Err(UrlError::UserInfo);
        }
        let host_end = authority.rfind(']').map_or(0, |at| at + 1);
        let (host, port) = match authority[host_end..].find(':') {
            None => (authority, scheme.port()),
            Some(colon) => {
                let (host, port) = authority.split_at(host_end + colon);
                let digits = &port[1..];
                let is_number = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
                let number = digits.parse().ok().filter(|number| is_number && *number > 0);
                (host, number.ok_or_else(|| UrlError::Port { port: digits.to_owned() })?)
            }
        };
        Ok(Self { scheme, host: Host::parse(host)?, port })
    }

    /// Whether it names an address, or a name, that is never of the public internet.
    pub fn is_private(&self) -> bool {
        match self.host.address() {
            Some(address) => address::reach(address) != address::Reach::Public,
            None => self.host.is_localhost(),
        }
    }
}

impl Host {
    fn parse(text: &str) -> Result<Self, UrlError> {
        let host = || text.to_owned();
        if text.is_empty() {
            return Err(UrlError::NoHost);
        }
        if let Some(inner) = text.strip_prefix('[') {
            let address = inner.strip_suffix(']').and_then(|inner| inner.parse().ok());
            return address.map(Self::V6).ok_or_else(|| UrlError::Ipv6 { text: host() });
        }
        if !text.is_ascii() {
            return Err(UrlError::NotAscii);
        }
        if text.ends_with('.') {
            return Err(UrlError::TrailingDot { host: host() });
        }
        if let Ok(address) = text.parse() {
            return Ok(Self::V4(address));
        }
        let is_label = |label: &str| {
            let good = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
            (1..=63).contains(&label.len()) && label.bytes().all(good)
        };
        if text.len() > 253 || !text.split('.').all(is_label) {
            return Err(UrlError::HostName { host: host() });
        }
        // Resolvers read `127.1`, `0x7f000001` and `2130706433` as addresses.
        let last = text.rsplit('.').next().unwrap_or_default().to_ascii_lowercase();
        if last.bytes().all(|byte| byte.is_ascii_digit()) || last.starts_with("0x") {
            return Err(UrlError::Number { host: host() });
        }
        Ok(Self::Name(text.to_ascii_lowercase()))
    }

    /// The address, where it is named by one.
    pub fn address(&self) -> Option<IpAddr> {
        match self {
            Self::Name(_) => None,
            Self::V4(address) => Some((*address).into()),
            Self::V6(address) => Some((*address).into()),
        }
    }

    fn is_localhost(&self) -> bool {
        matches!(self, Self::Name(name) if name == "localhost" || name.ends_with(".localhost"))
    }
}

impl fmt::Display for Host {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Name(name) => formatter.write_str(name),
            Self::V4(address) => write!(formatter, "{address}"),
            Self::V6(address) => write!(formatter, "[{address}]"),
        }
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}://{}", self.scheme.as_str(), self.host)?;
        if self.port == self.scheme.port() { Ok(()) } else { write!(formatter, ":{}", self.port) }
    }
}

/// As people read what a consumer may do: `POST https://api.example.com/v1/ with api_key`.
impl fmt::Display for HttpGrant {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let methods: Vec<&str> = self.methods.iter().map(Method::as_str).collect();
        if !methods.is_empty() {
            write!(formatter, "{} ", methods.join("|"))?;
        }
        write!(formatter, "{}{}", self.origin, if self.path == "/" { "" } else { &self.path })?;
        if self.private {
            formatter.write_str(" (private)")?;
        }
        if self.secrets.is_empty() { Ok(()) } else { write!(formatter, " with {}", self.secrets.join(", ")) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn granted(grant: &str, url: &str) -> bool {
        let grant = HttpGrant::parse(grant).unwrap();
        let uri: http::Uri = url.parse().unwrap();
        Origin::of(&uri).is_ok_and(|origin| grant.covers(&origin, &Method::GET, uri.path()))
    }

    #[test]
    fn origins_are_the_same_in_any_spelling_of_one_place() {
        for url in ["https://api.example.com/", "https://API.Example.com:443/x?y", "HTTPS://api.example.com"] {
            assert!(granted("https://api.example.com", url), "{url}");
        }
        for url in [
            "http://api.example.com/",
            "https://api.example.com:8443/",
            "https://example.com/",
            "https://api.example.com.evil.test/",
            "https://api.example.com./",
            "https://user@api.example.com/",
            "https://api.example.com:443@evil.test/",
        ] {
            assert!(!granted("https://api.example.com", url), "{url}");
        }
        assert!(granted("http://[::1]:8025", "http://[0:0:0:0:0:0:0:1]:8025/"));
        assert!(!granted("http://127.0.0.1", "http://[::ffff:127.0.0.1]/"));
    }

    #[test]
    fn a_path_grants_what_lies_below_it_in_every_reading() {
        for path in ["/v1", "/v1/", "/v1/mails", "/v1/a%20b", "/v1/a%2Fb", "/v1/...", "/v1//x", "/v1?../"] {
            assert!(granted("https://a.test/v1", &format!("https://a.test{path}")), "{path}");
        }
        for path in [
            "",
            "/",
            "/v10",
            "/V1",
            "//v1",
            "/%76%31/x",
            "/v1/../x",
            "/v1/..",
            "/v1/%2e%2e/x",
            "/v1/.%2E/x",
            "/v1/%252e%252e/x",
            "/v1/..%2fx",
            "/v1/..%5cx",
            "/v1/..;a=b/x",
            "/v1/./x",
            "/v1/a%00",
        ] {
            assert!(!granted("https://a.test/v1", &format!("https://a.test{path}")), "{path}");
        }
        assert!(granted("https://a.test/v1/", "https://a.test/v1/x"));
        assert!(!granted("https://a.test/v1/", "https://a.test/v1"));
        assert!(granted("https://a.test", "https://a.test/any/../path"), "a whole origin has no way out");
    }

    /// Where the most obliging server would go: everything is decoded, every separator counts, steps are walked.
    fn walked(path: &str) -> Vec<String> {
        let mut text = path.to_owned();
        loop {
            let decoded = percent_encoding::percent_decode_str(&text).decode_utf8_lossy().into_owned();
            if decoded == text {
                break;
            }
            text = decoded;
        }
        let mut walked: Vec<String> = Vec::new();
        for segment in text.split(['/', '\\']).map(|segment| segment.split(';').next().unwrap_or_default()) {
            match segment {
                "" | "." => {}
                ".." => drop(walked.pop()),
                name => walked.push(name.to_owned()),
            }
        }
        walked
    }

    proptest::proptest! {
        #[test]
        fn no_spelling_leads_out_of_a_granted_path(
            parts in proptest::collection::vec(
                proptest::sample::select(vec![
                    "/v1", "/", "//", ".", "..", "%2e", "%252e", "%2E", "%2f", "%5c", "\\", ";", ";x", "%3b", "%25", "a", "v1",
                    "%00", "%2", "%",
                ]),
                0..8,
            ),
        ) {
            let path = format!("/v1{}", parts.concat());
            let grant = HttpGrant::parse("https://a.test/v1").unwrap();
            if grant.covers(&grant.origin, &Method::GET, &path) {
                let walked = walked(&path);
                proptest::prop_assert_eq!(walked.first().map(String::as_str), Some("v1"), "{}", path);
            }
        }

        #[test]
        fn any_text_is_a_grant_or_none_without_a_panic(text in "(https?://)?[-a-z0-9.:@/\\[\\]%?#_~\u{fc}]{0,40}") {
            if let Ok(grant) = HttpGrant::parse(&text) {
                let again = HttpGrant::parse(&format!("{}{}", grant.origin, grant.path)).unwrap();
                proptest::prop_assert_eq!(again, grant);
            }
        }
    }

    #[test]
    fn methods_narrow_a_grant() {
        let grant = HttpGrant { methods: vec![Method::POST], ..HttpGrant::parse("https://a.test").unwrap() };
        assert!(grant.covers(&grant.origin, &Method::POST, "/"));
        assert!(!grant.covers(&grant.origin, &Method::GET, "/"));
        assert_eq!(grant.to_string(), "POST https://a.test");
        let secrets = vec!["key".to_owned()];
        let grant = HttpGrant { private: true, secrets, ..HttpGrant::parse("http://a.test:81/v1/").unwrap() };
        assert_eq!(grant.to_string(), "http://a.test:81/v1/ (private) with key");
    }

    #[test]
    fn what_has_two_readings_is_no_grant() {
        use UrlError as E;
        let host = |text: &str| text.to_owned();
        for (url, error) in [
            ("api.example.com", E::Scheme),
            ("ftp://a.test", E::Scheme),
            ("https://", E::NoHost),
            ("https://:80", E::NoHost),
            ("https://user:pw@a.test", E::UserInfo),
            ("https://b\u{fc}cher.example", E::NotAscii),
            ("https://a.test.", E::TrailingDot { host: host("a.test.") }),
            ("https://a..test", E::HostName { host: host("a..test") }),
            ("https://*.a.test", E::HostName { host: host("*.a.test") }),
            ("https://%61.test", E::HostName { host: host("%61.test") }),
            ("http://127.1", E::Number { host: host("127.1") }),
            ("http://2130706433", E::Number { host: host("2130706433") }),
            ("http://0x7f000001", E::Number { host: host("0x7f000001") }),
            ("http://0177.0.0.1", E::Number { host: host("0177.0.0.1") }),
            ("http://[::1", E::Port { port: host(":1") }),
            ("http://[fe80::1%25eth0]", E::Ipv6 { text: host("[fe80::1%25eth0]") }),
            ("https://a.test:", E::Port { port: String::new() }),
            ("https://a.test:0", E::Port { port: host("0") }),
            ("https://a.test:+80", E::Port { port: host("+80") }),
            ("https://a.test:65536", E::Port { port: host("65536") }),
            ("https://a.test/?q", E::Query),
            ("https://a.test/v1/..", E::Path { path: host("/v1/..") }),
            ("https://a.test/v1//b", E::Path { path: host("/v1//b") }),
            ("https://a.test/%76", E::Path { path: host("/%76") }),
        ] {
            assert_eq!(HttpGrant::parse(url), Err(error), "{url}");
        }
        assert_eq!(HttpGrant::parse("https://A.test:443/v1").unwrap().origin.to_string(), "https://a.test");
    }
}
