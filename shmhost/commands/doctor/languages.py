"""The kinds of processes that `kinds` tries: a program for each, and how it is built and run. Only data."""

from __future__ import annotations

import sys

from shmprotocol.tuples import NamedTuple

# With memory of its own before and after: allocators take theirs when they are first asked.
_RESERVE = r"""
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>
int main(int argc, char **argv)
{
        void *volatile block = malloc(1 << 20);
        void *base = (void *)strtoull(argv[argc - 2], NULL, 0);
        /* A hint, as in shm_reserve() of the client: if the range is taken, the kernel maps elsewhere. */
        void *address = mmap(base, strtoull(argv[argc - 1], NULL, 0), PROT_NONE,
                             MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

        puts(address == base ? "free" : address == MAP_FAILED ? strerror(errno) : "not free");
        fflush(stdout);
        free(block);
        _exit(0);
}
"""
_GO = """
package main
import "os"
func main() { maps, _ := os.ReadFile("/proc/self/maps"); os.Stdout.Write(maps) }
"""
_JAVA = """
public class probe {
        public static void main(String[] arguments) throws Exception {
                System.out.write(java.nio.file.Files.readAllBytes(java.nio.file.Path.of("/proc/self/maps")));
                System.out.flush();
        }
}
"""
_RUST = """
fn main() {
    print!("{}", std::fs::read_to_string("/proc/self/maps").expect("/proc/self/maps"));
}
"""
_MONO = """
class Probe { static void Main() { System.Console.Write(System.IO.File.ReadAllText("/proc/self/maps")); } }
"""
_FORTRAN = """
program probe
    character(len=1024) :: line
    integer :: status
    open (unit=10, file="/proc/self/maps", action="read")
    do
        read (10, "(a)", iostat=status) line
        if (status /= 0) exit
        print "(a)", trim(line)
    end do
end program
"""
_ADA = """
with Ada.Text_IO; use Ada.Text_IO;
procedure Probe is
   Maps : File_Type;
begin
   Open (Maps, In_File, "/proc/self/maps");
   while not End_Of_File (Maps) loop
      Put_Line (Get_Line (Maps));
   end loop;
end Probe;
"""
_PASCAL = """
var maps: text; line: ansistring;
begin
  assign(maps, '/proc/self/maps'); reset(maps);
  while not eof(maps) do begin readln(maps, line); writeln(line) end
end.
"""
_D = 'import std.stdio; void main() { foreach (line; File("/proc/self/maps").byLine) writeln(line); }'
_LUA = "io.write(io.open('/proc/self/maps'):read('*a'))"
_LISP = """
(with-open-file (maps "/proc/self/maps")
  (loop for line = (read-line maps nil) while line do (write-line line)))
"""
_GUILE = (
    '(use-modules (ice-9 textual-ports)) (display (call-with-input-file "/proc/self/maps" get-string-all))'
)
_RACKET = '#lang racket/base\n(require racket/file) (display (file->string "/proc/self/maps"))'
_CHEZ = '(display (call-with-input-file "/proc/self/maps" get-string-all)) (exit)'
_OCAML = """
let () = let maps = open_in "/proc/self/maps" in
  try while true do print_endline (input_line maps) done with End_of_file -> ()
"""
_ERLANG = '{ok, Maps} = file:read_file("/proc/self/maps"), io:put_chars(Maps), halt().'
_PROLOG = "probe :- read_file_to_string('/proc/self/maps', Maps, []), write(Maps)."
_POLY = 'print (TextIO.inputAll (TextIO.openIn "/proc/self/maps"));'
_FORTH = """
create buffer 4096 allot  s" /proc/self/maps" r/o open-file throw value maps
: show begin buffer 4096 maps read-file throw dup while buffer swap type repeat drop ; show bye
"""
_PYTHON = "import contextlib\n{}\nprint(open('/proc/self/maps').read())"
_NODE = "process.stdout.write(require('fs').readFileSync('/proc/self/maps'))"
_BUN = "process.stdout.write(await Bun.file('/proc/self/maps').text())"
_DENO = "await Deno.stdout.write(Deno.readFileSync('/proc/self/maps'))"


class Kind(NamedTuple):
    """A kind of process: the commands that build it from its source, and run it. The last one is the probe.

    `reserves`: it takes a window, which it reserves, and prints how that went; others print their mappings.
    """

    name: str
    source: tuple[str, str]  # name of the file, and text
    commands: tuple[tuple[str, ...], ...]
    reserves: bool = False


def _native(name: str, compiler: str, *flags: str, under: tuple[str, ...] = ()) -> Kind:
    language = "c++" if compiler == "c++" else "c"
    build = (compiler, "-x", language, "probe.c", "-o", "probe", *flags)
    return Kind(name, ("probe.c", _RESERVE), (build, (*under, "./probe")), reserves=True)


def _allocator(name: str, library: str) -> Kind:
    """A program that is linked to an allocator as if by LD_PRELOAD, but does not start without it."""
    return _native(f"C, {name}", "cc", "-Wl,--no-as-needed", f"-l:{library}")


def _python(name: str, *modules: str, program: str = sys.executable) -> Kind:
    text = _PYTHON.format("".join(f"import {module}\n" for module in modules))
    return Kind(name, ("probe.py", text), ((program, "probe.py"),))


def _java(name: str, *flags: str) -> Kind:
    return Kind(name, ("probe.java", _JAVA), (("java", *flags, "probe.java"),))


def _script(name: str, file: str, text: str, *command: str) -> Kind:
    return Kind(name, (file, text), ((*command, file),))


def _built(name: str, file: str, text: str, *command: str) -> Kind:
    return Kind(name, (file, text), (command, ("./probe",)))


_PYTHONS = (
    _python("Python"),
    _python("Python, NumPy", "numpy"),
    _python("Python, PyArrow", "pyarrow"),
    _python("Python, polars", "polars"),
    _python("Python, DuckDB", "duckdb"),
    _python("Python, PyTorch", "torch"),
    _python("Python, JAX", "jax.numpy"),
    *(
        _python(f"Python {version}", program=f"python{version}")
        for version in ("3.12", "3.13", "3.14", "3.14t")
    ),
    _python("Python, debug build", program="python3-dbg"),
    _python("PyPy", program="pypy3"),
)
_SHELL = ("sh", "-c")
_NATIVE = (
    _native("C", "cc"),
    _native("C, static", "cc", "-static"),
    _native("C, static and position-independent", "cc", "-static-pie"),
    _native("C, not position-independent", "cc", "-no-pie"),
    _native("C, musl", "musl-gcc"),
    _native("C, clang", "clang"),
    _native("C, tcc", "tcc"),
    _native("C++", "c++"),
    _allocator("jemalloc", "libjemalloc.so.2"),
    _allocator("tcmalloc", "libtcmalloc_minimal.so.4"),
    _allocator("mimalloc", "libmimalloc.so.2.0"),
    _allocator("Electric Fence", "libefence.so.0"),
    _native("C, malloc with huge pages", "cc", under=("env", "GLIBC_TUNABLES=glibc.malloc.hugetlb=1")),
    _native("C, not randomised", "cc", under=("setarch", "-R")),
    _native("C, old layout", "cc", under=("setarch", "-L")),
    _native("C, stack without a limit", "cc", under=(*_SHELL, 'ulimit -s unlimited; exec "$@"', "sh")),
    _native("C, strace", "cc", under=("strace", "-f", "-o", "trace")),
    _native("C, AddressSanitizer", "cc", "-fsanitize=address"),
    _native("C, ThreadSanitizer", "cc", "-fsanitize=thread"),
    _native("C, UndefinedBehaviorSanitizer", "cc", "-fsanitize=undefined"),
    _native("C, LeakSanitizer", "cc", "-fsanitize=leak"),
    _native("C, AddressSanitizer of clang", "clang", "-fsanitize=address"),
    _native("C, ThreadSanitizer of clang", "clang", "-fsanitize=thread"),
    _native("C, MemorySanitizer", "clang", "-fsanitize=memory"),
    _native("C, DataFlowSanitizer", "clang", "-fsanitize=dataflow"),
    _native("C, SafeStack", "clang", "-fsanitize=safe-stack"),
    _native("C, valgrind", "cc", under=("valgrind", "-q")),
    _native("C, helgrind", "cc", under=("valgrind", "-q", "--tool=helgrind")),
    _native("C, callgrind", "cc", under=("valgrind", "-q", "--tool=callgrind")),
    _native("C, qemu-user", "cc", under=("qemu-x86_64",)),
    _native("C for aarch64, qemu-user", "aarch64-linux-gnu-gcc", "-static", under=("qemu-aarch64",)),
)
_LANGUAGES = (
    _built("Go", "probe.go", _GO, "go", "build", "-o", "probe", "probe.go"),
    _built("Go, race detector", "probe.go", _GO, "go", "build", "-race", "-o", "probe", "probe.go"),
    _built("Go, gccgo", "probe.go", _GO, "gccgo", "-o", "probe", "probe.go"),
    _built("Rust", "probe.rs", _RUST, "rustc", "-o", "probe", "probe.rs"),
    _built("D, GNU", "probe.d", _D, "gdc", "-o", "probe", "probe.d"),
    _built("D, LLVM", "probe.d", _D, "ldc2", "--of=probe", "probe.d"),
    _built("Fortran", "probe.f90", _FORTRAN, "gfortran", "-o", "probe", "probe.f90"),
    _built("Ada", "probe.adb", _ADA, "gnatmake", "-q", "probe.adb"),
    _built("Pascal", "probe.pas", _PASCAL, "fpc", "probe.pas"),
    _built("Crystal", "probe.cr", 'puts File.read("/proc/self/maps")', "crystal", "build", "probe.cr"),
    _built("Nim", "probe.nim", 'echo readFile("/proc/self/maps")', "nim", "c", "--nimcache:.", "probe.nim"),
    _built("Haskell", "probe.hs", 'main = readFile "/proc/self/maps" >>= putStr', "ghc", "probe.hs"),
    _built("OCaml", "probe.ml", _OCAML, "ocamlopt", "probe.ml", "-o", "probe"),
    _java("Java"),
    _java("Java, Serial GC", "-XX:+UseSerialGC"),
    _java("Java, Parallel GC", "-XX:+UseParallelGC"),
    _java("Java, Shenandoah", "-XX:+UseShenandoahGC"),
    _java("Java, ZGC", "-XX:+UseZGC"),
    _java("Java, heap of 64 GB", "-Xmx64g"),
    Kind("C#, Mono", ("probe.cs", _MONO), (("mcs", "probe.cs"), ("mono", "probe.exe"))),
    _script("Node.js", "probe.js", _NODE, "node"),
    _script("Deno", "probe.ts", _DENO, "deno", "run", "--allow-all"),
    _script("Bun", "probe.ts", _BUN, "bun"),
    Kind("Erlang", ("probe.erl", ""), (("erl", "-noshell", "-eval", _ERLANG),)),
    _script("Ruby", "probe.rb", "print File.read('/proc/self/maps')", "ruby"),
    _script("PHP", "probe.php", "<?php readfile('/proc/self/maps');", "php"),
    _script("Perl", "probe.pl", "open F, '/proc/self/maps'; print while <F>;", "perl"),
    _script("Lua", "probe.lua", _LUA, "lua5.4"),
    _script("LuaJIT", "probe.lua", _LUA, "luajit"),
    _script("Tcl", "probe.tcl", "puts [read [open /proc/self/maps]]", "tclsh"),
    _script("R", "probe.R", "writeLines(readLines('/proc/self/maps'))", "Rscript"),
    _script("Octave", "probe.m", "disp(fileread('/proc/self/maps'))", "octave-cli", "-q"),
    _script("Lisp, SBCL", "probe.lisp", _LISP, "sbcl", "--script"),
    _script("Lisp, CLISP", "probe.lisp", _LISP, "clisp"),
    _script("Scheme, Guile", "probe.scm", _GUILE, "guile", "--no-auto-compile"),
    _script("Scheme, Chez", "probe.ss", _CHEZ, "chezscheme", "-q"),
    _script("Racket", "probe.rkt", _RACKET, "racket"),
    Kind("Prolog", ("probe.pl", _PROLOG), (("swipl", "-g", "probe", "-t", "halt", "probe.pl"),)),
    _script("ML, Poly/ML", "probe.sml", _POLY, "poly", "--script"),
    _script("Forth", "probe.fs", _FORTH, "gforth"),
)
KINDS = (*_PYTHONS, *_NATIVE, *_LANGUAGES)
