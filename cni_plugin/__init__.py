"""podwire's CNI plugin: addresses, veth wiring, masquerade and hostPorts in one executable.

Reading order, which is also the way a call takes:
`__main__` (what the executable runs) -> `spec` (the words of CNI) -> `config` (stdin and environment to one
value) -> `verbs` (the story of each verb) -> `ipam`, `claims` and `locks` (which address, and who holds it) ->
`wiring` (an attachment to kernel messages) -> `rtnetlink`, `nftables`, `netns` (codecs and the kernel) ->
`result` (an attachment to the answer) -> `journal` (one line a call).

Everything here is on the path of every pod start: modules import C modules (`posix`, `_socket`, `_struct`,
`_json`) and one another, nothing heavier; `tests/cni_plugin/test_startup.py` holds the line.
"""
