"""One module a script, a short composition."""
