"""Encoders of texts: ``transformer`` for models of transformers, and ``minilm``."""
