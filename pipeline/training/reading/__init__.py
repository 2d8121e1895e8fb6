"""From blocks of a stream to micro-batches, with columns encoded on the way.

- ``batch_reader`` is the whole way.
- ``encode_ahead`` keeps encoders busy ahead of the training.
- ``local_encoding`` runs them in threads of this process.
"""
