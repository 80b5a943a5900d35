"""The error that a user can mend, told in one line."""


class InputError(ValueError):
    """Something the user gave does not fit: which file or key, what was expected, what was found.

    Scripts print its text alone, without a traceback, and exit with status 1.
    """
