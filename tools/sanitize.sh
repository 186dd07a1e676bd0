#!/usr/bin/env bash
# sanitize.sh MODE [OPTION..] FOLDER [TEXT [SCHEDULE..]]: the kernels of kernels/FOLDER on the emulated device,
# compiled for a sanitizer, in the cases whose name contains TEXT (FOLDER), each schedule in turn (early late).
# OPTION: --variant OP=NAME (what runs only when it is forced) or --dtype TYPE, as of `kernels check`.
# thread: races between threads, blocks, the copy engine and the tensor cores of a launch.
# proxies: the same, and what the copy engine and the tensor cores read without fence.proxy.async (some races hide).
# address: accesses outside of an allocation or of shared memory, misaligned accesses.
# Needs target/debug/selvedge with the feature emulate, or $SELVEDGE. Exit 0: right results and no report.
set -euo pipefail
usage() { sed -n 2,8p "$0" >&2; exit 2; }
[ $# -ge 2 ] || usage
cd "$(dirname "$0")/.."
mode=$1
shift
options=()
while [[ ${1:-} == --* && $# -ge 3 ]]; do
  options+=("$1" "$2")
  shift 2
done
folder=$1 text=${2:-$1}
[ -d "kernels/$folder" ] || usage
shift $(($# < 2 ? $# : 2))
cxx=${CXX:-g++}
[ "$mode" != proxies ] || { mode=thread && export EMULATOR_PROXIES=1; }
case $mode in
  # Instrumented globals would add symbols beside the tile records.
  address) emulator="-fsanitize=address,undefined --param asan-globals=0" kernel=$emulator library=libasan.so ;;
  # The emulator reports what its models access and is not instrumented.
  thread) emulator="-DEMULATOR_TSAN" kernel="-DEMULATOR_TSAN -fsanitize=thread" library=libtsan.so ;;
  *) usage ;;
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
  echo "== $mode${EMULATOR_PROXIES:+ and proxies} $folder \"$text\" $schedule"
  LD_PRELOAD=$("$cxx" -print-file-name=$library) "${SELVEDGE:-target/debug/selvedge}" kernels check \
    --device "emulated:$schedule" --kernel-dir "$objects/$folder" --op "$text" "${options[@]}" >"$log.$schedule" 2>&1 || status=1
  reports=$(grep -cE "WARNING: ThreadSanitizer|ERROR: AddressSanitizer|runtime error:" "$log.$schedule" || true)
  tail -1 "$log.$schedule"
  echo "$reports reports in $log.$schedule"
  [ "$reports" = 0 ] || status=1
done
exit $status
