#!/usr/bin/env bash
# pytest-xdist's `--dist loadgroup` groups nothing under pytest 9.2.
#
# Expected: tests that carry the same `xdist_group` mark run in one worker, one after another (what a shared launch, a
#   port or a database of a suite relies on).
# Seen (pytest-xdist 3.8.0): under pytest 9.1.1 so it is; under 9.2.0 the marked tests run in both workers at once, and
#   nothing says so. pytest-xdist appends the group to `item._nodeid`, and pytest 9.2 makes `nodeid` of another
#   attribute.
set -euo pipefail
folder="$(mktemp -d)"
trap 'rm -rf "$folder"' EXIT
cat > "$folder/test_grouped.py" <<'PY'
import time

import pytest


@pytest.mark.xdist_group("database")
@pytest.mark.parametrize("i", range(8))
def test_alone(i):
    time.sleep(0.3)
PY
for version in 9.1.1 9.2.0; do
    python3 -m venv "$folder/$version"
    "$folder/$version/bin/pip" install --quiet "pytest==$version" pytest-xdist==3.8.0
    (cd "$folder" && "$folder/$version/bin/pytest" -v -n 2 --dist loadgroup -p no:cacheprovider test_grouped.py) > "$folder/said.txt"
    workers="$(grep -o '^\[gw[01]\].*PASSED' "$folder/said.txt" | cut -c1-5 | sort | uniq -c | wc -l)"
    echo "pytest $version, pytest-xdist 3.8.0: 8 tests of one group ran in $workers worker(s)"
    grep -c "PASSED" "$folder/said.txt" | grep -qx 8
    [ "$version $workers" = "9.1.1 1" ] || [ "$version $workers" = "9.2.0 2" ]
done
