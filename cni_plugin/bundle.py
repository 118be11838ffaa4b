"""All modules of the plugin in one file: the executable reads it once instead of looking for each of them.

`packaging` writes it and the launcher runs this module out of it: first comes a marshalled pair, the code of this
module and an index, then the marshalled code of every module. The index says how far from the end of the file a
module begins. The file's name carries the magic number of the bytecode, so that an interpreter which could not
read it never opens it and takes the sources beside it.
"""

import gc
import marshal
import sys
from _frozen_importlib import ModuleSpec

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import ModuleType

PACKAGE = "cni_plugin"


class Bundle:
    """Finder and loader of the bundle's modules; each is unmarshalled when it is imported."""

    def __init__(self, content: memoryview, index: "dict[str, int]") -> None:
        self._content, self._index = content, index

    def find_spec(
        self, name: str, path: "Sequence[str] | None" = None, target: "ModuleType | None" = None
    ) -> "ModuleSpec | None":
        """importlib's question to a finder."""
        if name not in self._index:
            return None
        return ModuleSpec(name, self, is_package=name == PACKAGE)  # type: ignore[arg-type] # duck-typed loader

    def create_module(self, spec: "ModuleSpec") -> None:
        """None: a module as any other."""

    def exec_module(self, module: "ModuleType") -> None:
        """Fill the module."""
        exec(marshal.loads(self._content[-self._index[module.__name__] :]), module.__dict__)  # noqa: S102, S302


def pack(codes: "dict[str, bytes]", start: bytes) -> bytes:
    """The content of a bundle: `codes` are marshalled code objects by module, `start` is this module's."""
    index = {}
    distance = 0
    for name in reversed(codes):
        distance += len(codes[name])
        index[name] = distance
    return marshal.dumps((start, index)) + b"".join(codes.values())


def install(content: memoryview, index: "dict[str, int]") -> None:
    """Import from the bundle before any place on `sys.path` is looked at.

    Also ends the search for garbage in cycles: the process lives for milliseconds.
    """
    gc.disable()
    sys.meta_path.insert(0, Bundle(content, index))
