#!/bin/sh
# Installs the pinned torch alone, from local wheels (PIP_FIND_LINKS) if they hold it, else from an index,
# and drops what a running federation never reads: torch's own tests and its C++ headers (190 MB), and
# the names of its libraries' inner functions (120 MB), which debuggers read and the linker does not.
#   usage: install-torch.sh cpu|cuda CONSTRAINTS      env: TORCH_INDEX_URL overrides the index
set -eu
case "$1" in
  cpu) index=https://download.pytorch.org/whl/cpu ;;
  cuda)
    index=${PIP_INDEX_URL:-https://pypi.org/simple}
    unset PIP_FIND_LINKS # a local wheel may be a CPU build of the same version
    ;;
  *)
    echo "TORCH is '$1'; it must be cpu or cuda" >&2
    exit 2
    ;;
esac
pip install --no-compile --no-deps --no-index -c "$2" torch 2>/dev/null ||
  pip install --no-compile --no-deps --index-url "${TORCH_INDEX_URL:-$index}" -c "$2" torch
torch=$(pip show torch | sed -n 's/^Location: //p')/torch
rm -rf "$torch/test" "$torch/include" "$torch"/bin/test_* "$torch"/bin/protoc*
strip --strip-unneeded "$torch/lib/libtorch_cpu.so" "$torch/lib/libtorch_python.so"
