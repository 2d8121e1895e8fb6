"""Learners that hold on to old weights or outputs at task boundaries."""
