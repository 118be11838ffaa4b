"""The command `podwire-net`: what is on a node, what is wrong with it, what belongs to nobody, and the conflist.

Read in this order: `__main__` (the command line), `state` (the one reader of the state folder), `kernel` and
`namespaces` (what the kernel holds), then a module per command: `leases`, `doctor` (its checks lie in `checks_*`),
`audit` and `collect` (gc), `render`. Nothing here is on the way of a pod, so pyroute2 and rich may be imported; the
plugin's executable contains none of it.
"""
