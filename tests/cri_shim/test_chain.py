"""The chain: who is asked, in which order, and what a failure does to the call."""

from __future__ import annotations

import asyncio

import pytest

from cri_shim.call import Call, Code
from cri_shim.chain import Chain, Interceptor, Links
from cri_shim.errors import RejectedError

METHOD = "/runtime.v1.RuntimeService/Version"


class Marks(Interceptor):
    """Appends its name to every frame, and its steps to a journal."""

    fail_open = True

    def __init__(self, name: str, journal: list[str], only: str = "") -> None:
        self.name = name
        self._journal = journal
        self._only = only

    def wants(self, method: str) -> bool:
        return not self._only or method == self._only

    async def on_request(self, call: Call, frame: bytes) -> bytes:
        return frame + self.name.encode()

    async def on_response(self, call: Call, frame: bytes) -> bytes:
        return frame + self.name.encode()

    async def on_end(self, call: Call) -> None:
        self._journal.append(self.name)


class Fails(Interceptor):
    """Raises wherever it is asked."""

    name = "fails"

    def __init__(self, error: Exception, fail_open: bool = True) -> None:
        self.error = error
        self.fail_open = fail_open
        self.asked = 0

    async def on_request(self, call: Call, frame: bytes) -> bytes:
        self.asked += 1
        raise self.error

    async def on_response(self, call: Call, frame: bytes) -> bytes:
        self.asked += 1
        raise self.error

    async def on_end(self, call: Call) -> None:
        self.asked += 1
        raise self.error


class Plain:
    """A third party's interceptor that does not subclass ours."""

    name = "plain"
    fail_open = True

    def wants(self, method: str) -> bool:
        return True

    async def on_request(self, call: Call, frame: bytes) -> bytes:
        return frame + b"+"

    async def on_response(self, call: Call, frame: bytes) -> bytes:
        return frame

    async def on_end(self, call: Call) -> None:
        return None


_: Interceptor = Plain()


class Complaints(list[tuple[str, str, str]]):
    def __call__(self, name: str, call: Call, error: Exception) -> None:
        self.append((name, call.method, str(error)))


def through(links: Links, call: Call | None = None) -> tuple[bytes, bytes]:
    """A request and a response frame after the chain, which then ends."""
    call = call or Call(METHOD, [])

    async def go() -> tuple[bytes, bytes]:
        both = await links.request(call, b"q:"), await links.response(call, b"a:")
        await links.end(call)
        return both

    return asyncio.run(go())


def test_requests_go_first_to_last_and_answers_last_to_first() -> None:
    journal: list[str] = []
    chain = Chain([Marks(name, journal) for name in "abc"], Complaints())
    assert through(chain.links(METHOD)) == (b"q:abc", b"a:cba")
    assert journal == ["c", "b", "a"]


def test_only_those_who_asked_for_the_method_see_it() -> None:
    journal: list[str] = []
    chain = Chain([Marks("a", journal, only=METHOD), Marks("b", journal)], Complaints())
    assert through(chain.links(METHOD))[0] == b"q:ab"
    assert through(chain.links("/other/Method"))[0] == b"q:b"


def test_one_that_cannot_say_what_it_wants_is_asked_about_everything() -> None:
    class Torn(Marks):
        def wants(self, method: str) -> bool:
            raise ZeroDivisionError

    assert through(Chain([Torn("t", [])], Complaints()).links(METHOD))[0] == b"q:t"


def test_an_interceptor_needs_no_base_class() -> None:
    assert through(Chain([Plain()], Complaints()).links(METHOD))[0] == b"q:+"


def test_hooks_that_are_not_overridden_are_never_called() -> None:
    class Idle(Interceptor):
        name = "idle"
        fail_open = True

    links = Chain([Idle()], Complaints()).links(METHOD)
    assert (links._request, links._response, links._end) == ([], [], [])


def test_a_failing_observer_is_left_out_of_the_call_with_one_complaint() -> None:
    journal: list[str] = []
    complaints = Complaints()
    fails = Fails(ValueError("oops"))
    links = Chain([Marks("a", journal), fails, Marks("c", journal)], complaints).links(METHOD)
    assert through(links) == (b"q:ac", b"a:ca")
    assert complaints == [("fails", METHOD, "oops")]
    assert fails.asked == 1
    assert journal == ["c", "a"]
    through(links)
    assert fails.asked == 2, "the next call asks it again"


def test_a_failing_policy_ends_the_call() -> None:
    complaints = Complaints()
    links = Chain([Fails(ValueError("oops"), fail_open=False)], complaints).links(METHOD)
    with pytest.raises(RejectedError, match="interceptor fails failed on Version and fails closed") as caught:
        through(links)
    assert caught.value.code == Code.INTERNAL
    assert complaints == [("fails", METHOD, "oops")]


@pytest.mark.parametrize("fail_open", [True, False])
def test_a_rejection_is_an_answer_not_a_failure(fail_open: bool) -> None:
    complaints = Complaints()
    links = Chain([Fails(RejectedError(7, "no"), fail_open)], complaints).links(METHOD)
    with pytest.raises(RejectedError, match="no"):
        through(links)
    assert complaints == []


@pytest.mark.parametrize("returned", [None, "text", bytearray(b"x")], ids=["none", "str", "bytearray"])
def test_a_hook_that_returns_no_bytes_has_failed(returned: object) -> None:
    class Wrong(Marks):
        async def on_request(self, call: Call, frame: bytes) -> bytes:
            return returned  # type: ignore[return-value]

    complaints = Complaints()
    assert through(Chain([Wrong("w", [])], complaints).links(METHOD))[0] == b"q:"
    assert complaints[0][2].startswith("a hook must return bytes")


@pytest.mark.parametrize("code", [0, 17, -1])
def test_a_rejection_needs_an_error_code(code: int) -> None:
    with pytest.raises(ValueError, match=f"from 1 to 16, not {code}"):
        RejectedError(code, "no")
