"""Prompts of promptsource: the rules, and the rows of the real P3."""

import gzip
import json

import pytest
import shared

from hypertuning.data import promptsource
from hypertuning.errors import UserError

TEMPLATES = """
dataset: mine
templates:
  one: !Template
    answer_choices: Yes ||| No
    jinja: 'Is "{{text}}" good? ||| {% if label != -1 %}{{ answer_choices[label]
      }}{% endif %} '
    metadata: !TemplateMetadata
      original_task: true
    name: is it, good?
  two: !Template
    answer_choices: null
    jinja: '{{ words | choice }} ||| {{ words | most_frequent | join(" ") }}'
    metadata: !TemplateMetadata
      original_task: false
    name: words
"""


@pytest.fixture
def templates(tmp_path):
  path = tmp_path / 'templates.yaml'
  path.write_text(TEMPLATES)
  return promptsource.read_templates(str(path), 'mine_en')


def test_rendering_and_names(templates):
  one, two = templates
  assert one.task == 'mine_en_is_it_good_' and one.original_task
  row = one.render({'text': 'a ||| b', 'label': 1})
  assert tuple(row)[:3] == ('Is "a ||| b" good?', 'No', ('Yes', 'No'))
  assert one.render({'text': 'x', 'label': -1}) is None  # no target
  long = one.render({'text': 'x' * 3000, 'label': 0})
  assert len(long.inputs) < 2100
  assert two.task == 'mine_en_words' and not two.original_task
  drawn = {two.render({'words': list('aab')}, seed=i).inputs for i in range(9)}
  assert drawn == {'a', 'b'}
  again = [two.render({'words': list('aab')}, seed=3).inputs for _ in range(3)]
  assert len(set(again)) == 1
  assert two.render({'words': list('aabb')}).targets == 'a b'


def test_missing_fields_and_files_are_named(templates, tmp_path):
  with pytest.raises(UserError, match="good.': 'text' is undefined in row 1"):
    templates[0].render({'label': 1})
  with pytest.raises(UserError, match='no such file of templates'):
    promptsource.read_templates(str(tmp_path / 'none.yaml'), 'x')
  bad = tmp_path / 'bad.yaml'
  bad.write_text('templates: [1')
  with pytest.raises(UserError, match='bad.yaml: not a templates.yaml'):
    promptsource.read_templates(str(bad), 'x')


@shared.needed
def test_rendered_rows_equal_those_of_p3():
  folder = shared.DATA / 'heldout' / 'super_glue_cb' / 'validation.jsonl'
  raw = [json.loads(line) for line in folder.read_text().splitlines()]
  with gzip.open(
    shared.DATA / 'p3_heldout' / 'super_glue_cb.validation.jsonl.gz'
  ) as f:
    known = [json.loads(line) for line in f]
  path = shared.DATA / 'promptsource' / 'super_glue' / 'cb' / 'templates.yaml'
  found = 0
  for template in promptsource.read_templates(str(path), 'super_glue_cb'):
    expected = [row for row in known if row['task'] == template.task]
    for i, (example, row) in enumerate(zip(raw, expected, strict=False)):
      rendered = template.render(example, seed=i)
      assert rendered.inputs == row['inputs_pretokenized'].strip()
      assert rendered.targets == row['targets_pretokenized'].strip()
      assert list(rendered.options) == row['answer_choices']
      found += 1
  assert found == 15 * 56


@shared.needed
def test_every_template_file_is_read():
  files = sorted((shared.DATA / 'promptsource').rglob('templates.yaml'))
  assert len(files) == 65
  assert all(promptsource.read_templates(str(path), 'x') for path in files)
