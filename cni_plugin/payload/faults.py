"""Why a payload could not be built, in words for the person who asked for it."""


class BuildError(Exception):
    """`message` says what failed with values, `hint` what to do next."""

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


def last_line(text: str) -> str:
    """The last line that a failed program wrote."""
    lines = text.strip().splitlines()
    return lines[-1] if lines else "no message"
