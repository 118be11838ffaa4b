"""The CRI relay between kubelet and a container runtime: every call passes, as bytes.

Reading order: __main__ (the command), config, endpoint (the socket), upstream (the runtime), server (one
call's way through), events and inventory (the method that has its own), call and chain (what an interceptor
sees), interceptors/, schema/, lifecycle, handover and watchdog, notify, errors.
"""
