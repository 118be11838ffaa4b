"""A call as an interceptor sees it: gRPC's words, and nothing of the library that carries it.

A transport fills a Call in and reads from it what interceptors changed; another transport can take grpcio's
place without an interceptor noticing.
"""

from __future__ import annotations

import time
from enum import IntEnum, StrEnum
from typing import Any


class Code(IntEnum):
    """gRPC status codes (grpc/doc/statuscodes.md)."""

    OK = 0
    CANCELLED = 1
    UNKNOWN = 2
    INVALID_ARGUMENT = 3
    DEADLINE_EXCEEDED = 4
    NOT_FOUND = 5
    ALREADY_EXISTS = 6
    PERMISSION_DENIED = 7
    RESOURCE_EXHAUSTED = 8
    FAILED_PRECONDITION = 9
    ABORTED = 10
    OUT_OF_RANGE = 11
    UNIMPLEMENTED = 12
    INTERNAL = 13
    UNAVAILABLE = 14
    DATA_LOSS = 15
    UNAUTHENTICATED = 16


class EndedBy(StrEnum):
    """Who gave the call its end."""

    RUNTIME = "runtime"
    SHIM = "shim"
    CLIENT = "client"


# Keys are lower case; values under keys that end in -bin are bytes. Keys repeat, and their order counts.
Metadata = list[tuple[str, str | bytes]]


class Call:
    """One call on its way through the shim. Instants are of time.monotonic(), durations seconds.

    `method` is the request's path ("/runtime.v1.RuntimeService/Version"). `metadata` goes to the runtime; an
    `on_request` of a unary call may still change it, a stream's has left by then. `initial_metadata` and
    `trailing_metadata` come from the runtime. `deadline` is None when the client set none,
    `code` until the call has ended. `notes` is where interceptors leave what they found for those after them.
    """

    __slots__ = (
        "began",
        "code",
        "deadline",
        "ended",
        "ended_by",
        "given_up",
        "initial_metadata",
        "metadata",
        "method",
        "notes",
        "request_bytes",
        "request_frames",
        "response_bytes",
        "response_frames",
        "text",
        "trailing_metadata",
        "upstream_seconds",
    )

    def __init__(self, method: str, metadata: Metadata, time_remaining: float | None = None) -> None:
        self.began = time.monotonic()
        self.method = method
        self.metadata = metadata
        self.deadline = None if time_remaining is None else self.began + time_remaining
        self.initial_metadata: Metadata = []
        self.trailing_metadata: Metadata = []
        self.code: int | None = None
        self.text = ""
        self.ended: float | None = None
        self.ended_by = EndedBy.RUNTIME
        self.request_frames = self.request_bytes = 0
        self.response_frames = self.response_bytes = 0
        self.upstream_seconds = 0.0
        self.notes: dict[str, Any] = {}
        self.given_up: set[str] = set()

    @property
    def service(self) -> str:
        """Full name of the service, "" when the path has none."""
        return self.method.rpartition("/")[0].lstrip("/")

    @property
    def name(self) -> str:
        """Short name of the method."""
        return self.method.rpartition("/")[2]

    def time_remaining(self) -> float | None:
        """Seconds left, never below 0; None when the client set no deadline."""
        return None if self.deadline is None else max(0.0, self.deadline - time.monotonic())

    @property
    def duration(self) -> float:
        """Seconds from the call's arrival to its end, or to now while it lasts."""
        return (time.monotonic() if self.ended is None else self.ended) - self.began

    @property
    def shim_seconds(self) -> float:
        """What of the duration was not spent waiting for the runtime."""
        return max(0.0, self.duration - self.upstream_seconds)

    def conclude(self, code: int, text: str, by: EndedBy) -> None:
        """Give the call its end; the first one holds."""
        if self.code is None:
            self.code, self.text, self.ended_by = code, text, by
            self.ended = time.monotonic()
