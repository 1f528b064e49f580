//! Uploads in, previews out, under the manifest of the example.

use sandpost_sdk::HttpResponse;
use sandpost_sdk::prelude::*;
use sandpost_sdk::testing::{Settlement, TestBus, message, response};
use transcoder::{CONTENT_TYPE, Frame, handle};

const ADDRESS: &str = "http://127.0.0.1:8000/uploads/u-1.pgm";

/// A store that answers so.
fn bus(status: u16, body: &[u8]) -> TestBus {
    let body = body.to_vec();
    TestBus::with_manifest(include_str!("../transcoder.toml")).http(move |request| {
        assert_eq!((request.method.as_str(), request.url.as_str()), ("GET", ADDRESS));
        Ok(HttpResponse { body: body.clone(), ..response(status) })
    })
}

fn uploaded() -> Message {
    let attributes = vec![("dataref".to_owned(), ADDRESS.to_owned())];
    Message { subject: Some("u-1".into()), attributes, ..message("video.uploaded", "") }
}

fn grey(width: usize, height: usize, shade: u8) -> Vec<u8> {
    let mut video = Vec::new();
    Frame { width, height, pixels: vec![shade; width * height].into() }.write(&mut video);
    video
}

#[test]
fn a_preview_has_the_same_frames_with_fewer_pixels() {
    let run = bus(200, &[grey(8, 8, 7), grey(8, 4, 9)].concat()).deliver(handle, &uploaded());
    assert_eq!(run.outcome, Ok(()));
    let [preview] = &run.published[..] else { panic!("{run:?}") };
    assert_eq!((preview.topic.as_str(), preview.subject.as_deref()), ("video.preview", Some("u-1")));
    assert_eq!(preview.content_type.as_deref(), Some(CONTENT_TYPE));
    assert_eq!(preview.data, [grey(2, 2, 7), grey(2, 1, 9)].concat());
}

#[test]
fn a_store_that_is_down_is_waited_for() {
    let run = bus(503, b"").deliver(handle, &uploaded());
    assert!(matches!(run.outcome, Err(Failure::Unavailable(_))), "{run:?}");
}

#[test]
fn what_is_no_video_is_rejected() {
    let (settlement, _) = bus(200, b"GIF89a").settle(handle, &uploaded());
    let Settlement::Dead(reason) = settlement else { panic!("{settlement:?}") };
    assert!(reason.starts_with(ADDRESS) && reason.contains("byte 0"), "{reason}");
    let run = bus(200, b"").deliver(handle, &message("video.uploaded", ""));
    assert_eq!(run.outcome, Err(Failure::reject("an upload without a dataref")));
}
