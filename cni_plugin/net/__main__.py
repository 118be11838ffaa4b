"""podwire-net: leases, doctor, audit, gc, conf render. Exit codes: 0 fine, 1 findings or a failure, 2 wrong use."""

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from cni_plugin import ipam
from cni_plugin.net import audit, collect, conflists, doctor, findings, kernel, leases, render
from cni_plugin.net.node import Node
from cni_plugin.net.output import Output, Progress
from cni_plugin.net.registry import CHECKS
from cni_plugin.netlink import Refusal
from cni_plugin.spec import SUPPORTED_VERSIONS, CniError


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code. Wrong use exits with 2, as argparse does."""
    options = _parser().parse_args(arguments)
    output = Output(options.json)
    try:
        code: int = options.run(options, output)
        sys.stdout.flush()
    except BrokenPipeError:
        # The reader (head, less) has seen enough; what is buffered must not fail again at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except KeyboardInterrupt:
        return 130
    except (OSError, CniError, kernel.ToolError, render.RenderError, Refusal) as fault:
        return _fail(options, output, fault)
    return code


def _fail(options: argparse.Namespace, output: Output, fault: Exception) -> int:
    details = getattr(fault, "details", "")
    if os.geteuid() != 0 and options.run is not _render:
        details = f"{details}; run it as root" if details else "run it as root"
    if output.as_json:
        output.document({"command": options.command, "error": str(fault), "fix": details})
    print(f"podwire-net: {fault}{f' -> {details}' if details else ''}", file=sys.stderr)
    return 1


def _leases(options: argparse.Namespace, output: Output) -> int:
    if options.address:
        try:
            options.address = ipam.format_address(ipam.parse_address(options.address))
        except ValueError as fault:
            options.parser.error(f"--address: {fault}")
    with Progress("reading the leases"):
        wanted = leases.Filter(options.network, options.pod, options.address)
        answer = leases.document(_state_dir(options), options.netd, wanted)
    if output.as_json:
        output.document(answer)
    else:
        leases.show(answer, output)
    return 0


def _doctor(options: argparse.Namespace, output: Output) -> int:
    unknown = [name for name in options.check if name not in CHECKS]
    if unknown:
        options.parser.error(f"no check is named {', '.join(unknown)}; there are {', '.join(CHECKS)}")
    node = Node(options.netd, options.bin, options.state_dir)
    with Progress("doctor") as progress:
        found = doctor.examine(node, options.check, progress.step)
    ran = options.check or list(CHECKS)
    if output.as_json:
        output.document({"command": "doctor", "checks": ran, "findings": [each.document() for each in found]})
    else:
        output.findings(found)
        output.line(_count(found, f"{len(ran)} check{'s' if len(ran) != 1 else ''}"))
    return findings.exit_code(found)


def _audit(options: argparse.Namespace, output: Output) -> int:
    folder = _state_dir(options)
    with Progress("comparing records, claims and the kernel's objects"):
        found = [*audit.audit(folder), *audit.notes(folder)]
    if output.as_json:
        shape = {"command": "audit", "stateDir": str(folder), "findings": [each.document() for each in found]}
        output.document(shape)
    else:
        output.findings(findings.ordered(found))
        output.line(_count(found, f"audit of {folder}"))
    return findings.exit_code(found)


def _gc(options: argparse.Namespace, output: Output) -> int:
    folder = _state_dir(options)
    with Progress("comparing records, claims and the kernel's objects") as progress:
        found = audit.audit(folder)
        garbage = [each for each in found if each.garbage]
        done = []
        if options.yes and garbage:
            for removal in collect.collect(folder, garbage):
                done.append(removal)
                progress.step(f"gc: {len(done)} of {len(garbage)} removed")
    kept = [each for each in found if not each.garbage]
    failed = [each for each in done if each.fault]
    if output.as_json:
        output.document(
            {
                "command": "gc",
                "stateDir": str(folder),
                "dryRun": not options.yes,
                "garbage": [each.document() for each in garbage],
                "removed": [each.finding.document() for each in done if not each.fault],
                "failed": [each.finding.document() | {"error": each.fault} for each in failed],
                "kept": [each.document() for each in kept],
            }
        )
    else:
        _show_gc(options, output, garbage, done, kept)
    if not options.yes:
        return 1 if garbage or kept else 0
    return 1 if failed or kept else 0


def _show_gc(
    options: argparse.Namespace,
    output: Output,
    garbage: list[findings.Finding],
    done: list[collect.Removal],
    kept: list[findings.Finding],
) -> None:
    for each in garbage if not options.yes else []:
        output.line(f"would remove: {each.what}")
    for removal in done:
        fault = f": FAILED: {removal.fault}" if removal.fault else ""
        output.line(f"removed{fault}: {removal.finding.what}", "red" if fault else "")
    output.findings(kept)
    if options.yes:
        gone = sum(1 for each in done if not each.fault)
        output.line(f"{gone} removed, {len(done) - gone} failed, {len(kept)} not gc's to remove")
    else:
        rest = "; `podwire-net gc --yes` removes it" if garbage else ""
        output.line(f"{len(garbage)} to remove, {len(kept)} not gc's to remove{rest}")


def _render(options: argparse.Namespace, output: Output) -> int:
    wanted = render.Options(
        options.pod_cidr,
        options.cluster_cidr,
        options.name,
        options.cni_version,
        options.mtu,
        options.masquerade,
        options.state_dir and str(options.state_dir),
        options.log,
        options.template,
    )
    text = render.render(wanted)
    changed = options.write is not None and render.write(options.write, text)
    if output.as_json:
        shape: dict[str, Any] = {"command": "conf render", "conflist": text, "path": None, "changed": None}
        if options.write is not None:
            shape |= {"path": str(options.write), "changed": changed}
        output.document(shape)
    elif options.write is None:
        print(text, end="")
    else:
        print(f"{options.write}: {'written' if changed else 'unchanged'}")
    return 0


def _count(found: Sequence[findings.Finding], what: str) -> str:
    counts = [
        f"{number} {severity}{'s' if number != 1 else ''}"
        for severity in findings.SEVERITIES
        if (number := sum(1 for each in found if each.severity == severity))
    ]
    return f"{what}: {', '.join(counts) if counts else 'nothing found'}"


def _state_dir(options: argparse.Namespace) -> Path:
    return options.state_dir or conflists.state_dir(conflists.read(options.netd))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="podwire-net", description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    command = _adder(commands)

    one = command("leases", _leases, "who holds which address since when")
    one.add_argument("--network", default="", help="only this network")
    one.add_argument("--pod", default="", metavar="[NAMESPACE/]NAME", help="only this pod")
    one.add_argument("--address", default="", help="only this address")

    one = command("doctor", _doctor, "what is wrong on this node, and the command that mends it")
    one.add_argument("--bin", type=Path, default=conflists.BIN, metavar="DIR", help="plugins [%(default)s]")
    one.add_argument("--check", action="append", default=[], metavar="NAME", help="only this check (can be repeated)")

    command("audit", _audit, "what on this node belongs to no live pod")

    one = command("gc", _gc, "remove what audit calls garbage; without --yes it only says what it would do")
    how = one.add_mutually_exclusive_group()
    how.add_argument("--yes", action="store_true", help="remove it")
    how.add_argument("--dry-run", action="store_false", dest="yes", help="say what would be removed [default]")

    conf = commands.add_parser("conf", help="the runtime's conflist", description="The runtime's conflist.")
    _add_render(_adder(conf.add_subparsers(required=True, metavar="COMMAND"), "conf "))
    return parser


def _adder(
    commands: "argparse._SubParsersAction[argparse.ArgumentParser]", prefix: str = ""
) -> Callable[[str, Callable[[argparse.Namespace, Output], int], str], argparse.ArgumentParser]:
    def add(name: str, run: Callable[[argparse.Namespace, Output], int], what: str) -> argparse.ArgumentParser:
        one = commands.add_parser(name, help=what, description=what[0].upper() + what[1:] + ".")
        one.set_defaults(run=run, command=prefix + name, parser=one)
        one.add_argument("--json", action="store_true", help="one JSON document on stdout")
        one.add_argument("--state-dir", type=Path, metavar="DIR", help="the state folder [as the conflist says]")
        if run is not _render:
            text = "the runtime's configurations [%(default)s]"
            one.add_argument("--netd", type=Path, default=conflists.NETD, metavar="DIR", help=text)
        return one

    return add


def _add_render(
    command: Callable[[str, Callable[[argparse.Namespace, Output], int], str], argparse.ArgumentParser],
) -> None:
    one = command("render", _render, "the conflist for this node's pod subnets, out of a template")
    required = one.add_argument_group("the node")
    required.add_argument(
        "--pod-cidr",
        action="append",
        default=[],
        required=True,
        metavar="CIDR",
        help="its pods' subnet; one per family",
    )
    one.add_argument(
        "--cluster-cidr", action="append", default=[], metavar="CIDR", help="not masqueraded; can be repeated"
    )
    one.add_argument("--name", help="the network's name")
    one.add_argument("--cni-version", choices=SUPPORTED_VERSIONS, help="cniVersion of the conflist")
    one.add_argument("--mtu", type=int, help="0 is that of the way out of the node")
    one.add_argument(
        "--masquerade", action=argparse.BooleanOptionalAction, help="whether pods leave with the node's address"
    )
    one.add_argument("--log", metavar="PATH|syslog|none", help="where the plugin's lines go")
    text = "a conflist to lay this over [the one that comes with podwire]"
    one.add_argument("--template", type=Path, default=render.TEMPLATE, metavar="FILE", help=text)
    one.add_argument("--write", type=Path, metavar="PATH", help="write it there, atomically, instead of to stdout")


if __name__ == "__main__":
    sys.exit(main())
