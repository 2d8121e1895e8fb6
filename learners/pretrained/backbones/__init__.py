"""Frozen transformers that run block by block, so that small trained parts act inside them.

- ``base`` defines the interface, ``Backbone``.
- ``registry`` finds and shares backbones: ``load_backbone``.
- ``texts`` holds those for texts, over the blocks of BERT; ``vit`` those for images.
- ``random_transformer`` is one with random weights: a control, which needs no files.
- ``trunk`` runs the blocks below the first trained part, and keeps what they give.

Libraries for such parts, ``peft`` and ``adapters``, are not used. Both put modules into the model
of a library, so that learners cannot share a model, and its weights get into what is saved. They
choose one adapter for a whole batch, and not one for each row.
"""
