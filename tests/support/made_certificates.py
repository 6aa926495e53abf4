"""Certificates for tests, in files as the daemon reads them."""

from dataclasses import dataclass, field
from pathlib import Path

import trustme

from streamd.server.tls import TlsFiles


@dataclass
class CertificateFolder:
    """A CA, and the files of certificates that it issues."""

    folder: Path
    ca: trustme.CA = field(default_factory=trustme.CA)

    def __post_init__(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        self.write("ca.pem", self.ca.cert_pem.bytes())

    def write(self, name: str, content: bytes) -> Path:
        """Write a file that only its owner may read, as a whole."""
        path = self.folder / name
        scratch = self.folder / f".{name}"
        scratch.write_bytes(content)
        scratch.chmod(0o600)
        return scratch.rename(path)

    def issue(self, name: str, *identities: str) -> TlsFiles:
        """Issue a certificate for these names, `localhost` by default, in `NAME.pem` and `NAME.key`."""
        issued = self.ca.issue_cert(*(identities or ("localhost", "127.0.0.1")))
        certificate = self.write(f"{name}.pem", b"".join(each.bytes() for each in issued.cert_chain_pems))
        return TlsFiles(certificate, self.write(f"{name}.key", issued.private_key_pem.bytes()))
