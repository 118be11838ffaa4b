"""What is known of the runtime.v1 messages. Read runtime_v1.proto, then descriptors.py.

schema.message("RunPodSandboxRequest") is a message class, schema.enum("ContainerState") an enum's values,
schema.methods() the RPCs by path; schema.native("Envelope") is one of containerd's own interface.
"""

from cri_shim.schema.descriptors import Method, RuntimeMessage, enum, message, methods, native

__all__ = ["Method", "RuntimeMessage", "enum", "message", "methods", "native"]
