# Sourced by the scripts for a machine with a GPU: `$python` finds the project, and
# what cannot be installed there, in a folder of wheels, WHEELS:
#
#   pip download --dest wheels --only-binary=:all: --python-version 3.12 \
#     --platform manylinux2014_x86_64 pydantic
#   pip download --dest wheels --no-deps gin-config clu gguf
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
python=${PYTHON:-python3}
site=
if [[ -n ${WHEELS:-} ]]; then
  site=$(mktemp -d)
  trap 'rm -rf "$site"' EXIT
  "$python" -m pip install --quiet --no-index --no-deps --target "$site" \
    "$WHEELS"/*.whl || exit
fi
export PYTHONPATH="$root${site:+:$site}${PYTHONPATH:+:$PYTHONPATH}"
