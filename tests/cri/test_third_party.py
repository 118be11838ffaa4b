"""An interceptor of another package: the worked example of docs/interceptors.md, installed and run."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import grpc
import pytest

from cri_shim import schema
from tests.cri.conftest import Line
from tests.cri.scripted import ROOT, Context, echo, until

Play = Callable[..., None]
RUN = "/runtime.v1.RuntimeService/RunPodSandbox"
TEXT = (ROOT / "docs" / "interceptors.md").read_text()


def shown(language: str, first: str) -> str:
    """The fenced block of the document whose first line begins so."""
    [block] = [one for one in re.findall(rf"```{language}\n(.*?)```", TEXT, re.DOTALL) if one.startswith(first)]
    return str(block)


def install(site: Path, distribution: str, module: str, source: str, entry_points: str) -> dict[str, str]:
    """What pip leaves of a package; the environment of a shim that finds it."""
    info = site / f"{distribution}-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {distribution}\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(entry_points)
    (site / f"{module}.py").write_text(source)
    return {"PYTHONPATH": f"{site}:{ROOT}"}


@pytest.fixture
def example(folder: Path) -> dict[str, str]:
    found = re.search(
        r"^\[project\.entry-points\.\"podwire\.interceptors\"\]\n(.*?)\n```", TEXT, re.DOTALL | re.MULTILINE
    )
    assert found is not None
    name, value = re.findall(r'^([\w-]+) = "(.+)"$', found[1], re.MULTILINE)[0]
    points = f"[podwire.interceptors]\n{name} = {value}\n"
    return install(folder / "site", "podwire_owner", "podwire_owner", shown("python", '"""Every sandbox'), points)


def sandbox(namespace: str) -> bytes:
    config = {"metadata": {"name": "web", "namespace": namespace, "uid": "u"}}
    return bytes(schema.message("RunPodSandboxRequest")(config=config).SerializeToString())


def labels(frame: bytes) -> dict[str, str]:
    return dict(schema.message("RunPodSandboxRequest").FromString(frame).config.labels)


def test_the_documented_example_is_found_configured_and_asked(play: Play, example: dict[str, str]) -> None:
    async def story(line: Line) -> None:
        line.runtime.behaviours[RUN] = echo
        answered = await line.client.unary(RUN, sandbox("shop"))
        assert labels(answered.frames[0]) == {"example.com/owner": "team-shop"}
        assert (await line.shim.logged(RUN))["rules"] == ["shop-is-owned"]
        assert (await line.client.unary(RUN, sandbox("other"))).frames == [sandbox("other")]
        assert "rules" not in await line.shim.logged(RUN, 2)

    play(story, config=shown("toml", "interceptors ="), env=example)


RAW = '''
class Raw:
    """Needs no class of podwire."""

    name = "raw"
    fail_open = True

    def __init__(self, setup):
        self.text = setup.settings["text"].encode()

    def wants(self, method):
        return True

    async def on_request(self, call, frame):
        return frame + self.text

    async def on_response(self, call, frame):
        return frame

    async def on_end(self, call):
        pass


def broken(setup):
    raise RuntimeError("no luck")
'''
POINTS = "[podwire.interceptors]\nraw = raw:Raw\nbroken = raw:broken\naudit = raw:Raw\n"


def test_an_interceptor_without_our_base_class_gets_its_table_and_its_place(play: Play, folder: Path) -> None:
    async def story(line: Line) -> None:
        async def answer(context: Context) -> None:
            await echo(context)

        line.runtime.behaviours["/v9.New/Method"] = answer
        assert (await line.client.unary("/v9.New/Method", b"x")).frames == [b"x+"]

    env = install(folder / "site", "raw", "raw", RAW, POINTS)
    play(story, config='interceptors = ["raw"]\n[raw]\ntext = "+"\n', env=env)


@pytest.mark.parametrize(
    ("name", "says"),
    [
        pytest.param("broken", "broken: raw:broken failed: RuntimeError: no luck", id="raises"),
        pytest.param("raw", "raw: raw:Raw failed: KeyError: 'text'", id="setting-missing"),
    ],
)
def test_one_that_cannot_be_made_keeps_the_old_configuration(play: Play, folder: Path, name: str, says: str) -> None:
    async def story(line: Line) -> None:
        (line.folder / "shim.toml").write_text(f'interceptors = ["{name}"]\n')
        await until(lambda: line.shim.events("reload-failed"), "the fault")
        assert says in line.shim.events("reload-failed")[0]["fault"]
        line.runtime.behaviours[RUN] = echo
        assert (await line.client.unary(RUN, b"")).code is grpc.StatusCode.OK

    play(story, env=install(folder / "site", "raw", "raw", RAW, POINTS))


def test_another_package_cannot_take_a_built_in_name(play: Play, folder: Path) -> None:
    async def story(line: Line) -> None:
        line.runtime.behaviours[RUN] = echo
        assert (await line.client.unary(RUN, sandbox("shop"))).frames == [sandbox("shop")]
        assert (line.folder / "audit.jsonl").exists()

    env = install(folder / "site", "raw", "raw", RAW, POINTS)
    play(story, config=f'interceptors = ["audit"]\n[audit]\nfile = "{folder}/audit.jsonl"\n', env=env)
