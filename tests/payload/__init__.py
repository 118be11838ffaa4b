"""The payload, built for real and run where there is nothing else: tests of `cni_plugin.payload`."""
