"""Networks of click models: each combines numbers and embeddings into one log-odds.

- ``base`` is the interface, and the net around it that a learner trains.
- ``fm``, ``dnn``, ``deepfm`` and ``dcn_v2`` are the networks, each with its formula.
- ``choice`` is the key ``model`` of a job.
"""
