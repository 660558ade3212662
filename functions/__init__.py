"""The Azure Functions edge: decode what a trigger brings, call core, settle or answer. No decisions here."""
