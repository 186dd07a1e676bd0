//! Part of build.rs, feature `cust`: the driver library that the crate cust links.

use super::{fail, host_compiler};
use std::path::Path;
use std::process::Command;
use std::{env, fs};

/// A `libcuda.a` for the crate cust: one jump a driver function, through a table that `src/device/cust.rs` fills.
/// So nothing needs a driver or a toolkit to link or to start; an entry that is not filled says `no device`.
pub fn write(out: &Path) {
    const FUNCTIONS: &str = "src/device/cust_functions.txt";
    println!("cargo:rerun-if-changed={FUNCTIONS}");
    if env::var("CARGO_CFG_TARGET_ARCH").is_ok_and(|a| a != "x86_64") {
        fail("the feature cust needs x86-64: its table of jumps is written for that");
    }
    let names =
        fs::read_to_string(FUNCTIONS).unwrap_or_else(|e| fail(&format!("{FUNCTIONS}: {e}")));
    let mut text = ".text\nselvedge_no_driver: movl $100, %eax\n ret\n".to_string();
    for (i, name) in names.lines().enumerate() {
        text += &format!(
            ".globl {name}\n.type {name}, @function\n{name}: jmp *selvedge_cust_table+{}(%rip)\n",
            8 * i
        );
    }
    text += ".data\n.balign 8\n.globl selvedge_cust_table\nselvedge_cust_table:\n";
    text += &" .quad selvedge_no_driver\n".repeat(names.lines().count());
    text += ".section .note.GNU-stack,\"\",@progbits\n";
    let file = |name: &str| out.join(name);
    fs::write(file("cust.s"), text).unwrap_or_else(|e| fail(&format!("cust.s: {e}")));
    let (cxx, _) = host_compiler();
    call(Command::new(cxx).arg("-c").arg(file("cust.s")).arg("-o").arg(file("cust.o")));
    let _ = fs::remove_file(file("libcuda.a"));
    call(Command::new("ar").arg("rcs").arg(file("libcuda.a")).arg(file("cust.o")));
    println!("cargo:rustc-link-search=native={}", out.display());
    println!("cargo:rustc-link-lib=static=cuda");
}

/// Runs a command that must succeed.
fn call(command: &mut Command) {
    match command.output() {
        Ok(o) if o.status.success() => {}
        Ok(o) => fail(&format!("{command:?}: {}", String::from_utf8_lossy(&o.stderr))),
        Err(e) => fail(&format!("{command:?}: {e}")),
    }
}
