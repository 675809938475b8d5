#!/bin/sh
# Raw text to a chat model on an ordinary CPU, in at most 45 minutes on two quiet cores; then talk to it.
#   runs/cpu.sh                          # everything into runs-out/speedrun; stopped anywhere, the same command goes on
#   MINUTES=20 OUTPUT=/tmp/run runs/cpu.sh
set -eu
cd "$(dirname "$0")/.."
OUTPUT="${OUTPUT:-runs-out/speedrun}"
make --no-print-directory dev
.venv/bin/fathom speedrun --preset cpu --output "$OUTPUT" --minutes "${MINUTES:-45}"
MODEL="$(ls -d "$OUTPUT"/sft/checkpoints/step-* | tail -n 1)"
if [ -t 0 ]; then
  exec .venv/bin/fathom chat --model "$MODEL"
fi
.venv/bin/fathom run "Hello! Who are you?" --model "$MODEL" --max-tokens 60
