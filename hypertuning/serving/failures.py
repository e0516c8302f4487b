"""Failures of a request, with their HTTP status."""

from hypertuning.errors import UserError


class Failure(UserError):
  """A request that is refused for another reason than what it says.

  Attributes:
    status: HTTP status.
  """

  def __init__(self, status: int, message: str) -> None:
    """Makes the failure.

    Args:
      status: HTTP status.
      message: one line that says what to do.
    """
    super().__init__(message)
    self.status = status
