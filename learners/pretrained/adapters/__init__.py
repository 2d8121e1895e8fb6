"""Learners by adapters: small maps beside the feed-forward parts of a frozen backbone.

- ``parallel`` holds the adapter itself, and parts with one in each upper block.
- ``adapter`` trains one in each upper block.
- ``adapter_first`` trains it on the first events of a stream only.
- ``mos`` trains one for each segment, and chooses one for each input. ``stack`` holds them,
  ``segment_classes`` their classes.
- ``aligned_linear`` is a layer trained on draws from ``gaussians`` of classes, for frozen features
  and for ``mos``.
"""
