//! Weights cost their size once: mapped where the file's order is the program's, converted once elsewhere.
//! One test, because it reads the memory of its own process.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, clippy::expect_used)]

use selvedge::{
    models::checkpoint::{Checkpoint, Component},
    plan::{WeightLayout, WeightSource},
    tensor::{
        Floats,
        safetensors::{Dtype, Raw},
        write_safetensors,
    },
};
use std::{collections::BTreeMap, fs, path::Path};

const LINEAR: [usize; 2] = [1024, 1024];
const KERNEL: [usize; 4] = [320, 3, 3, 320]; // as programs have it
const COPIES: usize = 20;

/// A field of `/proc/self/status`, bytes.
fn status(field: &str) -> f64 {
    let text = fs::read_to_string("/proc/self/status").unwrap();
    let line = text.lines().find(|l| l.starts_with(field)).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<f64>().unwrap() * 1024.0
}

fn value(seed: usize, i: usize) -> f32 {
    ((seed * 7919 + i * 31) % 2003) as f32 / 64.0 // exact in f16
}

/// A folder whose U-Net is twenty linear layers and twenty kernels; their elements.
fn model(folder: &Path, dtype: Dtype) -> usize {
    let mut all = BTreeMap::new();
    for i in 0..COPIES {
        let [o, h, w, c] = KERNEL;
        for (name, dims) in [("linear", LINEAR.to_vec()), ("kernel", vec![o, c, h, w])] {
            let data: Vec<f32> = (0..dims.iter().product()).map(|at| value(i, at)).collect();
            all.insert(format!("{name}.{i}.weight"), Raw::rounded(&dims, &data, dtype));
        }
    }
    fs::create_dir_all(folder.join("unet")).unwrap();
    fs::write(folder.join("unet/config.json"), "{}").unwrap();
    let file = folder.join("unet/diffusion_pytorch_model.safetensors");
    write_safetensors(file, all.iter().map(|(n, r)| (n.as_str(), r)), &BTreeMap::new()).unwrap();
    COPIES * (LINEAR.iter().product::<usize>() + KERNEL.iter().product::<usize>())
}

/// Every parameter as a program has it; all of it is read once.
fn load(checkpoint: &Checkpoint) -> Vec<Floats> {
    let mut all = vec![];
    for i in 0..COPIES {
        let get = |name: &str, dims: &[usize], layout| {
            checkpoint.get(&format!("unet.{name}.{i}.weight"), dims, layout).unwrap().unwrap()
        };
        let (linear, kernel) = (
            get("linear", &LINEAR, WeightLayout::Dense),
            get("kernel", &KERNEL, WeightLayout::Conv),
        );
        let [_, h, w, c] = KERNEL;
        assert!(linear.iter().enumerate().all(|(at, v)| *v == value(i, at)));
        for (at, v) in kernel.iter().enumerate() {
            let (row, p, channel) = (at / (h * w * c), at / c % (h * w), at % c);
            assert_eq!(*v, value(i, (row * c + channel) * h * w + p));
        }
        all.extend([linear, kernel]);
    }
    all
}

#[test]
fn weights_cost_their_size_once() {
    let dir = tempfile::tempdir().unwrap();
    for (dtype, mapped) in [(Dtype::F32, true), (Dtype::F16, false)] {
        let folder = dir.path().join(format!("{dtype:?}"));
        let bytes = 4.0 * model(&folder, dtype) as f64;
        let linears = 4.0 * (COPIES * LINEAR.iter().product::<usize>()) as f64;
        let checkpoint = Checkpoint::open(&folder, Component::Unet).unwrap();
        let (before, anonymous) = (status("VmRSS"), status("RssAnon"));
        let all = load(&checkpoint);
        let (grown, copied) = (status("VmRSS") - before, status("RssAnon") - anonymous);
        assert!(grown < 1.1 * bytes, "{dtype:?}: {grown} for {bytes} bytes of f32");
        let want = if mapped { bytes - linears } else { bytes };
        let off = (copied - want).abs();
        assert!(off < 0.06 * bytes, "{dtype:?}: {copied} bytes copied, {want} expected");
        let again = load(&checkpoint);
        let shared = all.iter().zip(&again).all(|(a, b)| a.as_ptr() == b.as_ptr());
        assert!(shared, "{dtype:?}: two programs read the same numbers");
        drop((all, again));
        let kept = status("VmRSS") - before;
        assert!(kept < 0.1 * bytes, "{dtype:?}: {kept} bytes stay when nobody reads them");
    }
}
