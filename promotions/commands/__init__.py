"""The commands, by subject. Each asks one route of the HTTP API."""
