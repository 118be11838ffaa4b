"""Metrics of a shim as a process: on its socket, bounded, and true."""

from __future__ import annotations

import asyncio
import os
import stat
from collections.abc import Callable
from pathlib import Path

import grpc
import pytest
from prometheus_client.parser import text_string_to_metric_families

from cri_shim.capabilities import Setup
from cri_shim.errors import ConfigError
from cri_shim.interceptors.metrics import Metrics
from tests.cri.conftest import Line
from tests.cri.scripted import BOUND, EVENTS, VERSION, Context, echo, until

Play = Callable[..., None]
Samples = dict[tuple[str, tuple[tuple[str, str], ...]], float]
ON = '[metrics]\nlisten = "unix://{0}/metrics.sock"\n'


async def get(path: Path, request: str = "GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n") -> tuple[str, str]:
    """Status line and body."""
    reader, writer = await asyncio.open_unix_connection(str(path))
    writer.write(request.encode())
    head, _, body = (await reader.read()).decode().partition("\r\n\r\n")
    writer.close()
    return head.splitlines()[0], body


async def scraped(line: Line) -> Samples:
    status, body = await get(line.folder / "metrics.sock")
    assert status == "HTTP/1.1 200 OK"
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(body)
        for sample in family.samples
    }


async def settled(line: Line, name: str, wanted: float, **labels: str) -> Samples:
    """The samples once one of them has this value: a call is counted when its client knows its end already."""
    deadline = asyncio.get_running_loop().time() + BOUND
    key = name, tuple(sorted(labels.items()))
    while (samples := await scraped(line)).get(key) != wanted:
        assert asyncio.get_running_loop().time() < deadline, f"{key} is {samples.get(key)}, not {wanted}"
        await asyncio.sleep(0.02)
    return samples


def value(samples: Samples, name: str, **labels: str) -> float:
    return samples[name, tuple(sorted(labels.items()))]


@pytest.fixture
def on(folder: Path) -> str:
    return 'interceptors = ["metrics"]\n' + ON.format(folder)


def test_calls_are_counted_by_method_and_code_and_timed_on_both_sides(play: Play, on: str) -> None:
    async def story(line: Line) -> None:
        async def slow(context: Context) -> None:
            await asyncio.sleep(0.1)
            await echo(context)

        line.runtime.behaviours[VERSION] = slow
        for _ in range(2):
            await line.client.unary(VERSION, b"12345")
        del line.runtime.behaviours[VERSION]
        await line.client.unary(VERSION, b"12345")
        ok = {"method": "Version", "ended_by": "runtime"}
        samples = await settled(line, "podwire_cri_calls_total", 1, code="UNIMPLEMENTED", **ok)
        assert value(samples, "podwire_cri_calls_total", code="OK", **ok) == 2
        assert value(samples, "podwire_cri_bytes_total", method="Version", direction="request") == 15
        assert value(samples, "podwire_cri_bytes_total", method="Version", direction="response") == 10
        assert value(samples, "podwire_cri_upstream_seconds_count", method="Version") == 3
        assert 0.19 < value(samples, "podwire_cri_upstream_seconds_sum", method="Version") < 5
        assert value(samples, "podwire_cri_shim_seconds_sum", method="Version") < 0.19
        assert value(samples, "podwire_cri_upstream_up") == 1
        assert value(samples, "podwire_cri_upstream_connections_total") == 1

    play(story, config=on)


def test_calls_in_flight_and_reconnects_are_told(play: Play, on: str) -> None:
    async def story(line: Line) -> None:
        arrived = asyncio.Event()

        async def hang(context: Context) -> None:
            arrived.set()
            await asyncio.Event().wait()

        line.runtime.behaviours[EVENTS] = hang
        await until(lambda: line.shim.events("upstream")[-1]["connected"], "the runtime")
        call = line.client.open(EVENTS)
        await call.write(b"")
        await arrived.wait()
        assert value(await scraped(line), "podwire_cri_calls_in_flight") == 1
        await line.runtime.stop(grace=0)
        await call.code()
        await until(lambda: not line.shim.events("upstream")[-1]["connected"], "the loss")
        assert value(await scraped(line), "podwire_cri_upstream_up") == 0
        await line.runtime.start()
        await until(lambda: line.shim.events("upstream")[-1]["connected"], "the reconnect")
        samples = await settled(line, "podwire_cri_calls_in_flight", 0)
        assert value(samples, "podwire_cri_upstream_connections_total") == 2

    play(story, config=on)


def test_invented_methods_share_one_label(play: Play, on: str) -> None:
    async def story(line: Line) -> None:
        for number in range(20):
            await line.client.unary(f"/invented.v{number}.Service/Method{number}")
        other = {"method": "other", "code": "UNIMPLEMENTED", "ended_by": "runtime"}
        samples = await settled(line, "podwire_cri_calls_total", 20, **other)
        methods = {dict(labels).get("method") for name, labels in samples if name == "podwire_cri_calls_total"}
        assert methods == {"other"}

    play(story, config=on)


def test_the_socket_is_0660_and_goes_with_the_shim(play: Play, on: str) -> None:
    async def story(line: Line) -> None:
        path = line.folder / "metrics.sock"
        assert stat.S_IMODE(path.stat().st_mode) == 0o660
        status, _ = await get(path, "POST / HTTP/1.1\r\n\r\n")
        assert status == "HTTP/1.1 405 Method Not Allowed"
        await line.shim.exit(15)
        assert not path.exists()

    play(story, config=on)


def test_a_dead_socket_in_the_place_is_replaced_and_a_successors_is_left(play: Play, on: str, folder: Path) -> None:
    async def story(line: Line) -> None:
        path = line.folder / "metrics.sock"
        server = await asyncio.start_unix_server(lambda reader, writer: writer.close(), str(path) + ".new")
        os.rename(str(path) + ".new", path)
        await line.shim.exit(15)
        assert path.exists()
        server.close()

    play(story, config=on)


def test_a_scraper_that_says_nothing_blocks_nobody(play: Play, on: str) -> None:
    async def story(line: Line) -> None:
        _, writer = await asyncio.open_unix_connection(str(line.folder / "metrics.sock"))
        line.runtime.behaviours[VERSION] = echo
        assert (await line.client.unary(VERSION)).code is grpc.StatusCode.OK
        await scraped(line)
        writer.close()
        assert await line.shim.exit(15) == 0

    play(story, config=on)


def test_counts_survive_a_reload(play: Play, on: str) -> None:
    async def story(line: Line) -> None:
        await line.client.unary(VERSION)
        (line.folder / "shim.toml").write_text(f"drain_seconds = 3\n{on}")
        await until(lambda: line.shim.events("reloaded"), "the reload")
        await line.client.unary(VERSION)
        label = {"method": "Version", "code": "UNIMPLEMENTED", "ended_by": "runtime"}
        samples = await settled(line, "podwire_cri_calls_total", 2, **label)
        assert value(samples, "podwire_cri_reloads_total", result="done") == 1

    play(story, config=on)


def test_on_loopback_it_answers_too(play: Play) -> None:
    async def story(line: Line) -> None:
        ports = [port for port in range(49152, 49252) if await free(port)]
        text = f'interceptors = ["metrics"]\n[metrics]\nlisten = "127.0.0.1:{ports[0]}"\n'
        (line.folder / "shim.toml").write_text(text)
        await until(lambda: line.shim.events("reloaded"), "the reload")
        reader, writer = await asyncio.open_connection("127.0.0.1", ports[0])
        writer.write(b"GET / HTTP/1.0\r\n\r\n")
        assert b"podwire_cri_upstream_up 1.0" in await reader.read()
        writer.close()

    async def free(port: int) -> bool:
        try:
            server = await asyncio.start_server(lambda reader, writer: None, "127.0.0.1", port)
        except OSError:
            return False
        server.close()
        return True

    play(story)


@pytest.mark.parametrize("listen", ["0.0.0.0:9464", ":9464", "[::]:9464", "192.0.2.1:80", "127.0.0.1:x", "/run/x.sock"])
def test_what_others_could_reach_is_refused(listen: str) -> None:
    with pytest.raises(ConfigError, match=r"metrics\.listen: must be unix:///path or 127\.0\.0\.1:PORT"):
        Metrics(Setup("metrics", {"listen": listen}))


def test_a_socket_that_is_gone_is_made_anew(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    monkeypatch.setattr("cri_shim.interceptors.metrics.KEEP_SECONDS", 0.01)
    path = folder / "metrics.sock"

    async def story() -> None:
        metrics = Metrics(Setup("metrics", {"listen": f"unix://{path}"}))
        await metrics.start()
        path.unlink()
        await until(path.exists, "the socket")
        assert (await get(path))[0] == "HTTP/1.1 200 OK"
        await metrics.close()
        assert not path.exists()

    asyncio.run(story())
