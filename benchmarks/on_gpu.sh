#!/usr/bin/env bash
# Measures kdjax on the GPU of this machine, in ten minutes and without a network.
#
#     benchmarks/on_gpu.sh OUT [SECONDS] [PYTHON]
#
# Writes to the folder OUT what each command printed, and OUT/gpu.md, which has the commands with
# their last lines. What does not fit into SECONDS (570 by default) is left out; the most important
# comes first. Needs the packages of kdjax with a JAX for the GPU, and PyTorch for the comparisons.
set -u
out=${1:?usage: benchmarks/on_gpu.sh OUT [SECONDS] [PYTHON]}
limit=${2:-570}
python=${3:-python3}
mkdir -p "$out"
cd "$(dirname "$0")/.."
report=$out/gpu.md
export PYTHONUNBUFFERED=1
# Where kdjax is not installed.
export PYTHONPATH=$PWD${PYTHONPATH:+:$PYTHONPATH}

{
    echo "# On a GPU"
    echo
    nvidia-smi --query-gpu=name,driver_version,memory.total --format=csv,noheader 2>/dev/null
    "$python" -c 'import jax; print("JAX", jax.__version__, *jax.devices())'
    git log -1 --format='Commit %h' 2>/dev/null
} >"$report"

# run NAME SECONDS COMMAND...: a part, for at most so many seconds of those that are left.
run() {
    local name=$1 most=$2
    shift 2
    local left=$((limit - SECONDS))
    if ((left < 5)); then
        echo "left out: $name" | tee -a "$report"
        return
    fi
    local began=$SECONDS
    timeout $((most < left ? most : left)) "$@" >"$out/$name.txt" 2>&1
    local status=$?
    printf '\n    %s\n\nstatus %s, %s s\n\n' "$*" "$status" "$((SECONDS - began))" >>"$report"
    tail -n 1 "$out/$name.txt" >>"$report"
    echo "$name: status $status, $((SECONDS - began)) s"
}

benchmark() {
    local name=$1 most=$2 module=$3
    shift 3
    run "$name" "$most" "$python" -m "benchmarks.$module" "$@"
}

run tests 90 "$python" -m pytest -q -m gpu tests/test_gpu.py
for pair in resnet56:resnet20 wrn_40_2:wrn_16_2 resnet32x4:resnet8x4; do
    for batch in 64 512; do
        benchmark "kd-${pair/:/-}-$batch" 60 throughput --teacher="${pair%:*}" \
            --student="${pair#*:}" --batch_size=$batch --dtype=bfloat16 --num_classes=100 --steps=320
    done
done
for dtype in bfloat16 float32; do
    opponents=eager,channels_last,compile,graphs
    if [ $dtype = bfloat16 ]; then opponents=bfloat16,compile,graphs; fi
    benchmark "torch-resnet56-resnet20-$dtype" 120 vs_pytorch --teacher=resnet56 \
        --student=resnet20 --batch_size=64 --steps=320 --dtype=$dtype --opponents=$opponents
done
benchmark epochs-wrn_40_2-wrn_16_2 90 epochs --teacher=wrn_40_2 --student=wrn_16_2 --batch_size=64
benchmark zero_shot 90 zero_shot --teacher=wrn_40_2 --student=wrn_16_1 --opponents=eager
run digits 120 "$python" -m experiments.main --config=configs/distill.py --workdir="$out/digits"
benchmark torch-wrn_40_2-wrn_16_2 90 vs_pytorch --teacher=wrn_40_2 --student=wrn_16_2 \
    --batch_size=64 --steps=320 --dtype=bfloat16 --opponents=bfloat16,graphs
benchmark crd 60 throughput --teacher=resnet56 --student=resnet20 --batch_size=64 \
    --dtype=bfloat16 --num_classes=100 --methods=crd --steps=320
benchmark review 60 throughput --teacher=resnet56 --student=resnet20 --batch_size=64 \
    --dtype=bfloat16 --num_classes=100 --methods=review --steps=320
echo "$report"
