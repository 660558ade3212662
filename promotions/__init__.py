"""The console client: `python -m promotions`. It asks the service over HTTP only, and imports nothing of the service."""
