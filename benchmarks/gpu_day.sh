#!/usr/bin/env bash
# The GPU day: all that matters, measured in a few minutes on a GPU; see docs/gpu.md.
# `bash benchmarks/gpu_day.sh 1|2|3|4 --out DIR`
#
# Installs what `python -m benchmarks.gpu_kit` gathered (in .gpu, or FASTIMAE_KIT) on a machine
# without a network, then runs the parts of the run. Needs no git, no C++ compiler and no
# installation of FastIMAE. PYTHON chooses the interpreter.
set -uo pipefail
cd "$(dirname "$0")/.." || exit

python=${PYTHON:-python3}
kit=${FASTIMAE_KIT:-.gpu}
site=$(mktemp -d) || exit
trap 'rm -rf "$site"' EXIT

say() { printf 'gpu_day: %s\n' "$*" >&2; }

# Wheels are zip files, and these need no build. If one cannot be unpacked, only what needs
# it fails.
for wheel in "$kit"/wheels/*.whl; do
    [ -e "$wheel" ] || { say "no wheels in $kit: python -m benchmarks.gpu_kit"; break; }
    "$python" -m zipfile -e "$wheel" "$site" || say "not unpacked: $wheel"
done
for pack in "$kit"/dali/*.tar.xz; do
    [ ! -e "$pack" ] || tar -C "$site" -xf "$pack" || say "not unpacked: $pack"
done
cp "$kit"/native/* loaders/ || say "no decode engine: Pillow decodes"

export PYTHONPATH=$PWD:$site${PYTHONPATH:+:$PYTHONPATH} PYTHONUNBUFFERED=1
export TRITON_CACHE_DIR=$site/triton TORCHINDUCTOR_CACHE_DIR=$site/inductor
export XDG_CACHE_HOME=$site/cache # measured peaks are cached there: use none of an earlier run

"$python" -c 'import torch' # may take half a minute, if the disk cache is cold
FASTIMAE_KIT=$kit "$python" -m benchmarks.gpu_day --spent "$SECONDS" "$@" &
day=$!
trap 'kill -TERM "$day"' TERM HUP INT # it ends what it started; then its files can be deleted
wait "$day"
status=$?
while kill -0 "$day" 2>/dev/null; do
    wait "$day"
    status=$?
done
exit "$status"
