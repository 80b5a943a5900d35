"""The error that a user can mend, told in one line."""


class InputError(ValueError):
    """Something the user gave does not fit: which file or key, what was expected, what was found.

    Scripts print its text alone, without a traceback, and exit with status 1.
    """


def first_line(error: BaseException) -> str:
    """The first line of another program's error; its class, if it says nothing."""
    return next(iter(str(error).strip().splitlines()), type(error).__name__)


def named(error: BaseException) -> str:
    """An error's class and the first line of its text."""
    return f"{type(error).__name__}: {first_line(error)}"
