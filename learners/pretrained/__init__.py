"""Learners over frozen, pretrained encoders, and the encoders themselves."""
