"""The command `podwire-node`: the node's side of an installation, in transactions that any process can undo.

Read in this order: `__main__` (the verbs), `places` (every path), `entries` (what is at a path, as data), `journal`
(what is written down before it is done) and `undo` (how each kind of step is taken back), `manifest` (the payload and
its place), then the verbs: `transaction` (an install from begin to end) and `install` (its steps in their order) with
`options` and `selftest`, `rollback` (and commit), `uninstall` with `pods`, `preflight` with `probe`, `status` with
`runtime`. `locking` and `interruption` say who may work and what ends it; `site` is the node that all are given.

`kubelet`, `kubelet_fields` and `kubelet_flags` know where kubelet's runtime endpoint stands, `systemd` the units.
`watchdog`, `watchdog_probe` and `watchdog_revert` are what becomes of kubelet when the shim stays down.
`smoke` (then `smoke_pods`, `smoke_traffic`, `smoke_ways`) tries the network with pods.
`cluster` (then `cluster_nodes`, `cluster_access`, `cluster_kept`, `cluster_table`, `kubectl`) is the cluster's side.

`host.sh`, whose parts are in `host/`, runs on the machine that installs, and calls all of this on each node.
docs/nodes.md tells the same from outside.
"""
