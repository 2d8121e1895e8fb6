"""One consumer and one producer interface over kafka-python and confluent-kafka."""
