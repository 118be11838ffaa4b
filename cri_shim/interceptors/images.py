"""Where images come from: registries rewritten, with fallbacks and credentials, and lists of what may be used.

A rewritten name goes to the runtime in every call that names an image, and the name that the client asked for
comes back in every answer; ids pass as they are. The keys of `do` are in docs/interceptor-images.md.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

from cri_shim import credentials, messages
from cri_shim.call import Call, Code
from cri_shim.capabilities import Setup
from cri_shim.errors import AskError, ConfigError, RejectedError
from cri_shim.interceptors.ruled import Matched, Ruled
from cri_shim.references import Rewrite, complete, full, host, is_host, told
from cri_shim.schema import RuntimeMessage
from cri_shim.settings import Setting, repeated, strings, take, text

DEFAULTS: Mapping[str, Any] = {"credentials": ""}
JUDGED = ("PullImage", "CreateContainer")
NAMING = ("PullImage", "ImageStatus", "RemoveImage", "CreateContainer", "ListImages")
TELLING = (
    *("PullImage", "ImageStatus", "ListImages", "StreamImages", "ContainerStatus", "ListContainers"),
    *("StreamContainers", "PodSandboxStatus", "GetContainerEvents"),
)
# Keys of Call.notes: names already rewritten in this call; the pulls to try, with the rule and the name asked for.
DONE, PULLS = "images.done", "images.pulls"


@dataclass(frozen=True, slots=True)
class Lists:
    """Patterns of full names; an empty `allow` allows what is not denied."""

    allow: tuple[str, ...] = ()
    deny: tuple[str, ...] = ()
    message: str = ""

    def admits(self, name: str) -> bool:
        """Whether an image of this full name may be used."""
        return not _any(name, self.deny) and (not self.allow or _any(name, self.allow))

    def refused_of_one(self, names: list[str]) -> list[str]:
        """Of the names of one image: those denied, else all of them if none is allowed."""
        denied = [name for name in names if _any(name, self.deny)]
        return denied or ([] if any(self.admits(name) for name in names) else names)


@dataclass(frozen=True, slots=True)
class Pulls:
    """One PullImage, as the requests to try in order."""

    rule: str
    asked: str
    requests: tuple[RuntimeMessage, ...]


class Images(Ruled):
    """Rewrites registries, falls back to the next, and keeps images to those that are allowed."""

    name = "images"
    methods = tuple(dict.fromkeys(NAMING + TELLING))

    def __init__(self, setup: Setup) -> None:
        faults: list[str] = []
        self._credentials = ""
        try:
            self._credentials = take(SETTINGS, {**DEFAULTS, **setup.settings}, "images")["credentials"]
            if self._credentials:
                credentials.load(self._credentials)
        except ConfigError as several:
            faults += several.faults
        except ValueError as fault:
            faults.append(f"images.credentials: {fault}")
        try:
            super().__init__(setup)
        except ConfigError as several:
            faults += several.faults
        # Of those that are carried out.
        self._rewrites = [one for rule, one in self._rules if isinstance(one, Rewrite) and not rule.dry_run]
        faults += self._contradictions()
        if faults:
            raise ConfigError(faults)

    @classmethod
    def parse(cls, do: Mapping[str, Any]) -> Rewrite | Lists:
        values = take(KEYS, do)
        rewriting, listing = values.keys() & {"origin", "sources"}, values.keys() & {"allow", "deny"}
        if bool(rewriting) == bool(listing):
            raise ValueError("holds either `from` and `to`, or `allow` or `deny`, and one of these it must hold")
        if not rewriting:
            return Lists(**values)
        if len(values) != 2:
            raise ValueError("`from` and `to` go together, and nothing else goes with them")
        return Rewrite(**values)

    @classmethod
    def acts(cls, action: Rewrite | Lists, method: str) -> bool:
        return isinstance(action, Rewrite) or method in JUDGED

    @classmethod
    def explain(cls, action: Rewrite | Lists) -> str:
        if isinstance(action, Rewrite):
            return f"looks for {action.origin} in {', then '.join(action.sources)}"
        said = (("allows only", action.allow), ("denies", action.deny))
        return "; ".join(f"{word} {', '.join(patterns)}" for word, patterns in said if patterns)

    async def on_request(self, call: Call, frame: bytes) -> bytes:
        frame = await super().on_request(call, frame)
        pulls: Pulls | None = call.notes.pop(PULLS, None)
        return frame if pulls is None else await self._pull(call, frame, pulls)

    async def change_request(self, match: Matched, request: RuntimeMessage) -> None:
        if isinstance(match.action, Lists):
            await self._judge(match, request)
            return
        done: set[str] = match.call.notes.setdefault(DONE, set())
        for spec in _named(match.call.name, request):
            asked = spec.image
            candidates = () if asked in done else match.action.candidates(asked)
            if not candidates:
                continue
            if match.call.name == "PullImage":
                chosen = candidates[0]
                pulls = await self._pulls(match, request, candidates)
                request.CopyFrom(pulls.requests[0])
                if len(candidates) > 1 and not match.rule.dry_run:
                    match.call.notes[PULLS] = pulls
            else:
                chosen = spec.image = await self._present(candidates)
            if not match.rule.dry_run:
                done.add(chosen)

    async def change_response(self, match: Matched, response: RuntimeMessage) -> None:
        # All rules at once, so that no name is taken back twice; the first rule that is carried out does it.
        if self._rewrites and match.action is self._rewrites[0]:
            rename(response, self._rewrites)

    async def _judge(self, match: Matched, request: RuntimeMessage) -> None:
        lists: Lists = match.action
        for spec in _named(match.call.name, request):
            if names := [name for one in (spec.user_specified_image, spec.image) if (name := complete(one))]:
                refused = [name for name in names if not lists.admits(name)]
            else:
                # Only an id; kubelets before 1.28 say no more.
                refused = lists.refused_of_one(await self._names_of(spec))
            if refused:
                allowed = f"; allowed are {', '.join(lists.allow)}" if lists.allow else ""
                who = f"pod {match.subject.pod_namespace}/{match.subject.pod_name}: " if match.subject.pod_name else ""
                ending = f" {lists.message}" if lists.message else ""
                raise RejectedError(
                    Code.PERMISSION_DENIED,
                    f"podwire-shim: {who}rule {match.rule.name} does not allow image {refused[0]}{allowed}.{ending}",
                )

    async def _names_of(self, spec: RuntimeMessage) -> list[str]:
        """All names of the image with this id, its id when it has none; none when the runtime has no such image."""
        found = (await self.services.ask("ImageStatus", image=spec)).image
        names = [told(one, self._rewrites) for one in (*found.repo_tags, *found.repo_digests)]
        return names or [one for one in (found.id,) if one]

    async def _pulls(self, match: Matched, request: RuntimeMessage, candidates: Iterable[str]) -> Pulls:
        """The request once for each source. The client's credentials go to the registry it meant, and to no other."""
        auths = await asyncio.to_thread(credentials.load, self._credentials) if self._credentials else {}
        requests = []
        for name in candidates:
            pull = type(request)()
            pull.CopyFrom(request)
            pull.image.image = name
            if host(name) != host(request.image.image):
                pull.ClearField("auth")
            if not pull.HasField("auth") and (found := credentials.for_image(auths, name)) is not None:
                pull.auth.CopyFrom(type(pull.auth)(**found))
            requests.append(pull)
        return Pulls(match.rule.name, request.image.image, tuple(requests))

    async def _pull(self, call: Call, frame: bytes, pulls: Pulls) -> bytes:
        """The request for the first source that has the image, pulled then; RejectedError naming all when none has."""
        failures: list[tuple[str, AskError]] = []
        for pull in pulls.requests:
            try:
                await self.services.ask("PullImage", **{field.name: value for field, value in pull.ListFields()})
            except AskError as error:
                failures.append((pull.image.image, error))
                continue
            if failures:
                self.services.event(
                    "pulled-from-fallback",
                    rule=pulls.rule,
                    interceptor=self.name,
                    image=pulls.asked,
                    source=pull.image.image,
                    failed=[name for name, _ in failures],
                )
            return await messages.edit_request(call, frame, _becoming(pull))
        told_of = "; ".join(f"{name}: {error.text}" for name, error in failures)
        raise RejectedError(
            failures[-1][1].code, f"podwire-shim: rule {pulls.rule}: no source has {pulls.asked}: {told_of}"
        )

    async def _present(self, candidates: tuple[str, ...]) -> str:
        """The first source that the runtime holds the image from, the first of all when it holds none."""
        for name in candidates if len(candidates) > 1 else ():
            try:
                if (await self.services.ask("ImageStatus", image={"image": name})).HasField("image"):
                    return name
            except AskError as error:
                if error.code != Code.NOT_FOUND:
                    raise
        return candidates[0]

    def _contradictions(self) -> Iterator[str]:
        rewrites = [action for _, action in self._rules if isinstance(action, Rewrite)]
        for origin in repeated([one.origin for one in rewrites]):
            yield f"images: two rules rewrite {origin}; give one rule all its sources"
        for source in repeated([source for one in rewrites for source in one.sources]):
            yield f"images: {source} is a source twice; the runtime's answers could not be told apart"
        rewritten = False
        for rule, action in self._rules:
            rewriting = isinstance(action, Rewrite)
            if rewriting and (rule.match.asks_subject or rule.match.methods or rule.unless is not None):
                yield f"rule {rule.name}: `from` says which images, in all calls alike; drop match and unless"
            if rewritten and not rewriting:
                yield f"rule {rule.name}: lists judge the names that pods have; move it before the rules with `from`"
            rewritten = rewritten or rewriting


def rename(response: RuntimeMessage, rewrites: Iterable[Rewrite]) -> None:
    """Give every image in an answer of the runtime the name that the client knows it by."""
    rewrites = tuple(rewrites)

    def back(holder: RuntimeMessage, field: str) -> None:
        name = getattr(holder, field)
        if (known := told(name, rewrites)) != name:
            setattr(holder, field, known)

    if response.DESCRIPTOR.name == "PullImageResponse":
        back(response, "image_ref")
    for image in _held(response, "image", "images"):
        for names in (image.repo_tags, image.repo_digests):
            known = list(dict.fromkeys(told(name, rewrites) for name in names))
            if known != list(names):
                names[:] = known
        back(image.spec, "image")
    for container in _held(response, "status", "containers", "containers_statuses"):
        if "image_ref" in container.DESCRIPTOR.fields_by_name:
            back(container.image, "image")
            back(container, "image_ref")
            for mount in getattr(container, "mounts", ()):
                back(mount.image, "image")


def _held(response: RuntimeMessage, *names: str) -> Iterator[RuntimeMessage]:
    for name in names:
        field = response.DESCRIPTOR.fields_by_name.get(name)
        if field is not None and field.is_repeated:
            yield from getattr(response, name)
        elif field is not None and response.HasField(name):
            yield getattr(response, name)


def _named(method: str, request: RuntimeMessage) -> list[RuntimeMessage]:
    """Every ImageSpec in a request that names an image."""
    if method == "CreateContainer":
        specs = [request.config.image, *(mount.image for mount in request.config.mounts)]
    elif method == "ListImages":
        specs = [request.filter.image]
    else:
        specs = [request.image] if method in NAMING else []
    return [spec for spec in specs if spec.image]


def _becoming(chosen: RuntimeMessage) -> messages.Change:
    async def change(request: RuntimeMessage) -> None:
        request.CopyFrom(chosen)

    return change


def _any(name: str, patterns: Iterable[str]) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in patterns)


def _prefix(value: Any) -> str:
    prefix = text(value).rstrip("/")
    if "://" in prefix or not is_host(prefix.partition("/")[0]):
        raise ValueError(f"must begin with a registry such as registry.example/team, without a scheme, not {value!r}")
    return full(f"{prefix}/x").removesuffix("/x")


def _prefixes(value: Any) -> tuple[str, ...]:
    prefixes = strings('registries such as ["mirror.example/library"]')(value)
    if not prefixes:
        raise ValueError("must name a source")
    return tuple(_prefix(one) for one in prefixes)


def _file(value: Any) -> str:
    path = text(value)
    if path and not path.startswith("/"):
        raise ValueError(f"must be the absolute path of a file, not {path!r}")
    return path


PATTERNS = strings('patterns of full names such as ["registry.example/*"]')
SETTINGS = (Setting("credentials", "credentials", _file),)
KEYS = (
    Setting("from", "origin", _prefix),
    Setting("to", "sources", _prefixes),
    Setting("allow", "allow", PATTERNS),
    Setting("deny", "deny", PATTERNS),
    Setting("message", "message", text),
)
