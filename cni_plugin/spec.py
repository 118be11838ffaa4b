"""The words of CNI: verbs, versions, error codes and the one error of this package.

Source: the CNI specification 1.1.0 (https://www.cni.dev/docs/spec/) and, for code 8, the reference `types`
package. Codes from 100 on are ours, as the specification reserves 1-99 for itself.
"""

SUPPORTED_VERSIONS = ("0.1.0", "0.2.0", "0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0")
CURRENT_VERSION = "1.1.0"

# Section "Error": codes of the specification.
INCOMPATIBLE_VERSION = 1
UNSUPPORTED_FIELD = 2
UNKNOWN_CONTAINER = 3
INVALID_ENVIRONMENT = 4
IO_FAILURE = 5
DECODING_FAILURE = 6
INVALID_CONFIGURATION = 7
INVALID_NETNS = 8
TRY_AGAIN_LATER = 11
NOT_AVAILABLE = 50
INTERNAL = 999

# Ours.
POOL_EXHAUSTED = 100
ADDRESS_IN_USE = 101
ADDRESS_NOT_AVAILABLE = 102
INTERFACE_EXISTS = 103
STATE_FAILURE = 104
KERNEL_REFUSED = 106
NFT_FAILURE = 107
CHECK_MISMATCH = 108
HOST_PORT_CLAIMED = 109
ALREADY_ATTACHED = 110

# The version that introduced each verb; a configuration below it gets code 1.
VERB_SINCE = {
    "ADD": (0, 1, 0),
    "DEL": (0, 1, 0),
    "CHECK": (0, 4, 0),
    "GC": (1, 1, 0),
    "STATUS": (1, 1, 0),
    "VERSION": (0, 1, 0),
}


class CniError(Exception):
    """A failure as CNI reports it: `code` (above), `message` what failed with its values, `details` what to do."""

    def __init__(self, code: int, message: str, details: str = "") -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.details = details

    def document(self, cni_version: str) -> dict[str, object]:
        """The error document of the specification for stdout."""
        answer: dict[str, object] = {"cniVersion": cni_version, "code": self.code, "msg": self.message}
        if self.details:
            answer["details"] = self.details
        return answer


def parse_version(text: str) -> tuple[int, int, int]:
    """`"1.0.0"` to `(1, 0, 0)`; the caller has checked that `text` is one of SUPPORTED_VERSIONS."""
    major, minor, patch = text.split(".")
    return int(major), int(minor), int(patch)
