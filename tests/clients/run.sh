#!/usr/bin/env bash
# Check clients of OpenAI's and Anthropic's interfaces against the embedded model, in conversations with calls: installs
# them into a temporary folder, starts a server on a free port, and prints a line for each check. Takes a few minutes and
# the package indexes; needs node 20 or newer with npm, and `$PYTHON` (else python3) with gptoss_mlx and its extra serve.
set -euo pipefail
cd "$(dirname "$0")"

python=${PYTHON:-python3}
for program in "$python" node npm; do
  command -v "$program" >/dev/null || { echo "tests/clients/run.sh: not installed: $program" >&2; exit 1; }
done

work=$(mktemp -d)
server=
finish() {
  if [ -n "$server" ]; then kill "$server" && wait "$server" || true; fi 2>/dev/null
  rm -rf "$work"
}
trap finish EXIT

"$python" -m venv "$work/venv"
"$work/venv/bin/pip" install -qq --disable-pip-version-check -r requirements.txt
cp -- *.mjs scenarios.json package.json package-lock.json "$work"
npm --prefix "$work" ci --silent --no-audit --no-fund --ignore-scripts

"$python" -m gptoss_mlx serve demo --port 0 2>"$work/server.log" &
server=$!
until GPTOSS_URL=$(grep -o '"page": "http://[^"/]*' "$work/server.log" | cut -d'"' -f4); do
  kill -0 "$server" || { cat "$work/server.log" >&2; exit 1; }
  sleep 0.2
done
export GPTOSS_URL PYTHONDONTWRITEBYTECODE=1

failed=0
for script in *_client.py; do "$work/venv/bin/python" "$script" || failed=1; done
for script in *_client.mjs; do node "$work/$script" || failed=1; done
if ((failed)); then grep '"level": "error"' "$work/server.log" >&2 || true; fi
exit "$failed"
