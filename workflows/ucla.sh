#!/usr/bin/env bash
# NW-UCLA with 5 labels a class: `supervised` and `psp` over draws 0 to 4 with one recipe, and their paired difference.
#
#   workflows/ucla.sh RAW [OUT] [train options, such as --set optim.steps=300]
#
# RAW holds the recordings (all_sqe). Everything lands in OUT (ucla-draws by default). A run whose scores.json is
# there is not made again and a stopped training goes on where it was; another recipe needs another OUT.
set -euo pipefail

if [[ $# -lt 1 ]]; then
    sed -n '2,7s/^# \{0,1\}//p' "$0" >&2
    exit 2
fi
raw=$1
out=${2:-ucla-draws}
shift "$(($# < 2 ? 1 : 2))"

psptool prepare ucla --raw "$raw" --out "$out/data/ucla.h5"
for seed in 0 1 2 3 4; do
    split=$out/splits/ucla-xview-0.05-s$seed.json
    psptool split --ratio 0.05 --seed "$seed" --data "$out/data/ucla.h5" --out "$split" >/dev/null
    for method in supervised psp; do
        run=$out/runs/s$seed-$method
        if [[ -e $run/scores.json ]]; then
            echo "$run: scored already" >&2
            continue
        fi
        psptool train --method "$method" --split "$split" --data "$out/data/ucla.h5" --out "$run" "$@"
        psptool evaluate "$run" >/dev/null
    done
done
psptool table "$out"/runs/s*-supervised "$out"/runs/s*-psp --against supervised
