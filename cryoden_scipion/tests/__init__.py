"""Protocol tests, found by Scipion's test runner."""
