//! What no consumer should do. These functions keep their names, for tests look for them in backtraces.

use sandpost_sdk::Bus;
use std::hint::black_box;
use std::io::Write;

const MIB: usize = 1024 * 1024;

#[inline(never)]
pub(crate) fn told_to_trap(text: &str) -> ! {
    panic!("{text}");
}

#[inline(never)]
pub(crate) fn told_to_exit(code: i32) -> ! {
    std::process::exit(code);
}

#[inline(never)]
pub(crate) fn told_to_spin() -> ! {
    let mut turns: u64 = 0;
    loop {
        turns = black_box(turns.wrapping_add(1));
    }
}

#[inline(never)]
pub(crate) fn told_to_hog() -> ! {
    let mut hoard = Vec::new();
    loop {
        // Written to, so that the pages are really there.
        hoard.push(vec![black_box(1_u8); MIB]);
        black_box(&hoard);
    }
}

#[inline(never)]
pub(crate) fn told_to_recurse() -> ! {
    let depth = recurse(0);
    unreachable!("the stack ended at {depth}");
}

/// Its frame is read after the call, so no compiler can make a loop of it.
#[inline(never)]
#[expect(unconditional_recursion, reason = "that is what it is for")]
fn recurse(depth: u64) -> u64 {
    let frame = black_box([depth; 32]);
    let deeper = recurse(depth + 1);
    deeper + frame[black_box(7)]
}

pub(crate) fn leak(bytes: usize) {
    black_box(vec![black_box(1_u8); bytes].leak());
}

pub(crate) fn flood_log(bus: &Bus, lines: u64, bytes: usize) {
    let line = "x".repeat(bytes);
    for _ in 0..lines {
        bus.info(&line);
    }
}

/// A pipe that is closed or full is no failure of the call: it is not what is tested.
pub(crate) fn flood_stdout(lines: u64, bytes: usize) {
    flood(&mut std::io::stdout().lock(), lines, bytes);
}

pub(crate) fn flood_stderr(lines: u64, bytes: usize) {
    flood(&mut std::io::stderr().lock(), lines, bytes);
}

fn flood(out: &mut impl Write, lines: u64, bytes: usize) {
    let line = "x".repeat(bytes) + "\n";
    for _ in 0..lines {
        if out.write_all(line.as_bytes()).is_err() {
            return;
        }
    }
}
