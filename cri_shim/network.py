"""What joins the shim and the CNI plugin: the conflist, the plugin's readiness, its garbage.

The two never import each other: they meet in the runtime's configuration files and in calls of the executables.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine

from cri_shim.chain import Interceptor
from cri_shim.cni import Plugin
from cri_shim.config import Config
from cri_shim.garbage import Collector
from cri_shim.interceptors.network_config import Conflist, NetworkConfig
from cri_shim.interceptors.network_ready import NetworkReady, Readiness
from cri_shim.log import Log
from cri_shim.upstream import Upstream


class Network:
    """The interceptors of the table [network], and the work beside the calls; to be made on the event loop."""

    def __init__(self, config: Config, upstream: Upstream, log: Log) -> None:
        self.interceptors: list[Interceptor] = []
        self.background: list[Callable[[], Coroutine[None, None, None]]] = []
        if config.network_conflist:
            conflist = Conflist(config, log)
            self.interceptors.append(NetworkConfig(conflist))
            self.background.append(conflist.restore)
        plugin = Plugin(config.network_conflist, config.network_conf_dir, config.network_bin_dir)
        if config.network_ready != "off":
            readiness = Readiness(plugin, log, config.network_ready_seconds, config.network_ready_failures)
            self.interceptors.append(NetworkReady(readiness, config.network_ready == "enforce"))
            self.background.append(readiness.watch)
        if config.network_gc_seconds:
            self.background.append(Collector(plugin, upstream, log, config.network_gc_seconds).watch)
