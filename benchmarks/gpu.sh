#!/usr/bin/env bash
# Everything that waits for a GPU, in at most 8 minutes: rates plain and captured, bfloat16, memory, a million critic
# updates extrapolated, and a learning check against a CPU's numbers. With OUT set, the tables are kept in $OUT/gpu.md.
#
#     benchmarks/gpu.sh                        on a machine with a GPU
#     benchmarks/gpu.sh --device cpu --quick   shows that the script works
set -euo pipefail
cd "$(dirname "$0")/.."
PYTHON="${PYTHON:-python}"
OUT="${OUT:-}"

run() {
  timeout 480 "$PYTHON" benchmarks/gpu.py "$@"
}

if [ -n "$OUT" ]; then
  run "$@" | tee "$OUT/gpu.md"
else
  run "$@"
fi
