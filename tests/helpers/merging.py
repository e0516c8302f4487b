"""A vocabulary of plain Python that merges as byte-level BPE ones do.

A line break is 198, two of them are 1116, and a character with a blank before
it is another id than the character alone, as in SmolLM2's vocabulary.
"""

from hypertuning.data import text_format

BOS, EOS, NEWLINE, TWO_NEWLINES = 1, 2, 198, 1116
_SINGLE, _WITH_BLANK = 300, 2000  # plus the code point


class MergingVocabulary:
  """Follows `text_format.Vocabulary` without seqio."""

  size = 4000
  extra_ids = 0
  eos_id = EOS
  pad_id = 0

  def encode(self, text: str) -> list[int]:
    ids, i = [], 0
    while i < len(text):
      pair = text[i : i + 2]
      if pair == '\n\n':
        ids.append(TWO_NEWLINES)
      elif text[i] == '\n':
        ids.append(NEWLINE)
      elif text[i] == ' ' and len(pair) == 2 and pair[1] not in ' \n':
        ids.append(_WITH_BLANK + ord(pair[1]))
      else:
        ids.append(_SINGLE + ord(text[i]))
      i += 1 + (ids[-1] == TWO_NEWLINES or ids[-1] >= _WITH_BLANK)
    return ids

  def decode(self, ids) -> str:
    special = {NEWLINE: '\n', TWO_NEWLINES: '\n\n', BOS: '', EOS: ''}

    def text(token):
      if token in special:
        return special[token]
      if token >= _WITH_BLANK:
        return ' ' + chr(token - _WITH_BLANK)
      return chr(token - _SINGLE)

    return ''.join(map(text, ids))

  def __eq__(self, other):
    return isinstance(other, MergingVocabulary)

  def __hash__(self):
    return 0

  def __str__(self):
    return 'a MergingVocabulary of 4000 ids'


def line_format() -> text_format.TextFormat:
  """`Input: x`, `Output: y` on lines, as for a decoder-only model."""
  return text_format.custom_format(
    MergingVocabulary(),
    start=(BOS,),
    inputs='Input:',
    targets='\nOutput:',
    between=(NEWLINE, NEWLINE),
    target_end=(NEWLINE,),
    end_ids=(NEWLINE, TWO_NEWLINES, EOS),
    blank=' ',
    names=((BOS, '<s>'),),
  )
