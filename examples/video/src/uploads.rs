//! What is uploaded: short films of a light that moves, and one file that is none.

use std::fs;
use std::path::Path;

use anyhow::Result;
use transcoder::Frame;

const WIDTH: usize = 320;
const HEIGHT: usize = 180;
/// Together with the size of a frame, more than a message may have.
const FRAMES: usize = 20;

/// An upload: the name of its file, and what its preview must be.
pub(crate) struct Upload {
    pub(crate) name: String,
    /// `None` where it is no video.
    pub(crate) preview: Option<Vec<u8>>,
}

/// Writes uploads into a folder. The last one is no video.
///
/// # Errors
/// Where the folder cannot be written to.
pub(crate) fn write(folder: &Path, count: usize, shrink: usize) -> Result<Vec<Upload>> {
    let mut uploads = Vec::new();
    for number in 1..count {
        let (name, video) = (format!("film-{number:03}.pgm"), film(number));
        fs::write(folder.join(&name), &video)?;
        uploads.push(Upload { name, preview: Some(transcoder::preview(&video, shrink)?) });
    }
    let name = "holiday.txt".to_owned();
    fs::write(folder.join(&name), "This was meant to be a film.\n")?;
    uploads.push(Upload { name, preview: None });
    Ok(uploads)
}

/// A light that moves from left to right, at another height in each film.
fn film(number: usize) -> Vec<u8> {
    let mut video = Vec::new();
    for frame in 0..FRAMES {
        let (light_x, light_y) = (WIDTH * frame / FRAMES, number * 37 % HEIGHT);
        let pixel = |at: usize| {
            let (x, y) = (at % WIDTH, at / WIDTH);
            let distance = x.abs_diff(light_x) + y.abs_diff(light_y);
            // Some grain, so that no two pixels are the same by rule.
            255 - (distance / 2 + (x * 7 + y * 13 + frame * 5) % 11).min(255) as u8
        };
        let pixels = (0..WIDTH * HEIGHT).map(pixel).collect();
        Frame { width: WIDTH, height: HEIGHT, pixels }.write(&mut video);
    }
    video
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn films_are_too_large_for_a_message_and_differ() {
        assert!(film(1).len() > 1 << 20);
        assert_ne!(film(1), film(2));
        assert!(transcoder::preview(&film(1), 4).unwrap().len() < 1 << 17);
    }
}
