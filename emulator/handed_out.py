"""The secrets that this process has made: keys of endpoints, accounts, topics and queues. For tests that look for them in what
was written down, where none of them may be.
"""

_made: set[str] = set()


def remembered(secret: str) -> str:
    """The secret itself."""
    _made.add(secret)
    return secret


def all_secrets() -> list[str]:
    return sorted(_made)
