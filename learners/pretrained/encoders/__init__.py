"""Frozen encoders: fixed maps of texts, images and vectors to vectors.

- ``base`` defines the interface, ``Encoder``, and its settings, ``EncoderConfig``.
- ``registry`` finds an encoder by kind or import path: ``load_encoder``.
- ``identity`` and ``random_features`` need no pretrained weights.
"""
