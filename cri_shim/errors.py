"""What the shim itself can fail at.

    ShimError
    +-- ConfigError          configuration or arguments; carries every fault found, exit code 2
    +-- ListenError          the listening socket cannot be had; exit code 2
    +-- UnknownMessageError  a message or enum the schema does not hold (also a LookupError)
    +-- ChildError           another program did not start, or not end in time
    +-- InspectError         podwire-cri: the runtime does not tell what was asked
    +-- SourceError          podwire-cri: a log cannot be read
    +-- UnreadableError      a frame is no message of its method, or a changed one cannot be written
    +-- AskError             the runtime did not answer a call of the shim's own
    +-- RejectedError        raised by an interceptor to end a call with its own code and text

An error that a proxied call ends with is not in this tree. It belongs to the runtime and passes through as it
is: code, text, details and metadata.
"""

from __future__ import annotations

from collections.abc import Sequence


class ShimError(Exception):
    """Root of everything the shim raises on its own account."""


class ConfigError(ShimError):
    """Arguments or configuration are unusable; `faults` holds one sentence per fault, all of them."""

    def __init__(self, faults: Sequence[str]) -> None:
        self.faults = tuple(faults)
        super().__init__("; ".join(self.faults))


class ListenError(ShimError):
    """The listening socket cannot be had: a live instance, a foreign file, a missing folder."""


class UnknownMessageError(ShimError, LookupError):
    """The schema holds no such message or enum."""


class ChildError(ShimError):
    """A program that was run did not start, or was killed for its time; the text names it."""


class InspectError(ShimError):
    """The runtime does not know the container, or does not tell; the text holds its words."""


class SourceError(ShimError):
    """A log cannot be read; the text names it."""


class UnreadableError(ShimError):
    """A frame is no message of its method, or a changed message cannot be written."""


class AskError(ShimError):
    """A call of the shim's own failed; `code` is a gRPC status."""

    def __init__(self, code: int, text: str) -> None:
        self.code = code
        self.text = text
        super().__init__(text)


class RejectedError(ShimError):
    """An interceptor ends the call: `code` is a gRPC status (1 to 16), `text` what the caller reads."""

    def __init__(self, code: int, text: str) -> None:
        if not 1 <= code <= 16:
            raise ValueError(f"a rejection needs a gRPC error code from 1 to 16, not {code}")
        self.code = code
        self.text = text
        super().__init__(text)
