"""Private keys of services: one Ed25519 key a file, PEM with PKCS8, which only its owner reads."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import Final

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from gateway.core.files import create_file

FILE_BYTES_MAX: Final = 16_384
OTHERS: Final = stat.S_IRWXG | stat.S_IRWXO


class KeyFileError(Exception):
    """A key file can't be used, or not be written; the message names it and the remedy."""


def make_key(path: Path) -> Ed25519PrivateKey:
    """A new key in a new file of mode 0600. Raises KeyFileError; a file is never written over."""
    private = Ed25519PrivateKey.generate()
    pem = private.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    try:
        create_file(path, pem, 0o600)
    except FileExistsError:
        raise KeyFileError(f"{path} is there already; a key is never written over") from None
    except OSError as error:
        raise KeyFileError(f"{path} can't be written: {error.strerror}") from None
    return private


def load_key(path: Path) -> Ed25519PrivateKey:
    """The private key of a file that only its owner reads. Raises KeyFileError."""
    try:
        with path.open("rb") as file:
            mode = os.fstat(file.fileno()).st_mode
            pem = file.read(FILE_BYTES_MAX)
    except OSError as error:
        raise KeyFileError(f"{path} can't be read: {error.strerror}") from None
    if mode & OTHERS:
        raise KeyFileError(f"{path}: others may read this private key; run chmod 600 on it")
    try:
        private = serialization.load_pem_private_key(pem, password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm):  # TypeError: it has a password
        raise KeyFileError(f"{path} holds no private key in PEM without a password") from None
    if not isinstance(private, Ed25519PrivateKey):
        raise KeyFileError(f"{path} holds a key of another kind; Ed25519 is expected")
    return private
