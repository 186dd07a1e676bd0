//! `prompts_and_classes.txt`: DreamBench's subjects and prompts in the words of its authors.

use super::manifest::Manifest;
use crate::error::{Error, Result};
use std::{fs, path::Path};

/// Its name in the dataset.
pub const FILE: &str = "prompts_and_classes.txt";

/// The two lists of prompts by their title.
const LISTS: [&str; 2] = ["Object Prompts", "Live Subject Prompts"];

/// Where the reader is.
#[derive(Clone, Copy, PartialEq, Eq)]
enum At {
    Start,
    Classes,
    /// Between lists.
    Prompts,
    /// After the title of a list.
    Title(usize),
    /// Inside a list.
    List(usize),
}

impl At {
    fn expected(self) -> &'static str {
        match self {
            At::Start => "the line `Classes`",
            At::Classes => "subject_name,class, or the line `Object Prompts`",
            At::Prompts => "the line `Object Prompts` or `Live Subject Prompts`",
            At::Title(_) => "the line `prompt_list = [`",
            At::List(_) => {
                "'a {0} {1} in the jungle'.format(unique_token, class_token), or the end ]"
            }
        }
    }
}

/// Reads the file.
///
/// # Errors
/// [`Error::File`]; [`Error::Format`] with the line for what is not understood, and for a file that ends too early.
pub fn read(path: &Path) -> Result<Manifest> {
    let bytes = fs::read(path).map_err(Error::file("read", path))?;
    let text = String::from_utf8_lossy(&bytes);
    let wrong = |found: String, expected: &str| Error::Format {
        path: path.into(),
        found,
        expected: expected.into(),
        fix: "take the file as it was published, or remove it: a list is built in".into(),
    };
    let (mut at, mut subjects) = (At::Start, Vec::<(String, String)>::new());
    let mut lists: [Vec<String>; 2] = [vec![], vec![]];
    for (i, line) in text.trim_start_matches('\u{feff}').lines().map(str::trim).enumerate() {
        let refuse = || wrong(format!("line {}: {line:?}", i + 1), at.expected());
        let title = LISTS.iter().position(|t| *t == line).filter(|l| lists[*l].is_empty());
        at = match (at, title) {
            _ if line.is_empty() => at,
            (At::Start, _) if line == "Classes" => At::Classes,
            (At::Classes | At::Prompts, Some(list)) => At::Title(list),
            (At::Classes, _) if line == "Prompts" => At::Prompts,
            (At::Classes, _) if line == "subject_name,class" => at,
            (At::Classes, _) => {
                let (name, class) = subject(line).ok_or_else(refuse)?;
                if subjects.iter().any(|(known, _)| *known == name) {
                    let found = format!("line {}: {name} once more", i + 1);
                    return Err(wrong(found, "every subject once"));
                }
                subjects.push((name, class));
                at
            }
            (At::Title(list), _) if line == "prompt_list = [" => At::List(list),
            (At::List(_), _) if line == "]" => At::Prompts,
            (At::List(list), _) => {
                lists[list].push(template(line).ok_or_else(refuse)?);
                at
            }
            _ => return Err(refuse()),
        };
    }
    let whole = at == At::Prompts && lists.iter().all(|l| !l.is_empty());
    if !whole || subjects.is_empty() {
        let counts = [subjects.len(), lists[0].len(), lists[1].len()];
        let [subjects, objects, live] = counts;
        let found = format!(
            "an end after {subjects} subjects, {objects} prompts of objects and {live} of live subjects"
        );
        return Err(wrong(found, "classes and two lists of prompts, each closed by ]"));
    }
    let [objects, live] = lists;
    Ok(Manifest { source: FILE.into(), subjects, objects, live })
}

/// `name,class`, the name one that a folder can have.
fn subject(line: &str) -> Option<(String, String)> {
    let (name, class) = line.split_once(',')?;
    let (name, class) = (name.trim(), class.trim());
    let plain = |c: char| c.is_alphanumeric() || " -_+.".contains(c);
    let good = !name.is_empty() && !name.starts_with('.') && name.chars().all(plain);
    let words = !class.is_empty() && !class.contains([',', '{', '}']);
    (good && words).then(|| (name.into(), class.into()))
}

/// The text between the quotes of a line of a list.
fn template(line: &str) -> Option<String> {
    let quote = line.chars().next().filter(|c| ['\'', '"'].contains(c))?;
    let (text, rest) = line[1..].split_once(quote)?;
    let rest = rest.strip_suffix(',').unwrap_or(rest);
    let bare = text.replacen("{0}", "", 1).replacen("{1}", "", 1);
    let both = bare.len() + "{0}{1}".len() == text.len() && !bare.contains(['{', '}']);
    let known = ["", ".format(unique_token, class_token)"].contains(&rest);
    (both && known).then(|| text.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    const WHOLE: &str = "Classes\n\nsubject_name,class\ncat2,cat\nrc_car,toy\n\nPrompts\n\nObject Prompts\n\n\
        prompt_list = [\n'a {0} {1} on a boat'.format(unique_token, class_token),\n\
        'a blue {0} {1}'.format(unique_token, class_token)\n]\n\nLive Subject Prompts\n\nprompt_list = [\n\
        \"a {0} {1} in the chef's outfit\".format(unique_token, class_token),\n]\n";

    fn parsed(text: &str) -> Result<Manifest> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(FILE);
        fs::write(&path, text).unwrap();
        read(&path)
    }

    #[test]
    fn the_words_of_the_file_are_taken_as_they_are() {
        for text in [WHOLE.to_string(), format!("\u{feff}{}", WHOLE.replace('\n', "\r\n"))] {
            let all = parsed(&text).unwrap();
            let pairs = [("cat2", "cat"), ("rc_car", "toy")];
            assert_eq!(all.subjects, pairs.map(|(a, b)| (a.to_string(), b.to_string())));
            assert_eq!(all.objects, ["a {0} {1} on a boat", "a blue {0} {1}"]);
            assert_eq!(all.live, ["a {0} {1} in the chef's outfit"]);
            assert_eq!(all.prompts("cat", "sks")[0].text, "a sks cat in the chef's outfit");
        }
    }

    #[test]
    fn a_file_that_ends_too_early_is_refused_wherever_it_is_cut() {
        let whole = WHOLE.trim_end();
        for end in 0..whole.len() {
            let error = parsed(&whole[..end]).err().map(|e| e.to_string());
            assert!(error.is_some_and(|e| e.contains(FILE)), "{:?}", &whole[..end]);
        }
    }

    #[test]
    fn what_is_not_understood_is_named_with_its_line() {
        let refused = |from: &str, to: &str, words: &str| {
            assert!(WHOLE.contains(from));
            let error = parsed(&WHOLE.replacen(from, to, 1)).unwrap_err().to_string();
            assert!(error.contains(words), "{error}");
        };
        refused("rc_car,toy", "cat2,toy", "line 5: cat2 once more");
        refused("rc_car,toy", "../car,toy", "line 5: \"../car,toy\"");
        refused("rc_car,toy", "rc_car", "line 5");
        refused("a blue {0} {1}", "a blue {1}", "line 13");
        refused("a blue {0} {1}", "a blue {0} {1} {2}", "line 13");
        refused("Live Subject Prompts", "Object Prompts", "line 16");
        refused("unique_token, class_token", "token", "line 12");
        refused("Classes", "Klassen", "line 1");
    }
}
