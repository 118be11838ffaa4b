#!/bin/sh
# The host's side of `./install.sh node` and `./install.sh kind`: finds the nodes, pushes the payload, calls podwire-node
# on each, and puts every node back when anything fails. What deserves Python runs on the node, inside the payload.
# POSIX sh only: this and host/ run under bash 3.2 (macOS), bash 5, dash and busybox ash.
#
# The files of host/ are one program in the order in which they are read here.
set -u
set -f # names of files and nodes are never patterns here
umask 077

repository=$(cd "$(dirname "$0")/../.." && pwd) || exit 1
places=/opt/podwire
handed=/run/podwire-install # what an installation is handed and nobody else may read; a tmpfs, gone with the node
shim_socket=unix:///run/podwire/cri.sock
newline='
'
tab=$(printf '\t')
blanks=" $tab$newline" # what IFS is; it is $newline alone while a list of lines is walked

parts=$repository/cni_plugin/install/host
# shellcheck source=SCRIPTDIR/host/words.sh
. "$parts/words.sh"
# shellcheck source=SCRIPTDIR/host/saying.sh
. "$parts/saying.sh"
# shellcheck source=SCRIPTDIR/host/nodes.sh
. "$parts/nodes.sh"
# shellcheck source=SCRIPTDIR/host/lock.sh
. "$parts/lock.sh"
# shellcheck source=SCRIPTDIR/host/steps.sh
. "$parts/steps.sh"
# shellcheck source=SCRIPTDIR/host/payload.sh
. "$parts/payload.sh"
# shellcheck source=SCRIPTDIR/host/plan.sh
. "$parts/plan.sh"
# shellcheck source=SCRIPTDIR/host/installation.sh
. "$parts/installation.sh"
# shellcheck source=SCRIPTDIR/host/undo.sh
. "$parts/undo.sh"
# shellcheck source=SCRIPTDIR/host/actions.sh
. "$parts/actions.sh"

where=node log='' lock=''
read_words ${1+"$@"}
check_words
work=$(mktemp -d "${TMPDIR:-/tmp}/podwire-install.XXXXXX") || exit 1
: >"$work/provider"
trap finish EXIT
trap 'exit 130' INT
trap 'exit 143' TERM
# Whoever read the output is gone: what is undone is told to the log.
trap 'exec >>"${log:-/dev/null}" 2>&1; exit 129' HUP
trap 'exec >>"${log:-/dev/null}" 2>&1; exit 141' PIPE
open_log
find_nodes
[ "$action" = status ] || take_lock
case $action in
    install) install_all ;;
    status) show_status ;;
    rollback) roll_back_all ;;
    uninstall) uninstall_all ;;
esac
exit $?
