"""What a report tells besides the table: what did not happen, what is new since last time, and all of it without names."""
