"""What tests share that are not fixtures: brokers, servers, and processes that can be killed."""
