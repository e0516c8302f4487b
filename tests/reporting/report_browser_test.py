"""The report as a browser shows it, without a network."""

import html
import json
import re
import shutil
import subprocess

import pytest
import sweep_folders
from matplotlib import image

from hypertuning import gin_utils, report

_CHROMIUM = next(
  filter(None, map(shutil.which, ('chromium', 'chromium-browser', 'chrome'))),
  None,
)
pytestmark = pytest.mark.skipif(
  _CHROMIUM is None, reason='no Chromium to show the page'
)
_WIDTH, _HEIGHT = 1280, 800  # of a laptop
# Put into a copy of the page: writes into it what the browser made of it.
_PROBE = """
<script>
window.addEventListener('load', () => {
  const box = element => element.getBoundingClientRect();
  const outside = (inner, outer) =>
    inner.left < outer.left - 4 || inner.right > outer.right + 4 ||
    inner.top < outer.top - 4 || inner.bottom > outer.bottom + 4;
  const svgs = [...document.querySelectorAll('svg')];
  const told = {
    tables: Object.fromEntries([...document.querySelectorAll('table')].map(
      table => [table.id, table.tBodies[0].rows.length])),
    svgs: svgs.map(svg => [box(svg).width, box(svg).height]),
    cut: svgs.flatMap(svg => [...svg.querySelectorAll('text')]
      .filter(text => outside(box(text), box(svg)))
      .map(text => text.textContent)),
    wider: [...document.querySelectorAll('.scroll')]
      .filter(part => part.scrollWidth > part.clientWidth + 1)
      .map(part => part.firstElementChild.id),
    width: document.documentElement.scrollWidth,
    requests: performance.getEntriesByType('resource').map(x => x.name),
    bold: document.querySelectorAll('td b').length,
  };
  const pre = document.createElement('pre');
  pre.id = 'probe';
  pre.textContent = JSON.stringify(told);
  document.body.append(pre);
});
</script>
"""


@pytest.fixture(scope='module')
def page(tmp_path_factory):
  root = tmp_path_factory.mktemp('page')
  folder = sweep_folders.claims(root / 'sweep')
  for seed in sweep_folders.SEEDS:
    (folder.root / f'cells/eval/mtf__{seed}/done').unlink()
  folder.cell('eval', 'mtf', '0', failed='error: <b>memory</b>')
  (root / 'published.csv').write_text(
    'benchmark,size,method,task,value,metric,source\n'
    'P3,XL,HyperT5-Prefix,RTE,65.1,accuracy,table 1\n'
  )
  gin_utils.parse(
    ['gin/experiments/claims/report.gin'],
    [
      f'SWEEP_DIR = {str(folder.root)!r}',
      f'published.published.file = {str(root / "published.csv")!r}',
    ],
  )
  return gin_utils.call(report.report)


def browse(tmp_path, path, *flags):
  done = subprocess.run(
    [
      _CHROMIUM,
      '--headless',
      '--no-sandbox',
      '--disable-gpu',
      '--host-resolver-rules=MAP * ~NOTFOUND',
      f'--user-data-dir={tmp_path / "profile"}',
      '--enable-logging=stderr',
      *flags,
      path.as_uri(),
    ],
    capture_output=True,
    text=True,
    timeout=120,
  )
  assert done.returncode == 0, done.stderr
  return done


def test_browser_shows_all_of_it(page, tmp_path):
  text = page.read_text()
  copy = tmp_path / 'page.html'
  copy.write_text(text.replace('</body>', f'{_PROBE}</body>'))
  size = f'--window-size={_WIDTH},{_HEIGHT}'
  done = browse(tmp_path, copy, size, '--dump-dom')
  assert 'CONSOLE' not in done.stderr
  probe = re.search(r'<pre id="probe">(.*?)</pre>', done.stdout, re.DOTALL)
  told = json.loads(html.unescape(probe[1]))
  tables = {f'table-{path.stem}' for path in page.parent.glob('*.csv')}
  assert set(told['tables']) == tables
  assert all(told['tables'].values())
  assert told['tables']['table-claims'] == 32
  assert len(told['svgs']) == text.count('<svg') == 9
  assert all(width > 300 and height > 80 for width, height in told['svgs'])
  assert told['cut'] == []
  assert told['wider'] == []
  assert told['width'] <= _WIDTH
  assert told['requests'] == []
  assert told['bold'] == 0  # a reason of failure is text


def test_screenshot_has_the_colours_of_figures(page, tmp_path):
  shot = tmp_path / 'page.png'
  browse(tmp_path, page, f'--screenshot={shot}', f'--window-size={_WIDTH},4000')
  pixels = image.imread(shot)[..., :3]
  assert pixels.shape == (4000, _WIDTH, 3)
  blue = (abs(pixels - [0x2F / 255, 0x6F / 255, 0xB3 / 255]) < 0.02).all(-1)
  assert blue.mean() > 0.005
  assert (pixels > 0.99).all(-1).mean() > 0.5
