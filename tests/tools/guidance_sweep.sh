#!/usr/bin/env bash
# Runs guidance scales and samplers on one generator for each rate and seed, and leaves the
# dissection of each run as OUT/RATE-SEED-SAMPLER-SCALE.json. Runs whose file is there are skipped.
#   tests/tools/guidance_sweep.sh WORK STORE OUT [seeds, "0 1"]
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
mkdir -p "$1" "$2" "$3"
work=$(realpath "$1") store=$(realpath "$2") out=$(realpath "$3")
cd "$here/../.."
stages=prepare,clean,labeller,marked,detector,generator,generated,probe,dissect
for sampler in ddim dpmpp_2m ddpm; do # the last takes 1,000 steps
  for seed in ${4:-0 1}; do
    for rate in 0.1 0.02; do
      for scale in 1 2 6; do
        run=$work/$rate-$seed-$sampler-$scale
        [ -s "$out/$(basename "$run").json" ] && continue
        python -m purify run --config "$here/guidance_config.py:rate=$rate,seed=$seed,sampler=$sampler,guidance=$scale" \
          --workdir "$run" --store "$store" --stages "$stages"
        python - "$run" "$out/$(basename "$run").json" <<'PY'
import json, shutil, sys
from pathlib import Path
environment = json.loads((Path(sys.argv[1]) / 'environment.json').read_text())
shutil.copy(Path(environment['store']) / f"dissect-{environment['fingerprints']['dissect']}" / 'numbers.json', sys.argv[2])
PY
      done
    done
  done
done
