"""Factory secrets: python3 provision.py SECRETS ID...

Makes a secret of 128 bits for each device id. SECRETS (for the factory, mode 0600) gets a line "ID SECRET" for each; stdout
gets what the service is told: SCRAM verifiers, which cannot be turned back into the secret. Needs Python alone.
"""

import base64
import hashlib
import hmac
import json
import os
import secrets
import sys

ROUNDS = 4096  # enough for a secret that nobody can guess (RFC 7677 section 4)


def verifier(secret, salt, name):
    salted = hashlib.pbkdf2_hmac(name, secret.encode(), salt, ROUNDS)
    client_key = hmac.digest(salted, b"Client Key", name)
    server_key = hmac.digest(salted, b"Server Key", name)
    fields = {"salt": salt, "stored_key": hashlib.new(name, client_key).digest(), "server_key": server_key}
    return {"iterations": ROUNDS, **{field: base64.b64encode(value).decode() for field, value in fields.items()}}


def main():
    path, *devices = sys.argv[1:]
    # A file that is there already is left alone: it may be all that is left of secrets in boxes.
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        for device in devices:
            secret, salt = secrets.token_hex(16), secrets.token_bytes(16)
            file.write(f"{device} {secret}\n")
            # Both hashes: some libraries know SHA-1 only. One salt for both, so that a device may try either.
            credential = {"type": "scram", "sha256": verifier(secret, salt, "sha256"), "sha1": verifier(secret, salt, "sha1")}
            print(json.dumps({"id": device, "credentials": [credential]}))
        file.flush()
        os.fsync(file.fileno())


main()
