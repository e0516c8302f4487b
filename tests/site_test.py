"""docs/ as a site: it builds without a warning, and asks no other server."""

import html.parser
import os
import pathlib
import subprocess
import sys

import pytest
import runner
import yaml


class _Loaded(html.parser.HTMLParser):
  """Collects what a page loads, other than on a click."""

  def __init__(self, text: str) -> None:
    super().__init__()
    self.urls: list[str] = []
    self.feed(text)

  def handle_starttag(self, tag, attrs):
    names = {'link': 'href', 'a': None}
    value = dict(attrs).get(names.get(tag, 'src'))
    if value:
      self.urls.append(value)


@pytest.fixture(scope='module')
def site(tmp_path_factory) -> pathlib.Path:
  pytest.importorskip('mkdocs', reason="pip install '.[docs]'")
  folder = tmp_path_factory.mktemp('site')
  subprocess.run(
    [sys.executable, '-m', 'mkdocs', 'build', '--strict', f'-d{folder}'],
    cwd=runner.ROOT,
    env={**os.environ, 'NO_MKDOCS_2_WARNING': '1'},
    check=True,
  )
  return folder


def test_each_page_is_built(site):
  for page in (runner.ROOT / 'docs').glob('*.md'):
    name = '' if page.stem == 'index' else page.stem
    assert (site / name / 'index.html').is_file(), page


def test_no_page_asks_another_server(site):
  for page in site.rglob('*.html'):
    for url in _Loaded(page.read_text('utf-8')).urls:
      assert not url.startswith(('http:', 'https:', '//')), (page, url)


def test_reference_has_the_public_methods(site):
  """With the arguments that their docstrings describe."""
  import hypertuning

  text = (site / 'python/index.html').read_text('utf-8')
  for name in hypertuning.__all__:
    assert f'id="hypertuning.{name}"' in text, name
  methods = [name for name in vars(hypertuning.Model) if name[0] != '_']
  assert 'adapt' in methods
  for name in methods:
    assert f'id="hypertuning.Model.{name}"' in text, name


def test_a_link_to_nowhere_is_an_error(site, tmp_path):
  """The test above sees faults: the build is really strict."""
  settings = yaml.safe_load((runner.ROOT / 'mkdocs.yml').read_text('utf-8'))
  (tmp_path / 'docs').mkdir()
  (tmp_path / 'docs/index.md').write_text('[nowhere](nowhere.md)\n')
  settings = {
    **{name: settings[name] for name in ('site_name', 'strict', 'validation')},
    'nav': ['index.md'],
  }
  (tmp_path / 'mkdocs.yml').write_text(yaml.safe_dump(settings))
  done = subprocess.run(
    [sys.executable, '-m', 'mkdocs', 'build'],
    cwd=tmp_path,
    capture_output=True,
    text=True,
  )
  assert done.returncode
  assert 'nowhere.md' in done.stderr
