//! The texts that a picture is compared with: its prompt with the subjects in every order (methods.md §1.10).

use crate::error::{Error, Result};

/// Subjects whose orders are all tried; the next number has 720.
const MOST: usize = 5;

/// How a subject is called: its identifier and its class.
#[derive(Clone, Copy, Debug)]
pub struct Name<'a> {
    /// The identifier; may be empty.
    pub token: &'a str,
    /// The class words.
    pub class: &'a str,
}

/// The texts of a prompt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Orders {
    /// The prompt with its subjects in every order; the first has them in the prompt's own.
    pub texts: Vec<String>,
    /// Subjects (by number) that the prompt does not name: they change no text.
    pub unnamed: Vec<usize>,
}

/// A place in the prompt where a subject stands.
struct Place {
    start: usize,
    end: usize,
    /// What stands there, in the text that is compared.
    words: String,
}

/// `prompt` with the subjects it names in every order. Where it says "token class" or the token alone, the class stands in
/// the texts, or with `keep_tokens` what the prompt says.
///
/// # Errors
/// [`Error::Data`] for a prompt that names more than five subjects.
pub fn orders(prompt: &str, subjects: &[Name<'_>], keep_tokens: bool) -> Result<Orders> {
    let mut places: Vec<Option<Place>> = subjects.iter().map(|_| None).collect();
    // the surest names first: "token class", then the token, then the class, longer ones before shorter
    let whole = |n: &Name<'_>| if n.token.is_empty() { String::new() } else { joined(n) };
    let ways: [&dyn Fn(&Name<'_>) -> String; 3] =
        [&whole, &|n| n.token.to_string(), &|n| n.class.to_string()];
    for way in ways {
        let mut wanted: Vec<(usize, String)> =
            subjects.iter().map(way).enumerate().filter(|(i, _)| places[*i].is_none()).collect();
        wanted.sort_by_key(|(_, words)| std::cmp::Reverse(words.len()));
        for (i, words) in wanted {
            let Some((start, end)) = find(prompt, &words, &places) else { continue };
            let own = if keep_tokens { &prompt[start..end] } else { subjects[i].class };
            let own = if own.is_empty() { &prompt[start..end] } else { own };
            places[i] = Some(Place { start, end, words: own.to_string() });
        }
    }
    let unnamed = (0..subjects.len()).filter(|i| places[*i].is_none()).collect();
    let mut named: Vec<Place> = places.into_iter().flatten().collect();
    named.sort_by_key(|p| p.start);
    if named.len() > MOST {
        return Err(Error::Data {
            at: format!("prompt {prompt:?}"),
            found: format!("{} subjects in it", named.len()),
            expected: format!("at most {MOST}: the text scores are means over all their orders"),
            fix: "leave --clip and --imagereward out".into(),
        });
    }
    let mut texts = vec![];
    for order in permutations(named.len()) {
        let (mut text, mut at) = (String::new(), 0);
        for (place, who) in named.iter().zip(order) {
            text += &prompt[at..place.start];
            text += &named[who].words;
            at = place.end;
        }
        text += &prompt[at..];
        if !texts.contains(&text) {
            texts.push(text);
        }
    }
    Ok(Orders { texts, unnamed })
}

fn joined(name: &Name<'_>) -> String {
    format!("{} {}", name.token, name.class).trim().to_string()
}

/// The first place of `words` in `prompt`, letter case aside, as words of their own and outside the places taken.
fn find(prompt: &str, words: &str, taken: &[Option<Place>]) -> Option<(usize, usize)> {
    let wanted: Vec<char> = words.chars().collect();
    if wanted.is_empty() {
        return None;
    }
    let all: Vec<(usize, char)> = prompt.char_indices().collect();
    let part = |c: Option<&(usize, char)>| c.is_some_and(|(_, c)| c.is_alphanumeric());
    let same = |a: char, b: char| a == b || a.to_lowercase().eq(b.to_lowercase());
    (0..all.len()).find_map(|i| {
        let there = all.get(i..i + wanted.len())?;
        if !there.iter().zip(&wanted).all(|((_, a), b)| same(*a, *b)) {
            return None;
        }
        let next = all.get(i + wanted.len());
        let apart = |outside: Option<&(usize, char)>, inside: char| {
            !(part(outside) && inside.is_alphanumeric())
        };
        let before = i.checked_sub(1).and_then(|i| all.get(i));
        if !apart(before, wanted[0]) || !apart(next, wanted[wanted.len() - 1]) {
            return None;
        }
        let (start, end) = (all[i].0, next.map_or(prompt.len(), |(at, _)| *at));
        let free = taken.iter().flatten().all(|p| end <= p.start || start >= p.end);
        free.then_some((start, end))
    })
}

/// All orders of `0..n`, the natural one first.
fn permutations(n: usize) -> Vec<Vec<usize>> {
    let mut all = vec![vec![]];
    for _ in 0..n {
        let longer = |order: &Vec<usize>| {
            let rest = (0..n).filter(|i| !order.contains(i));
            rest.map(|i| [&order[..], &[i]].concat()).collect::<Vec<_>>()
        };
        all = all.iter().flat_map(longer).collect();
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    const TWO: [Name<'static>; 2] =
        [Name { token: "olis", class: "monster toy" }, Name { token: "hta", class: "toy" }];

    fn texts(prompt: &str, subjects: &[Name<'_>], keep: bool) -> Vec<String> {
        orders(prompt, subjects, keep).unwrap().texts
    }

    #[test]
    fn two_subjects_have_two_orders_without_their_identifiers() {
        let prompt = "A photo of a Olis monster toy and a hta toy, on the beach";
        assert_eq!(
            texts(prompt, &TWO, false),
            [
                "A photo of a monster toy and a toy, on the beach",
                "A photo of a toy and a monster toy, on the beach"
            ]
        );
        assert_eq!(
            texts(prompt, &TWO, true)[1],
            "A photo of a hta toy and a Olis monster toy, on the beach"
        );
    }

    #[test]
    fn a_class_that_is_in_another_finds_its_own_place() {
        let prompt = "a toy beside a monster toy";
        assert_eq!(texts(prompt, &TWO, false), [prompt, "a monster toy beside a toy"]);
        // a token alone becomes its class
        assert_eq!(texts("olis and hta", &TWO, false)[0], "monster toy and toy");
        // two of one class, which no order tells apart
        let same = [Name { token: "", class: "dog" }; 2];
        assert_eq!(texts("a dog and a dog", &same, false), ["a dog and a dog"]);
    }

    #[test]
    fn who_is_not_named_is_told() {
        let found = orders("a toyshop, and the hta toy", &TWO, false).unwrap();
        assert_eq!(
            found,
            Orders { texts: vec!["a toyshop, and the toy".into()], unnamed: vec![0] }
        );
        assert_eq!(orders("", &TWO, false).unwrap().unnamed, [0, 1]);
    }

    #[test]
    fn three_subjects_have_six_orders_and_six_are_refused() {
        let names = ["a1", "b2", "c3", "d4", "e5", "f6"].map(|class| Name { token: "", class });
        let all = texts("a1, b2; c3", &names[..3], false);
        assert_eq!((all.len(), all[5].as_str()), (6, "c3, b2; a1"));
        assert!(orders("a1 b2 c3 d4 e5 f6", &names, false).is_err());
    }
}
