"""Event sequences: learners that predict the type and the time of the next event of a key.

``history`` is what such a learner sees, and ``forecast`` what it predicts.
"""
