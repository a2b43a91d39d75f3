#!/usr/bin/env bash
# Whatever needs a GPU, in one go of under 25 minutes: its tests, whole rounds, bits over processes, the paper's run.
#
#   benchmarks/gpu.sh [folder]     results as files there (default: benchmarks/results/gpu)
#
# A part that fails is named at the end; the others run. Uses .venv/bin/python where there is one, else python.
set -uo pipefail
cd "$(dirname "$0")/.." || exit
python=.venv/bin/python
[ -x "$python" ] || python=python
"$python" -c 'import torch; raise SystemExit(not torch.cuda.is_available())' || {
    echo "no CUDA device: torch.cuda.is_available() is false" >&2
    exit 2
}
out=${1:-benchmarks/results/gpu}
mkdir -p "$out"
failed=()
part() { # name, seconds, command
    local name=$1 limit=$2
    shift 2
    echo "== $name"
    timeout "$limit" "$@" >"$out/$name.log" 2>&1 || failed+=("$name")
    tail -n 3 "$out/$name.log"
}

"$python" -c 'import torch; print(torch.cuda.get_device_name(0), torch.__version__, torch.version.cuda)' >"$out/device.txt"
part tests 300 "$python" -m pytest -q -m gpu
part rounds_digits 120 "$python" -m benchmarks.round --rounds 5 --out "$out/rounds.jsonl" trainer.accelerator=gpu
part rounds_graph 120 "$python" -m benchmarks.round --rounds 5 --out "$out/rounds.jsonl" trainer.accelerator=gpu trainer.executor=graph
part rounds_resnet8 240 "$python" -m benchmarks.round --case resnet8 --rounds 2 --out "$out/rounds.jsonl" trainer.accelerator=gpu
part resnet8_graph 180 "$python" -m benchmarks.round --case resnet8 --method fedavg --rounds 2 --out "$out/rounds.jsonl" \
    trainer.accelerator=gpu trainer.executor=graph
devices=$("$python" -c 'import torch; print(torch.cuda.device_count())')
if [ "$devices" -gt 1 ]; then # NCCL wants a device a process
    part nccl 180 "$python" -m fedpurin trainer.accelerator=gpu trainer.devices=2 trainer.rounds=5 "hydra.run.dir=$out/nccl"
fi
# The paper's Fashion-MNIST run, 200 rounds of 5 epochs; what the time does not suffice for is resumed by the same command.
part paper 600 "$python" -m fedpurin experiment=paper_fashion_mnist trainer.accelerator=gpu trainer.evaluate_every=10 \
    resume=auto "hydra.run.dir=$out/paper"
if [ "${#failed[@]}" -gt 0 ]; then
    echo "failed: ${failed[*]} (see $out/NAME.log)" >&2
    exit 1
fi
