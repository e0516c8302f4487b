"""The exceptions that entry points turn into a one-line message."""


class UserError(ValueError):
  """Something the user can mend: names the file, field or binding at fault."""


def mendable(error: Exception) -> str | None:
  """The line about an error that the user can mend; None for any other error.

  Args:
    error: error that ends a command: a `UserError`, or jax's that an
      accelerator's memory is full.
  """
  if isinstance(error, UserError):
    return one_line(error)
  if not is_memory_full(error):
    return None
  first, *_ = str(error).splitlines()
  return (
    f'The memory of the device is full: {one_line(first)} Take a smaller '
    "BATCH_SIZE, more NUM_MICROBATCHES, REMAT_POLICY = 'full' or more devices."
  )


def is_memory_full(error: BaseException) -> bool:
  """Whether jax says that a program does not fit into a device's memory."""
  # By its name: some commands never import jax.
  name = type(error).__name__
  return name == 'JaxRuntimeError' and 'RESOURCE_EXHAUSTED' in str(error)


def one_line(error: BaseException | str) -> str:
  """An error's message, or another text, without line breaks.

  What gin adds to the message of an error behind it is left out.
  """
  return ' '.join(str(error).split('\n  In call to configurable')[0].split())


def last_line(stderr: str) -> str:
  """The last line that a process has printed, which says why it failed."""
  lines = stderr.strip().splitlines()
  return one_line(lines[-1]) if lines else 'no message'
