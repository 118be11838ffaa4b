"""What the executable runs: environment and stdin in, one JSON document or nothing on stdout, an exit code."""

import fcntl
import posix

from cni_plugin import config, jsontext
from cni_plugin.call import Call
from cni_plugin.journal import Journal
from cni_plugin.netlink import Refusal
from cni_plugin.spec import CURRENT_VERSION, INTERNAL, IO_FAILURE, KERNEL_REFUSED, SUPPORTED_VERSIONS, CniError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_STDIN_LIMIT = 16 << 20
_ABOUT = f"""\
podwire: a CNI plugin (addresses, veth wiring, masquerade, hostPorts in one executable).
A container runtime calls it with CNI_COMMAND set and a network configuration on stdin.
CNI protocol versions supported: {", ".join(SUPPORTED_VERSIONS)}
"""


def main(environment: "dict[str, str]", stdin: int, stdout: int, stderr: int) -> int:
    """Run one call; returns the exit code. Whatever happens, stdout gets one JSON document or nothing."""
    if not environment.get("CNI_COMMAND"):
        _say(_ABOUT, stderr)
        return 0
    journal = Journal()
    version, answer, error = CURRENT_VERSION, None, None
    try:
        call = Call(environment)
        if call.command == "VERSION":
            answer = _version(stdin)
        else:
            document = config.decode(_read_all(stdin))
            version = config.echo_version(document)
            answer = _dispatch(call, document, journal)
    except CniError as fault:
        error = fault
    except (OSError, Refusal) as fault:
        error = CniError(
            KERNEL_REFUSED,
            f"{environment['CNI_COMMAND']}: the kernel says {fault}",
            "the node is short of something, or the plugin lacks a right; the call can be repeated",
        )
    except Exception as fault:  # noqa: BLE001 - the runtime parses stdout: no traceback may reach it
        error = _unforeseen(fault, stderr)
    reply = error.document(version) if error else answer
    if reply is not None and not _reply(reply, stdout):
        error = error or CniError(IO_FAILURE, "stdout cannot be written")
    journal.mark("answer")
    journal.write(error.code if error else 0, error.message if error else "")
    return 1 if error else 0


def _dispatch(call: Call, document: "dict[str, Any]", journal: Journal) -> "dict[str, Any] | None":
    journal.fields = {"command": call.command, "network": str(document.get("name", ""))}
    if call.container_id:
        journal.fields.update(containerID=call.container_id, ifname=call.ifname, pod=call.pod)
    network = config.network(document, call)
    journal.target = network.log
    if network.host_ports:
        journal.fields["hostPorts"] = [str(port) for port in network.host_ports]
    journal.mark("config")
    if network.type == "loopback":
        return _loopback(call, network)
    if call.command == "ADD":
        if network.chained:
            from cni_plugin import chained

            return chained.add(call, network, journal)
        from cni_plugin import verbs

        return verbs.add(call, network, journal)
    if call.command == "DEL":
        from cni_plugin import verbs

        verbs.delete(call, network, journal)
    elif call.command == "CHECK":
        from cni_plugin import check

        check.check(call, network)
    elif call.command == "GC":
        from cni_plugin import collect

        collect.collect(document, network, journal)
    else:
        from cni_plugin import status

        status.status(call, network)
    return None


def _loopback(call: Call, network: "config.Network") -> "dict[str, Any] | None":
    from cni_plugin import loopback

    if call.command == "ADD":
        return loopback.add(call, network)
    if call.command == "DEL":
        loopback.delete(call)
    elif call.command == "CHECK":
        loopback.check(call)
    return None


def _version(stdin: int) -> "dict[str, Any]":
    # VERSION works with whatever is on stdin, nothing included.
    try:
        version = config.echo_version(config.decode(_read_all(stdin)))
    except CniError:
        version = CURRENT_VERSION
    return {"cniVersion": version, "supportedVersions": list(SUPPORTED_VERSIONS)}


def _read_all(stdin: int) -> bytes:
    chunks, size = [], 0
    try:
        while chunk := posix.read(stdin, 1 << 16):
            chunks.append(chunk)
            size += len(chunk)
            if size > _STDIN_LIMIT:
                raise CniError(IO_FAILURE, f"the configuration on stdin is larger than {_STDIN_LIMIT} bytes")
    except OSError as fault:
        raise CniError(IO_FAILURE, f"reading the configuration from stdin: {fault}") from None
    return b"".join(chunks)


def _reply(document: "dict[str, Any]", stdout: int) -> bool:
    rest = jsontext.dumps(document).encode()
    try:
        while rest:
            rest = rest[posix.write(stdout, rest) :]
    except OSError:
        return False
    return True


def _say(text: str, stderr: int) -> None:
    try:
        posix.write(stderr, text.encode(errors="replace"))
    except OSError:
        pass  # nobody listens


def _unforeseen(fault: Exception, stderr: int) -> CniError:
    from traceback import format_exc

    _say(format_exc(), stderr)
    return CniError(
        INTERNAL,
        f"unforeseen {type(fault).__name__}: {fault}",
        "this is a defect of podwire; please report it with the lines on stderr",
    )


def run() -> None:
    """The executable's entry: never returns, and skips the interpreter's shutdown (a millisecond)."""
    # A caller may have closed these: what the plugin opens next must not become its stdout.
    closed = False
    for descriptor in (0, 1, 2):
        try:
            fcntl.fcntl(descriptor, fcntl.F_GETFD)
        except OSError:
            posix.open("/dev/null", posix.O_RDWR)
            closed = closed or descriptor == 1
    environment = {
        name.decode("utf-8", "surrogateescape"): value.decode("utf-8", "surrogateescape")
        for name, value in posix.environ.items()
    }
    code = main(environment, 0, 1, 2)
    posix._exit(1 if closed else code)


if __name__ == "__main__":
    run()
