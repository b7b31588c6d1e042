"""What the machine allows: memory, locks, signals."""
