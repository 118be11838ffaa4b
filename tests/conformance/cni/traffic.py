"""Real traffic between namespaces: who answers, and whom the server believes to talk to."""

import sys
from pathlib import Path

from tests.conformance.cni.workbench import Cni
from tests.lab.netns import Place
from tests.lab.waiting import wait_until

TALK = Path(__file__).with_name("talk.py")
SILENCE = "no answer"
# Duplicate address detection of IPv6 takes up to two seconds, of a bridge and its ports in turn.
PATIENCE = 6


def serve(cni: Cni, place: Place, address: str, port: int, protocol: str = "tcp", says: str = "from") -> None:
    """A server for the rest of the case, that says a word and the caller's address as it sees it."""
    log = cni.folder / f"server-{protocol}-{port}-{id(place)}-{says}"
    server = place.start([sys.executable, "-I", TALK, "serve", protocol, address, str(port), says], log)
    cni.stack.callback(server.kill)
    wait_until(lambda: "ready" in log.read_text(), 10, f"the server on {address}:{port}", hint=server.tail)


def ask(place: Place, address: str, port: int, protocol: str = "tcp", source: str = "-", source_port: int = 0) -> str:
    """The first word that is answered there. Asked again for some seconds: this is not about the first packet."""
    return _patient(place, address, port, protocol, source, source_port).split()[0]


def caller(place: Place, address: str, port: int, protocol: str = "tcp", source: str = "-") -> str:
    """The caller's address as the server there sees it."""
    return _patient(place, address, port, protocol, source, 0).split()[1]


def once(place: Place, address: str, port: int, protocol: str = "tcp") -> str:
    """The first word that is answered to a single question, or SILENCE."""
    answer = conversation(place, address, port, protocol, "-", 0)
    return answer if answer == SILENCE else answer.split()[0]


def _patient(place: Place, address: str, port: int, protocol: str, source: str, source_port: int) -> str:
    def answered() -> str | None:
        answer = conversation(place, address, port, protocol, source, source_port)
        return None if answer == SILENCE else answer

    return wait_until(answered, PATIENCE, f"an answer from {protocol} {address}:{port}")


def conversation(place: Place, address: str, port: int, protocol: str, source: str, source_port: int) -> str:
    """What one question is answered with."""
    command = [sys.executable, "-I", str(TALK), "ask", protocol, address, str(port), source, str(source_port)]
    return place.run(command, check=False).stdout.strip()


def listen(cni: Cni, place: Place, script: str, log: Path) -> None:
    """Run a Python script that prints `ready`, then what it hears, for the rest of the case."""
    listener = place.start([sys.executable, "-I", "-c", script], log)
    cni.stack.callback(listener.kill)
    heard(log, "ready")


def heard(log: Path, word: str) -> None:
    """Wait until a listener has printed this word."""
    wait_until(lambda: word in log.read_text(), 10, f"{word!r} to be heard")


def shout(place: Place, address: str, port: int, word: str, source: str = "0.0.0.0") -> None:
    """Send a datagram that nobody answers."""
    script = (
        "import socket, sys\ns = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)\n"
        "s.bind((sys.argv[4], 0))\ns.sendto(sys.argv[3].encode(), (sys.argv[1], int(sys.argv[2])))"
    )
    place.run([sys.executable, "-I", "-c", script, address, str(port), word, source], check=False)
