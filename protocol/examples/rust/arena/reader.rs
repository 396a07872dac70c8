// SPDX-License-Identifier: Apache-2.0
//! Wait for the values of a name in an arena; each is held while it is looked at, and let go of when it is dropped.
//!
//!     SHM_INCLUDE=$(python -m shmprotocol --include) cargo build --release
//!     shmclient exec --region camera -- target/release/arena_reader camera front 10
//!
//! The protocol of holds is that of shm_arena.h, which build.rs compiles. Prints what ../../cpp/arena_reader.cpp prints.
//! Exit codes: 0, 1 no value came for ten seconds, 2 wrong usage, 3 the arena cannot be read.

use std::ffi::{c_char, c_int, c_void, CString};
use std::io::{Error, ErrorKind, Result};
use std::mem::{size_of, MaybeUninit};
use std::time::Duration;
use std::{env, process, ptr, slice};

/// `struct shm_arena_value`.
#[repr(C)]
struct Raw {
    data: *const u8,
    size: u64,
    description: *const c_void,
    description_size: u64,
    root: u64,
    root_size: u64,
    generation: u64,
    published_ns: u64,
    word: u64,
    entry: u32,
    flags: u32,
    hold: *mut c_void,
}
const _: () = assert!(size_of::<Raw>() == 88);

extern "C" {
    fn reader_open(name: *const c_char, out: *mut *mut c_void) -> c_int;
    fn reader_await(
        reader: *mut c_void,
        name: *const c_char,
        size: usize,
        after: u64,
        wait_ns: i64,
        out: *mut Raw,
    ) -> c_int;
    fn reader_release(reader: *mut c_void, value: *const Raw);
    fn reader_close(reader: *mut c_void);
}

fn checked(code: c_int) -> Result<()> {
    if code == 0 {
        Ok(())
    } else {
        Err(Error::from_raw_os_error(-code))
    }
}

/// An arena that this program inherited, and the words that say which of its values are held. It is for one thread: a raw
/// pointer is neither Send nor Sync.
struct Arena {
    reader: *mut c_void,
}

impl Arena {
    fn open(name: &str) -> Result<Arena> {
        let name = CString::new(name)?;
        let mut reader = ptr::null_mut();
        // SAFETY: the name ends with a zero, and `reader` is written if the result is 0.
        checked(unsafe { reader_open(name.as_ptr(), &mut reader) })?;
        Ok(Arena { reader })
    }

    /// The value of a name once its generation is greater than `after`; ErrorKind::TimedOut.
    fn wait(&self, name: &str, after: u64, wait: Duration) -> Result<Value<'_>> {
        let wait_ns = i64::try_from(wait.as_nanos()).unwrap_or(i64::MAX);
        let mut raw = MaybeUninit::uninit();
        // SAFETY: the reader lives as long as self, and `raw` is whole if the result is 0.
        let raw = unsafe {
            checked(reader_await(self.reader, name.as_ptr().cast(), name.len(), after, wait_ns, raw.as_mut_ptr()))?;
            raw.assume_init()
        };
        Ok(Value { arena: self, raw })
    }
}

impl Drop for Arena {
    fn drop(&mut self) {
        // SAFETY: values borrow the arena, so none is left.
        unsafe { reader_close(self.reader) };
    }
}

/// A value that does not change, and whose memory is not used again, until this is dropped.
struct Value<'a> {
    arena: &'a Arena,
    raw: Raw,
}

impl Value<'_> {
    fn bytes(&self) -> &[u8] {
        if self.raw.size == 0 {
            return &[];
        }
        // SAFETY: the hold keeps the owner from writing there, and the header has checked that it lies in the arena.
        unsafe { slice::from_raw_parts(self.raw.data, self.raw.size as usize) }
    }
}

impl Drop for Value<'_> {
    fn drop(&mut self) {
        // SAFETY: it is held, by the reader that took it, and by nobody else.
        unsafe { reader_release(self.arena.reader, &self.raw) };
    }
}

fn show(arena: &str, name: &str, count: u64) -> Result<()> {
    let arena = Arena::open(arena)?;
    let mut after = 0;
    for _ in 0..count {
        let value = arena.wait(name, after, Duration::from_secs(10))?;
        let sum: u64 = value.bytes().iter().map(|byte| u64::from(*byte)).sum();
        println!("{} {} {sum}", value.raw.generation, value.bytes().len());
        after = value.raw.generation;
    }
    Ok(())
}

fn main() {
    let arguments: Vec<String> = env::args().collect();
    let count = arguments.get(3).map_or(Ok(u64::MAX), |text| text.parse());
    let (3..=4, Ok(count)) = (arguments.len(), count) else {
        eprintln!("usage: arena_reader ARENA NAME [COUNT]");
        process::exit(2)
    };
    if let Err(error) = show(&arguments[1], &arguments[2], count) {
        eprintln!("arena_reader: {}: {error}", arguments[1]);
        process::exit(if error.kind() == ErrorKind::TimedOut { 1 } else { 3 })
    }
}
