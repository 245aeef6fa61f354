"""The exceptions a user may see: each is one line that says what, where, what was expected."""


class PtbLmError(Exception):
    """Something failed that is not the caller's mistake (a mirror, a disk): exit code 1.

    The message is a single line without a final full stop before the advice it ends with.
    """

    exit_code = 1


class InputError(PtbLmError):
    """The call or its input is wrong: exit code 2. Nothing has been changed when it is raised."""

    exit_code = 2


RESERVE_BYTES = 4 * 2**20
"""What is held back, and let go when memory runs out: the message needs some itself."""
