//! Loopback is not authentication: any web page can make a browser on this machine send requests here.
//!
//! Three things that a browser cannot forge are checked before anything else. The `Host` must be ours,
//! which stops DNS rebinding. An `Origin` must be listed, and a request that says `Sec-Fetch-Site:
//! cross-site` must come from a listed one, which stops other sites. Programs send neither header.

use std::net::SocketAddr;
use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::header::{
    ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS, ACCESS_CONTROL_ALLOW_ORIGIN,
    ACCESS_CONTROL_REQUEST_METHOD, HOST, ORIGIN, VARY,
};
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, Uri};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};

use super::problem::Problem;

/// Who may ask.
#[derive(Clone, Debug)]
pub(crate) struct Allowed {
    /// `name` (with any port) or `name:port`, lower case.
    hosts: Vec<String>,
    /// `scheme://name[:port]`, lower case.
    origins: Vec<String>,
}

/// Why a request is refused before it is looked at.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Refusal {
    #[error("the request names no host")]
    NoHost,
    #[error("the request was sent to the host `{host}`, which is not a name of this bus")]
    Host { host: String },
    #[error("pages of the origin `{origin}` may not use this bus")]
    Origin { origin: String },
    #[error("the request comes from a page of another site")]
    CrossSite,
}

impl Allowed {
    /// The bound address and the names of loopback, each with its port, and what was configured.
    pub(crate) fn new(bound: SocketAddr, hosts: &[String], origins: &[String]) -> Self {
        let port = bound.port();
        let mut allowed =
            vec![bound.to_string(), format!("localhost:{port}"), format!("127.0.0.1:{port}"), format!("[::1]:{port}")];
        if port == 80 {
            // The port that need not be said.
            allowed.extend(["localhost", "127.0.0.1", "[::1]"].map(str::to_owned));
        }
        allowed.extend(hosts.iter().map(|host| host.to_ascii_lowercase()));
        Self { hosts: allowed, origins: origins.iter().map(|origin| origin.to_ascii_lowercase()).collect() }
    }

    pub(crate) fn judge(&self, uri: &Uri, headers: &HeaderMap) -> Result<(), Refusal> {
        let mut hosts = headers.get_all(HOST).iter();
        let host = match (uri.authority(), hosts.next()) {
            (Some(authority), _) => authority.as_str().to_ascii_lowercase(),
            (None, Some(host)) => lower(host),
            (None, None) => return Err(Refusal::NoHost),
        };
        if hosts.next().is_some() || !self.knows_host(&host) {
            return Err(Refusal::Host { host });
        }
        let mut listed = false;
        for origin in headers.get_all(ORIGIN) {
            let origin = lower(origin);
            if !self.origins.contains(&origin) {
                return Err(Refusal::Origin { origin });
            }
            listed = true;
        }
        // A listed origin's own requests are cross-site, and meant.
        let cross = headers.get_all("sec-fetch-site").iter().any(|site| lower(site) == "cross-site");
        if cross && !listed { Err(Refusal::CrossSite) } else { Ok(()) }
    }

    fn knows_host(&self, host: &str) -> bool {
        // An IPv6 address holds colons of its own, but within brackets.
        let name = match host.rsplit_once(':') {
            Some((name, _)) if !name.contains(':') || name.ends_with(']') => name,
            _ => host,
        };
        self.hosts.iter().any(|allowed| allowed == host || allowed == name)
    }
}

fn lower(value: &HeaderValue) -> String {
    String::from_utf8_lossy(value.as_bytes()).trim().to_ascii_lowercase()
}

/// The guard in front of every route.
pub(crate) async fn check(State(allowed): State<Arc<Allowed>>, request: Request, next: Next) -> Response {
    if let Err(refusal) = allowed.judge(request.uri(), request.headers()) {
        tracing::warn!(method = %request.method(), path = request.uri().path(), "refused: {refusal}");
        return Problem::from(refusal).into_response();
    }
    let origin = request.headers().get(ORIGIN).cloned();
    let preflight =
        request.method() == Method::OPTIONS && request.headers().contains_key(ACCESS_CONTROL_REQUEST_METHOD);
    let mut response = match (&origin, preflight) {
        (Some(_), true) => {
            let headers = [
                (ACCESS_CONTROL_ALLOW_METHODS, HeaderValue::from_static("GET, POST, DELETE")),
                (ACCESS_CONTROL_ALLOW_HEADERS, HeaderValue::from_static("*")),
            ];
            (StatusCode::NO_CONTENT, headers).into_response()
        }
        _ => next.run(request).await,
    };
    if let Some(origin) = origin {
        // Without this a browser keeps the answer from the page that was allowed to ask.
        response.headers_mut().insert(ACCESS_CONTROL_ALLOW_ORIGIN, origin);
        response.headers_mut().append(VARY, HeaderValue::from_static("Origin"));
    }
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    fn judge(uri: &str, headers: &[(&'static str, &str)]) -> Result<(), Refusal> {
        let allowed = Allowed::new(
            "127.0.0.2:7480".parse().unwrap(),
            &["Bus.local".to_owned(), "forwarded:8080".to_owned()],
            &["http://shop.example:3000".to_owned()],
        );
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.append(*name, HeaderValue::from_str(value).unwrap());
        }
        allowed.judge(&uri.parse().unwrap(), &map)
    }

    #[test]
    fn only_hosts_of_the_bus_are_served() {
        for host in [
            "127.0.0.2:7480",
            "127.0.0.1:7480",
            "localhost:7480",
            "LOCALHOST:7480",
            "[::1]:7480",
            "bus.local",
            "bus.local:99",
            "forwarded:8080",
        ] {
            assert_eq!(judge("/topics", &[("host", host)]), Ok(()), "{host}");
        }
        for host in [
            "evil.example",
            "evil.example:7480",
            "localhost",
            "localhost:7481",
            "[::1]",
            "[::2]:7480",
            "forwarded",
            "forwarded:7480",
            "bus.local.evil.example",
            "localhost:7480.evil.example",
            "bus.local:7480:7480",
            "",
        ] {
            let refusal = Err(Refusal::Host { host: host.to_owned() });
            assert_eq!(judge("/topics", &[("host", host)]), refusal, "{host}");
        }
        assert_eq!(judge("/topics", &[]), Err(Refusal::NoHost));
    }

    #[test]
    fn a_second_host_or_an_absolute_target_does_not_get_round_the_check() {
        let twice = [("host", "localhost:7480"), ("host", "evil.example")];
        assert!(matches!(judge("/topics", &twice), Err(Refusal::Host { .. })));
        let target = judge("http://evil.example/topics", &[("host", "localhost:7480")]);
        assert_eq!(target, Err(Refusal::Host { host: "evil.example".to_owned() }));
    }

    #[test]
    fn only_listed_origins_are_served() {
        let judge = |origin| judge("/topics", &[("host", "localhost:7480"), ("origin", origin)]);
        assert_eq!(judge("http://shop.example:3000"), Ok(()));
        assert_eq!(judge("HTTP://SHOP.example:3000"), Ok(()));
        for origin in ["http://shop.example", "https://shop.example:3000", "null", "http://localhost:7480"] {
            let refusal = Err(Refusal::Origin { origin: origin.to_ascii_lowercase() });
            assert_eq!(judge(origin), refusal, "{origin}");
        }
    }

    #[test]
    fn a_cross_site_request_needs_a_listed_origin() {
        let host = ("host", "localhost:7480");
        assert_eq!(judge("/", &[host, ("sec-fetch-site", "cross-site")]), Err(Refusal::CrossSite));
        assert_eq!(judge("/", &[host, ("sec-fetch-site", "Cross-Site")]), Err(Refusal::CrossSite));
        for site in ["none", "same-origin", "same-site"] {
            assert_eq!(judge("/", &[host, ("sec-fetch-site", site)]), Ok(()), "{site}");
        }
        let listed = [host, ("sec-fetch-site", "cross-site"), ("origin", "http://shop.example:3000")];
        assert_eq!(judge("/", &listed), Ok(()));
    }
}
