"""Subscriptions and monitored items: what clients are told without asking."""
