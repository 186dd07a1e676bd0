//! The subjects' identifiers as learned words: where their embeddings start, and which tokens of a prompt they are.

use super::InitialWeights;
use crate::{
    data::TrainConfig,
    error::{Error, Result},
    models::{
        base::{Base, TextSide, learned_rows},
        decoupling,
    },
    plan::{WeightLayout, WeightSource},
};

/// Whether a parameter holds the embeddings of learned words.
pub fn is_word(name: &str) -> bool {
    let rest = name.strip_prefix(decoupling::PREFIX);
    rest.is_some_and(|rest| rest.starts_with(".identifier."))
}

/// Starts every learned word of `base` as the mean of the embeddings of the tokens that it was: a word of one token changes
/// nothing at first.
///
/// # Errors
/// Those of the weights; [`Error::Weights`] for a base without the table.
pub fn give<S: WeightSource>(start: &mut InitialWeights<S>, base: &Base) -> Result<()> {
    for side in base.text.iter().filter(|side| !side.learned.is_empty()) {
        let rows = initial(side, &base.weights)?;
        start.give(&learned_rows(side.component), rows);
    }
    Ok(())
}

/// Refuses learned words that no caption of a run names: nothing would be learned.
///
/// # Errors
/// [`Error::Config`] with the first such word.
pub fn all_named(base: &Base, config: &TrainConfig, captions: &[String]) -> Result<()> {
    let Some(side) = base.text.first() else { return Ok(()) };
    for (word, first) in config.learned_words().iter().zip(side.config.vocabulary..) {
        let id = i32::try_from(first).unwrap_or(i32::MAX);
        if !captions.iter().any(|p| side.tokenizer.encode(p).ids.contains(&id)) {
            return Err(Error::Config {
                key: "decoupling.train_text".into(),
                found: format!("embedding of `{word}`, which no caption names"),
                expected: "captions with the subject's token".into(),
                fix: "write the token into the photos' captions, or remove their .txt files".into(),
            });
        }
    }
    Ok(())
}

fn initial(side: &TextSide, weights: &dyn WeightSource) -> Result<Vec<f32>> {
    let TextSide { component, config, learned, .. } = side;
    let name = format!("{}.text_model.embeddings.token_embedding.weight", component.name());
    let dims = [config.vocabulary, config.width];
    let table = weights.get(&name, &dims, WeightLayout::Dense)?.ok_or_else(|| Error::Weights {
        source_name: "base".into(),
        missing: vec![name],
        unknown: vec![],
        misshaped: vec![],
    })?;
    let mut rows = vec![0.0; learned.len() * config.width];
    for (row, tokens) in rows.chunks_exact_mut(config.width.max(1)).zip(learned) {
        for token in tokens {
            let at = usize::try_from(*token).unwrap_or(0) * config.width;
            let own = table.get(at..at + config.width).unwrap_or_default();
            row.iter_mut().zip(own).for_each(|(r, v)| *r += v / tokens.len() as f32);
        }
    }
    Ok(rows)
}

/// The weight of every token in the mean over the subjects' tokens, `[N, L, width]`: `L / count` for the tokens of the
/// identifiers (classes, for subjects without one) that a prompt names, 1 for all where it names none.
pub fn concepts(base: &Base, config: &TrainConfig, prompts: &[&str], width: usize) -> Vec<f32> {
    let Some(side) = base.text.first() else { return vec![] };
    let words = config.subjects.iter().map(|s| match s.token.trim() {
        "" => s.class.as_str(),
        token => token,
    });
    let words: Vec<Vec<i32>> =
        words.map(|w| side.tokenizer.tokens(w)).filter(|t| !t.is_empty()).collect();
    let (ids, _) = base.ids(0, prompts);
    let mut weights = vec![];
    for ids in ids.chunks_exact(base.tokens().max(1)) {
        let mut own = vec![false; ids.len()];
        for word in &words {
            for at in 0..ids.len().saturating_sub(word.len() - 1) {
                if ids[at..].starts_with(word) {
                    own[at..at + word.len()].fill(true);
                }
            }
        }
        let count = own.iter().filter(|o| **o).count();
        for own in own {
            let weight = match count {
                0 => 1.0,
                n if own => ids.len() as f32 / n as f32,
                _ => 0.0,
            };
            weights.extend(std::iter::repeat_n(weight, width));
        }
    }
    weights
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::config::SubjectConfig;

    fn nano() -> Base {
        Base::open("nano").unwrap()
    }

    #[test]
    fn a_word_starts_as_the_mean_of_its_tokens_and_is_one_token_only_where_it_stands_alone() {
        let plain = nano();
        let long = plain.text[0].tokenizer.tokens("beachbear");
        assert!(long.len() > 1, "{long:?}");
        let base = nano().learning(&["bear".into(), "BeachBear".into()]);
        let first = i32::try_from(base.text[0].config.vocabulary).unwrap();
        let tokens = |text: &str| base.text[0].tokenizer.tokens(text);
        assert_eq!(tokens("a beachbear, bear!")[1..4], [first + 1, tokens(",")[0], first]);
        assert_eq!(tokens("bears"), plain.text[0].tokenizer.tokens("bears"));
        let rows = initial(&base.text[0], &base.weights).unwrap();
        let width = base.text[0].config.width;
        let name = "text_encoder.text_model.embeddings.token_embedding.weight";
        let dims = [base.text[0].config.vocabulary, width];
        let table = base.weights.get(name, &dims, WeightLayout::Dense).unwrap().unwrap();
        let of = |id: i32| &table[usize::try_from(id).unwrap() * width..][..width];
        assert_eq!(&rows[..width], of(plain.text[0].tokenizer.tokens("bear")[0]));
        let mean = |k: usize| long.iter().map(|t| of(*t)[k]).sum::<f32>() / long.len() as f32;
        assert!((0..width).all(|k| (rows[width + k] - mean(k)).abs() < 1e-6));
        let (ids, ends) = base.ids(0, &["a bear"]);
        let plain_ends = plain.ids(0, &["a bear"]).1;
        assert_eq!(ends, plain_ends, "{ids:?}");
    }

    #[test]
    fn a_concept_is_the_tokens_of_what_a_prompt_names() {
        let subject = SubjectConfig { token: "red".into(), ..SubjectConfig::default() };
        let config = TrainConfig { subjects: vec![subject], ..TrainConfig::default() };
        let base = nano();
        let weights = concepts(&base, &config, &["a red bear", "a blue bear"], 1);
        let l = base.tokens();
        let mut want = vec![0.0; l];
        want[2] = l as f32; // after the start and `a`
        want.extend(vec![1.0; l]);
        assert_eq!(weights, want);
    }
}
