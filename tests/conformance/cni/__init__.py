"""A conformance suite for CNI plugins: any executable, as a black box. `docs/conformance-cni.md` is its manual.

Reading order: `cases` (what a case is, and what is told of it), `network`, `profile` and `subject` (what is tested),
`site` (the node), `plugin` (one execution), `runtime` (libcni's part), `workbench` (what a test works with); then the
tests. `references` and `matrix` are about the reference plugins and the published table, `mini_plugin` and
`test_suite_itself` about the suite.
"""
