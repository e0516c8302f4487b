"""Files of P3, Super-NaturalInstructions and MetaICL, a few rows each."""

import gzip
import json


def write_lines(path, rows):
  path.parent.mkdir(parents=True, exist_ok=True)
  data = '\n'.join(json.dumps(row) for row in rows).encode()
  path.write_bytes(gzip.compress(data) if path.suffix == '.gz' else data)


def p3_row(task, n):
  options = ['Yes', 'No']
  return {
    'task': task,
    'inputs_pretokenized': f'Is {n} even? ',
    'targets_pretokenized': f' {options[n % 2]}',
    'answer_choices': options,
  }


def write_small(root):
  """Files of the three families, a few rows each."""
  prompts = ['rotten_tomatoes_good', 'trec_what']
  write_lines(
    root / 'p3' / 'mixed.jsonl.gz',
    [p3_row(prompt, n) for prompt in prompts for n in range(12)],
  )
  table = {'do_train': 'BASE', 'train_size': 600_000, 'num_prompts': 3}
  write_lines(
    root / 'p3' / 't0_mixture_table.jsonl',
    [
      {**table, 'prompts': [prompts[0], 'gigaword_summarize_', 'absent']},
      {**table, 'train_size': 9, 'prompts': [prompts[1]]},
      {**table, 'do_train': None, 'prompts': ['anli_GPT_3_style']},
    ],
  )
  for prompt in (
    'anli_GPT_3_style_r1',
    'anli_GPT_3_style_r2',
    'super_glue_cb_x',
  ):
    for split, start in (('train', 0), ('validation', 20)):
      write_lines(
        root / 'p3_held_out' / f'{prompt}.{split}.jsonl',
        [p3_row(prompt, n) for n in range(start, start + 10)],
      )
  for task in ('task1_a', 'task2_b'):
    path = root / 'ni' / 'tasks' / f'{task}.json'
    path.parent.mkdir(parents=True, exist_ok=True)
    example = {'input': 'one', 'output': '1'}
    path.write_text(
      json.dumps(
        {
          'Definition': ['Write the number.'],
          'Positive Examples': [example, {'input': 'two', 'output': '2'}],
          'Instances': [
            {'id': f'{task}-{n}', 'input': f'n{n}', 'output': [f'{n}', f'+{n}']}
            for n in range(120)
          ],
        }
      )
    )
  for split, task in (('train', 'task1_a'), ('test', 'task2_b')):
    path = root / 'ni' / 'splits' / 'default' / f'{split}_tasks.txt'
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f'{task}\n')
  config = {'train': ['sums'], 'test': ['signs', 'free']}
  write_lines(root / 'metaicl' / 'config' / 'hr_to_lr.json', [config])
  for task, kind in (('signs', 'classification'), ('free', 'free-form')):
    path = root / 'metaicl' / 'config' / 'tasks' / f'{task}.json'
    write_lines(path, [{'task_type': kind, 'options': ['+', '-']}])
  row = {'output': '+', 'options': ['+', '-']}
  for task in ('sums', 'signs', 'free'):
    for part in (
      '16384_100_train',
      '4_100_train',
      '4_100_test',
      '4_13_train',
      '4_13_test',
    ):
      write_lines(
        root / 'metaicl' / 'data' / task / f'{task}_{part}.jsonl',
        [
          {
            **row,
            'task': task,
            'input': f'{part[-5]}{n}',
            'output': '+-'[n % 2],
          }
          for n in range(4 if part == '4_100_train' else 8)
        ],
      )
