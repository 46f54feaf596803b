#!/bin/sh
# Write constraints.txt from what .venv holds now: every version that `make demo` and `make test` install.
set -eu
cd "$(dirname "$0")/.."
{
    echo "# Every version that the two commands install. Regenerate: scripts/pin.sh"
    .venv/bin/pip freeze --exclude-editable --all 2>/dev/null | grep -E '^[A-Za-z0-9_.-]+==' | sed 's/+cpu$//' | LC_ALL=C sort -f
} > constraints.txt.new
mv constraints.txt.new constraints.txt
