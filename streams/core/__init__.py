"""What every stream shares: batches, schemas, cursors, settings and state."""
