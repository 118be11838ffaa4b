"""Cases 87-92: container logs, which kubelet reads and rotates without the runtime."""

import re
from pathlib import Path

from tests.conformance.cri.bench import WAIT, Cri
from tests.conformance.cri.cases import case
from tests.lab.waiting import wait_until

LINE = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d+(Z|[+-]\d\d:\d\d) (stdout|stderr) ([PF])(:\S+)? (.*)")


def parsed(lines: list[str]) -> list[tuple[str, str, str]]:
    """(stream, tag, text) of each line; each has the format that kubelet reads."""
    found = [LINE.fullmatch(line) for line in lines]
    assert all(found), [line[:200] for line in lines]
    return [(each[2], each[3], each[5]) for each in found if each]


@case(87, "logs", "every line has its time, its stream and a tag")
def test_every_line_has_its_time_its_stream_and_a_tag(cri: Cri) -> None:
    container = cri.started("echo to stdout; echo ünï >&2; echo; echo last")
    lines = parsed(Path(cri.ended(container).log_path).read_text().splitlines())
    assert [each for each in lines if each[0] == "stdout"] == [
        ("stdout", "F", "to stdout"),
        ("stdout", "F", ""),
        ("stdout", "F", "last"),
    ]
    assert ("stderr", "F", "ünï") in lines


@case(88, "logs", "a long line is written in parts that make it up again")
def test_a_long_line_is_written_in_parts(cri: Cri) -> None:
    container = cri.started(
        "/bin/busybox yes 0123456789 | /bin/busybox tr -d '\\n' | /bin/busybox head -c 100000; echo"
    )
    lines = parsed(Path(cri.ended(container).log_path).read_text().splitlines())
    assert {tag for _, tag, _ in lines[:-1]} <= {"P"}
    assert lines[-1][1] == "F"
    assert "".join(text for _, _, text in lines) == "0123456789" * 10_000


@case(89, "logs", "ReopenContainerLog makes a new file where the old one was moved away")
def test_reopen_makes_a_new_file(cri: Cri) -> None:
    container = cri.started("echo first; while [ ! -e /tmp/go ]; do sleep 0.05; done; echo second; exec sleep 3600")
    cri.logged(container, "first")
    file = Path(cri.status(container).log_path)
    moved = file.rename(file.with_suffix(".1"))
    cri.call("ReopenContainerLog", container_id=container)
    wait_until(file.exists, 10, "the new log file")
    cri.out(container, "echo > /tmp/go")
    cri.logged(container, "second")
    assert "first" in moved.read_text()
    assert [text for _, _, text in parsed(file.read_text().splitlines())] == ["second"]


@case(90, "logs", "ReopenContainerLog is refused for a container that does not run")
def test_reopen_is_refused_for_a_container_that_does_not_run(cri: Cri) -> None:
    container = cri.started("exit 0")
    cri.ended(container)
    assert cri.refused("ReopenContainerLog", container_id=container).details


@case(91, "logs", "the log is where pod and container said, and stays when the container is removed")
def test_the_log_stays_when_the_container_is_removed(cri: Cri) -> None:
    pod = cri.pod()
    container = cri.container(pod, "echo kept", log_path="below/kept.log")
    assert cri.ended(container).log_path == str(pod.logs / "below/kept.log")
    cri.call("RemoveContainer", container_id=container)
    assert "kept" in (pod.logs / "below/kept.log").read_text()


@case(92, "logs", "a container without a log path runs and is told to have none")
def test_a_container_without_a_log_path_runs(cri: Cri) -> None:
    pod = cri.pod()
    container = cri.container(pod, f"/bin/busybox yes | /bin/busybox head -c 300000; {WAIT}", log_path="")
    assert cri.status(container).log_path == ""
    assert cri.out(container, "echo alive") == "alive"
    assert not list(pod.logs.iterdir())
