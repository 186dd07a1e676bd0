#!/usr/bin/env bash
# sanitize.sh address|thread [TEST FILTER..]: every kernel on the emulated device under a sanitizer.
# Compiles the kernels again for it (minutes) in a target folder of its own and runs tests/emulated.rs.
# thread: races between threads, blocks, the copy engine and the tensor cores of a launch.
# address: accesses outside of an allocation or of shared memory, misaligned accesses.
set -euo pipefail
cd "$(dirname "$0")/.."
mode=$1
shift
case $mode in
  address) library=libasan.so ;;
  thread) library=libtsan.so ;;
  *) sed -n 2,5p "$0"; exit 2 ;;
esac
export SELVEDGE_SANITIZE=$mode
export CARGO_TARGET_DIR=${CARGO_TARGET_DIR:-target}/sanitize
export TSAN_OPTIONS="halt_on_error=0 ignore_noninstrumented_modules=1 history_size=4"
export ASAN_OPTIONS="detect_leaks=0" UBSAN_OPTIONS="print_stacktrace=1"
# Only the test is run with the sanitizer's library: cargo and the compilers are not.
export CARGO_TARGET_X86_64_UNKNOWN_LINUX_GNU_RUNNER="env LD_PRELOAD=$("${CXX:-g++}" -print-file-name=$library)"
log=$(mktemp)
trap 'rm -f "$log"' EXIT
status=0
cargo test --features emulate --test emulated -- --nocapture "$@" 2>&1 | tee "$log" || status=$?
reports=$(grep -cE "WARNING: ThreadSanitizer|ERROR: AddressSanitizer|runtime error:" "$log" || true)
echo "$reports reports"
[ "$status" = 0 ] && [ "$reports" = 0 ]
