"""The plugins of the reference set, in the versions that Debian has: what the suite itself is measured against."""

import dataclasses
from pathlib import Path

from tests.conformance.cni import profile
from tests.conformance.cni.subject import Subject, known_failures, of_options
from tests.lab import debian

HERE = Path(__file__).parent
PLUGINS = ("ptp", "bridge", "macvlan")
RELEASES = {"1.1.1": "bookworm", "1.9.1": "sid"}
LABELS = tuple(f"{plugin}-{version}" for version in RELEASES for plugin in PLUGINS)


def subject(label: str) -> Subject | str:
    """The plugin of this label, or why it cannot be had here."""
    plugin, _, version = label.rpartition("-")
    folders = {each: debian.reference_plugins(suite) for each, suite in RELEASES.items()}
    folder = folders[version]
    if isinstance(folder, debian.Absent):
        return folder.reason
    others = [each for other, each in folders.items() if other != version and isinstance(each, Path)]
    found = of_options(
        folder / plugin,
        HERE / "configurations" / f"{plugin}.conflist",
        [],
        profile.named(plugin),
        others[0] / plugin if others else None,
    )
    failures, chances = known_failures(HERE / "known_failures.toml", label)
    return dataclasses.replace(found, label=label, failures=failures, chances=chances)
