#!/usr/bin/env bash
# sanitize.sh address|thread FOLDER [TEXT [SCHEDULE..]]: the kernels of kernels/FOLDER on the emulated device,
# compiled for a sanitizer, in the cases whose name contains TEXT (FOLDER), each schedule in turn (early late).
# thread: races between threads, blocks, the copy engine and the tensor cores of a launch.
# address: accesses outside of an allocation or of shared memory, misaligned accesses.
# Needs target/debug/selvedge with the feature emulate, or $SELVEDGE. $FLAGS: more for the check, such as --variant OP=NAME.
# Exit 0: right results and no report.
set -euo pipefail
[ $# -ge 2 ] || { sed -n 2,7p "$0" >&2; exit 2; }
cd "$(dirname "$0")/.."
mode=$1 folder=$2 text=${3:-$2}
shift $(($# < 3 ? $# : 3))
cxx=${CXX:-g++}
case $mode in
  # Instrumented globals would add symbols beside the tile records.
  address) emulator="-fsanitize=address,undefined --param asan-globals=0" kernel=$emulator library=libasan.so ;;
  # The emulator reports what its models access and is not instrumented.
  thread) emulator="-DEMULATOR_TSAN" kernel="-DEMULATOR_TSAN -fsanitize=thread" library=libtsan.so ;;
  *) sed -n 2,7p "$0" >&2; exit 2 ;;
esac

objects=${CARGO_TARGET_DIR:-target}/sanitize/$mode
flags="-std=c++20 -O1 -g1 -fPIC -fvisibility=hidden -fno-gnu-unique -ffp-contract=off -fno-strict-aliasing"
flags="$flags -Wno-unknown-pragmas -I kernels"
mkdir -p "$objects/$folder"
newest=$(find kernels -name '*.c*' -o -name '*.h' | xargs ls -t | sed -n 1p)
export cxx flags kernel objects folder newest
[ "$objects/scheduler.o" -nt "$newest" ] ||
  "$cxx" $flags $emulator -c kernels/emulator/scheduler.cpp -o "$objects/scheduler.o"
find "kernels/$folder" -name '*.cu' | xargs -P "$(nproc)" -I FILE bash -c '
  so=$objects/$folder/$(basename FILE .cu).host.so
  [ "$so" -nt "$newest" ] ||
    "$cxx" $flags $kernel -shared -x c++ FILE -x none "$objects/scheduler.o" -o "$so"'

export TSAN_OPTIONS="halt_on_error=0 exitcode=0 ignore_noninstrumented_modules=1"
export ASAN_OPTIONS="detect_leaks=0 halt_on_error=1" UBSAN_OPTIONS="print_stacktrace=1"
log=$objects/$folder/log
status=0
[ $# -gt 0 ] || set -- early late
for schedule in "$@"; do
  echo "== $mode $folder \"$text\" $schedule"
  LD_PRELOAD=$("$cxx" -print-file-name=$library) "${SELVEDGE:-target/debug/selvedge}" kernels check \
    --device "emulated:$schedule" --kernel-dir "$objects/$folder" --op "$text" ${FLAGS:-} >"$log.$schedule" 2>&1 || status=1
  reports=$(grep -cE "WARNING: ThreadSanitizer|ERROR: AddressSanitizer|runtime error:" "$log.$schedule" || true)
  tail -1 "$log.$schedule"
  echo "$reports reports in $log.$schedule"
  [ "$reports" = 0 ] || status=1
done
exit $status
