//! Frames of grey pixels in the format PGM: `P5 WIDTH HEIGHT 255`, a line feed, and a byte for each pixel. A video is
//! one after the other.

use std::borrow::Cow;
use std::fmt;

/// A picture.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame<'a> {
    /// Pixels in a row.
    pub width: usize,
    /// Rows.
    pub height: usize,
    /// Row by row, 0 is black and 255 is white.
    pub pixels: Cow<'a, [u8]>,
}

/// Why this is no video.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Broken {
    /// There is nothing.
    NoFrame,
    /// What should be a frame's head is none, at this byte.
    Head {
        /// The first byte of the head.
        at: usize,
    },
    /// The last frame has fewer pixels than its head says.
    Cut {
        /// Pixels that it should have.
        pixels: usize,
        /// Pixels that are there.
        found: usize,
    },
}

impl fmt::Display for Broken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoFrame => write!(f, "there is no frame"),
            Self::Head { at } => write!(f, "byte {at} does not begin a frame: `P5 WIDTH HEIGHT 255` does"),
            Self::Cut { pixels, found } => write!(f, "the last frame has {found} of its {pixels} pixels"),
        }
    }
}

impl std::error::Error for Broken {}

impl Frame<'_> {
    /// Each pixel is the mean of a square of them. What does not fill a square at the right and below is left out.
    #[must_use]
    pub fn shrunk(&self, by: usize) -> Frame<'static> {
        let by = by.clamp(1, self.width.min(self.height).max(1));
        let (width, height) = (self.width / by, self.height / by);
        let mut pixels = Vec::with_capacity(width * height);
        for y in 0..height {
            for x in 0..width {
                let rows = (y * by..(y + 1) * by).map(|row| &self.pixels[row * self.width + x * by..][..by]);
                let sum: usize = rows.flatten().map(|pixel| usize::from(*pixel)).sum();
                // The mean of bytes is one.
                pixels.push((sum / (by * by)) as u8);
            }
        }
        Frame { width, height, pixels: pixels.into() }
    }

    /// Appends it to a video.
    pub fn write(&self, video: &mut Vec<u8>) {
        video.extend(format!("P5 {} {} 255\n", self.width, self.height).as_bytes());
        video.extend(&*self.pixels);
    }
}

/// The frames of a video. It ends after its first error.
pub struct Frames<'a> {
    video: &'a [u8],
    at: usize,
}

impl<'a> Frames<'a> {
    /// Of a video in this form.
    #[must_use]
    pub fn of(video: &'a [u8]) -> Self {
        Self { video, at: 0 }
    }

    fn head(&self) -> Option<(usize, usize, usize)> {
        let end = self.video[self.at..].iter().take(40).position(|byte| *byte == b'\n')? + self.at;
        let mut words = std::str::from_utf8(&self.video[self.at..end]).ok()?.split(' ');
        let is_grey = words.next() == Some("P5");
        let (width, height) = (words.next()?.parse().ok()?, words.next()?.parse().ok()?);
        (is_grey && words.next() == Some("255") && words.next().is_none()).then_some((width, height, end + 1))
    }

    fn frame(&mut self) -> Result<Frame<'a>, Broken> {
        let (width, height, begin) = self.head().ok_or(Broken::Head { at: self.at })?;
        let left = &self.video[begin..];
        let pixels = width.checked_mul(height).ok_or(Broken::Head { at: self.at })?;
        let pixels = left.get(..pixels).ok_or(Broken::Cut { pixels, found: left.len() })?;
        self.at = begin + pixels.len();
        Ok(Frame { width, height, pixels: pixels.into() })
    }
}

impl<'a> Iterator for Frames<'a> {
    type Item = Result<Frame<'a>, Broken>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.at == self.video.len() {
            return None;
        }
        let frame = self.frame();
        if frame.is_err() {
            self.at = self.video.len();
        }
        Some(frame)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_pixel_is_the_mean_of_a_square() {
        let pixels = vec![0, 2, 10, 30, 9, 4, 6, 20, 40, 9, 1, 1, 1, 1, 9];
        let frame = Frame { width: 5, height: 3, pixels: pixels.into() };
        assert_eq!(frame.shrunk(2), Frame { width: 2, height: 1, pixels: vec![3, 25].into() });
        assert_eq!(frame.shrunk(1), frame);
        assert_eq!(frame.shrunk(99).pixels.len(), 1);
    }

    #[test]
    fn what_was_written_is_read() {
        let frames = [(2, 1, vec![1, 2]), (1, 2, vec![b'\n', b'P'])].map(|(width, height, pixels)| Frame {
            width,
            height,
            pixels: Cow::<[u8]>::Owned(pixels),
        });
        let mut video = Vec::new();
        frames.iter().for_each(|frame| frame.write(&mut video));
        let read: Vec<_> = Frames::of(&video).collect();
        assert_eq!(read, frames.map(Ok));
    }

    #[test]
    fn what_is_no_video_is_named() {
        let first = |video: &[u8]| Frames::of(video).next().map(|frame| frame.map(|_| ()));
        assert_eq!(first(b""), None);
        for video in [&b"GIF89a"[..], b"P5 2 2\n", b"P5 2 x 255\n", b"P6 2 2 255\n", b"P5 2 2 255 7\n"] {
            assert_eq!(first(video), Some(Err(Broken::Head { at: 0 })), "{video:?}");
        }
        assert_eq!(first(b"P5 2 2 255\nabc"), Some(Err(Broken::Cut { pixels: 4, found: 3 })));
        let huge = format!("P5 {0} {0} 255\n", usize::MAX);
        assert_eq!(first(huge.as_bytes()), Some(Err(Broken::Head { at: 0 })));
    }
}
