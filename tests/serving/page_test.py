"""The page in a headless Chromium: nothing it asks for leaves the machine."""

import io
import json
import re
import shutil
import urllib.parse
import zipfile

import gin
import pytest
import runner
import served

from hypertuning import gin_utils, train

playwright = pytest.importorskip('playwright.sync_api')
expect = playwright.expect
_CHROMIUM = next(
  filter(None, map(shutil.which, ('chromium', 'chromium-browser', 'chrome'))),
  None,
)
pytestmark = pytest.mark.skipif(
  _CHROMIUM is None, reason='no Chromium to show the page'
)
WIDE, NARROW = (1200, 900), (360, 720)
EXAMPLES = 'a -> xy\nbb -> z\ncde -> x\nd -> yy\n'
COLUMNS = ('frozen', 'adapted', 'context')


@pytest.fixture(scope='module')
def browser():
  expect.set_options(timeout=120_000)  # what is compiled at first takes long
  with playwright.sync_playwright() as started:
    browser = started.chromium.launch(
      executable_path=_CHROMIUM,
      args=[
        '--no-sandbox',
        '--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1',
      ],
    )
    yield browser
    browser.close()


@pytest.fixture
def visit(browser):
  """A function that opens a page; its requests and errors are looked at."""
  contexts, problems, asked = [], [], []
  hosts = set()

  def open_page(url, size=WIDE, **options):
    width, height = size
    hosts.add(urllib.parse.urlsplit(url).netloc)
    context = browser.new_context(
      viewport={'width': width, 'height': height}, **options
    )
    contexts.append(context)
    page = context.new_page()
    page.on('request', lambda request: asked.append(request.url))
    page.on('pageerror', lambda error: problems.append(str(error)))
    page.goto(url)
    return page

  yield open_page
  for context in contexts:
    context.close()
  assert problems == []
  for url in asked:
    parts = urllib.parse.urlsplit(url)
    assert parts.scheme in ('data', 'blob') or parts.netloc in hosts, url


def ready(page):
  expect(page.locator('#set option')).not_to_have_count(0)
  return page


def adapt(page, text=EXAMPLES):
  page.fill('#examples', text)
  page.fill('#definition', '')
  page.click('#adapt')
  expect(page.locator('#phi strong')).to_be_visible()


def ask(page, query):
  page.fill('#query', query)
  page.click('#ask')
  expect(page.locator('#ask')).to_have_text('Ask')


def answers(page):
  """Text and cost of each column of the newest turn."""
  turn = page.locator('.turn').first
  return {
    kind: [
      turn.locator(f'[data-kind={kind}] .{part}').text_content()
      for part in ('answer', 'cost')
    ]
    for kind in COLUMNS
  }


def test_paste_adapt_ask_and_compare(server, visit):
  page = ready(visit(server.url))
  adapt(page)
  expect(page.locator('#count')).to_have_text('4 examples')
  expect(page.locator('#phi')).to_contain_text(
    re.compile(r'φ made in [\d.]+ m?s.*: a lora, [\d,]+ bytes\.')
  )
  ask(page, 'e')
  shown = answers(page)
  phi = server.adapt()['name']
  wanted = {
    'frozen': server.answer(['e']),
    'adapted': server.answer(['e'], phi=phi),
    'context': server.answer(['e'], examples=served.EXAMPLES),
  }
  for kind, (text, cost) in shown.items():
    answer = wanted[kind]['answers'][0] or 'An empty answer.'
    assert text == answer, kind
    tokens = wanted[kind]['tokens']
    assert f'{tokens["read"]} tokens read, {tokens["written"]} written' in cost
    assert re.match(r'[\d.]+ m?s', cost)
  expect(page.locator('.turn h3').first).to_have_text('e')


def test_tokens_appear_as_they_are_decoded(server, visit):
  """The page shows each line of a reply before the next one has come."""
  page = ready(visit(server.url))
  page.evaluate("""() => {
    window.seen = [];
    new MutationObserver(() => {
      const answer = document.querySelector('[data-kind=frozen] .answer');
      if (answer) window.seen.push(answer.textContent);
    }).observe(document.getElementById('answers'),
      {subtree: true, childList: true, characterData: true});
  }""")
  ask(page, 'fgh')
  seen = page.evaluate('[...new Set(window.seen)]')
  final = answers(page)['frozen'][0]
  lines = server.open_stream(queries=['fgh']).read().splitlines()
  texts = {json.loads(line).get('text') for line in lines} - {None, ''}
  if len(texts) > 1:
    assert len([text for text in seen if text]) > 1
  assert seen[-1] == final


def test_an_adapter_is_downloaded_in_both_forms(server, visit):
  page = ready(visit(server.url, accept_downloads=True))
  adapt(page)
  for form, end in (('safetensors', '.safetensors'), ('peft', '.zip')):
    with page.expect_download() as waiting:
      page.click(f'[data-form={form}]')
    name = waiting.value.suggested_filename
    with open(waiting.value.path(), 'rb') as file:
      data = file.read()
    assert name.endswith(end)
    if form == 'peft':
      assert zipfile.is_zipfile(io.BytesIO(data))
    else:
      assert server.request('phi/back', data, 'PUT').status == 200


def test_files_are_read_in_three_forms(server, visit, tmp_path):
  page = ready(visit(server.url))
  rows = [(x['inputs'], x['targets']) for x in served.EXAMPLES]
  forms = {
    'lines.txt': '\n'.join(f'{x} -> {y}' for x, y in rows),
    'table.tsv': '\n'.join(f'{x}\t{y}' for x, y in rows),
    'rows.jsonl': '\n'.join(map(json.dumps, served.EXAMPLES)),
  }
  for name, text in forms.items():
    path = tmp_path / name
    path.write_text(text)
    page.set_input_files('#file', path)
    expect(page.locator('#examples')).to_have_value(text)
    with page.expect_request('**/adapt') as waiting:
      page.click('#adapt')
    assert waiting.value.post_data_json['examples'] == served.EXAMPLES
    expect(page.locator('#phi strong')).to_be_visible()


def test_every_set_can_be_chosen(server, visit):
  page = ready(visit(server.url))
  sets = server.request('static/sets.json').json
  for number, one in enumerate(sets):
    page.select_option('#set', str(number))
    count = len(one['examples'])
    expect(page.locator('#count')).to_have_text(f'{count} examples')
    expect(page.locator('#suggestions button')).to_have_text(one['queries'])


def test_errors_are_lines_of_text(server, visit):
  page = ready(visit(server.url))
  page.fill('#examples', 'a -> b\nnothing')
  page.click('#adapt')
  error = page.locator('#adapt-error')
  expect(error).to_have_text('Line 2: write input -> output.')
  page.fill('#examples', '')
  page.click('#adapt')
  expect(error).to_have_text('Give one or more examples.')
  page.fill('#examples', f'{"<b>x</b>" * 40} -> <img src=x onerror=alert(1)>')
  page.click('#adapt')
  expect(error).to_contain_text('number 1')
  page.click('#ask')
  expect(page.locator('#ask-error')).to_have_text('Write an input of the task.')
  ask(page, '<b onclick="alert(1)">bold</b>')
  assert page.locator('b, img').count() == 0
  expect(page.locator('.turn h3')).to_have_text(
    '<b onclick="alert(1)">bold</b>'
  )
  assert answers(page)['adapted'][0] == 'Adapt first.'


@pytest.mark.slow
def test_a_server_that_has_gone_is_one_line(run, visit):
  with served.running(run, '--rows=1') as own:
    page = ready(visit(own.url))
    own.stop()
    page.fill('#examples', EXAMPLES)
    page.click('#adapt')
    expect(page.locator('#adapt-error')).to_contain_text('is it still running')
    ask(page, 'a')
    assert 'is it still running' in answers(page)['frozen'][0]


def test_the_keyboard_is_enough(server, visit):
  page = ready(visit(server.url))
  page.evaluate('document.activeElement.blur()')
  order = []
  for _ in range(12):
    page.keyboard.press('Tab')
    place = page.evaluate('document.activeElement.id')
    order.append(place)
    outline = page.evaluate(
      'getComputedStyle(document.activeElement.closest('
      '".file") ?? document.activeElement).outlineStyle'
    )
    assert outline == 'solid', place
    if place == 'examples':
      page.keyboard.press('Control+A')
      page.keyboard.insert_text(EXAMPLES)
      page.keyboard.press('Control+Enter')
      expect(page.locator('#phi strong')).to_be_visible()
    if place == 'query':
      page.keyboard.type('e')
      page.keyboard.press('Enter')
      expect(page.locator('#ask')).to_have_text('Ask')
      break
  assert order[:5] == ['set', 'file', 'examples', 'definition', 'adapt']
  assert answers(page)['adapted'][1]
  # What a screen reader is told once, at the end.
  expect(page.locator('#done')).to_contain_text('Adapted: ')


def test_everything_has_a_name(server, visit):
  page = ready(visit(server.url))
  for kind in ('textbox', 'combobox', 'button'):
    for one in page.get_by_role(kind).all():
      snapshot = one.aria_snapshot()
      assert re.match(r'- \w+ "[^"]+"', snapshot), snapshot
  for label in ('Examples, one per line', 'Set', 'Open a file'):
    expect(page.get_by_label(label)).to_have_count(1)


@pytest.mark.parametrize('size', [WIDE, NARROW], ids=['wide', 'narrow'])
def test_nothing_is_wider_than_the_screen(server, visit, size):
  page = ready(visit(server.url, size))
  adapt(page)
  ask(page, 'a' * 40)
  assert page.evaluate('document.documentElement.scrollWidth') <= size[0]
  boxes = [
    page.locator(f'[data-kind={kind}]').bounding_box() for kind in COLUMNS
  ]
  if size == WIDE:
    assert len({box['y'] for box in boxes}) == 1
  else:
    assert len({box['x'] for box in boxes}) == 1
    button = page.locator('#ask').bounding_box()
    assert button['height'] >= 44  # a finger's width


def contrast(page, selector) -> float:
  """Contrast of the text of an element with the page, as WCAG has it."""
  colours = page.evaluate(
    """selector => [
      getComputedStyle(document.querySelector(selector)).color,
      getComputedStyle(document.body).backgroundColor,
    ]""",
    selector,
  )
  light = []
  for colour in colours:
    parts = [int(x) / 255 for x in re.findall(r'\d+', colour)[:3]]
    linear = [
      x / 12.92 if x <= 0.04045 else ((x + 0.055) / 1.055) ** 2.4 for x in parts
    ]
    light.append(0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2])
  return (max(light) + 0.05) / (min(light) + 0.05)


@pytest.mark.parametrize('scheme', ['light', 'dark'])
def test_text_can_be_read_in_the_light_and_in_the_dark(server, visit, scheme):
  page = ready(visit(server.url, color_scheme=scheme))
  page.click('#ask')
  background = page.evaluate('getComputedStyle(document.body).backgroundColor')
  is_dark = int(re.findall(r'\d+', background)[0]) < 128
  assert is_dark == (scheme == 'dark')
  for selector in ('body', '.quiet', '#ask-error', 'a', '.file'):
    assert contrast(page, selector) >= 4.5, selector


def test_the_json_interface_has_a_page(server, visit):
  page = visit(server.url + 'docs')
  expect(page.locator('.opblock')).to_have_count(5)


@pytest.mark.slow
def test_a_model_without_a_hypermodel_says_so(tmp_path_factory, visit):
  folder = tmp_path_factory.mktemp('frozen') / 'run'
  values = {
    k: v
    for k, v in runner.TRAIN.items()
    if k not in ('HEAD_BOTTLENECK', 'PREFIX_LENGTH')
  }
  with gin.unlock_config():
    gin_utils.parse(
      ['gin/models/t5.gin', *runner.TRAIN_FILES[1:]],
      [f'{k} = {v!r}' for k, v in {**values, 'MODEL_DIR': str(folder)}.items()],
    )
    gin_utils.call(train.train)
  with served.running(folder, '--rows=1') as frozen:
    assert frozen.request('adapt', {'examples': served.EXAMPLES}).status == 400
    page = ready(visit(frozen.url))
    expect(page.locator('#no-hypermodel')).to_contain_text('no hypermodel')
    expect(page.locator('#adapt')).to_be_disabled()
    page.fill('#examples', EXAMPLES)
    ask(page, 'e')
    shown = answers(page)
  assert shown['adapted'][0] == 'No hypermodel.'
  assert shown['frozen'][1] and shown['context'][1]
