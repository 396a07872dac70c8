// SPDX-License-Identifier: Apache-2.0
//! Compile arena.c with the headers in $SHM_INCLUDE, by the system's compiler: no crate.

use std::{env, path::PathBuf, process::Command};

fn run(command: &mut Command) {
    let status = command.status().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    assert!(status.success(), "{command:?}: {status}");
}

fn main() {
    let folder = PathBuf::from(env::var("OUT_DIR").expect("cargo sets OUT_DIR"));
    let include = env::var("SHM_INCLUDE").expect("set SHM_INCLUDE to $(python -m shmprotocol --include)");
    let (object, library) = (folder.join("arena.o"), folder.join("libarena.a"));
    let options = ["-std=c11", "-O2", "-Wall", "-Wextra", "-Wpedantic", "-Werror", "-fPIC", "-c", "arena.c"];
    run(Command::new("cc").args(options).arg(format!("-I{include}")).arg("-o").arg(&object));
    run(Command::new("ar").arg("crs").arg(&library).arg(&object));
    println!("cargo:rustc-link-search=native={}", folder.display());
    println!("cargo:rustc-link-lib=static=arena");
    println!("cargo:rerun-if-changed=arena.c");
    println!("cargo:rerun-if-env-changed=SHM_INCLUDE");
}
