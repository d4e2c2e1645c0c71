"""What is deployed: one module per entry point, each parses a request, calls one use case and responds."""
