"""The base of all errors that the user can mend."""


class InputError(Exception):
    """What was given cannot be used: the message says what, what was expected, and what to do."""
