"""Real traffic between namespaces: who answers, and whom the server believes to talk to."""

import sys
from pathlib import Path

from tests.conformance.cni.workbench import Cni
from tests.lab.netns import Place
from tests.lab.waiting import wait_until

TALK = Path(__file__).with_name("talk.py")
SILENCE = "no answer"


def serve(cni: Cni, place: Place, address: str, port: int, protocol: str = "tcp", says: str = "from") -> None:
    """A server for the rest of the case, that says a word and the caller's address as it sees it."""
    log = cni.folder / f"server-{protocol}-{port}-{id(place)}-{says}"
    server = place.start([sys.executable, "-I", TALK, "serve", protocol, address, str(port), says], log)
    cni.stack.callback(server.kill)
    wait_until(lambda: "ready" in log.read_text(), 10, f"the server on {address}:{port}", hint=server.tail)


def ask(
    place: Place, address: str, port: int, protocol: str = "tcp", source: str = "-", source_port: int = 0
) -> str:
    """The first word of what is answered there, or SILENCE."""
    answer = conversation(place, address, port, protocol, source, source_port)
    return answer if answer == SILENCE else answer.split()[0]


def caller(place: Place, address: str, port: int, protocol: str = "tcp", source: str = "-") -> str:
    """The caller's address as the server there sees it, or SILENCE."""
    answer = conversation(place, address, port, protocol, source, 0)
    return answer if answer == SILENCE else answer.split()[1]


def conversation(place: Place, address: str, port: int, protocol: str, source: str, source_port: int) -> str:
    """What one question is answered with."""
    command = [sys.executable, "-I", TALK, "ask", protocol, address, str(port), source, str(source_port)]
    return place.run(command, check=False).stdout.strip()
