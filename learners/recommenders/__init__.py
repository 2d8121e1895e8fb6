"""Recommenders: models of clicks over embeddings of ids.

- ``click_model`` trains one of the networks of ``networks`` on each event as its label comes.
- ``networks`` holds the networks: ``fm``, ``dnn``, ``deepfm`` and ``dcn-v2``.
- ``ftrl`` is logistic regression on hashed values, without a network.
- ``downsampling`` leaves out negative events at random, and corrects probabilities for it.
"""
