#!/usr/bin/env bash
# The package alone, without `dev`, in two fresh environments: one with fastcore 1, one
# with the newest fastcore 2.
#
#     bash tools/check_fastcore.sh [python]
#
# In each: every module is imported, every command says what it takes (the same options
# in both), a model is built and sampled from.
set -euo pipefail
python=$(command -v "${1:-python3}")
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

export PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_INPUT=1
export OMP_NUM_THREADS=1 TQDM_DISABLE=1 MPLBACKEND=Agg HF_HUB_OFFLINE=1
unset PYTHONPATH

# built from a copy, so that no build/ of an earlier day gets in
mkdir "$work/source" "$work/elsewhere"
(cd "$root" && cp -r setup.py pyproject.toml settings.ini README.md LICENSE gud_nb "$work/source")
"$python" -m pip wheel -qq --no-deps --wheel-dir "$work/wheel" "$work/source"
grep -v '^fastcore==' "$root/constraints.txt" > "$work/constraints.txt"

check() {    # name, requirement
    local venv="$work/$1"
    "$python" -m venv "$venv"
    "$venv/bin/python" -m pip install -qq -c "$work/constraints.txt" \
        "$work"/wheel/*.whl "$2"
    (
        cd "$work/elsewhere"
        PATH="$venv/bin:$PATH" "$venv/bin/python" "$root/tools/check_install.py" \
            "$2" "$work/$1.options"
    )
    rm -rf "$venv"
}
check one 'fastcore<2' &
first=$!
check two 'fastcore>=2,<3' &
second=$!
wait "$first"
wait "$second"

# fastcore 2 writes an underscore in an option as a hyphen, and a capital as a short
# option: names without either are the same in both
if ! diff "$work/one.options" "$work/two.options"; then
    echo "the options of the commands differ between fastcore 1 (<) and 2 (>):"
    echo "give them names of one lower-case word"
    exit 1
fi
echo "fastcore 1 and 2: the same options, $(wc -l < "$work/one.options") in all"
