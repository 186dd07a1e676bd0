//! What a pass is made of, and the thread that prepares the next one while the current one runs.

use super::{NoiseSchedule, PassNoise};
use crate::{
    error::Result,
    kernels::noise::state,
    tensor::philox::{Stream, streams},
};
use std::sync::{
    Arc,
    mpsc::{Receiver, SyncSender, sync_channel},
};

/// One training picture, ready to be encoded.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct TrainingSample {
    /// Pixels `[H, W, 3]` in `[-1, 1]`.
    pub pixels: Vec<f32>,
    /// Loss weights at the latent's size `[h, w]`.
    pub weight: Vec<f32>,
    /// What of it is the subject `[h, w]`: the loss of a sample without its background sees no more; empty: all of it.
    pub subject: Vec<f32>,
    /// Its prompt.
    pub prompt: String,
    /// Whether it is a mix.
    pub mixed: bool,
    /// Names the pixels when the same ones come again (an un-mixed picture without a random crop): its moments are kept.
    pub key: Option<String>,
    /// Whether it belongs to the prior set.
    pub prior: bool,
    /// What an image encoder makes of it, in a decoupled run.
    pub features: Option<Arc<PhotoFeatures>>,
}

/// Features of a photo by the frozen image encoder; empty where a run has no use for them.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct PhotoFeatures {
    /// Of the whole photo.
    pub photo: Vec<f32>,
    /// Of the photo without its subject.
    pub background: Vec<f32>,
}

/// Where training pictures come from; a pass is addressed by its number, so a resumed run sees the same ones.
pub trait SampleSource: Sync {
    /// The samples of pass `pass`, which belongs to optimizer step `step`: first the subjects', then the prior's.
    ///
    /// # Errors
    /// When a picture cannot be read.
    fn pass(&self, pass: u64, step: u64) -> Result<Vec<TrainingSample>>;

    /// Every prompt that can come, if that is known: they are encoded once, at the start.
    fn prompts(&self) -> Vec<String> {
        vec![]
    }
}

/// A pass with its random numbers.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Prepared {
    /// Pictures.
    pub samples: Vec<TrainingSample>,
    /// What its noise is drawn from.
    pub noise: PassNoise,
    /// Timesteps.
    pub timesteps: Vec<i32>,
    /// Whether the background of each sample is kept, in a decoupled run.
    pub keep: Vec<bool>,
}

impl Prepared {
    /// Loss weights of all samples, one after the other.
    pub fn weights(&self) -> Vec<f32> {
        let mut all = vec![];
        for (i, sample) in self.samples.iter().enumerate() {
            match self.keep.get(i) {
                Some(false) if !sample.subject.is_empty() => {
                    all.extend(sample.weight.iter().zip(&sample.subject).map(|(w, s)| w * s));
                }
                _ => all.extend(&sample.weight),
            }
        }
        all
    }
}

/// What the random numbers of a pass depend on.
#[derive(Clone, Copy, Debug)]
pub struct Draws {
    /// Seed of the run.
    pub seed: u64,
    /// Timesteps of the noise schedule.
    pub timesteps: usize,
    /// Probability that a sample's background is left out.
    pub drop: f32,
}

impl Draws {
    /// Draws under `seed`.
    pub fn new(seed: u64, noise: &NoiseSchedule) -> Self {
        Self { seed: seed ^ streams::TRAINING_SEED, timesteps: noise.len(), drop: 0.0 }
    }

    /// Adds the random numbers of pass `pass` to its pictures.
    pub fn prepare(&self, samples: Vec<TrainingSample>, pass: u64) -> Prepared {
        let n = samples.len();
        let normals = |purpose: u64| state(self.seed, streams::numbered(purpose, pass));
        let mut stream = Stream::new(self.seed, streams::numbered(streams::TIMESTEP, pass));
        let timesteps = (0..n).map(|_| i32::try_from(stream.below(self.timesteps)).unwrap_or(0));
        let mut stream = Stream::new(self.seed, streams::numbered(streams::BACKGROUND, pass));
        let keep = (0..n).map(|_| stream.uniform() >= self.drop).collect();
        Prepared {
            keep,
            timesteps: timesteps.collect(),
            noise: PassNoise::Drawn {
                posterior: normals(streams::POSTERIOR),
                forward: normals(streams::NOISE),
            },
            samples,
        }
    }
}

/// Runs `body` with a receiver of the passes `passes`, prepared one ahead by another thread.
///
/// # Errors
/// Those of `body`.
pub fn with_feed<T>(
    source: &dyn SampleSource,
    draws: Draws,
    accumulate: u64,
    passes: std::ops::Range<u64>,
    body: impl FnOnce(&Receiver<Result<Prepared>>) -> Result<T>,
) -> Result<T> {
    std::thread::scope(|scope| {
        let (send, receive): (SyncSender<Result<Prepared>>, _) = sync_channel(1);
        scope.spawn(move || {
            for pass in passes {
                let made = source.pass(pass, pass / accumulate.max(1));
                let failed = made.is_err();
                let made = made.map(|samples| draws.prepare(samples, pass));
                if send.send(made).is_err() || failed {
                    return;
                }
            }
        });
        let result = body(&receive);
        drop(receive); // ends the thread when it waits to send
        result
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Error;

    struct Numbers(u64);
    impl SampleSource for Numbers {
        fn pass(&self, pass: u64, step: u64) -> Result<Vec<TrainingSample>> {
            if pass == self.0 {
                let fix = String::new();
                let (at, found, expected) = ("x".into(), "y".into(), "z".into());
                return Err(Error::Data { at, found, expected, fix });
            }
            Ok(vec![
                TrainingSample { prompt: format!("{pass} {step}"), ..TrainingSample::default() };
                2
            ])
        }
    }

    fn draws() -> Draws {
        Draws { seed: 3, timesteps: 1000, drop: 0.5 }
    }

    #[test]
    fn a_pass_is_the_same_wherever_the_run_starts() {
        let collect = |range| {
            with_feed(&Numbers(99), draws(), 2, range, |r| {
                Ok(r.iter().map(|p| p.unwrap()).collect::<Vec<_>>())
            })
            .unwrap()
        };
        let (all, late) = (collect(0..6), collect(4..6));
        assert_eq!(all.len(), 6);
        assert_eq!(all[4..], late[..]);
        assert_eq!(all[5].samples[0].prompt, "5 2");
        assert_ne!(all[0].noise, all[1].noise);
        let PassNoise::Drawn { posterior, forward } = all[0].noise else { unreachable!() };
        assert_ne!(posterior, forward);
        let kept = all.iter().flat_map(|p| &p.keep);
        assert!(kept.clone().any(|k| *k) && kept.clone().any(|k| !*k));
    }

    #[test]
    fn the_loss_of_a_sample_without_its_background_sees_its_subject_alone() {
        let sample = TrainingSample {
            weight: vec![1.0, 0.5],
            subject: vec![0.0, 1.0],
            ..TrainingSample::default()
        };
        let whole = TrainingSample { subject: vec![], ..sample.clone() };
        let samples = vec![sample.clone(), sample, whole];
        let pass = Prepared { samples, keep: vec![true, false, false], ..Prepared::default() };
        assert_eq!(pass.weights(), [1.0, 0.5, 0.0, 0.5, 1.0, 0.5]);
    }

    #[test]
    fn an_error_arrives_and_leaving_early_ends_the_thread() {
        let got = with_feed(&Numbers(1), draws(), 1, 0..5, |r| {
            Ok(r.iter().map(|p| p.is_ok()).collect::<Vec<_>>())
        });
        assert_eq!(got.unwrap(), [true, false]);
        with_feed(&Numbers(9), draws(), 1, 0..1_000_000, |r| {
            r.recv().map(drop).map_err(|_| unreachable!("the thread sends before it ends"))
        })
        .unwrap();
    }
}
