"""Learners by prompts: small tensors that a frozen backbone attends to, chosen for each event.

- ``pool`` holds the pool of prompts with their keys, and the base of learners with one.
- ``l2p`` puts prompts before the tokens.
- ``dual_prompt`` puts them before the keys and values of blocks, some for all events.
- ``coda`` mixes prompts by attention instead of choosing some.
"""
