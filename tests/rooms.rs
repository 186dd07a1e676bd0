//! The import order of the house: a room uses only the rooms above it.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::path::{Path, PathBuf};

mod circles;

/// Top to bottom; rooms of one row are siblings, which never import each other.
const ROWS: &[&[&str]] = &[
    &["error"],
    &["tensor"],
    &["device"],
    &["op"],
    &["kernels"],
    &["plan"],
    &["lora"],
    &["nn"],
    &["models"],
    &["data", "inpaint"],
    &["train", "sample", "segment", "metrics"],
    &["cli"],
];

fn rank(room: &str) -> Option<usize> {
    ROWS.iter().position(|row| row.contains(&room))
}

#[test]
fn a_room_imports_only_from_rooms_above_it() {
    let mut wrong = vec![];
    for (room, file) in files() {
        let me = rank(&room).unwrap_or_else(|| panic!("{room}: add this room to ROWS"));
        let text = std::fs::read_to_string(&file).unwrap();
        for used in imports(&text) {
            match rank(&used) {
                Some(other) if other < me || used == room => {}
                Some(_) => wrong.push(format!("{} imports {used}", file.display())),
                None => wrong.push(format!("{} imports {used}, not a room", file.display())),
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn no_files_import_each_other_in_a_circle() {
    let graph = circles::Graph::of(&files());
    assert!(graph.edges() > 300, "the reader of `use` lines finds too little");
    let found: Vec<String> = graph.circles().iter().map(|c| c.join(" <-> ")).collect();
    let new: Vec<&String> = found.iter().filter(|c| !KNOWN.contains(&c.as_str())).collect();
    assert!(new.is_empty(), "{new:#?}");
    let gone: Vec<&&str> = KNOWN.iter().filter(|k| !found.iter().any(|c| c == *k)).collect();
    assert!(gone.is_empty(), "no circle any more, take it off the list: {gone:#?}");
}

/// Circles that wait to be broken.
const KNOWN: &[&str] = &[];

#[test]
fn the_reader_of_imports_finds_every_form() {
    let text = "use crate::{\n    device::{Buf, cpu::wide},\n    op::*,\n};\n\
                // crate::cli\nfn f() -> crate::plan::Plan {}\n\
                #[cfg(test)]\nmod tests { use crate::cli; }";
    assert_eq!(imports(text), ["device", "op", "plan"]);
}

/// Every source file with the room it belongs to; `lib.rs` and `main.rs` belong to none.
fn files() -> Vec<(String, PathBuf)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut out = vec![];
    for entry in std::fs::read_dir(root.join("src")).unwrap() {
        let path = entry.unwrap().path();
        let room = path.file_stem().unwrap().to_string_lossy().into_owned();
        if room != "lib" && room != "main" {
            walk(&room, &path, &mut out);
        }
    }
    walk("kernels", &root.join("kernels"), &mut out);
    out.sort();
    assert!(out.len() > 20, "the sources have moved");
    out
}

fn walk(room: &str, path: &Path, out: &mut Vec<(String, PathBuf)>) {
    if path.is_dir() {
        for entry in std::fs::read_dir(path).unwrap() {
            walk(room, &entry.unwrap().path(), out);
        }
    } else if path.extension().is_some_and(|x| x == "rs") {
        out.push((room.to_string(), path.to_path_buf()));
    }
}

/// The first path segment after every `crate::` outside comments and unit tests.
fn imports(text: &str) -> Vec<String> {
    let text = text.split("#[cfg(test)]").next().unwrap_or_default();
    let code: Vec<&str> = text.lines().filter(|l| !l.trim_start().starts_with("//")).collect();
    let code = code.join("\n");
    let mut out = vec![];
    for (at, _) in code.match_indices("crate::") {
        let word = |s: &str| -> String {
            s.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect()
        };
        let rest = &code[at + "crate::".len()..];
        let Some(group) = rest.strip_prefix('{') else {
            out.push(word(rest));
            continue;
        };
        let (mut depth, mut fresh) = (1, true);
        for (i, c) in group.char_indices() {
            match c {
                '{' => depth += 1,
                '}' => depth -= 1,
                ',' => fresh = depth == 1,
                c if fresh && c.is_alphabetic() => {
                    out.push(word(&group[i..]));
                    fresh = false;
                }
                _ => {}
            }
            if depth == 0 {
                break;
            }
        }
    }
    // functions and macros of the crate root are in no room
    out.retain(|w| !w.is_empty());
    out
}
