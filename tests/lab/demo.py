"""Two pods on a private node, through the shim's socket only: every claim is a printed, measured proof.

Run by `install.sh demo`. Exit code 0 only if every proof held; on failure, SIGINT and SIGTERM all is cleaned up.
"""

import argparse
import contextlib
import functools
import io
import ipaddress
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType

from rich.console import Console

from cri_shim.cli import waterfall
from cri_shim.timeline import timelines
from tests.lab import kept, witness
from tests.lab.containerd import installed
from tests.lab.cri import CriError, Pod, Port
from tests.lab.node import NODE_ADDRESS, OUTSIDE_ADDRESS, SUBNET, Node
from tests.lab.traffic import PeerServer, get_from_container, get_from_namespace
from tests.lab.waiting import WaitTimeoutError, wait_until

HTTP_PORT, HOST_PORT, PEER_PORT = 8080, 18080, 9000
PAGE = "hello from podwire"


class ProofFailedError(Exception):
    """A claim that did not hold; the line that says so is printed already."""


class InterruptedBySignalError(BaseException):
    """SIGINT or SIGTERM: unwinds everything, like KeyboardInterrupt."""


class Report:
    """Prints the lines of the demo; colours only on a terminal."""

    def __init__(self) -> None:
        self._colour = sys.stdout.isatty() and "NO_COLOR" not in os.environ
        self.proofs = 0

    def say(self, text: str = "") -> None:
        """A line as it is."""
        try:
            print(text, flush=True)
        except BrokenPipeError:
            # Whoever read has gone (`demo | head`): clean up as for a signal, and say nothing more.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            raise InterruptedBySignalError("a closed output") from None

    def proof(self, claim: str, holds: bool, measured: str) -> None:
        """A line per proof; raises ProofFailedError when it does not hold."""
        word, code = ("ok", "32") if holds else ("FAILED", "31")
        word = f"\033[{code}m{word:6}\033[0m" if self._colour else f"{word:6}"
        self.say(f"  {word} {claim:<60} {measured}")
        if not holds:
            raise ProofFailedError(claim)
        self.proofs += 1


def main(arguments: list[str]) -> int:
    """The command: run, run and keep, or stop a kept one."""
    parser = argparse.ArgumentParser(prog="install.sh demo", description=__doc__)
    choice = parser.add_mutually_exclusive_group()
    choice.add_argument("--keep", action="store_true", help="leave the node running and say how to talk to it")
    choice.add_argument("--stop", action="store_true", help="stop what --keep left running")
    options = parser.parse_args(arguments)
    if os.geteuid() != 0:
        print("demo: needs root for namespaces and containers: sudo ./install.sh demo", file=sys.stderr)
        return 1
    if options.stop:
        return stop()
    report = Report()
    try:
        with _signals_unwind():
            return demo(report, keep=options.keep)
    except InterruptedBySignalError as interrupted:
        report.say(f"stopped by {interrupted}; everything is cleaned up")
        return 130
    except ProofFailedError as failed:
        report.say(f"\nNOT PROVED: {failed}; everything is cleaned up")
        return 1
    except (CriError, WaitTimeoutError, RuntimeError, OSError, subprocess.SubprocessError) as error:
        report.say(f"\nFAILED: {error}; everything is cleaned up")
        return 1


def stop() -> int:
    """Stop and remove every kept node."""
    found = kept.nodes("demo")
    for base in found:
        kept.stop(base)
        print(f"stopped and removed {base}")
    if not found:
        print("no demo is running")
    return 0


def demo(report: Report, *, keep: bool) -> int:
    """Bring a node up, prove, take it down (or keep it)."""
    begun = time.monotonic()
    binary = installed()
    if binary is None:
        report.say("demo: no containerd on PATH: run it as ./install.sh demo, which installs what is missing")
        return 1
    witness.begin_session()
    for base in kept.sweep("demo"):
        report.say(f"removed what a killed run left in {base}")
    with contextlib.ExitStack() as undo:
        node = undo.enter_context(Node(binary, kind="demo", detached=keep))
        report.say(
            f"a node of its own: {binary.name}, the shim and the plugin in {node.base}, "
            f"ready in {time.monotonic() - begun:.1f} s"
        )
        try:
            _prove(report, node, keep=keep)
        except (ProofFailedError, CriError, WaitTimeoutError):
            report.say(node.explain())
            raise
        _say_waterfall(report, node)
        if keep:
            undo.pop_all()
            _say_how_to_talk(report, node)
            return 0
    _prove_machine_clean(report, node)
    report.say(f"\nall {report.proofs} proofs held, in {time.monotonic() - begun:.1f} s")
    return 0


def _prove(report: Report, node: Node, *, keep: bool) -> None:
    before = witness.of_node(node.namespace, node.base)
    report.say("\nproofs, all through the shim's socket:")
    pod_a, pod_b = node.run_pod("a"), node.run_pod("b", ports=[Port(HTTP_PORT, HOST_PORT)])
    client = node.run_tools(pod_a, "client", "echo client is up; exec sleep 86400")
    node.run_tools(pod_b, "server", f"echo server is up; exec httpd -f -p {HTTP_PORT} -h /www")

    address_a, address_b = node.cri.address(pod_a), node.cri.address(pod_b)
    pool = ipaddress.ip_network(SUBNET)
    in_pool = all(ipaddress.ip_address(address) in pool for address in (address_a, address_b))
    report.proof(
        f"distinct addresses from the pool {SUBNET}",
        in_pool and address_a != address_b,
        f"a {address_a}, b {address_b}",
    )
    inside = functools.partial(get_from_container, node, client)
    _prove_page(report, f"pod a reaches pod b over HTTP at {address_b}:{HTTP_PORT}", inside, address_b, HTTP_PORT)
    for name, namespace in (("the outside", node.outside), ("the node", node.namespace)):
        claim = f"a hostPort of pod b answers {name} at {NODE_ADDRESS}:{HOST_PORT}"
        _prove_page(report, claim, functools.partial(get_from_namespace, namespace), NODE_ADDRESS, HOST_PORT)
    with PeerServer(node.outside, OUTSIDE_ADDRESS, PEER_PORT, node.base / "outside.log"):
        peer = inside(OUTSIDE_ADDRESS, PEER_PORT).splitlines()[-1:]
    report.proof(
        "traffic leaving the node carries the node's address",
        peer == [NODE_ADDRESS],
        f"pod a {address_a} is seen outside as {peer[0] if peer else 'nobody'}",
    )
    code, out, error = node.cri.execute(client, ["sh", "-c", "echo out; echo err >&2; exit 7"], "a/client")
    report.proof(
        "ExecSync gives exit code, stdout and stderr",
        (code, out, error) == (7, "out\n", "err\n"),
        f"exit code {code}, stdout {out!r}, stderr {error!r}",
    )
    log = node.pod_logs / "b" / "server.log"
    lines = log.read_text().splitlines() if log.exists() else []
    report.proof(
        "the container's log is where kubelet reads it",
        any("server is up" in line for line in lines),
        *lines[:1] or [""],
    )
    if not keep:
        _prove_removal(report, node, before, [pod_a, pod_b])


def _prove_page(report: Report, claim: str, get: Callable[[str, int], str], host: str, port: int) -> None:
    begun = time.perf_counter()
    answer = get(host, port)
    elapsed = (time.perf_counter() - begun) * 1000
    lines = answer.splitlines() or [""]
    report.proof(claim, lines[-1] == PAGE, f"{lines[0]!r} {lines[-1]!r} in {elapsed:.0f} ms")


def _prove_removal(report: Report, node: Node, before: witness.Snapshot, pods: list[Pod]) -> None:
    running = before.difference(witness.of_node(node.namespace, node.base))
    for pod in pods:
        node.remove_pod(pod)
    left = witness.settled(before, lambda: witness.of_node(node.namespace, node.base))
    kinds = [kind for kind in before.kinds if kind not in ("address", "rule")]
    there = {kind: sum(line.startswith(f"+ {kind}:") for line in running) for kind in kinds}
    still = {kind: sum(line.startswith(f"+ {kind}:") for line in left) for kind in kinds}
    measured = ", ".join(f"{kind} {there[kind]}->{still[kind]}" for kind in kinds if there[kind] or still[kind])
    for line in left:
        report.say(f"         {line}")
    report.proof("after removal nothing is left on the node", not left, measured)


def _prove_machine_clean(report: Report, node: Node) -> None:
    left = [str(path) for path in (node.base,) if path.exists()]
    after = witness.of_machine()
    left += [line for line in after.kinds["mount"] if node.base.name in line]
    left += [line for line in after.kinds["cgroup"] if node.token in line]
    left += after.kinds["process"]
    measured = "0 files, mounts, cgroups and processes" if not left else "; ".join(left)
    report.proof("nothing of this demo is left on the machine", not left, measured)


def _say_waterfall(report: Report, node: Node) -> None:
    """What `podwire-cri timeline` shows of the node's logs."""
    last = node.cri.timings[-1].method
    # The shim writes its lines a moment after the calls.
    wait_until(lambda: node.shim_events("call")[-1]["method"].endswith(f"/{last}"), 5, f"the log line of {last}")
    lines = [line for log in (node.base / "shim.log", node.plugin_log) for line in log.read_text().splitlines()]
    text = io.StringIO()
    waterfall.show(Console(file=text, width=110, highlight=False), timelines(lines, looks=True))
    for line in text.getvalue().splitlines():
        report.say(line.rstrip())


def _say_how_to_talk(report: Report, node: Node) -> None:
    enter = f"nsenter -t {node.namespace.pid} -n -m -p"
    report.say(f"""
kept running; both pods are there. As root:
  CRI through the shim     crictl --runtime-endpoint unix://{node.cri_socket} pods
  containerd itself        ctr -a {node.containerd_socket} -n k8s.io containers list
  a shell on the node      {enter} -- sh     (ip route; nft list ruleset; ls /run/podwire)
  the outside              nsenter -t {node.outside.pid} -n -- busybox nc {NODE_ADDRESS} {HOST_PORT}
  logs                     {node.base}/{{plugin,shim,containerd}}.log
  stop and remove it       sudo ./install.sh demo --stop""")


@contextlib.contextmanager
def _signals_unwind() -> Iterator[None]:
    """SIGINT and SIGTERM raise once; a second one does not interrupt the cleaning up."""

    def unwind(number: int, frame: FrameType | None) -> None:
        for each in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(each, signal.SIG_IGN)
        raise InterruptedBySignalError(signal.Signals(number).name)

    previous = {each: signal.signal(each, unwind) for each in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for each, handler in previous.items():
            signal.signal(each, handler)


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
    sys.exit(main(sys.argv[1:]))
