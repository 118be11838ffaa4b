"""LICENSES/ and what is said of each package's licence.

Wheels state theirs (License-Expression, License or a classifier); for Debian's packages the table in `inputs` does.
The texts are those the packages carry.
"""

import re
import shutil
from collections.abc import Iterator
from email.message import Message
from email.parser import HeaderParser
from pathlib import Path

from cni_plugin.payload.faults import BuildError

_COMMON = re.compile(r"/usr/share/common-licenses/([A-Za-z0-9.+-]*[A-Za-z0-9])")
_TEXT = re.compile(r"(licen[cs]e|copying|notice|authors)", re.IGNORECASE)
_SHORT = 60


def of_package(name: str, root: Path, licences: Path) -> None:
    """Copy the copyright file of Debian's package `name`, unpacked at `root`, and the common texts it refers to."""
    document = root / "usr/share/doc" / name
    # GCC's libraries point at the documentation of gcc-12-base.
    if document.is_symlink():
        document = document.parent / document.readlink()
    source = document / "copyright"
    if not source.is_file():
        raise BuildError(f"Debian's package {name} has no copyright file at {source.relative_to(root)}")
    target = licences / "debian" / name / "copyright"
    target.parent.mkdir(parents=True)
    shutil.copyfile(source, target)
    for text in _COMMON.findall(source.read_text(errors="replace")):
        common = root / "usr/share/common-licenses" / text
        if common.is_file() and not (licences / "common" / text).exists():
            (licences / "common").mkdir(exist_ok=True)
            shutil.copyfile(common, licences / "common" / text)


def of_wheel(info: Path, licences: Path) -> tuple[str, str, str]:
    """Move the texts out of a .dist-info folder; returns name, version and licence as the wheel's metadata says."""
    metadata = HeaderParser().parsestr((info / "METADATA").read_text())
    name, version = metadata["Name"], metadata["Version"]
    for text in list(_texts(info)):
        target = licences / "python" / name / text.relative_to(info).as_posix().replace("/", "-")
        target.parent.mkdir(parents=True, exist_ok=True)
        text.rename(target)
    shutil.rmtree(info / "licenses", ignore_errors=True)
    return name, version, _stated(metadata)


def _texts(info: Path) -> Iterator[Path]:
    yield from (path for path in sorted((info / "licenses").rglob("*")) if path.is_file())
    yield from (path for path in sorted(info.iterdir()) if path.is_file() and _TEXT.match(path.name))


def _stated(metadata: Message) -> str:
    if expression := metadata["License-Expression"]:
        return str(expression)
    # Some put the whole text into License.
    if (stated := metadata["License"]) and len(stated) < _SHORT and stated != "UNKNOWN":
        return str(stated)
    for classifier in metadata.get_all("Classifier", []):
        if classifier.startswith("License ::"):
            return str(classifier.rpartition(" :: ")[2])
    return "see LICENSES/"
