#!/usr/bin/env bash
# highspy 1.16.0 writes a two-line banner to standard output from the constructor `Highs()`.
#
# Expected: as in 1.15.1, constructing a solver prints nothing, and `output_flag=False`, which can only be
#   set on an object that exists, keeps a program's standard output its own (a JSON document, say).
# Seen (1.16.0): "Running HiGHS 1.16.0 (git hash: f3f113d): Copyright (c) 2026 under MIT licence terms" and a
#   line about third-party notices, from C (a replaced sys.stdout does not see it), before any option can be set.
set -euo pipefail
folder="$(mktemp -d)"
trap 'rm -rf "$folder"' EXIT
for version in 1.15.1 1.16.0; do
    python3 -m venv "$folder/$version"
    "$folder/$version/bin/pip" install --quiet "highspy==$version" numpy
    "$folder/$version/bin/python" -c 'import highspy; highspy.Highs()' > "$folder/$version.txt"
    echo "highspy $version: $(wc -l < "$folder/$version.txt") lines on standard output"
    sed 's/^/    /' "$folder/$version.txt"
done
[ ! -s "$folder/1.15.1.txt" ] && grep -q '^Running HiGHS 1.16.0' "$folder/1.16.0.txt"
