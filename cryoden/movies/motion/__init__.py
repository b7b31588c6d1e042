"""How the specimen moved, and frames brought back to their places."""
