"""Cases 98 and 99: many pods one after the other, and a configuration that is wrong in every place."""

import os
import random
import re
import signal
from pathlib import Path
from typing import Any

import pytest

from tests.conformance.cni.cases import case
from tests.conformance.cni.test_add_failures import moment
from tests.conformance.cni.workbench import Cni

REPOSITORY = Path(__file__).resolve().parents[3]
CYCLES = 60
WRONG: dict[str, Any] = {
    "null": None,
    "number": 7,
    "negative": -1,
    "huge": 2**70,
    "fraction": 0.5,
    "true": True,
    "text": "nonsense",
    "empty text": "",
    "zero byte": "a\x00b",
    "list": [],
    "nested list": [[[[]]]],
    "object": {},
    "odd object": {"a": {"b": [None]}},
}


@case(98, "X", "leak_audit")
def test_many_pods_with_random_deaths_leave_nothing(cni: Cni, request: pytest.FixtureRequest) -> None:
    """A third of the calls is killed, a third of the pods is gone before DEL; 60 rounds, with --soak 1,000."""
    cycles = 1000 if request.config.getoption("--soak", False) else CYCLES
    cni.with_pool("10.88.1.0/28")
    before = cni.baseline()
    names = len(list(cni.site.path("/run/netns").iterdir()))
    open_files = len(os.listdir("/proc/self/fd"))
    for cycle, pod in enumerate(cni.pods(cycles)):
        container = f"pod{cycle % 5}"
        running = cni.start("ADD", container, pod)
        running.feed()
        if cni.random.random() < 0.33:
            moment(running, cni.random.uniform(0, 0.03))
            running.signal(signal.SIGKILL)
            running.kill()
        else:
            running.finish().ok()
        if gone := cni.random.random() < 0.33:
            pod.vanish()
        cni.call("DEL", container, "" if gone else pod).ok()
        if not gone:
            pod.vanish()
    cni.all_free(13, 14)
    cni.restored(before)
    # capacity() has made 16 pods of its own.
    assert len(list(cni.site.path("/run/netns").iterdir())) == names + 16
    assert len(os.listdir("/proc/self/fd")) <= open_files + 2


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The paths of every value of a configuration."""
    found = [path] if path else []
    children = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, child in children:
        found += places(child, (*path, key))
    return found


def replaced(value: Any, path: tuple[Any, ...], by: Any) -> Any:
    """A copy of a configuration with another value at one place."""
    if not path:
        return by
    if isinstance(value, dict):
        return {**value, path[0]: replaced(value[path[0]], path[1:], by)}
    return [replaced(each, path[1:], by) if index == path[0] else each for index, each in enumerate(value)]


@case(99, "X", "configuration_fuzz")
@pytest.mark.parametrize("verb", ["ADD", "DEL"])
def test_a_wrong_value_anywhere_gives_one_document_and_no_crash(
    cni: Cni, verb: str, request: pytest.FixtureRequest
) -> None:
    """60 pairs of a key of the configuration and a wrong value, chosen by the seed; with --soak all of them."""
    document = cni.network.document(cni.network.position)
    trials = [(path, word) for path in places(document) for word in WRONG if path[0] not in ("type",)]
    count = len(trials) if request.config.getoption("--soak", False) else min(60, len(trials))
    chosen = random.Random(cni.random.random()).sample(trials, count)
    before = cni.baseline()
    pod = cni.pod()
    for path, word in chosen:
        stdin = replaced(document, path, WRONG[word])
        answer = cni.call(verb, "abc", pod, **stdin)
        where = f"{'.'.join(map(str, path))} is {word}: {answer}"
        assert answer.exit_code >= 0, f"killed by a signal when {where}"
        assert "Traceback" not in answer.stdout + answer.stderr, where
        assert "goroutine" not in answer.stderr, where
        assert answer.pure().succeeded or answer.code != 999 or cni.subject.has("untyped_errors"), where
        if verb == "ADD" and answer.succeeded:
            cni.call("DEL", "abc", pod, **stdin).pure()
            cni.delete("abc", pod).ok()
    cni.delete("abc", pod).ok()
    cni.restored(before)


@case(99, "X", "configuration_fuzz")
def test_own_error_codes_are_documented(cni: Cni) -> None:
    documentation = cni.subject.profile.documentation
    if not documentation or not (REPOSITORY / documentation).exists():
        pytest.skip(f"profile {cni.subject.profile.name} names no documentation of error codes")
    text = (REPOSITORY / documentation).read_text()
    missing = [
        (name, code)
        for name, codes in cni.subject.profile.codes.items()
        for code in codes
        if not re.search(rf"^\| *{code} *\|", text, re.MULTILINE)
    ]
    assert not missing, f"{documentation} does not explain {missing}"
