"""The metrics of predictions that have met their labels: of classes, of groups, of sequences."""
