"""What has happened, as one reader: what is archived, then what is still in the log."""
