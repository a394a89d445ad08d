#!/bin/sh
# Installs the release of a checkout beside those that are there: /opt/zenzefi/releases/REVISION, with an environment of
# its own. Nothing that runs notices. Prints the folder; `current` is then pointed to it (see deploy/README.md).
#
#   deploy/systemd/install-release.sh [REVISION]     HEAD unless another one is named
#
# PYTHON names the interpreter, ZENZEFI_ROOT another folder than /opt/zenzefi.
set -eu

here=$(CDPATH='' cd -- "$(dirname -- "$0")/../.." && pwd)
revision=$(git -C "$here" rev-parse --verify --short=12 "${1:-HEAD}^{commit}")
release=${ZENZEFI_ROOT:-/opt/zenzefi}/releases/$revision
umask 022

if [ -e "$release/.whole" ]; then
    echo "$release"
    exit 0
fi
# What an interrupted run left.
rm -rf "$release"
mkdir -p "$release"
git -C "$here" archive "$revision" | tar -x -C "$release"
"${PYTHON:-python3}" -m venv "$release/.venv"
python=$release/.venv/bin/python
"$python" -m pip install --quiet --disable-pip-version-check --no-input --require-hashes \
    --requirement "$release/requirements.lock"
# The project itself is not built, which would fetch build tools that no lock file names.
"$python" - "$release" <<'END'
import pathlib, sys, sysconfig
pathlib.Path(sysconfig.get_path("purelib"), "zenzefi.pth").write_text(f"{sys.argv[1]}\n")
END
# Nobody may write here later, not even bytecode.
"$python" -m compileall -q "$release/zenzefi" "$release/workers" "$release/.venv/lib"
touch "$release/.whole"
echo "$release"
