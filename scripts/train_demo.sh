#!/usr/bin/env bash
# The demonstration model from nothing: phantoms, tower, films of people where they are, language model, checkpoint.
# Start it again after an interruption: finished stages are left alone, the others go on from their newest checkpoint.
set -euo pipefail
cd "$(dirname "$0")/.."
OUT=${1:-runs/demo}
FILMS=${FILMS:-../shared/data/nih} # ChestX-ray14, or a part of it; without it the model learns from phantoms alone
SERIES=${SERIES:-../shared/data/nih_series} # whole series with marks of radiologists; without it, no film classifier
python=.venv/bin/python
# glibc then asks the kernel for huge pages: fewer first touches of fresh memory
export GLIBC_TUNABLES=glibc.malloc.hugetlb=1

stage() { # NAME RECIPE [ARGUMENT...]
    local name=$1 recipe=$2
    shift 2
    test -d "$OUT/$name/final" || $python -m training.train "training/recipes/$recipe" --out "$OUT/$name" "$@"
}

for seed in 1000000 2000000; do
    OMP_NUM_THREADS=1 $python -m training.phantom.cache "$OUT/cache" --pairs 6000 --first-seed $seed --size 224 &
done
wait
stage vision demo-vision.toml --cache "$OUT/cache"
if test -d "$FILMS" && test "$OUT" = runs/demo; then # the recipes of the mix name their folders
    $python -m training.data.phantom_backgrounds "$OUT/films" --films "nih:$FILMS" --pairs 750
    stage vision-real demo-vision-real.toml --start "$OUT/vision/final"
    stage instructions demo-real.toml --start "$OUT/vision-real/final"
    learned="12,000 phantom pairs; phantom findings over 310 backgrounds, and 730 labelled images, of ChestX-ray14 (train)"
else
    stage instructions demo.toml --cache "$OUT/cache" --start "$OUT/vision/final"
    learned="12,000 phantom pairs, no radiograph of a person"
fi
$python -m training.release.finish "$OUT/instructions/final" --to "$OUT/checkpoint" --version "${VERSION:-2}" \
    --calibration phantom:300@8000000 --test phantom:200 --snapshot "$learned"
rm -rf "$OUT/foreseeing" # the readings of its courses are kept in $OUT/prognosis
$python -m training.prognosis.release "$OUT/checkpoint" --to "$OUT/foreseeing" \
    --work "$OUT/prognosis" --version "${VERSION:-3}" --simulate 12000
if test -d "$SERIES"; then # the film classifier, which reads films of people; two networks, averaged
    for seed in 0 1; do
        $python -m training.films.train "$OUT/people" --series "$SERIES" --seed $seed
    done
    $python -m training.films.finish "$OUT/foreseeing" --weights "$OUT/people/film-0.safetensors" \
        --weights "$OUT/people/film-1.safetensors" --series "$SERIES" --cache "$OUT/people/films.npz" \
        --tower "$OUT/people/tower.npz" --version "${VERSION:-4}"
    $python -m training.films.evaluate "$OUT/foreseeing" --series "$SERIES" --out "$OUT/people"
else
    echo "$SERIES is not there: the checkpoint reads films of people as it reads phantoms, which is of no use"
fi
