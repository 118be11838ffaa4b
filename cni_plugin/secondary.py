"""The source rules of a pod's second interface, which its link does not take along when it goes."""

import errno
import posix

from cni_plugin import netns, rtnetlink
from cni_plugin.attachment import Attachment
from cni_plugin.netlink import Refusal
from cni_plugin.spec import CniError


def remove_rules(attachment: Attachment) -> None:
    """Remove the rules where the pod still lives; where it does not, they went with it."""
    try:
        sandbox = netns.open_netns(attachment.netns)
    except CniError:
        return
    own = posix.open("/proc/self/ns/net", posix.O_RDONLY | posix.O_CLOEXEC)
    try:
        pod = netns.socket_in(sandbox, own)
        if netns.cookie(pod.raw) != attachment.netns_cookie:
            return
        for each in attachment.addresses:
            try:
                pod.batch([rtnetlink.source_rule(rtnetlink.RTM_DELRULE, each.packed, attachment.table)])
            except Refusal as fault:
                if fault.errno not in (errno.ENOENT, errno.EAFNOSUPPORT):
                    raise
    finally:
        posix.close(own)
        posix.close(sandbox)
