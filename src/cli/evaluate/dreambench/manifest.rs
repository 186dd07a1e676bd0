//! DreamBench's subjects and prompts (methods.md §2.3): the list that is built in.

/// Subjects with their class.
const SUBJECTS: [(&str, &str); 30] = [
    ("backpack", "backpack"),
    ("backpack_dog", "backpack"),
    ("bear_plushie", "stuffed animal"),
    ("berry_bowl", "bowl"),
    ("can", "can"),
    ("candle", "candle"),
    ("cat", "cat"),
    ("cat2", "cat"),
    ("clock", "clock"),
    ("colorful_sneaker", "sneaker"),
    ("dog", "dog"),
    ("dog2", "dog"),
    ("dog3", "dog"),
    ("dog5", "dog"),
    ("dog6", "dog"),
    ("dog7", "dog"),
    ("dog8", "dog"),
    ("duck_toy", "toy"),
    ("fancy_boot", "boot"),
    ("grey_sloth_plushie", "stuffed animal"),
    ("monster_toy", "toy"),
    ("pink_sunglasses", "glasses"),
    ("poop_emoji", "toy"),
    ("rc_car", "toy"),
    ("red_cartoon", "cartoon"),
    ("robot_toy", "toy"),
    ("shiny_sneaker", "sneaker"),
    ("teapot", "teapot"),
    ("vase", "vase"),
    ("wolf_plushie", "stuffed animal"),
];

/// Where every subject is put.
const PLACES: [&str; 10] = [
    "in the jungle",
    "in the snow",
    "on the beach",
    "on a cobblestone street",
    "on top of pink fabric",
    "on top of a wooden floor",
    "with a city in the background",
    "with a mountain in the background",
    "with a blue house in the background",
    "on top of a purple rug in a forest",
];

/// Where objects are put.
const OF_OBJECTS: [&str; 10] = [
    "with a wheat field in the background",
    "with a tree and autumn leaves in the background",
    "with the Eiffel Tower in the background",
    "floating on top of water",
    "floating in an ocean of milk",
    "on top of green grass with sunflowers around it",
    "on top of a mirror",
    "on top of the sidewalk in a crowded street",
    "on top of a dirt road",
    "on top of a white rug",
];

/// What animals wear.
const OF_LIVE: [&str; 10] = [
    "wearing a red hat",
    "wearing a santa hat",
    "wearing a rainbow scarf",
    "wearing a black top hat and a monocle",
    "in a chef outfit",
    "in a firefighter outfit",
    "in a police outfit",
    "wearing pink glasses",
    "wearing a yellow shirt",
    "in a purple wizard outfit",
];

/// How every subject is changed.
const LOOKS: [&str; 5] = ["red", "purple", "shiny", "wet", "cube shaped"];

/// Classes of live subjects.
const LIVE: [&str; 2] = ["cat", "dog"];

/// Subjects and their prompts, `{0}` where the identifier stands and `{1}` where the class does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Manifest {
    /// Where it is from, in words.
    pub source: String,
    /// Names and classes.
    pub subjects: Vec<(String, String)>,
    /// Prompts of objects.
    pub objects: Vec<String>,
    /// Prompts of live subjects.
    pub live: Vec<String>,
}

/// A prompt of a subject.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Prompt {
    /// What pictures are made with.
    pub text: String,
    /// What they are compared with: without the identifier.
    pub plain: String,
}

/// Whether subjects of this class are live: cats and dogs.
pub fn is_live(class: &str) -> bool {
    LIVE.contains(&class)
}

impl Manifest {
    /// The list that is built in.
    pub fn built_in() -> Self {
        let list = |own: &[&str]| {
            let places = PLACES.iter().chain(own).map(|place| format!("a {{0}} {{1}} {place}"));
            places.chain(LOOKS.iter().map(|look| format!("a {look} {{0}} {{1}}"))).collect()
        };
        let subject = |(name, class): &(&str, &str)| (name.to_string(), class.to_string());
        Self {
            source: "the list built in".into(),
            subjects: SUBJECTS.iter().map(subject).collect(),
            objects: list(&OF_OBJECTS),
            live: list(&OF_LIVE),
        }
    }

    /// The prompts of a subject of `class` that is called `token`.
    pub fn prompts(&self, class: &str, token: &str) -> Vec<Prompt> {
        let list = if is_live(class) { &self.live } else { &self.objects };
        let with = |template: &String, token: &str| {
            let text = template.replace("{0}", token).replace("{1}", class);
            text.split_whitespace().collect::<Vec<_>>().join(" ")
        };
        list.iter().map(|t| Prompt { text: with(t, token), plain: with(t, "") }).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn thirty_subjects_have_twenty_five_prompts_each() {
        let all = Manifest::built_in();
        let live: Vec<&String> =
            all.subjects.iter().filter(|(_, class)| is_live(class)).map(|(n, _)| n).collect();
        assert_eq!((all.subjects.len(), live.len()), (30, 9), "{live:?}");
        for list in [&all.objects, &all.live] {
            let different: BTreeSet<&String> = list.iter().collect();
            assert_eq!((list.len(), different.len()), (25, 25));
            assert!(list.iter().all(|t| t.contains("{0} {1}")));
        }
        assert_eq!((&all.objects[..10], &all.objects[20..]), (&all.live[..10], &all.live[20..]));
    }

    #[test]
    fn the_identifier_is_in_the_prompt_and_not_in_the_text_that_is_compared() {
        let all = Manifest::built_in();
        let prompts = all.prompts("stuffed animal", "sks");
        assert_eq!(prompts[0].text, "a sks stuffed animal in the jungle");
        assert_eq!(prompts[0].plain, "a stuffed animal in the jungle");
        assert_eq!(prompts[24].text, "a cube shaped sks stuffed animal");
        assert_eq!(prompts[24].plain, "a cube shaped stuffed animal");
        assert_eq!(all.prompts("cat", "sks")[10].text, "a sks cat wearing a red hat");
        assert!(all.prompts("can", "sks")[10].plain.contains("wheat field"));
    }
}
