#!/usr/bin/env bash
# A rehearsal of the GPU day, without a GPU: `bash benchmarks/gpu_rehearsal.sh [VENV] [RUN ...]`.
#
# Runs 1, 2 and 4 of benchmarks/gpu_day.sh, and 3 if DALI is given, on a small scale, on the CPU, as on
# the GPU machine: from an archive of HEAD, without git, FastIMAE installed, or tyro, and with its
# versions of PyTorch and triton. VENV is made if it is missing (5 GB), with a numpy before 2.4:
# from 2.4 on, triton 3.6's interpreter fails if a loop ends at a tensor. KIT_FLAGS are passed to
# gpu_kit (--images DIR --cifar DIR --cifar_val DIR --dali FILES). Results are in build/rehearsed. Exits with 1 if a
# part failed.
set -euo pipefail
cd "$(dirname "$0")/.."
venv=$(realpath -m "${1:-build/rehearsal}")
shift || true
runs=("$@")
if [ ${#runs[@]} -eq 0 ]; then
    runs=(1 2 4)
    [[ ${KIT_FLAGS:-} != *--dali* ]] || runs+=(3)
fi
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT

if [ ! -x "$venv/bin/python" ]; then
    python=$(command -v python3.12 || command -v python3.11)
    "$python" -m venv "$venv"
    "$venv/bin/pip" install --quiet torch==2.11.0 torchvision==0.26.0 'numpy<2.4' pillow scipy \
        matplotlib tqdm safetensors pyyaml psutil tensorboard timm pytest pytest-timeout pytest-xdist \
        hypothesis transformers scikit-learn torchmetrics opencv-python-headless six
fi
version=$("$venv/bin/python" -c 'import sys; print("%d.%d" % sys.version_info[:2])')

tree=$scratch/tree
mkdir "$tree"
git archive HEAD | tar -x -C "$tree"
# shellcheck disable=SC2086  # flags are several words
python -m benchmarks.gpu_kit --python "$version" --out "$tree/.gpu" ${KIT_FLAGS:-}

mkdir "$scratch/bin" # all programs except git
for program in /bin/* /usr/bin/*; do
    case ${program##*/} in git*) ;; *) ln -sf "$program" "$scratch/bin/" ;; esac
done

out=$PWD/build/rehearsed
rm -rf "$out"
status=0
for run in "${runs[@]}"; do
    echo "== run $run"
    env -i HOME="$scratch" PATH="$venv/bin:$scratch/bin" \
        bash "$tree/benchmarks/gpu_day.sh" "$run" --out "$out/$run" --smoke --device cpu ||
        status=1
    find "$out/$run" -type f -printf '%f %s bytes\n' | sort
done
exit $status
