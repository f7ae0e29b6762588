"""One module a command; `main` wires them to the command line."""
