"""The simplest learners: what every other one is compared with."""
