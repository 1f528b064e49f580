//! Stored values: whatever stands in the file under a right checksum is read or refused, and what is read is written
//! again as the same.
//!
//! An input is a letter for the layout, the part of the key that decoding needs, and the value: see the host's
//! `log/redb_log/recode.rs`, whose test writes the corpus.

#![no_main]

use libfuzzer_sys::{Corpus, fuzz_target};
use sandpost::fuzzing::recode;

fuzz_target!(|case: &[u8]| -> Corpus {
    let Some((written, meaning)) = recode(case) else {
        // What is refused is worth keeping where it gets further than what was there before.
        return Corpus::Keep;
    };
    let (again, meant) = recode(&written).expect("what was written is read");
    assert_eq!(meant, meaning, "what is read is what was written");
    assert_eq!(again, written, "a value is written in one way");
    Corpus::Keep
});
