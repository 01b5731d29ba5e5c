#!/usr/bin/env bash
# highspy: the first `run()` of a process fixes its number of threads for every later solver object.
#
# Expected: `threads` is an option of one Highs object; two objects of a process may ask for different numbers, or
#   the second is refused by an exception.
# Seen (1.16.0 and 1.8.0): after a solve with threads=2, a new object with threads=1 returns kError from run(), model
#   status kNotset and an objective of 0.0, without an exception: code that does not look at the status reads
#   zeros. threads=0 ("take what is there") solves.
set -euo pipefail
folder="$(mktemp -d)"
trap 'rm -rf "$folder"' EXIT
cat > "$folder/show.py" <<'PY'
import importlib.metadata, os, sys
import highspy
import numpy as np


def solve(threads):
    h = highspy.Highs()
    h.setOptionValue("output_flag", False)
    h.setOptionValue("threads", threads)
    h.addVars(2, np.array([0.0, 0.0]), np.array([10.0, 10.0]))
    h.changeColsCost(2, np.array([0, 1], dtype=np.int32), np.array([1.0, 2.0]))
    h.addRow(3.0, 10.0, 2, np.array([0, 1], dtype=np.int32), np.array([1.0, 1.0]))
    status = h.run()
    return status, h.getModelStatus(), h.getInfo().objective_function_value


print("highspy", importlib.metadata.version("highspy"))
answers = {"first, threads=2": solve(2), "then, threads=1": solve(1), "then, threads=0": solve(0)}
for when, (status, model, value) in answers.items():
    print(f"    {when}: run() {status.name}, model {model.name}, objective {value}")
assert answers["first, threads=2"][2] == answers["then, threads=0"][2] == 3.0
assert answers["then, threads=1"] == (highspy.HighsStatus.kError, highspy.HighsModelStatus.kNotset, 0.0)
PY
for version in 1.8.0 1.16.0; do
    python3 -m venv "$folder/$version"
    "$folder/$version/bin/pip" install --quiet "highspy==$version" numpy
    "$folder/$version/bin/python" "$folder/show.py"
done
