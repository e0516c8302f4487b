# Sourced by the scripts beside it: `$python` with all that is needed installed,
# and the settings of runs on CPUs. `extras` names extras of the package, such as
# '[gguf]'.
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
venv=${VENV:-$root/.venv}
if [[ ! -x "$venv/bin/python" ]]; then
  "${PYTHON:-python3}" -m venv "$venv"
fi
python=$venv/bin/python
"$python" -m pip install --quiet --editable "$root${extras:-}"

# A step's buffers in huge pages, and no program compiled twice.
export GLIBC_TUNABLES=${GLIBC_TUNABLES:-glibc.malloc.hugetlb=1}
export JAX_COMPILATION_CACHE_DIR=${JAX_COMPILATION_CACHE_DIR:-$root/runs/.jax_cache}
