"""A certificate authority of our own, so that Azure's host names can be answered on loopback over TLS."""

import ssl
from pathlib import Path

import trustme


class CertificateAuthority:
    """Makes a certificate for whatever host a client asks for. `ca_bundle` is the file that clients have to trust."""

    def __init__(self, directory: Path) -> None:
        self._ca = trustme.CA()
        self.ca_bundle = directory / "ca.pem"
        self._ca.cert_pem.write_to_path(str(self.ca_bundle))
        self._contexts: dict[str, ssl.SSLContext] = {}

    def server_context(self) -> ssl.SSLContext:
        """A context for a listener: the certificate is chosen when the client has named the host."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._ca.issue_cert("localhost").configure_cert(context)
        context.sni_callback = self._choose
        return context

    def issue(self, *names: str, key: Path, certificate: Path) -> None:
        """Write a key and a certificate for these names or addresses to files, for servers that read files."""
        leaf = self._ca.issue_cert(*names)
        leaf.private_key_pem.write_to_path(str(key))
        key.chmod(0o600)
        certificate.write_bytes(b"".join(blob.bytes() for blob in leaf.cert_chain_pems))

    def client_context(self) -> ssl.SSLContext:
        return ssl.create_default_context(cafile=str(self.ca_bundle))

    def _choose(self, connection: ssl.SSLObject | ssl.SSLSocket, host: str | None, _: ssl.SSLContext) -> None:
        connection.context = self._context_for(host or "localhost")

    def _context_for(self, host: str) -> ssl.SSLContext:
        if host not in self._contexts:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            self._ca.issue_cert(host).configure_cert(context)
            self._contexts[host] = context
        return self._contexts[host]
