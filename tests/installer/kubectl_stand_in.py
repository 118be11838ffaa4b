"""A kubectl that keeps objects as files, one folder a kind, and answers as kubectl 1.3x words it.

It plays two controllers: a Secret gets its token once it was looked at `token-after` times, and the pods of a deleted
DaemonSet go once pods were looked at `gone-after` times. The tests' interpreter runs it, as it reads YAML.
"""

import argparse
import base64
import json
import os
import sys
from pathlib import Path
from typing import Any

STATE = Path(os.environ.get("KUBECTL_STATE", ""))
CLUSTER_WIDE = {"node", "clusterrole", "clusterrolebinding"}
PLURALS = {"nodes": "node", "pods": "pod", "secrets": "secret", "daemonsets": "daemonset"}
TOKEN = "eyJhbGciOiJSUzI1NiIs.c2VjcmV0.c2lnbmF0dXJl"


def main() -> int:
    with (STATE / "calls").open("a") as calls:
        calls.write(json.dumps(sys.argv[1:]) + "\n")
    fault = STATE / "fault"
    if fault.exists():
        sys.stderr.write(fault.read_text())
        return 1
    parser = argparse.ArgumentParser(allow_abbrev=False)
    for name in ("--kubeconfig", "--request-timeout", "--namespace", "--selector", "--filename", "-o", "--wait"):
        parser.add_argument(name)
    for name in ("--overwrite", "--ignore-not-found", "--raw"):
        parser.add_argument(name, action="store_true")
    parser.add_argument("words", nargs="+")
    chosen = parser.parse_intermixed_args()
    if not Path(chosen.kubeconfig).is_file():
        sys.stderr.write(f"error: stat {chosen.kubeconfig}: no such file or directory\n")
        return 1
    verb, *words = chosen.words
    return {"get": get, "apply": apply, "delete": delete, "annotate": annotate, "config": config}[verb](chosen, words)


def place(kind: str, name: str) -> Path:
    return STATE / kind / f"{name}.json"


def load(kind: str, selector: str | None) -> list[dict[str, Any]]:
    wanted = dict(each.split("=", 1) for each in selector.split(",")) if selector else {}
    found = [json.loads(path.read_text()) for path in sorted((STATE / kind).glob("*.json"))]
    return [each for each in found if wanted.items() <= each["metadata"].get("labels", {}).items()]


def countdown(name: str) -> bool:
    """Whether it is time for a controller's deed; counts one look."""
    path = STATE / name
    left = int(path.read_text()) if path.exists() else 0
    if left > 0:
        path.write_text(str(left - 1))
    return left == 0


def missing(kind: str, name: str) -> int:
    sys.stderr.write(f'Error from server (NotFound): {kind}s "{name}" not found\n')
    return 1


def get(chosen: argparse.Namespace, words: list[str]) -> int:
    kind = PLURALS.get(words[0], words[0])
    if kind == "pod" and (STATE / "deleted").exists() and countdown("gone-after"):
        for each in load("pod", (STATE / "deleted").read_text()):
            place("pod", each["metadata"]["name"]).unlink()
    if len(words) == 1:
        print(json.dumps({"apiVersion": "v1", "kind": "List", "items": load(kind, chosen.selector)}))
        return 0
    path = place(kind, words[1])
    if not path.exists():
        return missing(kind, words[1])
    found = json.loads(path.read_text())
    if kind == "secret" and countdown("token-after"):
        found.setdefault("data", {})["token"] = base64.b64encode(TOKEN.encode()).decode()
        path.write_text(json.dumps(found))
    print(json.dumps(found))
    return 0


def documents(chosen: argparse.Namespace) -> list[dict[str, Any]]:
    import yaml  # only here, since most calls do without it

    text = sys.stdin.read() if chosen.filename == "-" else Path(chosen.filename).read_text()
    return [each for each in yaml.safe_load_all(text) if each]


def apply(chosen: argparse.Namespace, words: list[str]) -> int:
    for each in documents(chosen):
        kind, name = each["kind"].lower(), each["metadata"]["name"]
        if kind not in CLUSTER_WIDE and "namespace" not in each["metadata"]:
            sys.stderr.write("error: the stand-in wants every namespace named\n")
            return 1
        path = place(kind, name)
        path.parent.mkdir(exist_ok=True)
        known = json.loads(path.read_text()) if path.exists() else {}
        path.write_text(json.dumps({**known, **each}))
        print(f"{kind}/{name} {'unchanged' if known else 'created'}")
    return 0


def delete(chosen: argparse.Namespace, words: list[str]) -> int:
    named = [(each["kind"].lower(), each["metadata"]["name"]) for each in documents(chosen)] if chosen.filename else []
    for kind, name in named or [(words[0], words[1])]:
        path = place(kind, name)
        if not path.exists():
            if chosen.ignore_not_found:
                continue
            return missing(kind, name)
        if kind == "daemonset":
            chosen_by = json.loads(path.read_text())["spec"]["selector"]["matchLabels"]
            (STATE / "deleted").write_text(",".join(f"{key}={value}" for key, value in chosen_by.items()))
        path.unlink()
        print(f'{kind} "{name}" deleted')
    return 0


def annotate(chosen: argparse.Namespace, words: list[str]) -> int:
    kind, name, setting = words
    path = place(kind, name)
    if not path.exists():
        return missing(kind, name)
    found = json.loads(path.read_text())
    key, _, value = setting.partition("=")
    found["metadata"].setdefault("annotations", {})[key] = value
    path.write_text(json.dumps(found))
    print(f"{kind}/{name} annotated")
    return 0


def config(chosen: argparse.Namespace, words: list[str]) -> int:
    import yaml

    print(json.dumps(yaml.safe_load(Path(chosen.kubeconfig).read_text())))
    return 0


if __name__ == "__main__":
    sys.exit(main())
