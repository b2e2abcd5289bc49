#!/usr/bin/env bash
# The GPU's day without a GPU: `bash benchmarks/gpu_rehearsal.sh [VENV] [RUN ...]`.
#
# Runs 1, 2 and 3 of benchmarks/gpu_day.sh in small, on the CPU, as the machine will have it: an
# archive of HEAD, no git, no installation of FastIMAE, no tyro, the versions of PyTorch and triton
# that are there. VENV is made where it is missing (5 GB). KIT_FLAGS are passed to gpu_kit
# (--images DIR --cifar DIR --dali FILES). Ends with 1 if a part failed.
set -euo pipefail
cd "$(dirname "$0")/.."
venv=$(realpath -m "${1:-build/rehearsal}")
shift || true
runs=("$@")
[ ${#runs[@]} -gt 0 ] || runs=(1 2 3)
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT

if [ ! -x "$venv/bin/python" ]; then
    python=$(command -v python3.12 || command -v python3.11)
    "$python" -m venv "$venv"
    "$venv/bin/pip" install --quiet torch==2.11.0 torchvision==0.26.0 numpy pillow scipy matplotlib \
        tqdm safetensors pyyaml psutil tensorboard timm pytest pytest-timeout pytest-xdist \
        hypothesis transformers scikit-learn torchmetrics opencv-python-headless six
fi
version=$("$venv/bin/python" -c 'import sys; print("%d.%d" % sys.version_info[:2])')

tree=$scratch/tree
mkdir "$tree"
git archive HEAD | tar -x -C "$tree"
# shellcheck disable=SC2086  # flags are several words
python -m benchmarks.gpu_kit --python "$version" --out "$tree/.gpu" ${KIT_FLAGS:-}

mkdir "$scratch/bin" # all programs but git
for program in /bin/* /usr/bin/*; do
    case ${program##*/} in git*) ;; *) ln -sf "$program" "$scratch/bin/" ;; esac
done

status=0
for run in "${runs[@]}"; do
    echo "== run $run"
    env -i HOME="$scratch" PATH="$venv/bin:$scratch/bin" \
        bash "$tree/benchmarks/gpu_day.sh" "$run" --out "$scratch/out$run" --smoke --device cpu ||
        status=1
    find "$scratch/out$run" -type f -printf '%f %s bytes\n' | sort
done
exit $status
