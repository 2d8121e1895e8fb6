"""Dead letters: events and labels that cannot be used.

They are kept in a file (``file_writer``), copied to a topic (``topic_writer``), counted against a
limit (``limit``), selected for a listing (``query``), and sent to their own topics again
(``reinjector``). What goes to a topic goes there exactly once (``publisher``).
"""
