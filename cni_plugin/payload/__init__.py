"""Makes the payload: one archive with everything a node needs, an interpreter included.

Reading order: `build` (the story, from inputs to the archive) -> `inputs` (what goes in, and the lock of it) ->
`debian` (packages of Debian 12 by a private apt) and `wheels` (our dependencies by pip) -> `interpreter` (Debian's
Python made relocatable) -> `inside` (what the payload's own Python does: bytecode, CNI executable, archive) ->
`licences` and `contents` (LICENSES/ and MANIFEST.json).

The builder itself is not shipped. docs/payload.md explains the archive from outside.
"""
