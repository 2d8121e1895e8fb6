"""One consumer and one producer interface over kafka-python and confluent-kafka.

The libraries are imported when a client is created.
"""

from streams.kafka.clients.consumer import Consumer
from streams.kafka.clients.factory import create_consumer, create_producer
from streams.kafka.clients.producer import Producer, ProducerRecord

__all__ = ["Consumer", "Producer", "ProducerRecord", "create_consumer", "create_producer"]
