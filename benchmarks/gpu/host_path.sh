#!/usr/bin/env bash
# Measures the whole path, from samples to forecasts, on a GPU host of 16 cores with the test bed in /opt/gpu.
#
#   OUT=DIR PLANS=DIR bash benchmarks/gpu/host_path.sh [STAGE ...]
#
# Stages: host (60 s: lanes that cost nothing, beside the checkout in .ab/gpubase if there is one), one (160 s: one
# process, 100,000 and 300,000 servers at 5 s), many (240 s: 300,000 servers with workers 4, 2 and 8), singles (50 s:
# single samples with workers 1, 2, 4 and 8). By default all. PLANS: a folder of versions with plans for TensorRT.
# State lies in /dev/shm. Anywhere, in two minutes: BACKEND=fake FIRST=2000 SECOND=4000 HOST_SERVERS=2000 SECONDS_ONE=5
# SECONDS_TWO=5 SECONDS_HOST=5 SECONDS_MANY=5 WORKERS_MANY=2 WORKERS_SINGLES=1,2 CLIENTS=2.
set -uo pipefail
out=${OUT:?a folder for results}; mkdir -p "$out"; out=$(realpath "$out")
plans=$(realpath "${PLANS:?a folder of versions with plans}")
stages=${*:-one many singles host}
backend=${BACKEND:-tensorrt}; lanes=${LANES:-4}
first=${FIRST:-100000}; second=${SECOND:-300000}; host_servers=${HOST_SERVERS:-40000}
seconds_one=${SECONDS_ONE:-60}; seconds_two=${SECONDS_TWO:-30}; seconds_many=${SECONDS_MANY:-60,30,30}
seconds_host=${SECONDS_HOST:-12}; seconds_singles=${SECONDS_SINGLES:-4}
workers_many=${WORKERS_MANY:-4,2,8}; workers_singles=${WORKERS_SINGLES:-1,2,4,8}
clients=${CLIENTS:-6}; connections=${CONNECTIONS:-48}; scratch=${SCRATCH:-/dev/shm}
export PYTHONUNBUFFERED=1
if [ -f "${GPU_DIR:-/opt/gpu}/env.sh" ]; then set +u; source "${GPU_DIR:-/opt/gpu}/env.sh"; set -u; fi
command -v nvidia-smi > /dev/null && nvidia-smi --query-gpu=name,driver_version,memory.total --format=csv,noheader
echo "$(nproc) cores, $(python --version), scratch: $(df -h "$scratch" | tail -1)"
wanted() { [[ " $stages " == *" $1 "* ]]; }
fleet() {  # fleet NAME BACKEND SERVERS FLEETS SECONDS SETTINGS: one daemon after the other, larger ones even if late
  timeout "${LIMIT:-240}" python -m benchmarks.gpu.run --engines "$plans" --out "$out/$1" --sections daemon --only patch \
    --backend "$2" --scratch "$scratch" --servers "$3" --fleets "$4" --daemon-seconds "$5" --growth-seconds "$seconds_two" \
    --p99-limit-ms "${LATE:-1e9}" --max-lanes "$lanes" --replay-processes "$clients" \
    --replay-arguments "--connections 16" --daemon-settings "$6" > "$out/$1.txt" 2>&1
  echo "$1: status $?, $SECONDS s in all"; tail -6 "$out/$1.txt"; show "$out/$1/daemon.json"
}
show() {  # what each process used of a core, and the counts
  python - "$1" <<'PY'
import json, sys
try:
    fleets = json.load(open(sys.argv[1]))["fleets"]
except (OSError, KeyError, ValueError) as error:
    sys.exit(f"  no result: {error}")
for each in fleets:
    loop = each["busy"]["daemon loop"] / max(each["rows_per_second"], 1) * 1e6
    kept = {name: each[name] for name in ("servers", "rows_per_second", "p50_ms", "p99_ms", "expected", "received", "superseded", "lost", "mean_batch", "seconds_to_ready")}
    print(" ", json.dumps({**kept, "loop_us_a_row": round(loop, 2), "busy": each["busy"], "faults": each["replay"]["faults"]}))
PY
}
if wanted one; then fleet one "$backend" "$first" "$second" "$seconds_one" workers=1; fi
if wanted many; then
  IFS=, read -ra each <<< "$workers_many"; IFS=, read -ra lasting <<< "$seconds_many"
  for place in "${!each[@]}"; do
    LATE=-1 fleet "workers_${each[place]}" "$backend" "$second" "$second" "${lasting[place]}" "workers=${each[place]}"
  done
fi
if wanted singles; then
  timeout 120 python -m benchmarks.single_samples --workers "$workers_singles" --clients "$clients" --connections "$connections" \
    --seconds "$seconds_singles" --engines "$plans" --scratch "$scratch" --out "$out/single_samples.json" 2>&1 | tail -12
  python -c "import json; [print(' ', each['workers'], each['busy']) for each in json.load(open('$out/single_samples.json'))['results']]"
  echo "singles: $SECONDS s in all"
fi
if wanted host; then
  LATE=-1 fleet host fake "$host_servers" "$host_servers" "$seconds_host" workers=1
  LATE=-1 fleet host_copying fake "$host_servers" "$host_servers" "$seconds_host" workers=1,resident_windows=false
  if [ -d .ab/gpubase ]; then
    BENCH_TREE=$PWD/.ab/gpubase LATE=-1 fleet host_base fake "$host_servers" "$host_servers" "$seconds_host" cuda_graphs=true
  fi
fi
tar czf "$out/all.tgz" -C "$out" --exclude=all.tgz . && echo "all: $SECONDS s, $out/all.tgz"
