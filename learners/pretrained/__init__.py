"""Learners over frozen, pretrained encoders, and the encoders themselves.

- ``encoders`` holds the frozen encoders.
- ``backbones`` holds frozen transformers, ``tuned`` the base of learners that train small parts
  inside them, ``adapters`` those that train adapters, and ``prompts`` those that train prompts.
- ``merging`` merges what is trained.
- ``closed_form`` holds learners that are solved from sums over rows.
- ``bottleneck`` holds the discrete key-value bottleneck.
- ``rows`` turns the columns of events into the rows of numbers that learners take.
- ``feature_maps`` maps rows to random features.
"""
