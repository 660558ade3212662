"""A local Azure Functions host for Python apps of the v2 programming model.

    python -m emulator.functions_host --app DIR --settings FILE.json --ready-file FILE

One process runs one app, as one instance of a function app does in Azure.

What is Microsoft's: everything below the host. `azure-functions-runtime` is the worker library that Azure runs for Python
3.13 apps; here it indexes the app, checks signatures and bindings, decodes what a trigger brings, calls the function,
encodes its answer and words its errors. The messages between host and worker are Microsoft's protobuf types. Service Bus
is received with the `azure-servicebus` SDK.

What is ours, because Microsoft's host cannot be run here, and so is only as right as its tests and the documentation it
was written from: HTTP routing and keys (`http_trigger`, `routes`), the Event Grid webhook (`event_grid_trigger`), the
Service Bus listener (`service_bus_trigger`), timers (`timer_trigger`), host.json and app settings (`configuration`),
time-outs, log lines and shutdown (`host`).

What differs from Azure on purpose: an app with one function in error does not start at all; timers know no `useMonitor`
(nothing is kept between two runs of the host) and run in UTC; output bindings other than an HTTP answer, retry policies,
HTTP streaming and `ServiceBusMessageActions` are refused at the start rather than ignored; a function app has one instance.
"""
