"""podwire-agent: what a node needs beyond its own pods. Neither ADD nor DEL needs it; packets between nodes do.

Reading order: `__main__` (the command line) -> `config` and `settings` (one frozen value) -> `lifecycle` (the loop) ->
`source`, `static`, `kubernetes` and `peers` (the list of nodes) -> `scene` (what the kernel says) -> `plan` (pure: what
the node should have) -> `reconcile` -> `masquerade`, `vxlan`, `routes`, `forwarding` (bring the kernel to it). Beside
the loop: `monitor` (what changed in the kernel), `garbage` (GC by the clock), `metrics`, `health`, `notify`, `faults`.
"""
