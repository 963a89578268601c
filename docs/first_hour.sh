#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# A first hour in an empty folder: install, estimate, report, backtest, serve, call, stop. Most of it is installing.
#
#   bash first_hour.sh WHEEL [RETURNS.csv]
#
# WHEEL is sigmahat-*.whl, as `python -m build --wheel` in a checkout makes it. Without RETURNS.csv it makes some.
set -euo pipefail
wheel=$(realpath "$1")
examples=$(realpath "$(dirname "$0")")/examples

echo "== install"
python3 -m venv env
# shellcheck disable=SC1091
source env/bin/activate
python -m pip install --quiet "$wheel[serve,report]"

if [ $# -gt 1 ]; then
    cp "$2" returns.csv
else
    python - <<'PYTHON'
import numpy as np, pandas as pd
rng = np.random.default_rng(0)
market = rng.standard_t(5, (400, 1)) * rng.uniform(0.5, 1.5, 40)
returns = 0.008 * (market + rng.standard_t(5, (400, 40)) * rng.uniform(0.5, 2.0, 40))
dates = pd.bdate_range("2023-01-02", periods=400, name="date")
pd.DataFrame(returns, dates, [f"A{i:02}" for i in range(40)]).to_csv("returns.csv")
PYTHON
fi

echo "== estimate without a server"
sigmahat estimate returns.csv --local --out estimates.csv --covariances covariances.npz

echo "== report"
sigmahat report returns.csv --local --backtest --out report.html
# For the eye: open report.html. Here a browser without a window draws it, where there is one.
if browser=$(command -v chromium || command -v chromium-browser || command -v google-chrome); then
    "$browser" --headless --no-sandbox --disable-gpu --user-data-dir="$PWD/browser" --virtual-time-budget=20000 \
        --dump-dom "file://$PWD/report.html" > drawn.html 2> browser.log
    echo "drawn: $(grep --only-matching "<svg" drawn.html | wc -l) pictures"
fi

echo "== backtest"
python "$examples/backtest.py" returns.csv

echo "== serve, call, stop"
sigmahat serve --grpc-port 0 --http-port 0 --metrics-port 0 --ready-file ready.json 2> serve.log &
server=$!
trap 'kill $server 2> /dev/null || true' EXIT
until [ -e ready.json ]; do
    kill -0 $server || { cat serve.log; exit 1; }
    sleep 0.2
done
url=$(python -c 'import json; print(json.load(open("ready.json"))["grpc_url"])')
sigmahat estimate returns.csv --url "$url" --out served.parquet
kill $server
wait $server
echo "== done"
