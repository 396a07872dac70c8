// SPDX-License-Identifier: Apache-2.0
//! Read a word index in Rust: map the region, follow its pointers by slices and iterators. No crate.
//!
//!     cargo build --release
//!     shmclient exec --region words -- target/release/reader words import yield
//!
//! Prints what ../reader.c prints. Exit codes: 0 all words found, 1 one is missing, 2 wrong usage, 3 no such region.

use std::ffi::{c_char, c_int, c_void, CStr};
use std::io::{Error, ErrorKind, Result};
use std::mem::{size_of, MaybeUninit};
use std::os::fd::{AsRawFd, FromRawFd};
use std::os::unix::fs::FileExt;
use std::{env, fs::File, iter, process, ptr, slice};

extern "C" {
    fn mmap(address: *mut c_void, size: usize, prot: c_int, flags: c_int, fd: c_int, offset: i64) -> *mut c_void;
    fn munmap(address: *mut c_void, size: usize) -> c_int;
    fn fcntl(fd: c_int, command: c_int, ...) -> c_int;
}
const PROT_READ: c_int = 1;
const MAP_SHARED_FIXED_NOREPLACE: c_int = 0x1 | 0x100000;
const F_GET_SEALS: c_int = 1034;
const SEALED: c_int = 0x2 | 0x8; // F_SEAL_SHRINK | F_SEAL_WRITE: no byte changes ever again
const SEAL_FULL: u32 = 1;
const HEADER_SIZE: u64 = 4096;

/// The first page of a region: `struct shm_region_header` of shm_abi.h.
#[repr(C)]
struct Header {
    magic: [u8; 8],
    abi_major: u16,
    abi_minor: u16,
    header_size: u32,
    kind: u32,
    flags: u32,
    base: u64,
    size: u64,
    capacity: u64,
    data: u64,
    data_size: u64,
    root: u64,
    root_size: u64,
    generation: u64,
    created_ns: u64,
    creator: [u32; 3],
    name_size: u32,
    window: [u64; 2],
    metadata: u64,
    metadata_size: u64,
    name: [u8; 256],
    reserved: [u8; 3696],
}
const _: () = assert!(size_of::<Header>() == HEADER_SIZE as usize);

impl Header {
    /// Read it from a memory object, and check all that this program relies on.
    fn read(file: &File) -> Result<Header> {
        let mut page = MaybeUninit::<Header>::uninit();
        // SAFETY: every bit pattern is a Header, and `read_exact_at` fills all of it.
        let header = unsafe {
            let bytes = slice::from_raw_parts_mut(page.as_mut_ptr().cast::<u8>(), size_of::<Header>());
            bytes.fill(0);
            file.read_exact_at(bytes, 0)?;
            page.assume_init()
        };
        let is_sound = header.magic == *b"SHMHOST\0"
            && header.abi_major == 1
            && u64::from(header.header_size) == HEADER_SIZE
            && header.flags & SEAL_FULL != 0
            && header.base != 0
            && header.base % HEADER_SIZE == 0
            && header.base.checked_add(header.capacity).is_some()
            && header.capacity == file.metadata()?.len()
            && (HEADER_SIZE..=header.capacity).contains(&header.size)
            && header.holds(header.root, header.root_size)
            && header.name_size <= 255;
        if is_sound {
            Ok(header)
        } else {
            Err(Error::new(ErrorKind::InvalidData, "not a sealed region of ABI 1"))
        }
    }

    /// Does an address lead to so many bytes of the payload? 0 with size 0 is none.
    fn holds(&self, address: u64, size: u64) -> bool {
        let (start, end) = (self.base + HEADER_SIZE, self.base + self.size);
        (address == 0 && size == 0) || (address >= start && address <= end && size <= end - address)
    }
}

/// A mapped region. Its pointers are valid as long as it lives.
struct Region {
    header: Header,
}

impl Region {
    fn open(name: &str) -> Result<Region> {
        let fd = descriptor_of(name).ok_or_else(|| Error::from(ErrorKind::NotFound))?;
        // SAFETY: the descriptor is this program's, by $SHM_REGIONS, and is used here alone.
        let file = unsafe { File::from_raw_fd(fd) };
        // SAFETY: fcntl(2) without a pointer.
        let seals = unsafe { fcntl(file.as_raw_fd(), F_GET_SEALS) };
        if seals < 0 || seals & SEALED != SEALED {
            return Err(Error::from(ErrorKind::PermissionDenied));
        }
        let header = Header::read(&file)?;
        let home = header.base as usize as *mut c_void;
        // SAFETY: the flag replaces no mapping of this process.
        let mapped = unsafe { mmap(home, header.capacity as usize, PROT_READ, MAP_SHARED_FIXED_NOREPLACE, fd, 0) };
        if mapped != home {
            return Err(Error::last_os_error());
        }
        Ok(Region { header })
    }

    /// The object at the root; None where there is none of this size.
    fn root<T>(&self) -> Option<&T> {
        let is_whole = self.header.root_size as usize >= size_of::<T>();
        // SAFETY: it lies in the mapping, which nobody can change, and the publisher says what it is.
        is_whole.then(|| unsafe { &*(self.header.root as usize as *const T) })
    }
}

impl Drop for Region {
    fn drop(&mut self) {
        // SAFETY: `open` has mapped it, and what was borrowed from it is gone.
        unsafe { munmap(self.header.base as usize as *mut c_void, self.header.capacity as usize) };
    }
}

/// The descriptor of a region, by $SHM_REGIONS: lines of a number, a space, and a name.
fn descriptor_of(name: &str) -> Option<c_int> {
    let lines = env::var("SHM_REGIONS").ok()?;
    let mut pairs = lines.lines().filter_map(|line| line.split_once(' '));
    pairs.find(|(_, each)| *each == name)?.0.parse().ok()
}

/// The structures of ../word_index.h.
#[repr(C)]
struct Posting {
    file: u32,
    line: u32,
}

#[repr(C)]
struct Entry<'a> {
    next: Option<&'a Entry<'a>>,
    word: *const u8,
    hash: u64,
    word_size: u32,
    posting_count: u32,
    postings: *const Posting,
}

#[repr(C)]
struct WordIndex<'a> {
    bucket_count: u64,
    buckets: *const Option<&'a Entry<'a>>,
    files: *const *const c_char,
    file_count: u32,
    entry_count: u32,
    posting_count: u64,
}

/// The items at a pointer of a region.
///
/// # Safety
/// The publisher says that there are so many, and they live as long as what the pointer was read from.
unsafe fn items<'a, T>(first: *const T, count: usize) -> &'a [T] {
    if count == 0 || first == ptr::null() {
        return &[];
    }
    slice::from_raw_parts(first, count)
}

impl<'a> Entry<'a> {
    fn word(&self) -> &'a [u8] {
        unsafe { items(self.word, self.word_size as usize) }
    }

    fn postings(&self) -> &'a [Posting] {
        unsafe { items(self.postings, self.posting_count as usize) }
    }
}

impl<'a> WordIndex<'a> {
    fn find(&self, word: &[u8]) -> Option<&'a Entry<'a>> {
        let buckets = unsafe { items(self.buckets, self.bucket_count as usize) };
        let first = buckets[(hash(word) & (self.bucket_count - 1)) as usize];
        iter::successors(first, |entry| entry.next).find(|entry| entry.word() == word)
    }

    fn file(&self, number: u32) -> &'a str {
        let files = unsafe { items(self.files, self.file_count as usize) };
        unsafe { CStr::from_ptr(files[number as usize]) }.to_str().unwrap_or("?")
    }
}

/// FNV-1a, 64 bits.
fn hash(word: &[u8]) -> u64 {
    word.iter().fold(0xcbf29ce484222325, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x100000001b3))
}

fn print_places(index: &WordIndex, word: &str) -> bool {
    let Some(entry) = index.find(word.as_bytes()) else {
        eprintln!("reader: {word} does not occur");
        return false;
    };
    println!("{word}: {} places", entry.posting_count);
    for posting in entry.postings() {
        println!("  {}:{}", index.file(posting.file), posting.line);
    }
    true
}

fn main() {
    let arguments: Vec<String> = env::args().collect();
    let [_, name, words @ ..] = arguments.as_slice() else { usage() };
    if words.is_empty() {
        usage();
    }
    let region = Region::open(name).unwrap_or_else(|error| {
        eprintln!("reader: cannot map {name}: {error} (is it in $SHM_REGIONS? see shmclient exec)");
        process::exit(3)
    });
    let Some(index) = region.root::<WordIndex>() else {
        eprintln!("reader: {name} holds no word index");
        process::exit(3)
    };
    println!("{name} at {:#x}: {} words in {} files", region.header.base, index.entry_count, index.file_count);
    let missing = words.iter().filter(|word| !print_places(index, word)).count();
    process::exit(i32::from(missing > 0));
}

fn usage() -> ! {
    eprintln!("usage: reader NAME WORD...");
    process::exit(2)
}
