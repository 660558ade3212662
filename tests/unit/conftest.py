"""How the unit tests look for counterexamples: the same ones in every run, on machines of any speed.

`pytest --hypothesis-profile=explore tests/unit` looks for new ones.
"""

from hypothesis import HealthCheck, settings

from tests.unit.console_runs import _service, console, service  # noqa: F401 - fixtures of the tests of the console

_ANY_SPEED = [HealthCheck.too_slow]
settings.register_profile(
    "repeatable", derandomize=True, database=None, deadline=None, max_examples=60, suppress_health_check=_ANY_SPEED
)
settings.register_profile(
    "explore", derandomize=False, database=None, deadline=None, max_examples=1000, suppress_health_check=_ANY_SPEED
)
settings.load_profile("repeatable")
