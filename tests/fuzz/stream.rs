//! The target: libFuzzer brings the bytes.

#![no_main]

mod conversation;

libfuzzer_sys::fuzz_target!(|input: &[u8]| conversation::run(input));
