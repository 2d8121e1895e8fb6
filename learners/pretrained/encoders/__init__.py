"""Frozen encoders: fixed maps of texts, images and vectors to vectors.

- ``base`` defines the interface, ``Encoder``, and its settings, ``EncoderConfig``.
- ``registry`` finds an encoder by kind or import path: ``load_encoder``.
- ``texts`` and ``images`` hold the pretrained ones, ``row_batches`` and ``ragged_batches`` what
  makes their batches exact, and ``libraries`` the lazy imports.
- ``identity`` and ``random_features`` need no pretrained weights.
- ``columns`` encodes the columns of a stream.
- ``cache`` keeps what was encoded, in a ``feature_table``.
"""
