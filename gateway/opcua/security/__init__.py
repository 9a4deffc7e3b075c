"""Certificates, users, rights, audit."""
