"""A real web server on loopback, nginx, that gives a folder as it lies there, and parts of files."""

from __future__ import annotations

import shutil
import socket
import subprocess
import time
from pathlib import Path

SECONDS = 30  # in which it has to answer

# One process that stays in the foreground, keeps all its files in one folder, and is the user that runs the tests.
CONFIGURATION = """
daemon off; master_process off; pid {state}/pid; error_log {state}/error.log;
events {{}}
http {{
    access_log {state}/access.log;
    client_body_temp_path {state}/a; proxy_temp_path {state}/b; fastcgi_temp_path {state}/c;
    uwsgi_temp_path {state}/d; scgi_temp_path {state}/e;
    server {{ listen 127.0.0.1:{port}{secure}; root {root}; }}
}}
"""
SECURE = " ssl; ssl_certificate {state}/certificate.pem; ssl_certificate_key {state}/key.pem"
CERTIFICATE = """
openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=127.0.0.1 -addext subjectAltName=IP:127.0.0.1
    -addext basicConstraints=critical,CA:FALSE -keyout key.pem -out certificate.pem
"""


def program() -> str | None:
    """The program, if it is there."""
    return shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin")


class Nginx:
    """The server.

    Parameters
    ----------
    root : Path
        Folder that it gives.
    state : Path
        Folder for its own files.
    is_secure : bool
        Whether its address is https://, with a certificate that signs itself: ``certificate``.
    """

    def __init__(self, root: Path, state: Path, *, is_secure: bool = False) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        self.url, self.log = f"http{'s' * is_secure}://127.0.0.1:{port}", state / "access.log"
        self.certificate = state / "certificate.pem"
        state.mkdir()
        if is_secure:
            subprocess.run(CERTIFICATE.split(), cwd=state, check=True, capture_output=True)
        secure = SECURE.format(state=state) if is_secure else ""
        (state / "nginx.conf").write_text(CONFIGURATION.format(state=state, root=root, port=port, secure=secure))
        self.process = subprocess.Popen(
            [str(program()), "-p", str(state), "-e", str(state / "error.log"), "-c", str(state / "nginx.conf")],
            stdout=subprocess.DEVNULL,
        )
        deadline = time.monotonic() + SECONDS
        while True:
            try:
                socket.create_connection(("127.0.0.1", port), timeout=1).close()
                return
            except OSError:
                if time.monotonic() > deadline or self.process.poll() is not None:
                    self.stop()
                    raise RuntimeError(f"nginx does not answer: {(state / 'error.log').read_text()[-2000:]}") from None
                time.sleep(0.05)

    def stop(self) -> None:
        """End it."""
        self.process.terminate()
        self.process.wait(timeout=SECONDS)
