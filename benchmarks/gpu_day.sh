#!/usr/bin/env bash
# A few minutes on a GPU, used well: `bash benchmarks/gpu_day.sh 1|2|3 --out DIR`; docs/gpu.md.
#
# Puts in place what `python -m benchmarks.gpu_kit` gathered (in .gpu, or FASTIMAE_KIT) for a
# machine that lacks it and has no network, then runs the parts of the run. Needs no git, no
# compiler for C++ and no installation of FastIMAE. PYTHON chooses the interpreter.
set -uo pipefail
cd "$(dirname "$0")/.." || exit

python=${PYTHON:-python3}
kit=${FASTIMAE_KIT:-.gpu}
site=$(mktemp -d) || exit
trap 'rm -rf "$site"' EXIT

say() { printf 'gpu_day: %s\n' "$*" >&2; }

# Wheels are zip files, and those here have nothing to build. A wheel that cannot be unpacked
# costs what needs it, not the run.
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
export XDG_CACHE_HOME=$site/cache # of measured peaks: none of another day

"$python" -c 'import torch' # from a disk that has not been read yet, that may take half a minute
FASTIMAE_KIT=$kit "$python" -m benchmarks.gpu_day --spent "$SECONDS" "$@" &
day=$!
trap 'kill -TERM "$day"' TERM HUP INT # it ends what it has started; then the files may go
wait "$day"
status=$?
while kill -0 "$day" 2>/dev/null; do
    wait "$day"
    status=$?
done
exit "$status"
