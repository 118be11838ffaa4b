"""Images under the names that pods give them, from where the rules say, and only those that are allowed."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from cri_shim import references, schema
from cri_shim.call import Code
from cri_shim.errors import AskError, ConfigError, RejectedError
from cri_shim.interceptors.images import Images
from cri_shim.pods import Ask
from cri_shim.references import DOCKER
from cri_shim.schema import RuntimeMessage
from tests.cri_shim.passing import METHODS, Passing, create, rule, sandbox

ID = "sha256:" + "a" * 64
DIGEST = "@sha256:" + "b" * 64
ONE = 'from = "reg.example", to = ["mirror.example/reg"]'
TWO = 'from = "reg.example", to = ["mirror.example/reg", "reg.example"]'


class Runtime:
    """Holds images by name; pulls those it is said to be able to pull, and remembers each request."""

    def __init__(self, held: tuple[str, ...] = (), pullable: tuple[str, ...] = (), names: tuple[str, ...] = ()) -> None:
        self.held, self.pullable, self.names = held, pullable, names
        self.pulls: list[RuntimeMessage] = []

    async def __call__(self, name: str, **fields: Any) -> RuntimeMessage:
        request = schema.message(f"{name}Request")(**fields)
        asked = request.image.image
        if name == "ImageStatus":
            image = {"id": ID, "repo_tags": self.names} if asked in self.held else None
            return schema.message("ImageStatusResponse")(image=image)
        assert name == "PullImage"
        self.pulls.append(request)
        if asked not in self.pullable:
            raise AskError(Code.NOT_FOUND, f"PullImage: {asked} is not there")
        return schema.message("PullImageResponse")(image_ref=ID)


def images(*rules: str, ask: Ask | None = None, settings: Mapping[str, Any] | None = None, more: str = "") -> Passing:
    text = "".join(rule(f"rule-{number}", "images", do, more) for number, do in enumerate(rules))
    return Passing(Images, text, settings, ask)


def named(method: str, image: str, **more: Any) -> RuntimeMessage:
    """A request of this method that names an image."""
    if method == "CreateContainer":
        return create({"image": {"image": image, **more}})
    if method == "volume":
        return create({"mounts": [{"container_path": "/v", "image": {"image": image}}]})
    if method == "ListImages":
        return schema.message("ListImagesRequest")(filter={"image": {"image": image}})
    return schema.message(f"{method}Request")(image={"image": image, **more})


NAMING = ["PullImage", "ImageStatus", "RemoveImage", "CreateContainer", "volume", "ListImages"]


@pytest.mark.parametrize("method", NAMING)
def test_a_name_is_rewritten_in_every_call_that_has_one(method: str) -> None:
    passing = images(ONE)
    call = "CreateContainer" if method == "volume" else method
    assert passing.request(call, named(method, "reg.example/a:1")) == named(method, "mirror.example/reg/a:1")
    assert passing.request(call, named(method, f"reg.example/a{DIGEST}")) == named(
        method, f"mirror.example/reg/a{DIGEST}"
    )


@pytest.mark.parametrize("image", ["other.example/a", "reg.example.evil/a", "registry", ID, "a" * 64, ""])
@pytest.mark.parametrize("method", NAMING)
def test_other_names_and_ids_pass(method: str, image: str) -> None:
    request = named(method, image)
    call = "CreateContainer" if method == "volume" else method
    assert images(ONE).request(call, request) == request


@pytest.mark.parametrize(
    ("short", "whole"),
    [
        ("nginx", f"{DOCKER}/library/nginx"),
        ("nginx:1", f"{DOCKER}/library/nginx:1"),
        ("team/app", f"{DOCKER}/team/app"),
        (f"index.{DOCKER}/team/app", f"{DOCKER}/team/app"),
        ("localhost/app", "localhost/app"),
        ("reg:5000/app:2", "reg:5000/app:2"),
        (ID, ""),
    ],
)
def test_short_names_are_dockers(short: str, whole: str) -> None:
    assert references.full(short) == whole
    if whole.startswith(DOCKER):
        passing = images(f'from = "{DOCKER}", to = ["mirror.example/hub"]')
        got = passing.request("ImageStatus", named("ImageStatus", short)).image.image
        assert got == whole.replace(DOCKER, "mirror.example/hub", 1)


def test_the_name_in_the_pods_manifest_stays() -> None:
    request = named("CreateContainer", "reg.example/a", user_specified_image="reg.example/a")
    after = images(ONE).request("CreateContainer", request).config.image
    assert (after.image, after.user_specified_image) == ("mirror.example/reg/a", "reg.example/a")


def test_a_name_is_rewritten_once() -> None:
    passing = images('from = "a.example", to = ["b.example"]', 'from = "b.example", to = ["c.example"]')
    assert passing.request("ImageStatus", named("ImageStatus", "a.example/x")).image.image == "b.example/x"
    assert passing.request("ImageStatus", named("ImageStatus", "b.example/x")).image.image == "c.example/x"


@pytest.mark.parametrize(
    ("held", "got"),
    [
        pytest.param((), "mirror.example/reg/a", id="none"),
        pytest.param(("reg.example/a",), "reg.example/a", id="second"),
        pytest.param(("mirror.example/reg/a", "reg.example/a"), "mirror.example/reg/a", id="both"),
    ],
)
@pytest.mark.parametrize("method", ["ImageStatus", "RemoveImage", "CreateContainer", "volume"])
def test_of_several_sources_the_one_that_is_on_the_node_is_named(method: str, held: tuple[str, ...], got: str) -> None:
    passing = images(TWO, ask=Runtime(held))
    call = "CreateContainer" if method == "volume" else method
    assert passing.request(call, named(method, "reg.example/a")) == named(method, got)


def test_sources_are_pulled_from_in_order_until_one_has_it() -> None:
    runtime = Runtime(pullable=("reg.example/a",))
    passing = images(TWO, ask=runtime)
    got = passing.request("PullImage", named("PullImage", "reg.example/a"))
    assert [one.image.image for one in runtime.pulls] == ["mirror.example/reg/a", "reg.example/a"]
    assert got == runtime.pulls[1]
    (event,) = passing.events
    assert (event["event"], event["source"], event["failed"]) == (
        "pulled-from-fallback",
        "reg.example/a",
        ["mirror.example/reg/a"],
    )


def test_when_no_source_has_it_all_are_named_with_their_errors() -> None:
    with pytest.raises(RejectedError) as caught:
        images(TWO, ask=Runtime()).request("PullImage", named("PullImage", "reg.example/a"))
    assert caught.value.code == Code.NOT_FOUND
    assert caught.value.text == (
        "podwire-shim: rule rule-0: no source has reg.example/a: "
        "mirror.example/reg/a: PullImage: mirror.example/reg/a is not there; "
        "reg.example/a: PullImage: reg.example/a is not there"
    )


def credentials_file(folder: Path) -> dict[str, str]:
    file = folder / "registries.json"
    file.touch(0o600)
    file.write_text(json.dumps({"auths": {"mirror.example": {"username": "mirror", "password": "hunter2"}}}))
    return {"credentials": str(file)}


def test_credentials_go_to_the_registry_they_are_for_and_no_other(tmp_path: Path) -> None:
    runtime = Runtime(pullable=("reg.example/a",))
    passing = images(TWO, ask=runtime, settings=credentials_file(tmp_path))
    request = schema.message("PullImageRequest")(
        image={"image": "reg.example/a"}, auth={"username": "pod", "password": "pods-own"}, sandbox_config=sandbox()
    )
    assert passing.request("PullImage", request) == request
    first, second = runtime.pulls
    assert (first.auth.username, first.auth.password) == ("mirror", "hunter2")
    assert first.auth.server_address == "https://mirror.example"
    assert second == request
    assert "hunter2" not in str(passing.events)
    assert "pods-own" not in str(passing.events)


def test_a_pods_credentials_are_not_shown_to_a_mirror() -> None:
    request = named("PullImage", "reg.example/a")
    request.auth.password = "pods-own"
    assert not images(ONE).request("PullImage", request).HasField("auth")


def test_a_credentials_file_that_was_opened_to_others_ends_pulls(tmp_path: Path) -> None:
    settings = credentials_file(tmp_path)
    passing = images(ONE, settings=settings)
    Path(settings["credentials"]).chmod(0o644)
    with pytest.raises(RejectedError, match="has mode 0644"):
        passing.request("PullImage", named("PullImage", "reg.example/a"))


def test_a_credentials_file_that_others_can_read_is_a_fault_at_once(tmp_path: Path) -> None:
    settings = credentials_file(tmp_path)
    Path(settings["credentials"]).chmod(0o640)
    with pytest.raises(ConfigError, match=r"images\.credentials: .* has mode 0640"):
        images(ONE, settings=settings)


def test_what_kubelet_reads_back_has_the_names_it_asked_for() -> None:
    passing = images(TWO, ask=Runtime())
    here, there = "reg.example/a", "mirror.example/reg/a"

    def image(name: str) -> dict[str, Any]:
        return {"id": ID, "repo_tags": [f"{name}:1", "other.example/b:1"], "repo_digests": [name + DIGEST]}

    def container(name: str) -> dict[str, Any]:
        spec = {"image": f"{name}:1", "user_specified_image": "reg.example/a:1"}
        return {"id": "c", "image": spec, "image_ref": name + DIGEST}

    def status(name: str) -> dict[str, Any]:
        return {**container(name), "mounts": [{"image": {"image": name}}]}

    for method, build in (
        ("ImageStatus", lambda name: {"image": image(name)}),
        ("ListImages", lambda name: {"images": [image(name), {"id": "x"}]}),
        ("ContainerStatus", lambda name: {"status": status(name)}),
        ("ListContainers", lambda name: {"containers": [container(name)]}),
        ("PodSandboxStatus", lambda name: {"status": {"id": "s"}, "containers_statuses": [status(name)]}),
        ("GetContainerEvents", lambda name: {"containers_statuses": [status(name)]}),
        ("PullImage", lambda name: {"image_ref": name + DIGEST}),
    ):
        asked = schema.message(METHODS[method].request)()
        answer = schema.message(METHODS[method].response)
        assert passing.response(method, asked, answer(**build(there))) == answer(**build(here)), method


def test_a_tag_held_from_two_sources_is_told_once() -> None:
    tags = ["reg.example/a:1", "mirror.example/reg/a:1"]
    response = schema.message("ListImagesResponse")(images=[{"id": ID, "repo_tags": tags}])
    got = images(TWO, ask=Runtime()).response("ListImages", schema.message("ListImagesRequest")(), response)
    assert list(got.images[0].repo_tags) == ["reg.example/a:1"]


ALLOW = 'allow = ["reg.example/team/*"], deny = ["*:latest"], message = "See the wiki."'


@pytest.mark.parametrize(
    ("image", "allowed"),
    [
        ("reg.example/team/a:1", True),
        (f"reg.example/team/a{DIGEST}", True),
        ("reg.example/team/a:latest", False),
        ("reg.example/team/a", False),
        ("reg.example/other:1", False),
        ("team/a:1", False),
    ],
)
@pytest.mark.parametrize("method", ["PullImage", "CreateContainer", "volume"])
def test_images_are_allowed_and_denied_by_their_full_name(method: str, image: str, allowed: bool) -> None:
    passing = images(ALLOW)
    call = "CreateContainer" if method == "volume" else method
    if allowed:
        assert passing.request(call, named(method, image)) == named(method, image)
        return
    with pytest.raises(RejectedError) as caught:
        passing.request(call, named(method, image))
    assert caught.value.code == Code.PERMISSION_DENIED
    assert references.complete(image) in caught.value.text
    assert caught.value.text.endswith("; allowed are reg.example/team/*. See the wiki.")


@pytest.mark.parametrize(
    ("names", "held", "allowed"),
    [
        pytest.param(("reg.example/team/a:1", "x.example/b:1"), True, True, id="one-name-allowed"),
        pytest.param(("reg.example/team/a:1", "x.example/b:latest"), True, False, id="one-name-denied"),
        pytest.param(("x.example/b:1",), True, False, id="none-allowed"),
        pytest.param((), True, False, id="no-name"),
        pytest.param((), False, True, id="absent"),
    ],
)
def test_an_id_is_judged_by_the_names_it_has_on_the_node(names: tuple[str, ...], held: bool, allowed: bool) -> None:
    passing = images(ALLOW, ask=Runtime((ID,) if held else (), names=names))
    if allowed:
        assert passing.request("CreateContainer", named("CreateContainer", ID))
    else:
        with pytest.raises(RejectedError, match="does not allow image"):
            passing.request("CreateContainer", named("CreateContainer", ID))


def test_an_id_is_judged_by_the_manifests_name_where_kubelet_tells_it() -> None:
    passing = images(ALLOW)
    request = named("CreateContainer", ID, user_specified_image="reg.example/team/a:1")
    assert passing.request("CreateContainer", request) == request
    with pytest.raises(RejectedError, match=r"pod shop/web: rule rule-0 does not allow image x\.example/a:1"):
        passing.request("CreateContainer", named("CreateContainer", ID, user_specified_image="x.example/a:1"))


def test_lists_leave_status_and_removal_alone() -> None:
    passing = images(ALLOW)
    for method in ("ImageStatus", "RemoveImage", "ListImages"):
        assert not passing.interceptor.wants(METHODS[method].path)


def test_a_dry_run_pulls_nothing_and_changes_nothing() -> None:
    runtime = Runtime()
    passing = images(TWO, ask=runtime, more="dry_run = true")
    request = named("PullImage", "reg.example/a")
    assert passing.request("PullImage", request) == request
    assert runtime.pulls == []
    held = schema.message("ListImagesResponse")(images=[{"id": ID, "repo_tags": ["mirror.example/reg/a:1"]}])
    assert passing.response("ListImages", schema.message("ListImagesRequest")(), held) == held


@pytest.mark.parametrize(
    ("rules", "more", "fault"),
    [
        ([""], "", "holds either `from` and `to`, or `allow` or `deny`"),
        ([f'{ONE}, deny = ["x"]'], "", "holds either"),
        (['from = "reg.example"'], "", "`from` and `to` go together"),
        ([f'{ONE}, message = "x"'], "", "nothing else goes with them"),
        (['from = "https://reg.example", to = ["m.example"]'], "", "without a scheme"),
        (['from = "reg.example", to = ["mirror"]'], "", "must begin with a registry"),
        (['from = "reg.example", to = []'], "", "must name a source"),
        ([ONE, ONE], "", "two rules rewrite reg.example"),
        ([ONE, 'from = "b.example", to = ["mirror.example/reg/"]'], "", "mirror.example/reg is a source twice"),
        ([ONE, 'deny = ["*"]'], "", "move it before the rules with `from`"),
        ([ONE], 'match = { namespaces = ["shop"] }', "drop match and unless"),
        ([ONE], 'match = { methods = ["PullImage"] }', "drop match and unless"),
    ],
)
def test_rules_that_cannot_be_meant_are_a_fault(rules: list[str], more: str, fault: str) -> None:
    with pytest.raises(ConfigError, match=fault):
        images(*rules, more=more)


def test_rules_explain_themselves() -> None:
    assert [Images.explain(action) for _, action in images(ALLOW, TWO).interceptor._rules] == [
        "allows only reg.example/team/*; denies *:latest",
        "looks for reg.example in mirror.example/reg, then reg.example",
    ]
