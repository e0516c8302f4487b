"""The one exception that entry points turn into a one-line message."""


class UserError(ValueError):
  """Something the user can mend: names the file, field or binding at fault."""


def one_line(error: BaseException) -> str:
  """An error's message without line breaks."""
  return ' '.join(str(error).split())
