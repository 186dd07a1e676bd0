//! One folder per operation: maths, shapes, contract, CPU reference, kernels, cases, notes.

pub mod activation;
pub mod adamw;
pub mod add;
pub mod affine;
pub mod attention;
pub mod case;
pub mod cast;
pub mod check;
mod columns;
pub mod compare;
pub mod concat;
pub mod conv2d;
pub mod cosine;
pub mod coverage;
pub mod depthwise;
pub mod diffuse;
pub(crate) mod elementwise;
pub mod ema;
pub mod embedding;
mod frame;
pub mod geglu;
pub mod grad_norm;
pub mod group_norm;
pub mod latent_mix;
pub mod layer_norm;
pub mod linear;
pub mod lora_linear;
pub mod loss;
pub mod moe;
pub mod multiply;
pub mod noise;
pub mod posterior;
pub mod recorded;
pub mod resize;
pub mod scheduler;
pub mod slice;
pub mod variant;
pub mod windows;

/// Every choice between variants that a folder publishes, by operation.
pub fn slots() -> Vec<variant::Slot> {
    let mut all = vec![];
    all.extend(attention::slots());
    all.extend(conv2d::slots());
    all.extend(group_norm::slots());
    all.extend(layer_norm::slots());
    all.extend(linear::slots());
    all.extend(lora_linear::slots());
    all.extend(moe::slots());
    all
}

/// Every folder's cases: one list for tests, gradient checks and benches.
pub fn cases() -> Vec<case::Case> {
    let mut all = vec![];
    all.extend(activation::cases::cases());
    all.extend(adamw::cases::cases());
    all.extend(add::cases::cases());
    all.extend(attention::cases::cases());
    all.extend(affine::cases::cases());
    all.extend(cast::cases::cases());
    all.extend(concat::cases::cases());
    all.extend(conv2d::cases::cases());
    all.extend(cosine::cases::cases());
    all.extend(depthwise::cases::cases());
    all.extend(diffuse::cases::cases());
    all.extend(embedding::cases::cases());
    all.extend(geglu::cases::cases());
    all.extend(grad_norm::cases::cases());
    all.extend(group_norm::cases::cases());
    all.extend(layer_norm::cases::cases());
    all.extend(linear::cases::cases());
    all.extend(lora_linear::cases::cases());
    all.extend(loss::cases::cases());
    all.extend(posterior::cases::cases());
    all.extend(latent_mix::cases::cases());
    all.extend(moe::cases::cases());
    all.extend(multiply::cases::cases());
    all.extend(noise::cases::cases());
    all.extend(resize::cases::cases());
    all.extend(scheduler::cases::cases());
    all.extend(slice::cases::cases());
    all.extend(windows::cases::cases());
    all
}

/// Every folder's measured shapes, those of the models; the tests' where a folder has no others.
pub fn bench_cases() -> Vec<case::Case> {
    let mut all = vec![];
    all.extend(activation::cases::bench_cases());
    all.extend(adamw::cases::bench_cases());
    all.extend(add::cases::bench_cases());
    all.extend(attention::cases::bench_cases());
    all.extend(affine::cases::bench_cases());
    all.extend(cast::cases::bench_cases());
    all.extend(concat::cases::bench_cases());
    all.extend(conv2d::cases::bench_cases());
    all.extend(cosine::cases::bench_cases());
    all.extend(depthwise::cases::bench_cases());
    all.extend(diffuse::cases::cases());
    all.extend(embedding::cases::cases());
    all.extend(geglu::cases::bench_cases());
    all.extend(grad_norm::cases::bench_cases());
    all.extend(group_norm::cases::bench_cases());
    all.extend(layer_norm::cases::bench_cases());
    all.extend(linear::cases::bench_cases());
    all.extend(lora_linear::cases::bench_cases());
    all.extend(loss::cases::bench_cases());
    all.extend(posterior::cases::cases());
    all.extend(latent_mix::cases::cases());
    all.extend(moe::cases::bench_cases());
    all.extend(multiply::cases::bench_cases());
    all.extend(noise::cases::cases());
    all.extend(resize::cases::bench_cases());
    all.extend(scheduler::cases::bench_cases());
    all.extend(slice::cases::bench_cases());
    all.extend(windows::cases::bench_cases());
    all
}
