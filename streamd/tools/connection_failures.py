"""Describes why a command got no answer from a daemon, with the way out where there is one."""

import http.client
import socket
import ssl


def describe_failure(exc: Exception) -> str:
    """Return the reason of a failed call, for a message that names the URL."""
    if isinstance(exc, ssl.SSLCertVerificationError):
        return (
            f"its certificate is not accepted: {exc.verify_message}; for a CA of your own, set the variable "
            "SSL_CERT_FILE to the file (PEM) with its certificate"
        )
    if isinstance(exc, ssl.SSLError) and exc.reason in ("WRONG_VERSION_NUMBER", "HTTP_REQUEST"):
        return "it does not speak TLS; call it by http://"
    if isinstance(exc, http.client.RemoteDisconnected):
        return "it closed the connection; a daemon with TLS is called by https://"
    if isinstance(exc, ConnectionRefusedError):
        return f"{exc}; is the daemon running?"
    if isinstance(exc, socket.gaierror):
        return "the host name is not known"
    if isinstance(exc, TimeoutError):
        return "it took too long"
    return str(exc) or type(exc).__name__
