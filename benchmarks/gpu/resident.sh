#!/usr/bin/env bash
# Measures windows that stay on the GPU, and the fused patch forecaster, on a GPU host with the test bed in /opt/gpu.
#
#   OUT=DIR bash benchmarks/gpu/resident.sh [STAGE ...]
#
# Stages: kernels (10 s, if pytest is there), fused (25 s), build_patch (60 to 120 s), patch (60 s), base (25 s), build_tft (100 to 200 s),
# tft (60 s). By default all, the two builds side by side. Plans that were built before: PLANS=DIR, a folder of versions;
# then no build stage is needed. `base` needs a checkout of the build to compare with in .ab/gpubase, and `fused` needs
# FUSED_ENGINES=DIR with its version, which no longer ships (fused/measure.py).
set -uo pipefail
out=${OUT:?a folder for results}; mkdir -p "$out"
plans=${PLANS:-$out/built}; mkdir -p "$plans"; out=$(realpath "$out"); plans=$(realpath "$plans")
stages=${*:-kernels fused build_patch build_tft patch base tft}
set +u; source "${GPU_DIR:-/opt/gpu}/env.sh"; set -u
nvidia-smi --query-gpu=name,driver_version,memory.total --format=csv,noheader
wanted() { [[ " $stages " == *" $1 "* ]]; }
build() {  # build NAME BUCKETS LEVEL
  timeout "${BUILD_SECONDS:-260}" python -m streamd engine build \
    --version engines/"$1"_tensorrt_* --precision fp16 --buckets "$2" --out "$plans" --optimization-level "$3" \
    --calibration-data examples/fleet/servers.csv.gz --jobs 4 --quiet > "$out/build_$1.log" 2>&1
  echo "build $1: status $?, $SECONDS s in all"; tail -3 "$out/build_$1.log"
}
measure() {  # measure NAME BUCKETS SECTIONS SECONDS
  python -m benchmarks.gpu.run --engines "$plans" --out "$out/$1" --sections "$3" --only "$1" --precisions fp16 \
    --buckets "$2" --servers 20000 --seconds "$4" 2>&1 | tail -90 | tee "$out/$1_$3.txt"
  echo "$1 $3: $SECONDS s in all"
}
if wanted kernels && python -c 'import pytest' 2>/dev/null; then
  python -m pytest -q -m gpu tests/inference/test_gpu_resident.py 2>&1 | tail -15; echo "kernels: $SECONDS s in all"
fi
if wanted fused && [ -n "${FUSED_ENGINES:-}" ]; then
  timeout 120 python -m benchmarks.gpu.fused.measure --engines "$FUSED_ENGINES" --out "$out" 2>&1 | tail -60 \
    | tee "$out/fused.txt"
  echo "fused: $SECONDS s in all"
fi
wanted build_patch && build patch "${PATCH_BUCKETS:-256,512,1024,2048}" 2 &
wanted build_tft && build tft "${TFT_BUCKETS:-256,512,1024}" 1 &
wait
wanted patch && measure patch "${PATCH_BUCKETS:-256,512,1024,2048}" resident 0.3
if wanted base && [ -d .ab/gpubase ]; then
  (cd .ab/gpubase && source "${GPU_DIR:-/opt/gpu}/env.sh" && python -m benchmarks.gpu.run --engines "$plans" \
    --out "$out/base" --sections throughput --only patch --precisions fp16 --buckets 512 --servers 20000 \
    --seconds 0.3 2>&1 | tail -30 | tee "$out/base.txt")
  echo "base: $SECONDS s in all"
fi
wanted tft && measure tft "${TFT_BUCKETS:-256,512,1024}" resident 0.4
ls -la "$out" | tail -20
