"""Which calls a rule is about: method, pod, labels, annotations, image, runtime handler.

Patterns are globs over the whole text, case counting: `*` any characters (also `/`), `?` one, `[ab]` a set. Of
several patterns for one thing any may match; of several things all must. What a call does not have (a pod, an
image) matches no pattern, not even `*`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields
from fnmatch import fnmatchcase
from typing import Any

from cri_shim import schema
from cri_shim.errors import ConfigError
from cri_shim.pods import Subject
from cri_shim.settings import Setting, strings, take, type_name


@dataclass(frozen=True, slots=True)
class Match:
    """Patterns; an empty one asks for nothing. The keys of a rule's `match` table have the same names."""

    methods: tuple[str, ...] = ()
    namespaces: tuple[str, ...] = ()
    pods: tuple[str, ...] = ()
    containers: tuple[str, ...] = ()
    labels: Mapping[str, str] = field(default_factory=dict)
    annotations: Mapping[str, str] = field(default_factory=dict)
    images: tuple[str, ...] = ()
    runtime_handlers: tuple[str, ...] = ()

    def method(self, path: str) -> bool:
        """Whether calls of this path can match: patterns with a slash are compared with all of it."""
        name = path.rpartition("/")[2]
        return not self.methods or any(
            fnmatchcase(path if "/" in pattern else name, pattern) for pattern in self.methods
        )

    @property
    def asks_subject(self) -> bool:
        """Whether the method alone does not decide."""
        return any(getattr(self, one.name) for one in fields(self) if one.name != "methods")

    def subject(self, subject: Subject) -> bool:
        """Whether the pod, container and image that a call is about match."""
        pod = subject.pod
        return (
            _any(self.namespaces, subject.pod_namespace)
            and _any(self.pods, subject.pod_name)
            and _any(self.containers, subject.container_name)
            and (not self.images or any(_any(self.images, image) for image in subject.images))
            and _all(self.labels, pod.labels if pod else {})
            and _all(self.annotations, pod.annotations if pod else {})
            and (
                not self.runtime_handlers or (pod is not None and _handler(self.runtime_handlers, pod.runtime_handler))
            )
        )

    def __str__(self) -> str:
        said = []
        for one in fields(self):
            value = getattr(self, one.name)
            if isinstance(value, Mapping):
                value = [f"{key}={pattern}" for key, pattern in value.items()]
            if value:
                said.append(f"{one.name.replace('_', ' ')} {', '.join(pattern or repr('') for pattern in value)}")
        return "; ".join(said) or "every call"


def parse(table: Mapping[str, Any]) -> Match:
    """Match of a `match` or `unless` table; ConfigError with every fault."""
    return Match(**take(KEYS, table))


def _methods(value: Any) -> tuple[str, ...]:
    patterns = strings('method patterns such as ["ExecSync", "List*"]')(value)
    known = list(schema.methods())
    # A path may name a method of the future; a bare word that no method has is misspelt.
    idle = [one for one in patterns if "/" not in one and not any(Match(methods=(one,)).method(path) for path in known)]
    if idle:
        raise ConfigError(
            [f"no method is named {one!r}; a method the schema lacks is written as its path" for one in idle]
        )
    return patterns


def _handlers(value: Any) -> tuple[str, ...]:
    if not isinstance(value, list) or not all(isinstance(one, str) for one in value):
        raise ValueError(f'must be a list of runtime handlers such as ["", "kata*"], not {type_name(value)}')
    return tuple(value)


def _pairs(value: Any) -> Mapping[str, str]:
    if not isinstance(value, dict) or not all(isinstance(one, str) for one in value.values()):
        raise ValueError(f'must be a table of key = "pattern", not {type_name(value)}')
    return dict(value)


KEYS = (
    Setting("methods", "methods", _methods),
    Setting("namespaces", "namespaces", strings('namespace patterns such as ["shop-*"]')),
    Setting("pods", "pods", strings('pod name patterns such as ["web-*"]')),
    Setting("containers", "containers", strings('container name patterns such as ["proxy"]')),
    Setting("labels", "labels", _pairs),
    Setting("annotations", "annotations", _pairs),
    Setting("images", "images", strings('image patterns such as ["registry.example/*"]')),
    Setting("runtime_handlers", "runtime_handlers", _handlers),
)


def _any(patterns: Iterable[str], value: str) -> bool:
    return not patterns or (value != "" and any(fnmatchcase(value, pattern) for pattern in patterns))


def _all(patterns: Mapping[str, str], values: Mapping[str, str]) -> bool:
    return all(key in values and fnmatchcase(values[key], pattern) for key, pattern in patterns.items())


def _handler(patterns: Iterable[str], value: str | None) -> bool:
    # "" is the runtime's default handler, and a value like any other.
    return value is not None and any(fnmatchcase(value, pattern) for pattern in patterns)
