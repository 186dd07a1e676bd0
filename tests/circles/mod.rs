//! Which file imports which: the graph of `use` lines, and its circles.
//!
//! A folder's `mod.rs` and the files below it count as one place seen from each other (it re-exports them, they
//! use what it declares); an import of something that a `mod.rs` re-exports counts as an import of the file that
//! has it.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
};

/// A module as its path: `kernels::linear::tiles`.
type Name = Vec<String>;

/// What imports what.
pub struct Graph {
    edges: BTreeMap<Name, BTreeSet<Name>>,
}

impl Graph {
    /// The graph of these files: room and path.
    pub fn of(files: &[(String, PathBuf)]) -> Self {
        let texts: BTreeMap<Name, String> = files.iter().map(|(_, p)| (name(p), code(p))).collect();
        let used: BTreeMap<&Name, Vec<(Name, bool)>> =
            texts.iter().map(|(me, text)| (me, paths(me, text, &texts))).collect();
        let mut again = BTreeMap::new();
        for (me, all) in &used {
            for (path, _) in all.iter().filter(|(_, public)| *public) {
                let (file, rest) = split(path, &texts);
                if file.len() > me.len() && file.starts_with(me) && rest.len() == 1 {
                    again.insert([&me[..], &rest[..]].concat(), file);
                }
            }
        }
        let mut edges = BTreeMap::<Name, BTreeSet<Name>>::new();
        for (me, all) in used {
            for (path, _) in all {
                let mut path = path;
                let mut file = split(&path, &texts).0;
                while let Some(real) = path.get(..file.len() + 1).and_then(|p| again.get(p)) {
                    path = [&real[..], &path[file.len()..]].concat();
                    file = real.clone();
                }
                if !file.is_empty() && !file.starts_with(me) && !me.starts_with(&file) {
                    edges.entry(me.clone()).or_default().insert(file);
                }
            }
        }
        Self { edges }
    }

    /// How many imports there are.
    pub fn edges(&self) -> usize {
        self.edges.values().map(BTreeSet::len).sum()
    }

    /// Every set of files that reach each other.
    pub fn circles(&self) -> Vec<Vec<String>> {
        let reach: BTreeMap<&Name, BTreeSet<&Name>> =
            self.edges.keys().map(|from| (from, self.reached(from))).collect();
        let both = |a: &Name, b: &Name| {
            reach[a].contains(b) && reach.get(b).is_some_and(|r| r.contains(a))
        };
        let mut circles = BTreeSet::new();
        for from in reach.keys().filter(|m| reach[**m].contains(**m)) {
            let circle = reach[*from].iter().filter(|to| both(from, to));
            circles.insert(circle.map(|m| m.join("::")).collect::<Vec<_>>());
        }
        circles.into_iter().collect()
    }

    fn reached<'a>(&'a self, from: &Name) -> BTreeSet<&'a Name> {
        let (mut seen, mut open) = (BTreeSet::new(), vec![from]);
        while let Some(at) = open.pop() {
            for to in self.edges.get(at).into_iter().flatten() {
                if seen.insert(to) {
                    open.push(to);
                }
            }
        }
        seen
    }
}

/// The module of a file below `src/` or `kernels/`.
fn name(path: &Path) -> Name {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let path = path.strip_prefix(root).unwrap().with_extension("");
    let mut name: Name = path.iter().map(|p| p.to_string_lossy().into_owned()).collect();
    if name[0] == "src" {
        name.remove(0);
    }
    if name.last().is_some_and(|n| n == "mod") {
        name.pop();
    }
    name
}

/// The text without comments and unit tests.
fn code(path: &Path) -> String {
    let text = std::fs::read_to_string(path).unwrap();
    let text = text.split("#[cfg(test)]").next().unwrap_or_default();
    let lines = text.lines().map(|l| l.split("//").next().unwrap_or_default());
    lines.collect::<Vec<_>>().join(" ")
}

/// The longest part of `path` that is a file, and the rest.
fn split(path: &[String], files: &BTreeMap<Name, String>) -> (Name, Name) {
    let end = (0..=path.len()).rev().find(|n| files.contains_key(&path[..*n])).unwrap_or(0);
    (path[..end].to_vec(), path[end..].to_vec())
}

/// Every path of the crate that `text` names, with whether it re-exports it.
fn paths(me: &Name, text: &str, files: &BTreeMap<Name, String>) -> Vec<(Name, bool)> {
    let mut found = vec![];
    let mut rest = String::new();
    for (i, statement) in text.split(';').enumerate() {
        let begin = statement.rfind("use ").filter(|at| {
            let before = statement[..*at].trim_end();
            i == 0
                || before.is_empty()
                || before.ends_with(['}', '{', ']', ')'])
                || before.ends_with("pub")
        });
        let Some(begin) = begin else {
            rest += statement;
            rest += ";";
            continue;
        };
        let public = statement[..begin].trim_end().ends_with(['b', ')']);
        rest += &statement[..begin];
        let mut all = vec![];
        expand(statement[begin + 4..].trim(), vec![], &mut all);
        found.extend(all.into_iter().map(|p| (p, public)));
    }
    for key in ["crate::", "super::"] {
        for (at, _) in rest.match_indices(key) {
            let word = |c: char| c.is_alphanumeric() || c == '_' || c == ':';
            let path: String = rest[at..].chars().take_while(|c| word(*c)).collect();
            let fresh =
                !rest[..at].ends_with("::") && !rest[..at].ends_with(|c: char| c.is_alphanumeric());
            if fresh {
                found.push((path.split("::").map(String::from).collect(), false));
            }
        }
    }
    let absolute = |(path, public): (Name, bool)| resolve(me, path, files).map(|p| (p, public));
    found.into_iter().filter_map(absolute).collect()
}

/// `a::{b, c::d}` as paths.
fn expand(tree: &str, before: Name, all: &mut Vec<Name>) {
    let parts = |text: &str| -> Name {
        text.split("::").map(|p| p.trim().to_string()).filter(|p| !p.is_empty()).collect()
    };
    let Some((head, body)) = tree.split_once('{') else {
        let plain = tree.split(" as ").next().unwrap_or_default();
        all.push([before, parts(plain)].concat());
        return;
    };
    let before = [before, parts(head)].concat();
    let (mut depth, mut one) = (0, String::new());
    for c in body.chars() {
        match c {
            '{' => depth += 1,
            '}' if depth == 0 => break,
            '}' => depth -= 1,
            _ => {}
        }
        if c == ',' && depth == 0 {
            expand(one.trim(), before.clone(), all);
            one.clear();
        } else {
            one.push(c);
        }
    }
    if !one.trim().is_empty() {
        expand(one.trim(), before, all);
    }
}

/// The path from the crate's root; `None` for one of another crate.
fn resolve(me: &Name, path: Name, files: &BTreeMap<Name, String>) -> Option<Name> {
    let supers = path.iter().take_while(|p| *p == "super").count();
    if supers > 0 {
        let home = me.get(..me.len().checked_sub(supers)?)?;
        return Some([home, &path[supers..]].concat());
    }
    match path.first().map(String::as_str) {
        Some("crate") => Some(path[1..].to_vec()),
        Some("self") => Some([me, &path[1..]].concat()),
        Some(first) => {
            let child = [me, &[first.to_string()][..]].concat();
            files.contains_key(&child).then(|| [&me[..], &path[..]].concat())
        }
        None => None,
    }
}

/// Planted circles are found, and a folder's own `mod.rs` is none.
#[test]
fn circles_are_found_through_re_exports_and_a_folder_is_none() {
    let folder =
        tempfile::tempdir_in(Path::new(env!("CARGO_MANIFEST_DIR")).join("target")).unwrap();
    let root = folder.path();
    let files = [
        ("a/mod.rs", "mod b; mod c; mod d;\npub use c::Thing;\nuse b::f;"),
        ("a/b.rs", "use super::Thing;\npub fn f() {}"),
        ("a/c.rs", "pub struct Thing;\nfn g() { super::b::f() }"),
        ("a/d.rs", "use crate::e; // use super::b::f"),
    ];
    let mut all = vec![];
    for (file, text) in files {
        let path = root.join(file);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, text).unwrap();
        all.push((String::new(), path));
    }
    let circles = Graph::of(&all).circles();
    assert_eq!(circles.len(), 1, "{circles:?}");
    assert!(circles[0][0].ends_with("a::b") && circles[0][1].ends_with("a::c"), "{circles:?}");
}
