"""The Ray runner. Only this package imports Ray.

- ``driver`` starts the actors and supervises them; ``connection`` connects to a cluster.
- ``actors`` and ``sources`` are the actors of a run; ``replicas`` those of the server.
- ``actor_poller`` fetches what the actors report; ``callbacks`` reach other actors from a run.
- ``job_package`` takes a job and its modules to the workers; ``folder_claim`` claims the folder.

It exports nothing: its modules load Ray, and are imported by name.
"""
