//! One folder per operation: maths, shapes, contract, CPU reference, kernels, cases, notes.
