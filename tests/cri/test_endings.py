"""However a call ends, both sides learn of it, and in the words of the one who ended it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import grpc
import pytest

from tests.cri.conftest import Line
from tests.cri.scripted import BOUND, EVENTS, FUTURE, VERSION, Context, echo, until

Play = Callable[..., None]
ONE_AND_MANY = [pytest.param(VERSION, id="unary"), pytest.param(FUTURE, id="stream")]


@pytest.mark.parametrize("method", ONE_AND_MANY)
@pytest.mark.parametrize("deadline", [None, 7.0], ids=["absent", "7s"])
def test_the_deadline_is_the_clients(play: Play, method: str, deadline: float | None) -> None:
    left: list[float | None] = []

    async def story(line: Line) -> None:
        async def answer(context: Context) -> None:
            left.append(context.time_remaining())
            await echo(context)

        line.runtime.behaviours[method] = answer
        assert (await line.client.unary(method, b"x", timeout=deadline)).code is grpc.StatusCode.OK

    play(story)
    if deadline is None:
        assert left == [None]
    else:
        assert left[0] is not None
        # grpc-core rounds a timeout up, by one part in a hundred at most, without the shim too; here are two hops.
        assert 4 < left[0] <= deadline * 1.01**2


@pytest.mark.parametrize("method", ONE_AND_MANY)
def test_a_passed_deadline_ends_the_runtimes_call_too(play: Play, method: str) -> None:
    async def story(line: Line) -> None:
        line.runtime.behaviours[method] = lambda context: asyncio.sleep(BOUND)
        answered = await line.client.unary(method, b"x", timeout=0.5)
        assert answered.code is grpc.StatusCode.DEADLINE_EXCEEDED
        await until(lambda: line.runtime.cancelled == [method], "the runtime's call is cancelled")
        assert (await line.shim.logged(method))["code"] == "DEADLINE_EXCEEDED"

    play(story)


@pytest.mark.parametrize("method", [VERSION, EVENTS, FUTURE])
def test_a_clients_cancellation_reaches_the_runtime(play: Play, method: str) -> None:
    async def story(line: Line) -> None:
        line.runtime.behaviours[method] = lambda context: asyncio.sleep(BOUND)
        call = line.client.open(method)
        await call.write(b"x")
        await call.done_writing()
        await until(lambda: line.runtime.calls == [method], "the call arrived")
        call.cancel()
        await until(lambda: line.runtime.cancelled == [method], "the runtime's call is cancelled")
        logged = await line.shim.logged(method)
        assert (logged["code"], logged["ended_by"]) == ("CANCELLED", "client")

    play(story)


@pytest.mark.parametrize("method", [VERSION, EVENTS, FUTURE])
def test_a_client_that_disappears_ends_the_runtimes_call(play: Play, method: str) -> None:
    async def story(line: Line) -> None:
        line.runtime.behaviours[method] = lambda context: asyncio.sleep(BOUND)
        call = line.client.open(method)
        await call.write(b"x")
        await call.done_writing()
        await until(lambda: line.runtime.calls == [method], "the call arrived")
        await line.client.channel.close()
        await until(lambda: line.runtime.cancelled == [method], "the runtime's call is cancelled")

    play(story)


@pytest.mark.parametrize("method", ONE_AND_MANY)
def test_a_runtimes_cancelled_is_an_answer_like_any_other(play: Play, method: str) -> None:
    async def story(line: Line) -> None:
        async def fail(context: Context) -> None:
            await context.abort(grpc.StatusCode.CANCELLED, "context canceled")

        line.runtime.behaviours[method] = fail
        answered = await line.client.unary(method, b"x", timeout=BOUND)
        assert (answered.code, answered.text) == (grpc.StatusCode.CANCELLED, "context canceled")

    play(story)


@pytest.mark.parametrize("method", [EVENTS, FUTURE])
def test_an_error_in_mid_stream_comes_after_the_frames_before_it(play: Play, method: str) -> None:
    async def story(line: Line) -> None:
        async def fail(context: Context) -> None:
            for n in range(3):
                await context.write(b"%d" % n)
            await context.abort(grpc.StatusCode.DATA_LOSS, "lost\nthe rest", (("late", "1"),))

        line.runtime.behaviours[method] = fail
        answered = await line.client.stream(method, b"x")
        assert answered.frames == [b"0", b"1", b"2"]
        assert (answered.code, answered.text) == (grpc.StatusCode.DATA_LOSS, "lost\nthe rest")
        assert answered.trailing == [("late", "1")]

    play(story)


def test_the_runtime_may_end_a_call_whose_client_still_sends(play: Play) -> None:
    async def story(line: Line) -> None:
        async def enough(context: Context) -> None:
            await context.read()
            await context.abort(grpc.StatusCode.OUT_OF_RANGE, "enough")

        line.runtime.behaviours[FUTURE] = enough
        call = line.client.open(FUTURE)
        await call.write(b"x")
        assert await asyncio.wait_for(call.code(), BOUND) is grpc.StatusCode.OUT_OF_RANGE
        assert await call.details() == "enough"

    play(story)


@pytest.mark.parametrize("method", [EVENTS, FUTURE])
def test_a_refusal_is_not_lost_to_a_frame_that_is_just_being_sent(play: Play, method: str) -> None:
    """The two race, so once proves nothing."""

    async def story(line: Line) -> None:
        async def refuse(context: Context) -> None:
            await context.abort(grpc.StatusCode.FAILED_PRECONDITION, "refused", (("late", "1"),))

        line.runtime.behaviours[method] = refuse
        for _ in range(300):
            answered = await line.client.unary(method, b"x" * 5000)
            assert (answered.code, answered.text) == (grpc.StatusCode.FAILED_PRECONDITION, "refused")
            assert answered.trailing == [("late", "1")]

    play(story)


@pytest.mark.parametrize("method", [VERSION, EVENTS, FUTURE])
def test_a_method_the_runtime_lacks_is_unimplemented_in_its_words(play: Play, method: str) -> None:
    async def story(line: Line) -> None:
        answered = await line.client.unary(method, b"x")
        assert answered.code is grpc.StatusCode.UNIMPLEMENTED
        assert answered.text == "Method not found!"

    play(story)
