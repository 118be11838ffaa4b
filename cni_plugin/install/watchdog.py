"""podwire-node watchdog: one look at the shim; kubelet goes back to containerd when the shim stays down.

Without a runtime kubelet reports its node NotReady after 30 seconds, and nothing starts on it any more. So a timer has
this run every 15 seconds. The shim is to blame only while containerd itself answers; a hung shim counts as down; once
kubelet is back at containerd it stays there, until somebody installs the shim again.

Nearly every look ends after one call over a socket, so nothing is imported before something is wrong: with the
interpreter alone taking 10 ms, argparse, dataclasses and json would be most of the cost (tests hold the line).
"""

import posix
import sys
import time

from cni_plugin.install.watchdog_probe import serves

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable

    from cni_plugin.install.places import Places
    from cni_plugin.install.systemd import Systemd

# The same as in `places`, which costs more to import than a look.
SHIM_SOCKET, STATE = "/run/podwire/cri.sock", "/run/podwire/watchdog.json"
LIMIT_SECONDS = 45.0
ANSWER_SECONDS = 5.0


def main(arguments: "list[str] | None" = None) -> int:
    """One look; the only argument is how many seconds the shim may be down. 1 when kubelet could not be put back."""
    words = sys.argv[1:] if arguments is None else arguments
    try:
        limit = float(words[0]) if words else LIMIT_SECONDS
    except ValueError:
        print(f"podwire-node watchdog: {words[0]!r} is no number of seconds", file=sys.stderr)
        return 2
    if serves(SHIM_SOCKET, ANSWER_SECONDS):
        _forget(STATE)
        return 0
    from cni_plugin.install.places import Places

    return look(Places(), limit=limit)


def add_commands(commands: "argparse._SubParsersAction[argparse.ArgumentParser]", places: "Places") -> None:
    """The verb `watchdog` of podwire-node."""
    one = commands.add_parser("watchdog", help="one look: kubelet goes back to containerd when the shim stays down")
    text = "how long the shim may be down while containerd answers [%(default)g]"
    one.add_argument("--limit", type=float, default=LIMIT_SECONDS, metavar="SECONDS", help=text)
    one.set_defaults(run=lambda options: look(places, limit=options.limit))


def look(
    places: "Places",
    clock: "Callable[[], float] | None" = None,
    *,
    limit: float = LIMIT_SECONDS,
    answer: float = ANSWER_SECONDS,
    systemd: "Systemd | None" = None,
) -> int:
    """One look, with the time since boot as clock; the exit code. What it finds and does it says on stderr."""
    state = places.run / "watchdog.json"
    if serves(str(places.shim_socket), answer):
        _forget(str(state))
        return 0
    from cni_plugin.install import watchdog_revert

    now = (clock or _since_boot)()
    if not watchdog_revert.unfinished(places):
        if not watchdog_revert.concerned(places):
            _forget(str(state))
            return 0
        runtime = watchdog_revert.runtime_socket(places)
        if not serves(str(runtime), answer):
            # Not the shim's fault, and nothing would be won: its time begins when containerd is back.
            _say(f"neither the shim nor {runtime} answers: nothing to do before the runtime is back")
            _forget(str(state))
            return 0
        since = watchdog_revert.down_since(state, now)
        if now - since < limit:
            _say(f"the shim at {places.shim_socket} does not answer, {now - since:.0f} of {limit:g} s", 4)
            return 0
        reason = f"the shim at {places.shim_socket} did not answer for {now - since:.0f} s while {runtime} did"
    else:
        reason = ""
    outcome = watchdog_revert.revert(places, reason, _say, systemd)
    if outcome == watchdog_revert.DONE:
        _forget(str(state))
    return 1 if outcome == watchdog_revert.FAILED else 0


def _say(text: str, level: int = 6) -> None:
    """A line in the journal; 2 is critical, 4 a warning, 6 a note (sd-daemon(3))."""
    print(f"<{level}>podwire-node watchdog: {text}", file=sys.stderr, flush=True)


def _since_boot() -> float:
    # Also counts while the machine is suspended, and no clock that somebody sets.
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def _forget(state: str) -> None:
    try:
        posix.unlink(state)
    except OSError:
        pass


if __name__ == "__main__":
    sys.exit(main())
