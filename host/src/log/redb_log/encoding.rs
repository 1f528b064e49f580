//! How numbers and texts are spelled in stored values.
//!
//! A number is a LEB128 varint. Bytes are their length and themselves; a text is its UTF-8 bytes. What
//! may be absent is 0, or 1 and the value. A signed number is zigzag coded. Values follow each other
//! without tags: the format version in the `meta` table says which layout they have.

/// Stored bytes that are no value of the expected kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub(super) struct Malformed(pub(super) &'static str);

pub(super) fn put_number(out: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        out.push(number as u8 | 0x80);
        number >>= 7;
    }
    out.push(number as u8);
}

pub(super) fn put_signed(out: &mut Vec<u8>, number: i64) {
    put_number(out, ((number << 1) ^ (number >> 63)) as u64);
}

pub(super) fn put_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    put_number(out, bytes.len() as u64);
    out.extend_from_slice(bytes);
}

pub(super) fn put_text(out: &mut Vec<u8>, text: &str) {
    put_bytes(out, text.as_bytes());
}

pub(super) fn put_optional_text(out: &mut Vec<u8>, text: Option<&str>) {
    out.push(u8::from(text.is_some()));
    if let Some(text) = text {
        put_text(out, text);
    }
}

/// Bytes that [`put_number`] takes for a number.
pub(super) fn number_bytes(number: u64) -> usize {
    (64 - (number | 1).leading_zeros() as usize).div_ceil(7)
}

/// Reads values back, one after the other.
#[derive(Clone, Copy)]
pub(super) struct Decoder<'a> {
    rest: &'a [u8],
}

impl<'a> Decoder<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes }
    }

    pub(super) fn byte(&mut self) -> Result<u8, Malformed> {
        let (first, rest) = self.rest.split_first().ok_or(Malformed("it ends early"))?;
        self.rest = rest;
        Ok(*first)
    }

    pub(super) fn number(&mut self) -> Result<u64, Malformed> {
        let mut number = 0u64;
        for shift in (0..64).step_by(7) {
            let byte = self.byte()?;
            let bits = u64::from(byte & 0x7f);
            if shift == 63 && bits > 1 {
                return Err(Malformed("a number is too large"));
            }
            number |= bits << shift;
            if byte & 0x80 == 0 {
                return Ok(number);
            }
        }
        Err(Malformed("a number is too long"))
    }

    pub(super) fn small(&mut self) -> Result<u32, Malformed> {
        u32::try_from(self.number()?).map_err(|_| Malformed("a number is too large"))
    }

    pub(super) fn signed(&mut self) -> Result<i64, Malformed> {
        let number = self.number()?;
        Ok((number >> 1) as i64 ^ -((number & 1) as i64))
    }

    /// A number of entries that follow. Each takes a byte at least, so that damage cannot ask for memory.
    pub(super) fn count(&mut self) -> Result<usize, Malformed> {
        let count = self.number()?;
        if count > self.rest.len() as u64 {
            return Err(Malformed("it counts more entries than it has bytes"));
        }
        Ok(count as usize)
    }

    pub(super) fn flag(&mut self) -> Result<bool, Malformed> {
        match self.byte()? {
            0 => Ok(false),
            1 => Ok(true),
            _ => Err(Malformed("a flag is neither 0 nor 1")),
        }
    }

    pub(super) fn take(&mut self, length: usize) -> Result<&'a [u8], Malformed> {
        let (taken, rest) = self.rest.split_at_checked(length).ok_or(Malformed("it ends early"))?;
        self.rest = rest;
        Ok(taken)
    }

    pub(super) fn bytes(&mut self) -> Result<&'a [u8], Malformed> {
        let length = self.count()?;
        self.take(length)
    }

    pub(super) fn text(&mut self) -> Result<&'a str, Malformed> {
        std::str::from_utf8(self.bytes()?).map_err(|_| Malformed("a text is not UTF-8"))
    }

    pub(super) fn owned_text(&mut self) -> Result<String, Malformed> {
        self.text().map(str::to_owned)
    }

    pub(super) fn optional_text(&mut self) -> Result<Option<String>, Malformed> {
        if self.flag()? { self.owned_text().map(Some) } else { Ok(None) }
    }

    /// All that follows.
    pub(super) fn remaining(self) -> &'a [u8] {
        self.rest
    }

    /// That nothing follows.
    pub(super) fn end(self) -> Result<(), Malformed> {
        if self.rest.is_empty() { Ok(()) } else { Err(Malformed("it has more bytes than its value")) }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn numbers_and_texts_come_back(number: u64, signed: i64, text in ".{0,20}", absent: bool) {
            let mut out = Vec::new();
            put_number(&mut out, number);
            prop_assert_eq!(out.len(), number_bytes(number));
            put_signed(&mut out, signed);
            put_text(&mut out, &text);
            put_optional_text(&mut out, (!absent).then_some(&*text));
            let mut decoder = Decoder::new(&out);
            prop_assert_eq!(decoder.number(), Ok(number));
            prop_assert_eq!(decoder.signed(), Ok(signed));
            prop_assert_eq!(decoder.text(), Ok(&*text));
            prop_assert_eq!(decoder.optional_text(), Ok((!absent).then(|| text.clone())));
            prop_assert_eq!(decoder.end(), Ok(()));
        }
    }

    #[test]
    fn what_is_no_number_is_refused() {
        assert!(Decoder::new(&[0x80]).number().is_err());
        assert!(Decoder::new(&[0xff; 11]).number().is_err());
        let mut past = [0xff; 10];
        past[9] = 2;
        assert!(Decoder::new(&past).number().is_err());
        past[9] = 1;
        assert_eq!(Decoder::new(&past).number(), Ok(u64::MAX));
    }

    #[test]
    fn a_count_past_the_bytes_asks_for_no_memory() {
        let mut out = Vec::new();
        put_number(&mut out, 1 << 40);
        assert!(Decoder::new(&out).count().is_err());
    }
}
