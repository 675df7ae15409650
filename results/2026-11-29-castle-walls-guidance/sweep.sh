#!/usr/bin/env bash
# Guidance scales and samplers on one generator for each rate and seed; leaves RATE-SEED-SAMPLER-SCALE.json beside this file.
#   results/2026-11-29-castle-walls-guidance/sweep.sh WORK STORE [seeds, "0 1"]
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
cd "$here/../.."
stages=prepare,clean,labeller,marked,detector,generator,generated,probe,dissect
for sampler in ddim dpmpp_2m ddpm; do # the last takes 1,000 steps
  for seed in ${3:-0 1}; do
    for rate in 0.1 0.02; do
      for scale in 1 2 6; do
        run=$1/$rate-$seed-$sampler-$scale
        [ -s "$here/$(basename "$run").json" ] && continue
        python -m purify run --config "$here/guidance.py:rate=$rate,seed=$seed,sampler=$sampler,guidance=$scale" \
          --workdir "$run" --store "$2" --stages "$stages"
        python - "$run" "$here/$(basename "$run").json" <<'PY'
import json, shutil, sys
from pathlib import Path
environment = json.loads((Path(sys.argv[1]) / 'environment.json').read_text())
shutil.copy(Path(environment['store']) / f"dissect-{environment['fingerprints']['dissect']}" / 'numbers.json', sys.argv[2])
PY
      done
    done
  done
done
