"""A conformance suite for CRI endpoints: any socket that serves runtime.v1. `docs/conformance-cri.md` is its manual.

Reading order: `cases` (what a case is, and what is told of it), `site` (where the endpoint lives), `endpoint` (what is
tested), `client` (calls, and the record of their answers), `normal` (what of an answer is compared), `bench` (what a
test works with), `streaming` (exec, attach, port-forward); then the tests. `table` writes the published results,
`served`, `mini_runtime`, `lossy_relay` and `test_suite_itself` are about the suite.
"""
