#!/usr/bin/env bash
# Time make targets as somebody new to this machine has them: a new user, an empty home, a fresh clone, nothing installed.
#   sudo scripts/time_fresh_clone.sh demo            needs root, for the user; the network or a package index, for the pins
#   sudo scripts/time_fresh_clone.sh demo test
# Writes a table between the marks <!-- times --> and <!-- /times --> of README.md (or of the file named by REPORT).
set -euo pipefail
cd "$(dirname "$0")/.."
test "$(id -u)" = 0 || { echo "run it as root: it makes a user, and removes it again"; exit 2; }
test $# -gt 0 || { echo "name at least one make target, such as demo"; exit 2; }
REPORT=${REPORT:-README.md}
PYTHON=${PYTHON:-/usr/bin/python3.11}
user="fresh-clone-$$"
rows=""
status=0

useradd --create-home "$user"
home=$(getent passwd "$user" | cut -d: -f6)
trap 'userdel --remove "$user" >/dev/null 2>&1' EXIT
# A bundle: the new user cannot read this folder, and a clone of a bundle holds what is committed and nothing else.
git bundle create -q "$home/source.bundle" HEAD
chown "$user" "$home/source.bundle"
runuser -u "$user" -- git -c advice.detachedHead=false clone -q "$home/source.bundle" "$home/clone"

for target in "$@"; do
    before=$SECONDS
    log="$home/$target.log"
    if runuser -u "$user" -- env HOME="$home" make -C "$home/clone" PYTHON="$PYTHON" "$target" >"$log" 2>&1; then
        result="done"
    else
        result="**failed**"
        status=1
        tail -n 20 "$log" >&2
    fi
    took=$((SECONDS - before))
    rows+="| \`make $target\` | $((took / 60)) min $((took % 60)) s | $result | $(cut -d' ' -f1 /proc/loadavg) |"$'\n'
done

table="Timed by \`scripts/time_fresh_clone.sh\` on $(date -u +%F), commit $(git rev-parse --short HEAD), a new user with an empty home,
$(nproc) cores ($(sed -n 's/^model name.*: //p' /proc/cpuinfo | head -1)):

| command | took | result | load at its end |
|---|---|---|---|
$rows"
"${PYTHON}" - "$REPORT" "$table" <<'PYTHON'
import pathlib
import re
import sys

path, table = pathlib.Path(sys.argv[1]), sys.argv[2]
text = path.read_text("utf-8")
marks = re.compile(r"<!-- times -->\n.*?<!-- /times -->", re.DOTALL)
if not marks.search(text):
    sys.exit(f"{path} has no marks <!-- times --> and <!-- /times -->")
path.write_text(marks.sub(lambda _: f"<!-- times -->\n{table}<!-- /times -->", text), "utf-8")
PYTHON
exit $status
