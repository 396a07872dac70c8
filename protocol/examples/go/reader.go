// SPDX-License-Identifier: Apache-2.0

// Reader reads a word index: it maps the region and follows its pointers. No cgo, no module.
//
//	go build -o reader .
//	shmclient exec --region words -- ./reader words import yield
//
// It prints what ../reader.c prints. Exit codes: 0 all words found, 1 one is missing, 2 wrong usage, 3 no such region.
package main

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"syscall"
	"unsafe"
)

const (
	headerSize        = 4096
	mapFixedNoReplace = 0x100000
	getSeals          = 1034
	sealed            = 0x2 | 0x8 // F_SEAL_SHRINK | F_SEAL_WRITE: no byte changes ever again
	sealFull          = 1
)

// Header is the first page of a region: struct shm_region_header of shm_abi.h.
type Header struct {
	Magic                 [8]byte
	ABIMajor, ABIMinor    uint16
	HeaderSize            uint32
	Kind, Flags           uint32
	Base, Size, Capacity  uint64
	Data, DataSize        uint64
	Root, RootSize        uint64
	Generation, CreatedNs uint64
	Creator               [3]uint32
	NameSize              uint32
	Window                [2]uint64
	Metadata              uint64
	MetadataSize          uint64
	Name                  [256]byte
	Reserved              [3696]byte
}

var _ [headerSize]byte = [unsafe.Sizeof(Header{})]byte{}

// holds says whether an address leads to so many bytes of the payload; 0 with size 0 is none.
func (h *Header) holds(address, size uint64) bool {
	start, end := h.Base+headerSize, h.Base+h.Size
	return address == 0 && size == 0 || address >= start && address <= end && size <= end-address
}

// check looks at all that this program relies on.
func (h *Header) check(objectSize int64) error {
	switch {
	case h.Magic != [8]byte{'S', 'H', 'M', 'H', 'O', 'S', 'T'}, h.ABIMajor != 1, h.HeaderSize != headerSize:
		return errors.New("not a region of ABI 1")
	case h.Flags&sealFull == 0:
		return errors.New("not a sealed region")
	case h.Base == 0, h.Base%headerSize != 0, h.Base+h.Capacity < h.Base, h.Capacity != uint64(objectSize),
		h.Size < headerSize, h.Size > h.Capacity, !h.holds(h.Root, h.RootSize), h.NameSize > 255:
		return errors.New("its header contradicts itself")
	}
	return nil
}

// Open maps a region at its own address, for the rest of the program.
func Open(name string) (*Header, error) {
	fd, err := descriptor(name)
	if err != nil {
		return nil, err
	}
	defer syscall.Close(fd)
	seals, _, errno := syscall.Syscall(syscall.SYS_FCNTL, uintptr(fd), getSeals, 0)
	if errno != 0 || seals&sealed != sealed {
		return nil, errors.New("its object is not sealed")
	}
	var header Header
	page := unsafe.Slice((*byte)(unsafe.Pointer(&header)), headerSize)
	if n, err := syscall.Pread(fd, page, 0); err != nil || n != headerSize {
		return nil, fmt.Errorf("its header cannot be read: %w", err)
	}
	var status syscall.Stat_t
	if err := syscall.Fstat(fd, &status); err != nil {
		return nil, err
	}
	if err := header.check(status.Size); err != nil {
		return nil, err
	}
	mapped, _, errno := syscall.Syscall6(syscall.SYS_MMAP, uintptr(header.Base), uintptr(header.Capacity),
		syscall.PROT_READ, syscall.MAP_SHARED|mapFixedNoReplace, uintptr(fd), 0)
	if errno != 0 {
		return nil, errno
	}
	if mapped != uintptr(header.Base) {
		return nil, syscall.EEXIST
	}
	return &header, nil
}

// root returns the object at the root; nil where there is none of this size.
func root[T any](h *Header) *T {
	var zero T
	if h.RootSize < uint64(unsafe.Sizeof(zero)) {
		return nil
	}
	// The address is that of memory which is not Go's: the garbage collector leaves it alone.
	return *(**T)(unsafe.Pointer(&h.Root))
}

// descriptor finds a region in $SHM_REGIONS: lines of a number, a space, and a name.
func descriptor(name string) (int, error) {
	for _, line := range strings.Split(os.Getenv("SHM_REGIONS"), "\n") {
		if number, each, ok := strings.Cut(line, " "); ok && each == name {
			return strconv.Atoi(number)
		}
	}
	return -1, syscall.ENOENT
}

// The structures of ../word_index.h. Pointers in a region are pointers of Go as they stand.
type posting struct{ File, Line uint32 }

type entry struct {
	Next         *entry
	Word         *byte
	Hash         uint64
	WordSize     uint32
	PostingCount uint32
	Postings     *posting
}

type wordIndex struct {
	BucketCount  uint64
	Buckets      **entry
	Files        **byte
	FileCount    uint32
	EntryCount   uint32
	PostingCount uint64
}

func (e *entry) word() []byte        { return unsafe.Slice(e.Word, e.WordSize) }
func (e *entry) postings() []posting { return unsafe.Slice(e.Postings, e.PostingCount) }

func (w *wordIndex) find(word string) *entry {
	hash := uint64(0xcbf29ce484222325) // FNV-1a
	for i := 0; i < len(word); i++ {
		hash = (hash ^ uint64(word[i])) * 0x100000001b3
	}
	buckets := unsafe.Slice(w.Buckets, w.BucketCount)
	for e := buckets[hash&(w.BucketCount-1)]; e != nil; e = e.Next {
		if string(e.word()) == word {
			return e
		}
	}
	return nil
}

func (w *wordIndex) file(number uint32) string {
	first := unsafe.Slice(w.Files, w.FileCount)[number]
	const longest = 4096 // of a path, with its zero
	for size := 0; size < longest; size++ {
		if *(*byte)(unsafe.Add(unsafe.Pointer(first), size)) == 0 {
			return string(bytes.ToValidUTF8(unsafe.Slice(first, size), []byte("?")))
		}
	}
	return "?"
}

func printPlaces(index *wordIndex, word string) bool {
	e := index.find(word)
	if e == nil {
		fmt.Fprintf(os.Stderr, "reader: %s does not occur\n", word)
		return false
	}
	fmt.Printf("%s: %d places\n", word, e.PostingCount)
	for _, each := range e.postings() {
		fmt.Printf("  %s:%d\n", index.file(each.File), each.Line)
	}
	return true
}

func main() {
	if len(os.Args) < 3 {
		fmt.Fprintln(os.Stderr, "usage: reader NAME WORD...")
		os.Exit(2)
	}
	name := os.Args[1]
	header, err := Open(name)
	if err != nil {
		fmt.Fprintf(os.Stderr, "reader: cannot map %s: %v (is it in $SHM_REGIONS? see shmclient exec)\n", name, err)
		os.Exit(3)
	}
	index := root[wordIndex](header)
	if index == nil {
		fmt.Fprintf(os.Stderr, "reader: %s holds no word index\n", name)
		os.Exit(3)
	}
	fmt.Printf("%s at %#x: %d words in %d files\n", name, header.Base, index.EntryCount, index.FileCount)
	missing := 0
	for _, word := range os.Args[2:] {
		if !printPlaces(index, word) {
			missing = 1
		}
	}
	os.Exit(missing)
}
