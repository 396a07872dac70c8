// SPDX-License-Identifier: Apache-2.0

// Reader waits for the values of a name in an arena; each is held while it is looked at.
//
//	CGO_CFLAGS=-I$(python -m shmprotocol --include) go build -o arena_reader ./arena
//	shmclient exec --region camera -- ./arena_reader camera front 10
//
// The protocol of holds is that of shm_arena.h, called by cgo: its loads, stores and fences have an order that C11 has names
// for, and sync/atomic does not. It prints what ../../cpp/arena_reader.cpp prints. Exit codes: 0, 1 no value came for ten
// seconds, 2 wrong usage, 3 the arena cannot be read.
package main

/*
#cgo CFLAGS: -D_GNU_SOURCE -O2
#include "shm_arena.h"

#include <stdlib.h>
*/
import "C"

import (
	"errors"
	"fmt"
	"os"
	"strconv"
	"sync"
	"syscall"
	"time"
	"unsafe"
)

// Arena is an arena that this program inherited, and the words that say which of its values are held. Any goroutine may
// use it: one at a time takes a value, and a release takes no turn.
type Arena struct {
	turn  sync.Mutex
	arena *C.struct_shm_arena // in C's memory, as C keeps addresses in them
	holds *C.struct_shm_holds
}

// Value does not change, and its memory is not used again, until Release.
type Value struct {
	arena *Arena
	value C.struct_shm_arena_value
}

// Open maps an arena, by $SHM_ARENAS.
func Open(name string) (*Arena, error) {
	text := C.CString(name)
	defer C.free(unsafe.Pointer(text))
	arena := (*C.struct_shm_arena)(C.calloc(1, C.sizeof_struct_shm_arena))
	holds := (*C.struct_shm_holds)(C.calloc(1, C.sizeof_struct_shm_holds))
	if code := C.shm_arena_open_inherited(text, arena, holds); code != 0 {
		C.free(unsafe.Pointer(arena))
		C.free(unsafe.Pointer(holds))
		return nil, syscall.Errno(-code)
	}
	return &Arena{arena: arena, holds: holds}, nil
}

// Await returns the value of a name once its generation is greater than `after`; ETIMEDOUT.
func (a *Arena) Await(name string, after uint64, wait time.Duration) (*Value, error) {
	text := C.CString(name)
	defer C.free(unsafe.Pointer(text))
	a.turn.Lock()
	defer a.turn.Unlock()
	value := &Value{arena: a}
	code := C.shm_arena_await(a.arena, a.holds, text, C.size_t(len(name)), C.uint64_t(after), C.int64_t(wait), &value.value)
	if code != 0 {
		return nil, syscall.Errno(-code)
	}
	return value, nil
}

// Bytes is the memory of the value itself: it must not be used after Release.
func (v *Value) Bytes() []byte {
	return unsafe.Slice((*byte)(v.value.data), uint64(v.value.size))
}

// Generation counts the values of a name.
func (v *Value) Generation() uint64 { return uint64(v.value.generation) }

// Release lets go of the value: its owner may use the memory again.
func (v *Value) Release() {
	C.shm_arena_release(v.arena.holds, &v.value)
}

func show(arena *Arena, name string, after uint64) (uint64, error) {
	value, err := arena.Await(name, after, 10*time.Second)
	if err != nil {
		return 0, err
	}
	defer value.Release()
	sum := uint64(0)
	for _, each := range value.Bytes() {
		sum += uint64(each)
	}
	fmt.Println(value.Generation(), len(value.Bytes()), sum)
	return value.Generation(), nil
}

func main() {
	if len(os.Args) < 3 {
		fmt.Fprintln(os.Stderr, "usage: arena_reader ARENA NAME [COUNT]")
		os.Exit(2)
	}
	count := ^uint64(0)
	if len(os.Args) > 3 {
		number, err := strconv.ParseUint(os.Args[3], 10, 64)
		if err != nil {
			fmt.Fprintln(os.Stderr, "arena_reader: COUNT is a number")
			os.Exit(2)
		}
		count = number
	}
	arena, err := Open(os.Args[1])
	for after := uint64(0); err == nil && count > 0; count-- {
		after, err = show(arena, os.Args[2], after)
	}
	if err != nil {
		fmt.Fprintf(os.Stderr, "arena_reader: %s: %v\n", os.Args[1], err)
		if errors.Is(err, syscall.ETIMEDOUT) {
			os.Exit(1)
		}
		os.Exit(3)
	}
}
