"""Learners that train small parts inside a frozen backbone.

- ``base`` holds what they share: ``TunedLearner`` and ``TunedConfig``.
- ``first_events`` trains on the first events only.
- ``parts`` defines what is trained inside: ``TunedParts``.
- ``prototypes`` holds the loss that trains it.
"""
