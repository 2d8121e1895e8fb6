"""Encoders of texts: ``transformer`` for models of transformers, and ``minilm``.

``model_files`` reads the files of a model, and turns texts into tokens. ``hidden_layers`` runs a
model.
"""
