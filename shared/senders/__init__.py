"""What leaves the house besides requests to exchanges."""
