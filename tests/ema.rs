//! The moving average on the emulated device is that of the host, bit for bit, wherever its buffers begin.
#![allow(clippy::unwrap_used, clippy::expect_used)]
#![cfg(feature = "emulate")]

use selvedge::{
    device::{Cuda, Schedule},
    kernels::ema::{update, update_device, warm_decay},
    tensor::philox::fill_normal,
};

const LEN: usize = 1003;
const DECAY: f32 = 0.999;

fn normal(seed: u64) -> Vec<f32> {
    let mut v = vec![0.0; LEN];
    fill_normal(seed, 3, &mut v);
    v
}

#[test]
fn a_device_average_is_the_hosts() {
    let cuda = Cuda::emulated(Schedule::Random(3)).unwrap();
    for (step, odd) in [(0i32, 0), (7, 4), (1_000_000, 8)] {
        let (mut host, value) = (normal(1), normal(2));
        let (average, values) = (cuda.alloc(4 * LEN + 16).unwrap(), cuda.alloc(4 * LEN).unwrap());
        let at = average.address() + odd;
        cuda.upload(at, bytemuck::cast_slice(&host)).unwrap();
        cuda.upload(values.address(), bytemuck::cast_slice(&value)).unwrap();
        let count = cuda.alloc(4).unwrap();
        cuda.upload(count.address(), &step.to_le_bytes()).unwrap();
        update_device(&cuda, (at, values.address()), LEN, count.address(), DECAY).unwrap();
        let mut got = vec![0.0f32; LEN];
        cuda.download(at, bytemuck::cast_slice_mut(&mut got)).unwrap();
        update(&mut host, &value, warm_decay(DECAY, u64::try_from(step).unwrap()));
        assert_eq!(got, host, "step {step}, {odd} bytes off");
    }
}
