"""Images on real calls: pulls fall back, errors name every source, and answers have the names that were asked for."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from pathlib import Path

import grpc
from grpc import aio

from cri_shim import schema
from cri_shim.schema import RuntimeMessage
from tests.cri.conftest import Line
from tests.cri.recording import NEWER, received
from tests.cri.scripted import PULL, Context, until
from tests.cri_shim.passing import rule

Play = Callable[..., None]
STATUS, CREATE = "/runtime.v1.ImageService/ImageStatus", "/runtime.v1.RuntimeService/CreateContainer"
LIST = "/runtime.v1.ImageService/ListImages"
CONFIG = 'interceptors = ["images"]\n' + rule(
    "mirrors", "images", 'from = "reg.example", to = ["one.example", "two.example/reg", "reg.example"]'
)
PULLED = schema.message("PullImageResponse")(image_ref="sha256:1").SerializeToString()


def pull(image: str) -> RuntimeMessage:
    return schema.message("PullImageRequest")(image={"image": image}, auth={"username": "pod", "password": "hunter2"})


def pulling(line: Line, *pullable: str) -> list[RuntimeMessage]:
    """The runtime pulls these images; the list fills with its requests."""
    requests: list[RuntimeMessage] = []

    async def answer(context: Context) -> None:
        frame = await context.read()
        assert isinstance(frame, bytes)
        requests.append(schema.message("PullImageRequest").FromString(frame))
        if (image := requests[-1].image.image) not in pullable:
            await context.abort(grpc.StatusCode.NOT_FOUND, f"no {image} here")
        await context.write(PULLED)

    line.runtime.behaviours[PULL] = answer
    return requests


def test_a_pull_falls_back_and_says_so(play: Play) -> None:
    async def story(line: Line) -> None:
        requests = pulling(line, "two.example/reg/a:1")
        outcome = await line.client.unary(PULL, pull("reg.example/a:1").SerializeToString())
        assert (outcome.code, outcome.frames) == (grpc.StatusCode.OK, [PULLED])
        tried = [one.image.image for one in requests]
        assert tried == ["one.example/a:1", "two.example/reg/a:1", "two.example/reg/a:1"]
        assert not any(one.HasField("auth") for one in requests), "the pod's credentials are for another registry"
        await until(lambda: line.shim.events("pulled-from-fallback"), "the event")
        assert "hunter2" not in json.dumps(line.shim.log)

    play(story, config=CONFIG)


def test_a_pull_that_fails_everywhere_names_every_source(play: Play) -> None:
    async def story(line: Line) -> None:
        requests = pulling(line)
        outcome = await line.client.unary(PULL, pull("reg.example/a:1").SerializeToString())
        assert outcome.code == grpc.StatusCode.NOT_FOUND
        assert "rule mirrors: no source has reg.example/a:1" in outcome.text
        for source in ("one.example/a:1", "two.example/reg/a:1", "reg.example/a:1"):
            assert f"no {source} here" in outcome.text
        assert [one.auth.password for one in requests] == ["", "", "hunter2"]

    play(story, config=CONFIG)


def test_a_pull_that_the_client_gives_up_is_given_up(play: Play) -> None:
    async def story(line: Line) -> None:
        started = asyncio.Event()

        async def forever(context: Context) -> None:
            started.set()
            await asyncio.Event().wait()

        line.runtime.behaviours[PULL] = forever
        ask: aio.UnaryUnaryMultiCallable[bytes, bytes] = line.client.channel.unary_unary(PULL)
        call = ask(pull("reg.example/a:1").SerializeToString())
        await started.wait()
        call.cancel()
        await until(lambda: line.runtime.cancelled == [PULL], "the runtime's pull to be cancelled")
        assert line.runtime.calls == [PULL], "no other source is tried"

    play(story, config=CONFIG)


def test_a_source_that_is_on_the_node_is_used_and_its_name_hidden(play: Play) -> None:
    held = {"id": "sha256:1", "repo_tags": ["two.example/reg/a:1"], "size": 1}

    async def story(line: Line) -> None:
        async def status(context: Context) -> None:
            frame = await context.read()
            assert isinstance(frame, bytes)
            asked = schema.message("ImageStatusRequest").FromString(frame.removesuffix(NEWER)).image.image
            answer = schema.message("ImageStatusResponse")(image=held if asked == "two.example/reg/a:1" else None)
            await context.write(answer.SerializeToString() + NEWER)

        line.runtime.behaviours[STATUS] = status
        request = schema.message("ImageStatusRequest")(image={"image": "reg.example/a:1"}).SerializeToString()
        outcome = await line.client.unary(STATUS, request + NEWER)
        assert outcome.frames[0].endswith(NEWER)
        told = schema.message("ImageStatusResponse").FromString(outcome.frames[0]).image
        assert (told.id, list(told.repo_tags)) == ("sha256:1", ["reg.example/a:1"])

        created = received(line, CREATE)
        config = {"image": {"image": "reg.example/a:1"}}
        container = schema.message("CreateContainerRequest")(pod_sandbox_id="s", config=config)
        await line.client.unary(CREATE, container.SerializeToString())
        got = schema.message("CreateContainerRequest").FromString(created[0])
        assert got.config.image.image == "two.example/reg/a:1"

        received(line, LIST, schema.message("ListImagesResponse")(images=[held]).SerializeToString())
        listed = schema.message("ListImagesResponse").FromString((await line.client.unary(LIST)).frames[0])
        assert list(listed.images[0].repo_tags) == ["reg.example/a:1"]

    play(story, config=CONFIG)


def test_a_mirrors_credentials_come_from_the_file_and_are_in_no_log(play: Play, folder: Path) -> None:
    secret = "correct horse"
    file = folder / "registries.json"
    file.touch(0o600)
    file.write_text(json.dumps({"auths": {"one.example": {"username": "node", "password": secret}}}))

    async def story(line: Line) -> None:
        requests = pulling(line, "one.example/a:1")
        await line.client.unary(PULL, pull("reg.example/a:1").SerializeToString())
        assert {(one.auth.username, one.auth.password) for one in requests} == {("node", secret)}
        file.chmod(0o644)
        outcome = await line.client.unary(PULL, pull("reg.example/a:1").SerializeToString())
        assert outcome.code == grpc.StatusCode.INTERNAL
        assert "has mode 0644" in outcome.text
        await until(lambda: len(line.shim.events("call")) == 2, "both calls to be logged")
        assert secret not in json.dumps(line.shim.log)

    play(story, config=f'{CONFIG}\n[images]\ncredentials = "{file}"\n')
