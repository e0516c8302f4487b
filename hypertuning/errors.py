"""The one exception that entry points turn into a one-line message."""


class UserError(ValueError):
  """Something the user can mend: names the file, field or binding at fault."""


def one_line(error: BaseException | str) -> str:
  """An error's message, or another text, without line breaks."""
  return ' '.join(str(error).split())
