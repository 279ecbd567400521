"""What sets a site up and takes it down again: nothing of the line imports this."""
