//! Makes small previews of large videos.
//!
//! A video is far too large for a message. So it lies in a store, and the message `video.uploaded` has its address as
//! the CloudEvents attribute `dataref`. The consumer fetches it from there, which its manifest grants, shrinks every
//! frame, and publishes the result as `video.preview`, which is small enough.
//!
//! While the store does not answer, uploads wait and are not charged an attempt. What is no video is a dead letter.

mod frames;

pub use frames::{Broken, Frame, Frames};

use sandpost_sdk::prelude::*;

/// The content type of videos and previews: frames in the format PGM, one after the other.
pub const CONTENT_TYPE: &str = "image/x-portable-graymap";

/// Fetches an upload, and publishes its preview.
pub fn handle(message: &Message, bus: &Bus) -> Result<(), Failure> {
    let address = message.attribute("dataref").or_reject("an upload without a dataref")?;
    let video = bus.http().get(address).send()?.ok()?.body;
    let preview = preview(&video, bus.config_or("shrink", 4)?).or_reject(address)?;
    let mut event = Event::bytes("video.preview", preview).content_type(CONTENT_TYPE);
    event.subject.clone_from(&message.subject);
    bus.publish(event)?;
    Ok(())
}

sandpost_sdk::consumer!(handle);

/// A video with `shrink` times fewer pixels in each direction.
///
/// # Errors
/// Where it is no video.
pub fn preview(video: &[u8], shrink: usize) -> Result<Vec<u8>, Broken> {
    let mut preview = Vec::new();
    for frame in Frames::of(video) {
        frame?.shrunk(shrink).write(&mut preview);
    }
    if preview.is_empty() { Err(Broken::NoFrame) } else { Ok(preview) }
}
