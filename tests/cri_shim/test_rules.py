"""Rules: what the file may say, and which calls they are about."""

from __future__ import annotations

from typing import Any

import pytest

from cri_shim import matching, rules
from cri_shim.errors import ConfigError
from cri_shim.pods import Pod, Subject
from cri_shim.rules import Counts, Rule, Tally

RUNTIME = "/runtime.v1.RuntimeService/"
EXEC = RUNTIME + "ExecSync"
SUBJECT = Subject(
    pod_namespace="shop-eu",
    pod_name="web-7d4",
    container_name="proxy",
    container_id="c1",
    images=("sha256:1234", "registry.example/team/web:1"),
    pod=Pod({"tier": "front-a", "app": "web"}, {"example.com/owner": "ann"}, "kata-clh"),
)


def rule(**table: Any) -> Rule:
    [made] = rules.parse([{"name": "r", "interceptor": "policy", **table}])
    return made


@pytest.mark.parametrize(
    ("match", "concerned"),
    [
        pytest.param({}, True, id="empty"),
        pytest.param({"methods": ["ExecSync"]}, True, id="method"),
        pytest.param({"methods": ["Exec*"]}, True, id="method-glob"),
        pytest.param({"methods": ["Attach", "ExecSync"]}, True, id="one-of-two-methods"),
        pytest.param({"methods": [EXEC]}, True, id="method-path"),
        pytest.param({"methods": ["/runtime.v1.ImageService/*"]}, False, id="other-service"),
        pytest.param({"methods": ["Exec"]}, False, id="no-prefix-match"),
        pytest.param({"namespaces": ["shop-*"]}, True, id="namespace"),
        pytest.param({"namespaces": ["SHOP-*"]}, False, id="case-counts"),
        pytest.param({"namespaces": ["kube-system"]}, False, id="other-namespace"),
        pytest.param({"pods": ["web-???"]}, True, id="pod"),
        pytest.param({"pods": ["web"]}, False, id="whole-name"),
        pytest.param({"containers": ["proxy"]}, True, id="container"),
        pytest.param({"containers": ["app"]}, False, id="other-container"),
        pytest.param({"labels": {"tier": "front*"}}, True, id="label"),
        pytest.param({"labels": {"tier": "front*", "app": "db"}}, False, id="all-labels"),
        pytest.param({"labels": {"missing": "*"}}, False, id="absent-label"),
        pytest.param({"annotations": {"example.com/owner": "a*"}}, True, id="annotation"),
        pytest.param({"annotations": {"example.com/owner": "bob"}}, False, id="other-annotation"),
        pytest.param({"images": ["registry.example/*"]}, True, id="image-across-slashes"),
        pytest.param({"images": ["web:1"]}, False, id="whole-image"),
        pytest.param({"runtime_handlers": ["kata*"]}, True, id="handler"),
        pytest.param({"runtime_handlers": [""]}, False, id="default-handler"),
        pytest.param({"namespaces": ["shop-*"], "pods": ["db-*"]}, False, id="all-of-several"),
    ],
)
def test_a_rule_concerns_the_calls_its_patterns_match(match: dict[str, Any], concerned: bool) -> None:
    made = rule(match=match)
    assert (made.method(EXEC) and made.concerns(EXEC, SUBJECT)) is concerned
    exempting = rule(unless=match)
    assert (exempting.method(EXEC) and exempting.concerns(EXEC, SUBJECT)) is not concerned


@pytest.mark.parametrize("key", ["namespaces", "pods", "containers", "images"])
def test_what_a_call_does_not_have_matches_no_pattern(key: str) -> None:
    assert not rule(match={key: ["*"]}).concerns(EXEC, Subject())


def test_a_pod_without_labels_matches_no_label() -> None:
    assert not rule(match={"labels": {"a": "*"}}).concerns(EXEC, Subject(pod_name="x"))


@pytest.mark.parametrize(("handler", "concerned"), [("", True), (None, False), ("kata", False)])
def test_the_default_runtime_handler_is_matched_only_when_it_is_known(handler: str | None, concerned: bool) -> None:
    subject = Subject(pod=Pod(runtime_handler=handler))
    assert rule(match={"runtime_handlers": [""]}).concerns(EXEC, subject) is concerned


def test_only_rules_that_ask_for_the_pod_need_it() -> None:
    assert not rule(match={"methods": ["ExecSync"]}).asks_subject
    assert rule(match={"namespaces": ["x"]}).asks_subject
    assert rule(unless={"namespaces": ["x"]}).asks_subject


def test_a_rule_fails_closed_and_acts_unless_it_says_otherwise() -> None:
    assert (rule().fail_open, rule().dry_run, rule().timeout_seconds) == (False, False, 1.0)
    assert rule(fail="open").fail_open


@pytest.mark.parametrize(
    ("table", "fault"),
    [
        pytest.param({"nam": 1}, "r: unknown key 'nam'; did you mean 'name'?", id="misspelt"),
        pytest.param({"fail": "maybe"}, "r: fail: must be 'open' or 'closed', not 'maybe'", id="fail"),
        pytest.param({"timeout_seconds": 0}, "r: timeout_seconds: must be from 0.001 to 600", id="timeout"),
        pytest.param({"dry_run": 1}, "r: dry_run: must be true or false, not 1", id="dry-run"),
        pytest.param({"do": "x"}, "r: do: must be a table, not a string ('x')", id="do"),
        pytest.param({"match": []}, "r: match: must be a table, not a list ([])", id="match"),
        pytest.param({"match": {"method": ["x"]}}, "match: unknown key 'method'; did you mean 'methods'?", id="key"),
        pytest.param({"match": {"methods": ["Exeec"]}}, "match: methods: no method is named 'Exeec'", id="method"),
        pytest.param({"match": {"methods": "Exec"}}, 'must be a list of method patterns such as ["Exec', id="list"),
        pytest.param({"match": {"labels": ["a"]}}, 'labels: must be a table of key = "pattern"', id="labels"),
        pytest.param({"unless": {"images": [1]}}, "unless: images: must be a list of image patterns", id="images"),
        pytest.param({"match": {"runtime_handlers": "x"}}, "must be a list of runtime handlers", id="handlers"),
        pytest.param({"name": ""}, "name: must be a name of 1 to 64 printable characters, not ''", id="no-name"),
    ],
)
def test_a_fault_names_the_rule_the_key_and_what_would_be_right(table: dict[str, Any], fault: str) -> None:
    with pytest.raises(ConfigError) as caught:
        rule(**table)
    assert len(caught.value.faults) == 1
    assert fault in caught.value.faults[0]


def test_all_faults_of_all_rules_are_told_at_once() -> None:
    tables = [{"name": "a", "interceptor": "p", "fail": 1, "dry_run": 2}, {"interceptor": "p"}, 5]
    with pytest.raises(ConfigError) as caught:
        rules.parse(tables)
    assert [fault.partition(" must")[0] for fault in caught.value.faults] == [
        "a: fail:",
        "a: dry_run:",
        "2: name is missing",
        "3:",
    ]


def test_two_rules_cannot_share_a_name() -> None:
    tables = [{"name": "a", "interceptor": one} for one in ("p", "q")]
    with pytest.raises(ConfigError, match="a: two rules have this name"):
        rules.parse(tables)


def test_a_method_of_the_future_is_matched_by_its_path() -> None:
    path = "/runtime.v1.RuntimeService/Invented"
    assert matching.parse({"methods": [path]}).method(path)


def test_a_match_tells_what_it_asks_for() -> None:
    match = matching.parse({"methods": ["Exec*"], "labels": {"a": "b*"}, "runtime_handlers": [""]})
    assert str(match) == "methods Exec*; labels a=b*; runtime handlers ''"
    assert str(matching.parse({})) == "every call"


def test_counts_of_rules_that_are_gone_are_forgotten() -> None:
    tally = Tally()
    tally["p", "a"].hits = tally["p", "b"].hits = 3
    tally.keep([("p", "a")])
    assert tally == {("p", "a"): Counts(hits=3)}
