"""What a pod may not ask of the node: refused in the words of its manifest, or taken out and nothing else."""

from __future__ import annotations

from typing import Any

import pytest

from cri_shim import schema
from cri_shim.call import Code
from cri_shim.errors import ConfigError, RejectedError
from cri_shim.interceptors.policy import Policy
from cri_shim.schema import RuntimeMessage, enum
from tests.cri_shim.passing import Passing, create, rule, run, sandbox

MODE = enum("NamespaceMode")
DENY_ALL = ", ".join(
    f'{one} = "deny"'
    for one in ("privileged", "host_network", "host_pid", "host_ipc", "capabilities", "host_paths", "sysctls")
)


def policy(do: str, more: str = "", settings: dict[str, Any] | None = None) -> Passing:
    return Passing(Policy, rule("house", "policy", do, more), settings)


def refused(passing: Passing, name: str, message: RuntimeMessage) -> str:
    with pytest.raises(RejectedError) as caught:
        passing.request(name, message)
    assert caught.value.code == Code.PERMISSION_DENIED
    return caught.value.text


def context(**fields: Any) -> dict[str, Any]:
    return {"security_context": fields}


def in_sandbox(**security: Any) -> RuntimeMessage:
    return sandbox(**context(**security))


PRIVILEGES = [
    pytest.param("privileged", {"privileged": True}, "privileged to false", id="privileged"),
    *(
        pytest.param(f"host_{kind}", {"namespace_options": {kind: MODE["NODE"]}}, f"remove {spelt}", id=spelt)
        for kind, spelt in (("network", "hostNetwork"), ("pid", "hostPID"), ("ipc", "hostIPC"))
    ),
]


@pytest.mark.parametrize(("key", "security", "fix"), PRIVILEGES)
@pytest.mark.parametrize("place", ["sandbox", "container", "sandbox-repeated"])
def test_a_privilege_is_refused_wherever_it_is_asked_for(
    key: str, security: dict[str, Any], fix: str, place: str
) -> None:
    passing = policy(f'{key} = "deny"')
    if place == "sandbox":
        text = refused(passing, "RunPodSandbox", run(in_sandbox(**security)))
    elif place == "container":
        text = refused(passing, "CreateContainer", create({"linux": context(**security)}))
    else:
        text = refused(passing, "CreateContainer", create({}, in_sandbox(**security)))
    assert "pod shop/web" in text
    assert ("container app" in text) == (place != "sandbox")
    assert "rule house" in text
    assert text.count(fix) == 1


@pytest.mark.parametrize(
    ("key", "security"), [pytest.param(*one.values[:2], id=one.id) for one in PRIVILEGES if one.id != "hostNetwork"]
)
def test_a_privilege_is_stripped_in_all_places_at_once_and_told(key: str, security: dict[str, Any]) -> None:
    passing = policy(f'{key} = "strip"')
    asked = create({"linux": context(**security), "working_dir": "/w"}, in_sandbox(**security))
    kept = schema.message("CreateContainerRequest")()
    kept.CopyFrom(asked)
    for holder in (kept.config, kept.sandbox_config):
        if key == "privileged":
            holder.linux.security_context.privileged = False
        else:
            options = holder.linux.security_context.namespace_options
            setattr(options, key[5:], MODE["CONTAINER" if key == "host_pid" else "POD"])
    assert passing.request("CreateContainer", asked) == kept
    (event,) = passing.events
    assert (event["event"], event["rule"], len(event["what"])) == ("stripped", "house", 1)
    (counts,) = passing.tally.values()
    assert (counts.hits, counts.changes) == (1, 1)


def test_what_is_allowed_passes_byte_for_byte() -> None:
    modest = {"namespace_options": {"pid": MODE["CONTAINER"], "ipc": MODE["POD"]}, "capabilities": {}}
    asked = create({"linux": context(**modest), "mounts": [{"container_path": "/x"}]}, sandbox())
    # A field that the schema does not know.
    frame = asked.SerializeToString() + b"\xfa\x7f\x02hi"
    assert policy(DENY_ALL).frame("CreateContainer", frame) is frame


def test_a_refusal_names_everything_at_once() -> None:
    options = {"network": MODE["NODE"], "pid": MODE["NODE"]}
    text = refused(policy(DENY_ALL), "RunPodSandbox", run(in_sandbox(privileged=True, namespace_options=options)))
    assert all(word in text for word in ("privileged", "hostNetwork", "hostPID"))
    assert "hostIPC" not in text


def test_a_refusal_ends_with_the_operators_own_words() -> None:
    text = refused(
        policy('privileged = "deny", message = "Ask the platform team."'),
        "RunPodSandbox",
        run(in_sandbox(privileged=True)),
    )
    assert text.endswith(". Ask the platform team.")


def test_many_faults_of_one_kind_stay_within_an_event() -> None:
    mounts = [{"host_path": f"/srv/{number}", "container_path": f"/{number}"} for number in range(40)]
    text = refused(policy('host_paths = "deny"'), "CreateContainer", create({"mounts": mounts}))
    assert "and 35 more" in text
    assert len(text) < 1024


@pytest.mark.parametrize(
    ("asked", "allowed"),
    [
        ("NET_BIND_SERVICE", True),
        ("CAP_NET_BIND_SERVICE", True),
        ("net_bind_service", True),
        ("NET_ADMIN", False),
        ("ALL", False),
        ("all", False),
    ],
)
@pytest.mark.parametrize("which", ["add_capabilities", "add_ambient_capabilities"])
def test_capabilities_are_compared_in_any_spelling(asked: str, allowed: bool, which: str) -> None:
    request = create({"linux": context(capabilities={which: [asked, "NET_BIND_SERVICE"]})})
    allow = 'allowed_capabilities = ["CAP_NET_BIND_SERVICE"]'
    if not allowed:
        text = refused(policy(f'capabilities = "deny", {allow}'), "CreateContainer", request)
        assert f"remove {asked} from securityContext.capabilities.add" in text
    after = policy(f'capabilities = "strip", {allow}').request("CreateContainer", request)
    left = list(getattr(after.config.linux.security_context.capabilities, which))
    assert left == ([asked] if allowed else []) + ["NET_BIND_SERVICE"]


def test_all_among_the_allowed_capabilities_allows_each() -> None:
    request = create({"linux": context(capabilities={"add_capabilities": ["ALL", "NET_ADMIN"]})})
    passing = policy('capabilities = "deny", allowed_capabilities = ["ALL"]')
    assert passing.request("CreateContainer", request) == request


def test_dropped_capabilities_are_none_of_a_policys_business() -> None:
    request = create({"linux": context(capabilities={"drop_capabilities": ["ALL"]})})
    assert policy('capabilities = "deny"').request("CreateContainer", request) == request


@pytest.mark.parametrize(
    ("path", "readonly", "allowed"),
    [
        ("/var/lib/kubelet/pods/u-1/etc-hosts", False, True),
        ("/var/lib/kubelet/pods/u-2/volumes/secret", True, False),
        ("/var/lib/kubelet/pods/u-1/../u-2/volumes/secret", True, False),
        ("/var/lib/kubelet/pods/u-1", False, False),
        ("/srv/data/one", False, True),
        ("/srv/data/../../etc", False, False),
        ("//etc", False, False),
        ("//srv/data/one", False, True),
        ("/var/log", True, True),
        ("/var/log", False, False),
        ("/", True, False),
        ("", False, True),
    ],
)
def test_host_paths_are_kubelets_own_or_listed(path: str, readonly: bool, allowed: bool) -> None:
    lists = 'allowed_host_paths = ["/srv/data/*"], allowed_read_only_host_paths = ["/var/log"]'
    mounts = [{"host_path": path, "container_path": "/x", "readonly": readonly}, {"container_path": "/y"}]
    request = create({"mounts": mounts})
    after = policy(f'host_paths = "strip", {lists}').request("CreateContainer", request)
    assert [one.container_path for one in after.config.mounts] == (["/x"] if allowed else []) + ["/y"]
    if not allowed:
        text = refused(policy(f'host_paths = "deny", {lists}'), "CreateContainer", request)
        fix = "set readOnly" if path == "/var/log" else "remove the hostPath volume"
        assert fix in text
        assert "at /x" in text


def test_kubelets_folder_may_be_elsewhere() -> None:
    request = create({"mounts": [{"host_path": "/data/kubelet/pods/u-1/v", "container_path": "/x"}]})
    assert refused(policy('host_paths = "deny"'), "CreateContainer", request)
    moved = policy('host_paths = "deny"', settings={"kubelet_root": "/data/kubelet/"})
    assert moved.request("CreateContainer", request) == request


@pytest.mark.parametrize(
    ("name", "allowed"),
    [("net.ipv4.tcp_syncookies", True), ("net/ipv4/tcp_syncookies", True), ("kernel.msgmax", False)],
)
def test_sysctls_are_compared_with_dots(name: str, allowed: bool) -> None:
    config = sandbox(sysctls={name: "1", "net.ipv4.ip_unprivileged_port_start": "0"})
    lists = 'allowed_sysctls = ["net.ipv4.*"]'
    after = policy(f'sysctls = "strip", {lists}').request("RunPodSandbox", run(config))
    assert set(after.config.linux.sysctls) == {"net.ipv4.ip_unprivileged_port_start"} | ({name} if allowed else set())
    if not allowed:
        assert f"remove {name}" in refused(policy(f'sysctls = "deny", {lists}'), "CreateContainer", create({}, config))


def test_rules_are_for_the_pods_they_match() -> None:
    passing = policy('privileged = "deny"', 'unless = { namespaces = ["kube-system"] }')
    metadata = {"name": "proxy", "namespace": "kube-system", "uid": "u"}
    request = run(sandbox({"metadata": metadata}, **context(privileged=True)))
    assert passing.request("RunPodSandbox", request) == request
    assert refused(passing, "RunPodSandbox", run(in_sandbox(privileged=True)))


@pytest.mark.parametrize("verdict", ["deny", "strip"])
def test_a_dry_run_changes_nothing_and_tells_what_it_would_do(verdict: str) -> None:
    passing = policy(f'privileged = "{verdict}"', "dry_run = true")
    request = run(in_sandbox(privileged=True))
    assert passing.request("RunPodSandbox", request) == request
    (event,) = passing.events
    assert event["event"] == "rule-dry-run"
    assert "privileged" in event["would"][0]


@pytest.mark.parametrize(("fail", "passes"), [("closed", False), ("open", True)])
def test_an_unreadable_request_fails_as_the_rule_says(fail: str, passes: bool) -> None:
    passing = policy('privileged = "deny"', f'fail = "{fail}"')
    if passes:
        assert passing.frame("RunPodSandbox", b"\xff") == b"\xff"
    else:
        with pytest.raises(RejectedError, match="rule house of policy failed on RunPodSandbox and fails closed"):
            passing.frame("RunPodSandbox", b"\xff")


def test_a_call_can_be_refused_as_such_and_only_that_call() -> None:
    passing = policy('refuse = "use kubectl debug instead"', 'match = { methods = ["Exec*"] }')
    request = schema.message("ExecRequest")(container_id="c")
    assert refused(passing, "Exec", request).endswith("rule house does not allow this: use kubectl debug instead.")
    assert not passing.interceptor.wants("/runtime.v1.RuntimeService/Attach")


def test_a_rule_about_pods_looks_at_no_other_call() -> None:
    passing = policy(DENY_ALL)
    wanted = [path for path in schema.methods() if passing.interceptor.wants(path)]
    assert [path.rpartition("/")[2] for path in wanted] == ["RunPodSandbox", "CreateContainer"]


@pytest.mark.parametrize("method", ["StopContainer", "StopPodSandbox", "RemoveContainer", "RemovePodSandbox", "Status"])
def test_what_ends_a_pod_cannot_be_refused(method: str) -> None:
    with pytest.raises(ConfigError, match="matches none"):
        policy('refuse = "no"', f'match = {{ methods = ["{method}"] }}')


@pytest.mark.parametrize(
    ("do", "fault"),
    [
        ("", "says nothing to do; known are refuse, privileged"),
        ('message = "x"', "says nothing to do"),
        ('privileged = "drop"', "privileged: must be 'deny' or 'strip', not 'drop'"),
        ('host_network = "strip"', "host_network: can only be denied: kubelet compares"),
        ('privilged = "deny"', "did you mean 'privileged'"),
        ('allowed_sysctls = ["a"], privileged = "deny"', 'allowed_sysctls needs sysctls = "deny" or "strip"'),
        ('capabilities = "deny", allowed_capabilities = ["NET_*"]', "takes names, not patterns such as 'NET_[*]'"),
        ('host_paths = "deny", allowed_host_paths = ["srv"]', "must hold absolute paths, not 'srv'"),
        ('refuse = "x", privileged = "deny"', "move privileged to a rule of its own"),
        ('refuse = " "', "must tell the pod's owner what to do"),
        ('refuse = "x"', "refuse needs `methods` in match"),
    ],
)
def test_a_rule_that_cannot_be_meant_is_a_fault(do: str, fault: str) -> None:
    with pytest.raises(ConfigError, match=fault):
        policy(do)


def test_every_fault_of_the_table_and_the_rules_is_named() -> None:
    with pytest.raises(ConfigError) as caught:
        policy('privileged = "x"', settings={"kubelet_root": "relative"})
    assert [fault.partition(":")[0] for fault in caught.value.faults] == ["policy.kubelet_root", "rule house"]


def test_a_rule_explains_itself() -> None:
    action = Policy.parse(
        {"privileged": "deny", "host_pid": "strip", "capabilities": "deny", "allowed_capabilities": ["NET_RAW"]}
    )
    assert Policy.explain(action) == "denies privileged, capabilities (allowed capabilities NET_RAW); strips host pid"
