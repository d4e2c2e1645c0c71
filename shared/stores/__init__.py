"""One module per collection: its name, documents, indexes and queries."""
