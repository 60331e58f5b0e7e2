"""Who executes: the SQL of definitions over rows, and group versions from their streams into feature topics."""
