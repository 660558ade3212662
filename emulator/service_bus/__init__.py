"""Azure Service Bus over AMQP 1.0: `broker` has the queues, `connection` and `links` the protocol, `codec` the types."""

from emulator.service_bus.service import ServiceBus

__all__ = ["ServiceBus"]
