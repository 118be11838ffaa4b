"""Runs podwire-node with the payload's python, and fails it at a step of its journal. Pushed to a node, not imported.

failing_install.py STEP MOMENT END VERB...: at the step numbered STEP (from 0) of the verb, when it is `written` down
but not done or when it is `done`, END is `raise` or `kill`. Each step is named on stderr: `step NUMBER NAME`.
"""

import os
import sys

from cni_plugin.install import journal
from cni_plugin.install.__main__ import main

KILLED = 137
at, moment, end = int(sys.argv[1]), sys.argv[2], sys.argv[3]
number = -1
perform = journal.Journal.perform


def fail() -> None:
    """The end of the run."""
    if end == "kill":
        os._exit(KILLED)
    raise RuntimeError("injected")


def counted(self: journal.Journal, step: journal.Step) -> None:
    """perform(), with a failure in it."""
    global number
    number += 1
    print(f"step {number} {step.name}", file=sys.stderr, flush=True)
    if number == at and moment == "written":
        step = journal.Step(step.name, step.kind, step.part, step.data, fail)
    perform(self, step)
    if number == at and moment == "done":
        fail()


journal.Journal.perform = counted  # type: ignore[method-assign]
sys.exit(main(sys.argv[4:]))
