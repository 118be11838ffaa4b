"""The command `podwire-node`: the node's side of an installation, in transactions that any process can undo.

Read in this order: `__main__` (the verbs), `places` (every path), `journal` (what is written down before it is done)
with `entries` (what is at a path, as data) and `undo` (how each kind of step is taken back), `manifest` (the payload
and its place), then the verbs: `preflight` with `probe`, `transaction` and `install` (the steps in their order) with
`options` and `selftest`, `rollback` (and commit), `uninstall` with `pods`, `status` with `runtime`. `locking` and
`interruption` say who may work and what ends it; `site` is the node that all of them are given.

`kubelet*` know where kubelet's runtime endpoint stands, `systemd` the units, `watchdog*` what becomes of kubelet
when the shim stays down, `smoke*` tries the network with pods, `cluster*` and `kubectl` are the cluster's side.
`host.sh` runs on the machine that installs, and calls all of this on each node.
"""
