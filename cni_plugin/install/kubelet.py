"""Where kubelet's container runtime endpoint stands on a node, and the edits that set it. Nothing is changed here.

kubelet takes the endpoint from the flag --container-runtime-endpoint (the last one given counts), else from the field
containerRuntimeEndpoint of its configuration, else it is containerd's socket. kubeadm puts it into one of them:

    generation  kubeadm        kubelet reads it from            kubeadm, at an upgrade, takes it from
    flag        up to 1.33     the flag in kubeadm-flags.env    the Node's annotation (ANNOTATION below)
    field       (others)       the field in config.yaml         that annotation, where kubeadm made the node
    instance    1.34 and on    the field in config.yaml         instance-config.yaml, laid over the cluster's

(instance-config.yaml exists since 1.32 where the feature gate NodeLocalCRISocket is on; kubelet never reads it.)
Every place that names an endpoint is set, so that neither a restart nor an upgrade brings the old one back; crictl and
kubelet's image endpoint follow where they named the same runtime. docs/kubelet.md tells this to people.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from cni_plugin.install import kubelet_fields, kubelet_flags
from cni_plugin.install.places import Places

FLAG, IMAGE_FLAG = "--container-runtime-endpoint", "--image-service-endpoint"
FIELD, IMAGE_FIELD = "containerRuntimeEndpoint", "imageServiceEndpoint"
CRICTL_FIELDS = ("runtime-endpoint", "image-endpoint")
ANNOTATION = "kubeadm.alpha.kubernetes.io/cri-socket"
# SetDefaults_KubeletConfiguration of kubelet.config.k8s.io/v1beta1.
DEFAULT = "unix:///run/containerd/containerd.sock"
UNIT_FOLDERS = ("/usr/lib/systemd/system", "/lib/systemd/system", "/run/systemd/system", "/etc/systemd/system")
SYSCONFIG = "/etc/sysconfig/kubelet"
NONE, BY_FLAG, BY_FIELD, BY_INSTANCE = "none", "flag", "field", "instance"


class EndpointError(Exception):
    """A file of kubelet's cannot be understood or not be changed safely; nothing was planned."""

    def __init__(self, text: str, details: str = "") -> None:
        super().__init__(text)
        self.details = details or "see docs/kubelet.md for the places where kubelet's endpoint may stand"


@dataclass(frozen=True)
class Edit:
    """One file as it is, and as it is to be; None is no file."""

    path: Path
    before: bytes | None
    after: bytes | None


@dataclass(frozen=True)
class Named:
    """One place that names an endpoint."""

    path: Path
    key: str
    value: str


@dataclass(frozen=True)
class Survey:
    """What kubelet's files say: `endpoint` is what kubelet uses after its next start, `generation` one of those above.

    `annotation_wanted`: kubeadm will read the Node's annotation, which then has to name the same endpoint.
    """

    generation: str
    endpoint: str
    annotation_wanted: bool
    named: tuple[Named, ...]

    @property
    def kubelet(self) -> bool:
        """Whether there is a kubelet at all."""
        return self.generation != NONE


def survey(places: Places) -> Survey:
    """Look at the node. Raises EndpointError and OSError."""
    return _Files(places).survey()


def edits(places: Places, endpoint: str) -> list[Edit]:
    """What makes `endpoint` kubelet's; [] when it is, or there is no kubelet. Raises EndpointError and OSError."""
    if not endpoint.startswith("unix:///"):
        raise EndpointError(f"{endpoint!r} is no endpoint", "write unix:///run/podwire/cri.sock")
    return _Files(places).edits(endpoint)


def same(one: str, other: str) -> bool:
    """Whether both endpoints are one socket: kubelet also takes a bare path, and /var/run is /run."""
    return _path(one) == _path(other)


def _path(endpoint: str) -> str:
    path = endpoint.removeprefix("unix://")
    return path.removeprefix("/var") if path.startswith("/var/run/") else path


def _spelled(endpoint: str, like: str) -> str:
    """The endpoint in the way that the other one was written; a socket that stays stays as it is."""
    if same(endpoint, like):
        return like
    return endpoint.removeprefix("unix://") if like.startswith("/") else endpoint


class _Files:
    """The files that may name kubelet's endpoint, each read once."""

    def __init__(self, places: Places) -> None:
        self._places = places
        self._texts: dict[Path, str] = {}
        self.units = self._unit_files()
        self.flags = self._flag_files()
        self.config = self._pointed_at("--config") or places.kubelet_config
        folder = self._pointed_at("--config-dir")
        # kubelet merges these over its configuration, in the order of their names.
        self.drop_ins = sorted(folder.glob("*.conf")) if folder and folder.is_dir() else []
        for path in (self.config, *self.drop_ins, places.kubelet_instance_config, places.crictl_config):
            self._load(path)

    def survey(self) -> Survey:
        places, config = self._places, self._fields(FIELD, self.config, *self.drop_ins)
        instance = self._fields(FIELD, places.kubelet_instance_config)
        flags = self._flags(FLAG)
        crictl = [found for field in CRICTL_FIELDS for found in self._fields(field, places.crictl_config)]
        kubeadm = places.kubelet_flags in self._texts
        if not (self.units or kubeadm or self.config in self._texts):
            return Survey(NONE, DEFAULT, False, tuple(crictl))
        has_instance = places.kubelet_instance_config in self._texts
        generation = BY_FLAG if flags else BY_INSTANCE if has_instance else BY_FIELD
        endpoint = (flags or config or [Named(self.config, FIELD, DEFAULT)])[-1].value
        wanted = kubeadm and not has_instance
        return Survey(generation, endpoint, wanted, (*flags, *config, *instance, *crictl))

    def edits(self, endpoint: str) -> list[Edit]:
        found = self.survey()
        if not found.kubelet:
            return []
        followed = (found.endpoint, DEFAULT, f"unix://{_path_of(self._places, self._places.shim_socket)}")

        def follow(value: str) -> str:
            """For what need not be kubelet's runtime: changed only where it is."""
            return _spelled(endpoint, value) if any(same(value, each) for each in followed) else value

        changed = dict(self._texts)
        flags = self._flags(FLAG)
        for path in self.flags:
            changed[path] = self._put_flag(path, changed[path], FLAG, lambda value: _spelled(endpoint, value))
            changed[path] = self._put_flag(path, changed[path], IMAGE_FLAG, follow)
        for path in (self.config, *self.drop_ins, self._places.kubelet_instance_config):
            named = self._fields(FIELD, path)
            # Where no flag hides it and nothing else names one, kubelet's own configuration has to.
            needed = path == self.config and not flags and not self._fields(FIELD, *self.drop_ins)
            if named or (needed and path in changed):
                value = _spelled(endpoint, named[0].value if named else "unix://")
                changed[path] = self._put_field(path, changed[path], FIELD, value)
            elif needed:
                raise EndpointError(
                    f"kubelet's configuration {path} is not there, and no flag names its runtime endpoint",
                    f"give kubelet {FLAG}={endpoint}, or run the installation when the node has joined its cluster",
                )
            for image in self._fields(IMAGE_FIELD, path):
                changed[path] = self._put_field(path, changed[path], IMAGE_FIELD, follow(image.value))
        for field in CRICTL_FIELDS:
            for tool in self._fields(field, self._places.crictl_config):
                changed[tool.path] = self._put_field(tool.path, changed[tool.path], field, follow(tool.value))
        return [
            # A link stays: what it leads to is replaced.
            Edit(path.resolve() if path.is_symlink() else path, _bytes(self._texts[path]), _bytes(text))
            for path, text in changed.items()
            if text != self._texts[path]
        ]

    # Finding the files.

    def _load(self, path: Path) -> bool:
        """Read a file, if it is there."""
        if path in self._texts:
            return True
        try:
            self._texts[path] = path.read_bytes().decode(errors="surrogateescape")
        except (FileNotFoundError, NotADirectoryError):
            return False
        return True

    def _unit_files(self) -> list[Path]:
        found: list[Path] = []
        seen: set[Path] = set()
        for folder in map(self._places.at, UNIT_FOLDERS):
            for path in (folder / "kubelet.service", *sorted((folder / "kubelet.service.d").glob("*.conf"))):
                real = path.resolve()
                # /lib is a link to /usr/lib where it is not a folder of its own; /dev/null masks a unit.
                if real in seen or not real.is_file():
                    continue
                seen.add(real)
                if self._load(real):
                    found.append(real)
        return found

    def _flag_files(self) -> list[Path]:
        """In the order in which kubeadm's unit passes them: the last flag counts."""
        named = [
            self._places.at(found[1])
            for unit in self.units
            for found in re.finditer(r"^[ \t]*EnvironmentFile=-?(/[^\s]+)", self._texts[unit], re.MULTILINE)
        ]
        last = [self._places.kubelet_defaults, self._places.at(SYSCONFIG)]
        wanted = [self._places.kubelet_flags, *self.units, *(path for path in named if path not in last), *last]
        return [path for path in dict.fromkeys(wanted) if self._load(path)]

    def _pointed_at(self, flag: str) -> Path | None:
        """The path that a flag of kubelet's names last."""
        found = [value for path in self.flags for value in self._values(path, flag) if value.startswith("/")]
        return self._places.at(found[-1]) if found else None

    # Reading and changing, with the file's name in every error.

    def _values(self, path: Path, flag: str) -> list[str]:
        try:
            return kubelet_flags.values(self._texts[path], flag)
        except kubelet_flags.FlagError as fault:
            raise EndpointError(f"{path}: {fault}") from None

    def _flags(self, flag: str) -> list[Named]:
        for path in self.flags:
            if "docker" in self._values(path, "--container-runtime"):
                raise EndpointError(f"{path}: kubelet uses its own dockershim, which has no endpoint")
        return [Named(path, flag, value) for path in self.flags for value in self._values(path, flag)]

    def _put_flag(self, path: Path, text: str, flag: str, change: Callable[[str], str]) -> str:
        try:
            after = kubelet_flags.put(text, flag, change)
        except kubelet_flags.FlagError as fault:
            raise EndpointError(f"{path}: {fault}") from None
        if after != text and path in self.units and self._places.at("/etc") not in path.parents:
            raise EndpointError(
                f"{path}: {flag} stands in a unit that belongs to a package, whose next version would bring it back",
                f"move the flag into {self._places.kubelet_defaults} (KUBELET_EXTRA_ARGS) or into a drop-in under /etc",
            )
        return after

    def _fields(self, field: str, *paths: Path) -> list[Named]:
        found = []
        for path in paths:
            if path in self._texts:
                try:
                    value = kubelet_fields.read(self._texts[path], field)
                except kubelet_fields.FieldError as fault:
                    raise EndpointError(f"{path}: {fault}") from None
                if value:
                    found.append(Named(path, field, value))
        return found

    def _put_field(self, path: Path, text: str, field: str, value: str) -> str:
        try:
            return kubelet_fields.put(text, field, value, DEFAULT)
        except kubelet_fields.FieldError as fault:
            raise EndpointError(f"{path}: {fault}") from None


def _bytes(text: str) -> bytes:
    return text.encode(errors="surrogateescape")


def _path_of(places: Places, path: Path) -> str:
    """A place as the node itself names it, whatever root it is looked at below."""
    return "/" + str(path.relative_to(places.root))
