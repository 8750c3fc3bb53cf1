"""Connections that know no protocol, and protocols that know no connection."""
