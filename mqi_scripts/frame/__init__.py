"""What every script has in common: arguments, the error boundary, exit codes, talk."""
