"""Time limits of Kafka's clients, in seconds.

Clients read them as ``timeouts.NAME`` whenever they need one, so a change here holds for all.
"""

from __future__ import annotations

BROKER_TIMEOUT_S = 10.0
"""A broker that does not answer a request for so long is unavailable."""
SEND_TIMEOUT_S = 15.0
"""``Producer.send`` fails if not all replicas have the records after so long."""
BULK_DELIVERY_TIMEOUT_S = 30.0
"""A record of a bulk producer fails if it is not delivered after so long."""
IDLE_TIMEOUT_S = 1.0
"""A topic that delivers nothing for so long, at its end, has been read to its end."""
