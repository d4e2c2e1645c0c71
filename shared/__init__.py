"""What all functions share: values and decisions (domain), stores, exchanges, senders and use cases."""
