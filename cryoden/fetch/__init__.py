"""Movies from public archives."""
