"""The base of all errors that the user can mend."""

import re


class InputError(Exception):
    """What was given cannot be used: the message says what, what was expected, and what to do."""

    def __str__(self) -> str:
        return redacted(super().__str__())


def redacted(text: str) -> str:
    """The text without the passwords and keys in its URLs."""
    text = re.sub(r"(\w://[^\s:/@]*):[^\s/@]+@", r"\1:***@", text)
    return re.sub(r"((?:access|secret|session)\w*)=[^&\s'\"]+", r"\1=***", text)
