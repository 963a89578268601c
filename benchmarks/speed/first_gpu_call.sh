#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
#
# All that ten minutes on a bare GPU node can tell, what is most wanted first. From the root of a checkout:
#
#   benchmarks/speed/first_gpu_call.sh OUT [--rehearsal]
#
# The node needs Python 3.11 or later with CuPy, NumPy 2 and pytest, and PyTorch for the training; nothing is installed
# or fetched. OUT gets figures.jsonl, a line as soon as a figure is known; log.txt; and a file of results for each
# program. Every step is a process of its own, with a limit: one that crashes, hangs or loses the GPU costs no other.
#
# LIMIT_S (570) is for all steps together, PYTHON (python3) runs them, COMMIT is written into the results.

set -uo pipefail
cd "$(dirname "$0")/../.."
out=${1:?usage: first_gpu_call.sh OUT [--rehearsal]}
rehearsal=${2:-}
mkdir -p "$out"
python=${PYTHON:-python3}
limit=${LIMIT_S:-570}
figures=$out/figures.jsonl
export PYTHONPATH=${PYTHONPATH:+$PYTHONPATH:}client:feature_kernels:trainer:deploy:tests:.
# The host is the oracle here, by LAPACK: to compile its own kernels would take a minute.
export NUMBA_DISABLE_JIT=1 PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1

# step NAME SECONDS COMMAND...: at most so long, and never beyond the limit; what came of it is a line of its own.
step() {
    local name=$1 most=$2 begin=$SECONDS status
    shift 2
    if ((limit - SECONDS < most)); then most=$((limit - SECONDS)); fi
    if ((most < 5)); then
        echo "{\"name\": \"step $name\", \"value\": \"left out: no time left\"}" >>"$figures"
        return
    fi
    echo "==== $name, at most $most s"
    timeout --kill-after=5 "$most" "$@" 2>&1
    status=$?
    echo "{\"name\": \"step $name\", \"value\": {\"exit_status\": $status, \"seconds\": $((SECONDS - begin))}}" >>"$figures"
}

program() {
    local name=$1 most=$2
    shift 2
    step "$name" "$most" "$python" -m "benchmarks.speed.gpu_$name" --lines "$figures" --out "$out/gpu_$name.json" \
        --seconds "$((most - 10))" ${COMMIT:+--commit "$COMMIT"} ${rehearsal:+"$rehearsal"} "$@"
}

# Of the tests that need a GPU; a warning is none of their business here, and neither are plugins that are not there.
tests=(-m pytest tests/gpu -q -p no:cacheprovider -o addopts=--import-mode=importlib -o filterwarnings=default)

{
    step first_look 90 "$python" -m benchmarks.speed.gpu_first_look --lines "$figures" ${rehearsal:+"$rehearsal"}
    if [[ $rehearsal ]]; then
        step tests 60 "$python" "${tests[@]}" -k "test_windows or test_the_best or engines"
        program requests 60 --sizes 5 20 --windows 1 2
        program training 60
        program kernels 60 --sizes 20
    else
        step tests 120 "$python" "${tests[@]}" -k "not sanitizer" --maxfail 30
        program requests 170
        program training 50
        program kernels 240
    fi
    echo "==== $SECONDS s"
    grep -c . "$figures"
    grep '"step ' "$figures"
    # Failures and ratios last: the end of the output is what is seen first.
    grep -h failed "$figures" | cut -c -300
    grep -hE 'over|difference|share_of|n100_' "$figures" | tail -40
} | tee "$out/log.txt"
