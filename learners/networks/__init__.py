"""What all learners over a torch network share."""
