#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
#
# The kernels under compute-sanitizer and Nsight Compute, on a GPU node with CUDA's toolkit. From the root of a checkout:
#
#   benchmarks/speed/gpu_tools.sh OUT [SIZE ...]
#
# Every kernel is launched once (tests/gpu/run_every_kernel.py, for universes of SIZE assets): under each tool of the
# sanitizer, which finds what an emulator cannot; then under ncu, whose counters are written to OUT/ncu.csv. Clocks are
# left as they are. OUT also gets tools.jsonl, a line a tool as soon as it has ended, and log.txt.

set -uo pipefail
cd "$(dirname "$0")/../.."
out=${1:?usage: gpu_tools.sh OUT [SIZE ...]}
shift
mkdir -p "$out"
python=${PYTHON:-python3}
limit=${LIMIT_S:-570}
export PYTHONPATH=${PYTHONPATH:+$PYTHONPATH:}client:feature_kernels:trainer:deploy:tests:.
export NUMBA_DISABLE_JIT=1 PYTHONDONTWRITEBYTECODE=1
export PATH=$PATH:/usr/local/cuda/bin:/opt/nvidia/nsight-compute/$(ls /opt/nvidia/nsight-compute 2>/dev/null | tail -1)
every_kernel=("$python" tests/gpu/run_every_kernel.py "$@")

# run NAME FILE COMMAND...: standard output into FILE, the rest into the log.
run() {
    local name=$1 file=$2 begin=$SECONDS status
    shift 2
    if ((limit - SECONDS < 5)); then
        echo "{\"name\": \"$name\", \"value\": \"left out: no time left\"}" >>"$out/tools.jsonl"
        return
    fi
    timeout --kill-after=5 "$((limit - SECONDS))" "$@" >"$file"
    status=$?
    echo "{\"name\": \"$name\", \"exit_status\": $status, \"seconds\": $((SECONDS - begin))}" | tee -a "$out/tools.jsonl"
}

{
    run plain "$out/plain.txt" "${every_kernel[@]}"
    for tool in memcheck racecheck synccheck initcheck; do
        run "$tool" "$out/$tool.txt" compute-sanitizer --tool "$tool" --error-exitcode 9 --report-api-errors no "${every_kernel[@]}"
        tail -3 "$out/$tool.txt"
    done
    run ncu "$out/ncu.csv" ncu --clock-control none --set full --csv --page raw \
        --kernel-name-base function -k "regex:$(cd feature_kernels/sigmahat_kernels/cuda && ls *.cu | sed 's/\.cu$//' | paste -sd '|')" \
        "${every_kernel[@]}"
    wc -c "$out/ncu.csv"
} 2>&1 | tee "$out/log.txt"
