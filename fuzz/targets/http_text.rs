//! Requests as people write them: a line, headers, an empty line, and the body. What is no header is left out, so that
//! an input means something whatever was changed in it.

use http::{HeaderMap, HeaderName, HeaderValue};

/// Headers, and the body behind an empty line.
pub fn message(mut text: &[u8]) -> (HeaderMap, &[u8]) {
    let mut headers = HeaderMap::new();
    while let Some((line, rest)) = line(text) {
        text = rest;
        if line.is_empty() {
            break;
        }
        let Some(colon) = line.iter().position(|byte| *byte == b':') else { continue };
        let name = HeaderName::from_bytes(line[..colon].trim_ascii());
        let value = HeaderValue::from_bytes(line[colon + 1..].trim_ascii());
        if let (Ok(name), Ok(value)) = (name, value) {
            headers.append(name, value);
        }
    }
    (headers, text)
}

/// The first line, and what follows it.
pub fn line(text: &[u8]) -> Option<(&[u8], &[u8])> {
    if text.is_empty() {
        return None;
    }
    let end = text.iter().position(|byte| *byte == b'\n').unwrap_or(text.len());
    let line = text[..end].strip_suffix(b"\r").unwrap_or(&text[..end]);
    Some((line, text.get(end + 1..).unwrap_or_default()))
}
