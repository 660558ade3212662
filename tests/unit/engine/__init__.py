"""The whole engine over models of Azure: intake, orders, deliveries and the timer are real, the ports are values in memory.

The models are honest: rows with ETags, a queue with sessions and duplicate detection that delivers at least once and knows
dead letters, a workspace whose changes take their time and which answers 409 meanwhile. Every request of the service goes
over one `Wire`, where it can fail before or after it was carried out, where the process can die, and where somebody else can
come between two requests.
"""
