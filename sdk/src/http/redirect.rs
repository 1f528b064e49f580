//! What a redirect asks for: another request.

use super::{HttpRequest, HttpResponse};

/// The request that a response redirects to, if it does.
pub(super) fn next(request: &HttpRequest, response: &HttpResponse) -> Option<HttpRequest> {
    let keeps_method = match response.status {
        301 | 302 => matches!(request.method.as_str(), "GET" | "HEAD"),
        303 => request.method == "HEAD",
        307 | 308 => true,
        _ => return None,
    };
    let url = joined(&request.url, response.header("location")?.trim());
    let mut next = HttpRequest { url, ..request.clone() };
    if !keeps_method {
        next.method = "GET".to_owned();
        next.body = Vec::new();
        next.headers.retain(|(name, _)| !name.eq_ignore_ascii_case("content-type"));
    }
    if origin(&next.url) != origin(&request.url) {
        next.headers.retain(|(name, _)| !name.eq_ignore_ascii_case("authorization"));
    }
    Some(next)
}

/// Scheme and authority of a URL.
fn origin(url: &str) -> &str {
    let authority = url.find("://").map_or(0, |at| at + 3);
    let length = url[authority..].find(['/', '?', '#']).unwrap_or(url.len() - authority);
    &url[..authority + length]
}

/// A reference as it is meant beside the URL that it was found at. Steps up stay in the path as they are: whoever
/// checks the request knows what to make of them.
fn joined(base: &str, reference: &str) -> String {
    let reference = reference.split('#').next().unwrap_or_default();
    let is_scheme =
        |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"+-.".contains(&b));
    if reference.split_once("://").is_some_and(|(scheme, _)| is_scheme(scheme)) {
        return reference.to_owned();
    }
    let origin = origin(base);
    let path = base[origin.len()..].split(['?', '#']).next().unwrap_or_default();
    if reference.starts_with("//") {
        let scheme = origin.split("//").next().unwrap_or_default();
        format!("{scheme}{reference}")
    } else if reference.starts_with('/') {
        format!("{origin}{reference}")
    } else if reference.starts_with('?') || reference.is_empty() {
        format!("{origin}{path}{reference}")
    } else {
        let folder = path.rfind('/').map_or("/", |at| &path[..=at]);
        format!("{origin}{folder}{reference}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn request(method: &str) -> HttpRequest {
        HttpRequest {
            method: method.to_owned(),
            url: "https://a.test/v1/mails?x=1".to_owned(),
            headers: vec![("Authorization".to_owned(), "k".to_owned()), ("Content-Type".to_owned(), "t".to_owned())],
            body: b"body".to_vec(),
            timeout: Duration::from_secs(1),
        }
    }

    fn response(status: u16, location: &str) -> HttpResponse {
        let headers = vec![("location".to_owned(), location.to_owned())];
        HttpResponse { status, headers, body: Vec::new(), url: String::new() }
    }

    #[test]
    fn references_are_joined_to_where_they_were_found() {
        for (reference, expected) in [
            ("http://b.test/x#y", "http://b.test/x"),
            ("//b.test/x", "https://b.test/x"),
            ("/x?u=http://c", "https://a.test/x?u=http://c"),
            ("x", "https://a.test/v1/x"),
            ("?y", "https://a.test/v1/mails?y"),
            ("../x", "https://a.test/v1/../x"),
        ] {
            assert_eq!(joined("https://a.test/v1/mails?x=1", reference), expected);
        }
        assert_eq!(joined("https://a.test", "x"), "https://a.test/x");
    }

    #[test]
    fn a_see_other_is_fetched_and_a_temporary_redirect_is_sent_again() {
        let next = next_of("POST", 303, "/done");
        assert_eq!((next.method.as_str(), next.body.len(), next.headers.len()), ("GET", 0, 1));
        let next = next_of("POST", 307, "/again");
        assert_eq!((next.method.as_str(), next.body.len(), next.headers.len()), ("POST", 4, 2));
        assert_eq!(super::next(&request("GET"), &response(200, "/x")), None);
    }

    #[test]
    fn a_key_does_not_go_to_another_host() {
        assert!(next_of("GET", 302, "/x").headers.iter().any(|(name, _)| name == "Authorization"));
        for elsewhere in ["https://b.test/x", "http://a.test/x", "https://a.test:8443/x", "https://a.test.b.test"] {
            let next = next_of("GET", 302, elsewhere);
            assert!(!next.headers.iter().any(|(name, _)| name == "Authorization"), "{elsewhere}");
        }
    }

    fn next_of(method: &str, status: u16, location: &str) -> HttpRequest {
        next(&request(method), &response(status, location)).unwrap()
    }
}
