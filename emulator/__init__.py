"""A local Azure: the services that the promotion service talks to, at the wire, on loopback.

The product never imports this package and holds no switch for it. Real clients reach it through `HTTPS_PROXY`,
`REQUESTS_CA_BUNDLE` and a Service Bus connection string alone.

Reading order: `local_azure` (what is started), `gateway` (how a request arrives), then one module or package for each
service: `identity`, `storage`, `azure_ml`, `serving`, `service_bus`, `event_grid`; `functions_host` runs a function app.
`clock`, `request_log` and `faults` are what all of them share, and what `control` shows to tests.
"""
