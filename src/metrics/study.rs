//! A study with people: which questions were asked, what was answered, and what the answers say (methods.md §1.10).

use crate::tensor::philox::{Stream, streams};
use serde::{Deserialize, Serialize};
use std::{
    collections::{BTreeMap, BTreeSet},
    hash::{DefaultHasher, Hash as _, Hasher as _},
};

/// A picture of a method.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Item {
    /// The method.
    pub method: String,
    /// The picture's file name: the same seed has the same name in every method.
    pub picture: String,
}

/// What two pictures are compared by.
pub const CRITERIA: [(&str, &str); 3] = [
    ("subjects", "In which picture do the subjects look more like the reference photos?"),
    ("text", "Which picture fits the text better?"),
    ("image", "Which picture is the better image, without flaws?"),
];

/// One question; people see its number and its pictures, never the methods.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Question {
    /// Are all subjects there, each with its own looks: `yes` or `no`.
    Fidelity(Item),
    /// Two pictures of one seed, by every criterion: `left`, `right` or `neither` (cannot be determined).
    Pair {
        /// Shown on the left.
        left: Item,
        /// Shown on the right.
        right: Item,
    },
}

/// What the questions of a study stand for: kept by whoever asks, not shown to those who answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Key {
    /// Name of the study, in the answers too.
    pub study: String,
    /// By number.
    pub questions: Vec<Question>,
}

/// One person's answers: `q3` (fidelity) or `q3.text` (a pair by a criterion) to the choice.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Answers {
    /// Name of the study.
    pub study: String,
    /// Choices by question.
    pub answers: BTreeMap<String, String>,
}

impl Key {
    /// Draws a study: of every method the same `count` pictures (all when there are fewer) are asked for fidelity, and the
    /// first method's are paired with every other one's of the same name, sides at random, in random order. Its name tells
    /// studies of other questions apart.
    pub fn draw(methods: &[String], pictures: &[String], count: usize, seed: u64) -> Self {
        let mut random = Stream::new(seed, streams::STUDY);
        let mut chosen = pictures.to_vec();
        shuffle(&mut chosen, &mut random);
        chosen.truncate(count);
        let item = |method: &String, picture: &String| Item {
            method: method.clone(),
            picture: picture.clone(),
        };
        let mut fidelity = vec![];
        let mut pairs = vec![];
        for picture in &chosen {
            fidelity.extend(methods.iter().map(|m| Question::Fidelity(item(m, picture))));
            for other in methods.iter().skip(1) {
                let mut sides = [item(&methods[0], picture), item(other, picture)];
                if random.coin() {
                    sides.reverse();
                }
                let [left, right] = sides;
                pairs.push(Question::Pair { left, right });
            }
        }
        shuffle(&mut fidelity, &mut random);
        shuffle(&mut pairs, &mut random);
        fidelity.append(&mut pairs);
        let mut hasher = DefaultHasher::new();
        fidelity.hash(&mut hasher);
        Self { study: format!("study-{:016x}", hasher.finish()), questions: fidelity }
    }

    /// The answers that a question allows, by the name of the answer.
    pub fn choices(&self) -> BTreeMap<String, &'static [&'static str]> {
        let names = |(i, q): (usize, &Question)| match q {
            Question::Fidelity(_) => vec![(format!("q{i}"), &["yes", "no"][..])],
            Question::Pair { .. } => CRITERIA
                .iter()
                .map(|(c, _)| (format!("q{i}.{c}"), &["left", "right", "neither"][..]))
                .collect(),
        };
        self.questions.iter().enumerate().flat_map(names).collect()
    }
}

fn shuffle<T>(all: &mut [T], random: &mut Stream) {
    for i in (1..all.len()).rev() {
        all.swap(i, random.below(i + 1));
    }
}

/// What people preferred between two methods by one criterion.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Preference {
    /// Answers for the first method.
    pub first: usize,
    /// Answers for the second method.
    pub second: usize,
    /// Answers for neither.
    pub neither: usize,
}

/// All answers of a study, counted.
#[derive(Clone, Debug, Default)]
pub struct Tally {
    /// `yes` and all answers of every picture.
    pub fidelity: BTreeMap<Item, [usize; 2]>,
    /// By the two methods (in the order of their names) and the criterion.
    pub preferences: BTreeMap<(String, String, &'static str), Preference>,
}

impl Tally {
    /// Counts the answers of several people, which `key` must allow.
    pub fn of(key: &Key, people: &[Answers]) -> Self {
        let mut tally = Self::default();
        for (i, question) in key.questions.iter().enumerate() {
            let given = |name: &str| {
                people.iter().filter_map(|p| p.answers.get(name)).map(String::as_str).collect()
            };
            match question {
                Question::Fidelity(item) => {
                    let given: Vec<&str> = given(&format!("q{i}"));
                    let yes = given.iter().filter(|a| **a == "yes").count();
                    let count = tally.fidelity.entry(item.clone()).or_default();
                    *count = [count[0] + yes, count[1] + given.len()];
                }
                Question::Pair { left, right } => {
                    let in_order = left.method <= right.method;
                    let (a, b) = if in_order { (left, right) } else { (right, left) };
                    for (criterion, _) in CRITERIA {
                        let at = (a.method.clone(), b.method.clone(), criterion);
                        let count = tally.preferences.entry(at).or_default();
                        let all: Vec<&str> = given(&format!("q{i}.{criterion}"));
                        for answer in all {
                            match (answer, in_order) {
                                ("left", true) | ("right", false) => count.first += 1,
                                ("left", false) | ("right", true) => count.second += 1,
                                _ => count.neither += 1,
                            }
                        }
                    }
                }
            }
        }
        tally
    }

    /// Methods whose pictures were asked for.
    pub fn methods(&self) -> BTreeSet<&str> {
        self.fidelity.keys().map(|i| i.method.as_str()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key() -> Key {
        let methods = ["mudi".to_string(), "cut-mix".to_string()];
        let pictures: Vec<String> = (0..20).map(|i| format!("{i:04}.png")).collect();
        Key::draw(&methods, &pictures, 10, 7)
    }

    #[test]
    fn every_method_shows_the_same_pictures_and_sides_are_mixed() {
        let key = key();
        let of = |method: &str| -> BTreeSet<String> {
            let name = |q: &Question| match q {
                Question::Fidelity(i) if i.method == method => Some(i.picture.clone()),
                _ => None,
            };
            key.questions.iter().filter_map(name).collect()
        };
        assert_eq!((of("mudi").len(), of("mudi")), (10, of("cut-mix")));
        let left = |m: &str| {
            let is = |q: &&Question| matches!(q, Question::Pair { left, right } if left.method == m && left.picture == right.picture);
            key.questions.iter().filter(is).count()
        };
        assert_eq!(left("mudi") + left("cut-mix"), 10);
        assert!(left("mudi") > 0 && left("cut-mix") > 0);
        assert_eq!(key, self::key());
        assert_eq!(key.choices().len(), 20 + 10 * 3);
    }

    #[test]
    fn planted_answers_are_recovered() {
        let key = key();
        let mut answers = BTreeMap::new();
        for (i, q) in key.questions.iter().enumerate() {
            match q {
                Question::Fidelity(item) => {
                    let good = item.method == "mudi";
                    answers.insert(format!("q{i}"), if good { "yes" } else { "no" }.to_string());
                }
                Question::Pair { left, .. } => {
                    let side = if left.method == "mudi" { "left" } else { "right" };
                    answers.insert(format!("q{i}.subjects"), side.to_string());
                    answers.insert(format!("q{i}.text"), "neither".to_string());
                }
            }
        }
        let people = [Answers { study: key.study.clone(), answers }];
        let tally = Tally::of(&key, &people);
        for (item, count) in &tally.fidelity {
            assert_eq!(*count, [usize::from(item.method == "mudi"), 1], "{item:?}");
        }
        let of = |c| &tally.preferences[&("cut-mix".to_string(), "mudi".to_string(), c)];
        assert_eq!(*of("subjects"), Preference { first: 0, second: 10, neither: 0 });
        assert_eq!(*of("text"), Preference { first: 0, second: 0, neither: 10 });
        assert_eq!(*of("image"), Preference::default());
    }
}
